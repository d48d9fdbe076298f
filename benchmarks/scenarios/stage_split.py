"""The time of each stage of a query: preparing the input, copying it in, running, and copying the outputs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ...core.session import ON_CPU, Session
from ...core.tensors import Feeds
from ...serve.client import Client, decoded, encoded

_GPU = "CUDAExecutionProvider"


@dataclass(frozen=True)
class StageTimes:
    """One query by stages, in milliseconds; a stage that the runtime does not show apart is None, and part of ``run``.

    Attributes:
        prepare_ms: reading and decoding the samples, and making the arrays or the body of the request.
        copy_in_ms: handing the inputs to the runtime, which copies them to a GPU.
        run_ms: the model; for an endpoint the whole request.
        copy_out_ms: making arrays of the outputs, which are copied from a GPU or decoded from the answer.
    """

    prepare_ms: float
    copy_in_ms: float | None
    run_ms: float
    copy_out_ms: float | None


def split_of_session(session: Session, parts: Callable[[int], Sequence[Feeds]], number: int) -> StageTimes:
    """The stages of a query to a session; all four in ONNX Runtime.

    Args:
        parts: reads and prepares the feeds of a query.
        number: of the query.
    """
    began = time.perf_counter()
    prepared = parts(number)
    prepare_ms = 1e3 * (time.perf_counter() - began)
    if session.backend == "onnxruntime" and (session.providers[0] in ON_CPU or session.providers[0] == _GPU):
        times = [_bound(session, feeds) for feeds in prepared]
        copy_in_ms, run_ms, copy_out_ms = (sum(each) for each in zip(*times, strict=True))
        return StageTimes(prepare_ms, copy_in_ms, run_ms, copy_out_ms)
    began = time.perf_counter()
    for feeds in prepared:
        session.run(feeds)
    return StageTimes(prepare_ms, None, 1e3 * (time.perf_counter() - began), None)


def _bound(session: Any, feeds: Feeds) -> tuple[float, float, float]:
    """Milliseconds of copying in, running and copying out, with inputs and outputs bound to the device."""
    import onnxruntime

    device = "cuda" if session.providers[0] == _GPU else "cpu"
    binding = session.inner.io_binding()
    for spec in session.signature.outputs:
        binding.bind_output(spec.name, device)
    began = time.perf_counter()
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
        binding.bind_ortvalue_input(name, value)
    binding.synchronize_inputs()
    copied = time.perf_counter()
    session.inner.run_with_iobinding(binding)
    binding.synchronize_outputs()
    ran = time.perf_counter()
    binding.copy_outputs_to_cpu()
    return 1e3 * (copied - began), 1e3 * (ran - copied), 1e3 * (time.perf_counter() - ran)


def split_of_request(client: Client, feeds: Callable[[int], Feeds], number: int) -> StageTimes:
    """The stages of a query to an endpoint: encoding the samples, the request, and decoding the answer.

    Raises:
        RetortError: the server rejected the request, or cannot be reached.
    """
    began = time.perf_counter()
    body, headers = encoded(feeds(number))
    made = time.perf_counter()
    answer = client.request("POST", "", body, headers)
    answered = time.perf_counter()
    decoded(*answer)
    ended = time.perf_counter()
    return StageTimes(1e3 * (made - began), None, 1e3 * (answered - made), 1e3 * (ended - answered))


def middle(times: Sequence[StageTimes]) -> StageTimes | None:
    """The median of each stage over several queries; None without any."""
    if not times:
        return None

    def of(name: str) -> float | None:
        values = [getattr(one, name) for one in times]
        return None if None in values else float(median(values))

    prepare_ms, run_ms = median(one.prepare_ms for one in times), median(one.run_ms for one in times)
    return StageTimes(float(prepare_ms), of("copy_in_ms"), float(run_ms), of("copy_out_ms"))
