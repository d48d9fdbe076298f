"""Requests that arrive as arrays, from servers that decode them: the same checks and batches as for bytes.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.errors import UserError
from ...core.tensors import Array, Feeds, raise_if_nan
from ..engine import Engine
from .wire import check_rows


@dataclass(frozen=True)
class Refused:
    """A request that got no outputs.

    Attributes:
        status: 400 if the request is at fault, 503 if memory is short, else 500.
        text: what is wrong and what to do; nothing about the inside of the server.
    """

    status: int
    text: str


def answer_arrays(engine: Engine, requests: Sequence[Feeds]) -> list[dict[str, Array] | Refused]:
    """Outputs of each request by name, or why it has none; no request has an influence on another (serve.md H16)."""
    answers: dict[int, dict[str, Array] | Refused] = {}
    checked: dict[int, dict[str, Array]] = {}
    for index, feeds in enumerate(requests):
        try:
            checked[index] = _validated(engine, feeds)
        except Exception as error:  # an unexpected exception also concerns only this request
            answers[index] = _refused(error)
    outputs = engine.executor.run(list(checked.values()))
    for index, output in zip(checked, outputs, strict=True):
        answers[index] = _refused(output) if isinstance(output, Exception) else output
    return [answers[index] for index in range(len(requests))]


def _validated(engine: Engine, feeds: Feeds) -> dict[str, Array]:
    for spec in engine.signature.inputs:
        if spec.name in feeds:
            check_rows(spec, np.shape(feeds[spec.name]), engine.settings.limits)
    checked = engine.signature.validate(feeds)
    if not engine.settings.allow_nan:
        for name, array in checked.items():
            raise_if_nan(name, array)
    return checked


def _refused(error: Exception) -> Refused:
    if isinstance(error, UserError):
        return Refused(400, f"{error.message}; {error.remedy}" if error.remedy else error.message)
    if isinstance(error, MemoryError):
        return Refused(503, "the request needs more memory than is available; send fewer rows")
    return Refused(500, "the server failed on this request; see the server's log")
