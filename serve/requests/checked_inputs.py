"""The check of a request's arrays against the signature, with what was expected and what was sent (serve.md H14).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...core.errors import InputError
from ...core.signature import Signature
from ...core.tensors import Array, TensorSpec, raise_if_nan
from ..settings import Settings
from .wire import check_rows


def validated(feeds: Mapping[str, Array], signature: Signature, settings: Settings) -> dict[str, Array]:
    """The arrays of a request in the order and the types of the signature.

    Raises:
        InputError: they do not fit it; the error says what was expected and what was sent.
        LimitError: there are more rows than allowed.
    """
    for spec in signature.inputs:
        if spec.name in feeds:
            check_rows(spec, np.shape(feeds[spec.name]), settings.limits)
    try:
        checked = signature.validate(feeds)
    except InputError as error:
        raise _detailed(error, feeds, signature) from error
    if not settings.allow_nan:
        for name, array in checked.items():
            raise_if_nan(name, array)
    return checked


def _detailed(error: InputError, feeds: Mapping[str, Array], signature: Signature) -> InputError:
    name = error.facts.get("input")
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None or spec.name not in feeds:
        return InputError(error.message, error.remedy, expected=signature.describe_inputs(), got=_listed(feeds))
    got = TensorSpec(spec.name, feeds[spec.name].dtype.name, np.shape(feeds[spec.name]))
    return InputError(error.message, error.remedy, input=name, expected=spec.describe(), got=got.describe())


def _listed(feeds: Mapping[str, Array]) -> str:
    found = [TensorSpec(name, value.dtype.name, value.shape).describe() for name, value in list(feeds.items())[:8]]
    return ", ".join(found)
