"""The length of the queue: from the time of a batch, so that what is accepted is answered in time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import archive

from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.context import Place
from retort.core.errors import MachineError
from retort.core.options.serving_options import PackOptions
from retort.serve.batching import Executor
from retort.serve.settings import Settings
from retort.serve.torchserve import queue_length as room
from retort.serve.torchserve.archives.archive import Mar, open_mar, write_archive
from retort.serve.torchserve.queue_length import (
    BatchTime,
    batch_time,
    length_for,
    queue_length,
    times_of_batches_ms,
)

REQUESTS = 40_000


def accepted_ms(
    length: int, settings: Settings, delay_ms: float, load: float, draw: Callable[[], float], mean_ms: float
) -> list[float]:
    """Latencies of the accepted requests of a simulated TorchServe.

    Requests come at random times. Those that find a full queue are refused. The worker that is free first collects a
    batch until it is full or the delay is over, and is then busy for a time that is drawn.

    Args:
        load: requests per time, relative to what full batches of all workers can answer.
    """
    source = random.Random(1)
    rate = load * settings.batch_size * settings.workers / mean_ms
    arrivals = deque(accumulate(source.expovariate(rate) for _ in range(REQUESTS)))
    waiting: deque[float] = deque()
    free = [0.0] * settings.workers
    heapify(free)
    found, collected = [], 0.0
    while arrivals or waiting:
        now = max(heappop(free), collected)
        while arrivals and arrivals[0] <= now:
            came = arrivals.popleft()
            if len(waiting) < length:
                waiting.append(came)
        if not waiting:
            if not arrivals:
                break
            now = arrivals[0]
            waiting.append(arrivals.popleft())
        batch = [waiting.popleft() for _ in range(min(len(waiting), settings.batch_size))]
        end = now + delay_ms
        while len(batch) < settings.batch_size and arrivals and arrivals[0] <= end:
            now = arrivals[0]
            batch.append(arrivals.popleft())
        collected = now if len(batch) == settings.batch_size else end
        done = collected + draw()
        found += [done - came for came in batch]
        heappush(free, done)
    return found


def p99(values: Sequence[float]) -> float:
    """The value that 99 % do not exceed."""
    return float(np.quantile(np.array(values), 0.99))


@pytest.mark.parametrize("load", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("delay_ms", [1, 100])
@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (4, 8), (2, 32)])
@pytest.mark.parametrize(("mean_ms", "variation"), [(8.0, 1.0), (60.0, 0.0), (60.0, 0.3), (60.0, 1.0)])
def test_accepted_requests_of_a_simulated_server_keep_the_goal(
    load: float, delay_ms: int, workers: int, batch_size: int, variation: float, mean_ms: float
) -> None:
    """At every load 99 % are in time, whatever the delay, the workers and the variation of the batches."""
    settings, goal_ms = Settings(batch_size=batch_size, workers=workers), 1000
    source = random.Random(2)
    runs = [mean_ms] * 50
    if variation:
        runs = [mean_ms * source.gammavariate(variation**-2, variation**2) for _ in range(50)]
    batch = batch_time(runs, settings, cores=workers)
    assert delay_ms + batch.sum_ms(2) <= goal_ms
    length = queue_length(batch, settings, goal_ms, delay_ms)
    added_ms = batch.mean_ms - float(np.mean(runs))
    found = accepted_ms(length, settings, delay_ms, load, lambda: source.choice(runs) + added_ms, batch.mean_ms)
    assert p99(found) <= goal_ms
    if load == 3.0:
        assert len(found) < REQUESTS * 0.6
        longer = queue_length(batch, settings, 2 * goal_ms, delay_ms)
        beyond = accepted_ms(longer, settings, delay_ms, load, lambda: source.choice(runs) + added_ms, batch.mean_ms)
        assert p99(beyond) > goal_ms, "a queue for twice the goal would keep it, so this one is needlessly short"


def test_batches_that_vary_and_delays_shorten_the_queue() -> None:
    """Of two models of equal mean, the one whose batches vary gets the shorter queue; the delay counts once."""
    steady, varying = BatchTime(20.0), BatchTime(20.0, 20.0)
    settings = Settings(batch_size=8, workers=2)
    assert queue_length(steady, settings, 500, 0) == 24 * 16
    assert queue_length(varying, settings, 500, 0) < 18 * 16
    assert queue_length(steady, settings, 500, 100) == 19 * 16
    assert queue_length(steady, settings, 50, 100) == 16
    for limit_ms in (0.0, 19.0, 20.0, 333.0, 5000.0):
        count = varying.batches_within(limit_ms)
        assert count == 0 or varying.sum_ms(count) <= limit_ms + 1e-6
        assert varying.sum_ms(count + 1) > limit_ms


def test_workers_beyond_the_cores_share_them() -> None:
    """Four workers on two cores take twice as long each; on four cores each takes its own time."""
    settings = Settings(batch_size=1, workers=4)
    assert batch_time([10.0], settings, cores=4).mean_ms == pytest.approx(10.6)
    assert batch_time([10.0], settings, cores=2).mean_ms == pytest.approx(21.2)
    assert batch_time([8.0, 12.0], settings, cores=4).deviation_ms == pytest.approx(np.std([8, 12], ddof=1))


def test_the_shortest_and_the_longest_queue() -> None:
    """A batch may always wait for each worker, and never more than ten thousand requests."""
    assert queue_length(BatchTime(480.0), Settings(), 500, 1) == 8
    assert queue_length(BatchTime(0.1), Settings(workers=4), 10**9, 1) == 10_000


@pytest.mark.parametrize("kind", ["vector", "image", "number"])
def test_every_kind_of_model_is_timed(kind: str, tmp_path: Path) -> None:
    """Batches, pictures, and models whose requests cannot be combined all have times."""
    mar = open_mar(archive(kind, tmp_path))
    found = times_of_batches_ms(mar)
    assert len(found) >= 3
    assert all(0 < took < 60_000 for took in found)


def test_full_batches_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is a batch of the archive's size, formed as the worker forms it, and not the fastest one."""
    sizes: list[int] = []
    run = Executor.run

    def counted(self: Executor, requests: Sequence[dict[str, np.ndarray]]) -> object:
        sizes.append(len(requests))
        return run(self, requests)

    mar = open_mar(archive("vector", tmp_path))
    monkeypatch.setattr(Executor, "run", counted)
    times_of_batches_ms(mar)
    assert set(sizes) == {PackOptions().batch_size}


