"""Requests for an explanation: heatmaps of each row, within a budget of evaluations and of time (serve.md H23).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ..core.counts import counted, listed
from ..core.errors import InputError, LimitError
from ..core.explanation.explain import Setting, explain
from ..core.explanation.explanation import SMALLEST_BUDGET, Asked, Explanation
from ..core.tensors import Array, Feeds
from .batching import Executor
from .requests.content_types import negotiate
from .requests.json_text import dump
from .requests.replies import Answer
from .requests.request import Incoming, Request
from .requests.wire import JSON, NPY, NPZ, write_npz

OPTIONS = {"method": "method", "target": "target", "class": "label", "output": "output", "input": "inputs"} | {
    "baseline": "baseline", "budget": "budget"
}  # fmt: skip
"""Names of options, with the fields of the question that they set."""
OPTIONS_HEADER = "x-retort-explain"
"""Options as ``class=rose&budget=128``, because TorchServe drops those in the address of an explanation."""
FACTS_HEADER = "x-retort-explanations"
_PATIENCE = 3
"""How many times longer than planned an explanation may take before it is given up."""
Decoder = Callable[[Incoming], Request]


def wants_explanation(incoming: Incoming) -> bool:
    """Whether a request asks for an explanation; TorchServe sets this header, so that a client's own has no effect."""
    return incoming.headers.get("explain", "").lower() == "true"


def explained(incoming: Incoming, decoder: Decoder, executor: Executor) -> Answer:
    """The explanations of the rows of one request, as JSON or npz.

    Args:
        decoder: decodes what is left of the request without the options of the explanation.

    Raises:
        InputError: the request, or what it asks for, does not fit the model; or explanations are turned off.
        LimitError: it has more rows than can be explained at once, or the model takes longer than it was measured.
    """
    settings = executor.settings
    asked, plain = _split(incoming, executor)
    request = decoder(plain)
    kind = NPZ if request.reply in (NPY, NPZ) else JSON
    reply = negotiate(incoming.headers.get("accept", ""), kind, 2)
    budget = _budget(asked.budget, request.rows, executor)
    deadline = time.monotonic() + _PATIENCE * settings.explain_s
    setting = Setting(_runner(executor, deadline), executor.signature, _rows(executor))
    found = explain(setting, request.feeds, replace(asked, budget=budget))[: request.rows]
    if reply == NPZ:
        return Answer(200, write_npz(_arrays(found)), NPZ, {FACTS_HEADER: _facts(found, 4096)})
    return Answer(200, dump({"model_name": settings.name, "explanations": _values(found, request)}))


def _split(incoming: Incoming, executor: Executor) -> tuple[Asked, Incoming]:
    """The options of the explanation, from the header and from fields of a form, and the request without them."""
    inputs = {spec.name for spec in executor.signature.inputs}
    fields = {name: value for name, value in incoming.parts.items() if name in OPTIONS and name not in inputs}
    given = {**_listed(incoming.headers.get(OPTIONS_HEADER, "")), **{name: _text(fields[name]) for name in fields}}
    options: dict[str, Any] = {OPTIONS[name]: value for name, value in given.items()}
    if "inputs" in options:
        options["inputs"] = tuple(options["inputs"].split(","))
    if "budget" in options:
        if not options["budget"].isdecimal():
            raise InputError("the budget of an explanation is no whole number", "write budget=256")
        options["budget"] = int(options["budget"][:9])
    left = {name: value for name, value in incoming.parts.items() if name not in fields}
    return Asked(**options), replace(incoming, parts=left)


def _listed(header: str) -> dict[str, str]:
    """The options in the header by name."""
    try:
        found = dict(parse_qsl(header, keep_blank_values=True, strict_parsing=bool(header), max_num_fields=16))
    except ValueError as error:
        message = f"the header {OPTIONS_HEADER} cannot be read"
        raise InputError(message, "write it as class=rose&budget=128, with %20 for a blank") from error
    unknown = sorted(set(found) - set(OPTIONS))
    if unknown:
        message = f"no option of an explanation is called '{unknown[0][:80]}'"
        raise InputError(message, f"give {listed(OPTIONS, 'or')}")
    return {name: value[:200] for name, value in found.items()}


def _text(value: object) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value))[:200]


def _budget(asked: int, rows: int, executor: Executor) -> int:
    """Evaluations of each row: those asked for, as far as the settings and the measured time of the model allow."""
    settings = executor.settings
    if settings.explain_budget < SMALLEST_BUDGET:
        raise InputError("this server gives no explanations", "ask for the prediction instead", status=501)
    limit = min(settings.explain_budget, math.floor(1000 * settings.explain_s / max(1e-6, _row_ms(executor))))
    if limit < SMALLEST_BUDGET:
        message = f"the model is too slow to be explained within {settings.explain_s:g} s"
        raise InputError(message, "explain it with `retort explain`, where it may take longer", status=501)
    most = limit // SMALLEST_BUDGET
    if rows > most:
        raise LimitError(f"the request has {counted(rows, 'row')}", f"ask for at most {most} explanations at once")
    return min(asked, limit // rows)


def _row_ms(executor: Executor) -> float:
    """Measured time of one row in the batch size in which it is shortest."""
    return min((took / size for size, took in executor.plan.times_ms.items()), default=0.0)


def _rows(executor: Executor) -> int:
    """The batch size in which a row takes the shortest time."""
    times = executor.plan.times_ms
    return min(executor.rows, min(times, key=lambda size: times[size] / size, default=1))


def _runner(executor: Executor, deadline: float) -> Callable[[Feeds], Mapping[str, Array]]:
    def run(feeds: Feeds) -> Mapping[str, Array]:
        if time.monotonic() > deadline:
            message = "the explanation takes too long on this machine"
            raise LimitError(message, "ask again later, or for a smaller budget", status=503)
        found = executor.run([feeds])[0]
        if isinstance(found, Exception):
            raise found
        return found

    return run


def _values(found: Sequence[Explanation], request: Request) -> list[dict[str, Any]]:
    """The explanations as JSON-ready values; with texts, where each token stands in its text."""
    values: list[dict[str, Any]] = [{**one.to_dict(), "title": one.title} for one in found]
    offsets = None if request.samples is None else request.samples.offsets
    if offsets is not None:
        for value, places in zip(values, offsets.tolist(), strict=False):
            value["offsets"] = places
    return values


def _arrays(found: list[Explanation]) -> dict[str, Array]:
    """Heatmaps ``[N, …]`` by input, and the numbers of each row."""
    arrays = {
        f"heatmap.{name}": np.stack([one.heatmaps[name].values for one in found]).astype(np.float32)
        for name in found[0].heatmaps
    }
    numbers: dict[str, list[float]] = {
        "score": [one.score for one in found],
        "baseline_score": [one.baseline_score for one in found],
        "index": [-1 if one.index is None else one.index for one in found],
        "evidence": [float(one.evidence) for one in found],
        "used": [one.used for one in found],
    }
    return arrays | {name: np.array(values, np.float64) for name, values in numbers.items()}


def _facts(found: list[Explanation], longest: int) -> str:
    """What the numbers mean, as JSON in ASCII; of the first rows where all are too long for a header."""
    facts: list[dict[str, Any]] = []
    for one in found:
        baselines = {name: heatmap.baseline for name, heatmap in one.heatmaps.items()}
        fact: dict[str, Any] = {"method": one.method, "explained": one.title, "scale": one.scale, "baseline": baselines}
        fact |= {"budget": one.budget, "evidence": one.evidence, "reason": one.reason}
        if len(dump([*facts, fact])) > longest:
            break
        facts.append(fact)
    return dump(facts).decode()
