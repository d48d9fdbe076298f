"""Options of an execution provider in the form that users write: ``trt_fp16_enable=1``."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..session import PROVIDERS


def given_options(items: Sequence[str], provider: str) -> dict[str, str]:
    """The options by key.

    Args:
        items: each as ``key=value``.
        provider: the user's name of the provider, such as ``cuda``.

    Raises:
        UserError: an option has another form, or the provider is the CPU, which has none.
    """
    found = {key: value for key, _, value in (item.partition("=") for item in items)}
    if found and (not PROVIDERS[provider] or not all(found.values())):
        raise UserError(
            f"--provider-option {items[0]} cannot be given to the provider {provider}",
            "write key=value, with --provider cuda, tensorrt or openvino",
        )
    return found
