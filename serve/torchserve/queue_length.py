"""How many requests may wait: as many as can be answered within the latency goal, by the measured time of the model."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from ...core.console import Console
from ...core.session import Session, SessionOptions, open_session
from ...core.tensors import Signature
from ..batching import Executor
from ..engine import GOLDEN, MODEL, SIGNATURE, smallest_golden, split_golden, thread_budget
from ..settings import Limits, Settings
from ..wire import read_npz
from .archive import Mar
from .mar import read_member

DEFAULT = 100
"""TorchServe's own length, for models that cannot be timed."""
_LONGEST = 10_000
# what TorchServe's front end and worker add to a request of a small model, measured on two cores of an Intel Xeon
_SERVER_MS = 0.6
_TIMING_S = 2.0
_TRUSTED = Limits(expanded_bytes=1 << 40, members=1 << 16, axes=64)


def length_for(mar: Mar, p99_ms: int, console: Console) -> int:
    """The length of the queue of an archive's model on this machine; a warning says if the goal cannot be kept.

    Args:
        p99_ms: longest time that an accepted request should take at overload.
    """
    try:
        request_ms = time_of_request_ms(mar)
    except Exception as error:  # the worker will say what is wrong with the model, if it is not only this environment
        reason = str(error).splitlines()[0][:200]
        console.warn(f"the model cannot be timed here, so its queue has TorchServe's length of {DEFAULT}: {reason}")
        return DEFAULT
    batch_ms = batch_time_ms(request_ms, mar.settings)
    if 2 * batch_ms > p99_ms:
        told = f"a batch takes {batch_ms:.0f} ms and can wait for the one before it, so {p99_ms} ms cannot be kept"
        console.warn(f"{told}; pack with a smaller --batch-size, or give a longer --p99-ms")
    return queue_length(request_ms, mar.settings, p99_ms)


def queue_length(request_ms: float, settings: Settings, p99_ms: int) -> int:
    """Requests that may wait: the last one waits for the batch that is running, and for those before its own.

    Args:
        request_ms: time of the model per request, in the batches that may be formed.
    """
    batches = int(p99_ms / batch_time_ms(request_ms, settings)) - 1
    return min(max(1, batches) * settings.batch_size * settings.workers, _LONGEST)


def batch_time_ms(request_ms: float, settings: Settings) -> float:
    """Time of a full batch with what the server adds to each of its requests."""
    return settings.batch_size * (request_ms + _SERVER_MS)


def time_of_request_ms(mar: Mar) -> float:
    """Time of the model per request, on the golden inputs, in the batches that its settings allow.

    Raises:
        RetortError: the model cannot be opened here.
    """
    settings = replace(mar.settings, threads=thread_budget(mar.settings), warmup_s=_TIMING_S)
    signature = Signature.from_json(read_member(mar.path, SIGNATURE))
    golden = split_golden(read_npz(read_member(mar.path, GOLDEN), _TRUSTED))
    session = _open(mar, settings, signature)
    try:
        executor = Executor(session, settings)
        plan = executor.measure(smallest_golden(signature, golden)[0])
    finally:
        session.close()
    if not executor.combines:
        return min(plan.times_ms.values())
    usable = plan.sizes if settings.batching == "exact" else set(plan.times_ms)
    sizes = [size for size in plan.times_ms if size in usable and size <= settings.batch_size]
    return min(plan.times_ms[size] / size for size in sizes)


def _open(mar: Mar, settings: Settings, signature: Signature) -> Session:
    options = SessionOptions(settings.threads, settings.providers, spinning=settings.spinning)
    if not settings.external:
        return open_session(read_member(mar.path, MODEL), options, signature)
    with tempfile.TemporaryDirectory(prefix="retort-") as folder, zipfile.ZipFile(mar.path) as archive:
        archive.extractall(folder, [MODEL, *settings.external])
        return open_session(Path(folder) / MODEL, options, signature)