def test_a_model_with_weights_outside_its_file_is_timed(tmp_path: Path) -> None:
    """Its files are unpacked for the measurement."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy"]
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    packed = write_archive(PackOptions(), load_artifact(tmp_path / "own.onnx"), Place(tmp_path / "packed"))
    assert open_mar(packed).settings.external == ("own.data",)
    assert min(times_of_batches_ms(open_mar(packed))) > 0


def test_what_cannot_be_kept_or_timed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A goal shorter than two batches is told with a remedy, and a model that does not open leaves the default."""
    mar = open_mar(archive("vector", tmp_path))
    assert length_for(mar, 1, Console("text")) == 8
    told = " ".join("".join(capsys.readouterr()).split())
    assert "1 ms cannot be kept" in told
    assert "--p99-ms" in told
    elsewhere = Mar(mar.path, "x", "1", Settings(providers=("NoSuchExecutionProvider",)), {})
    assert length_for(elsewhere, 500, Console("text")) == 100
    assert "cannot be timed here" in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.parametrize("error", [MachineError(""), MemoryError(), MachineError("two\nlines")])
def test_errors_without_a_message_leave_the_default(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a model or this machine raises is told in one line, also if it says nothing."""

    def fail(mar: Mar) -> list[float]:
        raise error

    monkeypatch.setattr(room, "times_of_batches_ms", fail)
    assert length_for(open_mar(archive("vector", tmp_path)), 500, Console("text")) == 100
    assert "cannot be timed here" in " ".join("".join(capsys.readouterr()).split())


def test_a_defect_of_ours_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that neither the model nor the runtime raises comes out."""

    def fail(mar: Mar) -> list[float]:
        raise KeyError("ours")

    monkeypatch.setattr(room, "times_of_batches_ms", fail)
    with pytest.raises(KeyError):
        length_for(open_mar(archive("vector", tmp_path)), 500, Console("text"))


def test_a_request_that_fails_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error among the answers of a batch is raised, and its time is not taken for that of the model."""
    mar = open_mar(archive("vector", tmp_path))
    monkeypatch.setattr(Executor, "run", lambda self, requests: [MemoryError()])
    with pytest.raises(MemoryError):
        times_of_batches_ms(mar)
