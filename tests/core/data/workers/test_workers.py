"""Worker processes: the same batches in order for any number of them, and one message for whatever goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from worker_data import Ramps, views

from retort.core.data.augmentation.draws import view_seeds
from retort.core.data.augmentation.mixing import View
from retort.core.data.augmentation.views import Views, views_of
from retort.core.data.splits import ArraySplit
from retort.core.data.workers.loader import Loader, wanted_workers
from retort.core.data.workers.messages import LARGE_BYTES, Shared
from retort.core.data.workers.pool import Job, Pool
from retort.core.errors import DataError, MachineError, UserError
from retort.core.options.stage_options import TrainOptions

TESTS = Path(__file__).parents[3]


def _jobs(count: int = 48, size: int = 8, epoch: int = 0) -> list[Job]:
    places = np.arange(count)
    return [(part, view_seeds(3, epoch, part)) for part in np.split(places, range(size, count, size))]


def _same(one: View, other: View) -> bool:
    pairs = [(one.inputs["x"], other.inputs["x"]), (one.targets, other.targets), (one.partners, other.partners)]
    return all(a is None or (b is not None and np.array_equal(a, b)) for a, b in pairs)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers that read changed images."""
    made = Pool(views(Ramps(), {"rotate": 30}, "flip", "mixup"), 2)
    yield made
    made.close()


def test_workers_give_the_same_batches_in_order(pool: Pool) -> None:
    """Bit for bit those of this process, in two epochs, also after an epoch was left early."""
    own = views(Ramps(), {"rotate": 30}, "flip", "mixup")
    for epoch in (0, 1):
        jobs = _jobs(epoch=epoch)
        made = list(pool.stream(jobs))
        assert len(made) == len(jobs)
        assert all(_same(view, own.read(*job)) for view, job in zip(made, jobs, strict=True))
        left = pool.stream(jobs)
        next(left)
        left.close()  # type: ignore[attr-defined]


def test_an_unreadable_sample_is_one_message_in_its_place() -> None:
    """The batches before it come, then the error that this process would have raised."""
    made = Pool(views(Ramps(bad=20)), 2)
    try:
        stream = made.stream(_jobs())
        assert [view.inputs["x"].shape[0] for view in (next(stream), next(stream))] == [8, 8]
        with pytest.raises(DataError, match="sample 20 of the dataset cannot be read: ValueError: the file is torn"):
            next(stream)
    finally:
        made.close()


def test_a_killed_worker_is_one_message_and_no_hang() -> None:
    """As when memory runs out: the message says so, and how to use less."""
    made = Pool(views(Ramps(deadly=20)), 1)
    try:
        with pytest.raises(MachineError, match="was killed, most likely because memory ran out") as caught:
            list(made.stream(_jobs()))
        assert "workers: 0" in caught.value.remedy
    finally:
        made.close()


def test_a_data_set_that_cannot_be_sent_is_refused_or_read_here() -> None:
    """A function inside a function cannot be found by another process; `auto` reads such data in this one."""

    class Local(Ramps):
        pass

    with pytest.raises(UserError, match=r"the data set cannot be sent to worker processes: .*Local"):
        list(Loader(views(Local()), 1, 6).stream(_jobs()))
    loader = Loader(views(Local()), "auto", 6)
    loader._wanted = 1
    assert len(list(loader.stream(_jobs()))) == 6
    assert loader.workers == 0


def test_large_arrays_are_shared_and_not_copied() -> None:
    """An array in memory is put into a file without a name once for all workers, and small values travel."""
    array = np.arange(LARGE_BYTES, dtype=np.float32).reshape(-1, 1, 4, 4)
    source = Views(ArraySplit({"x": array}, np.arange(len(array))))
    shared = Shared(source)
    assert len(shared.files) == 1
    assert len(shared.content) < array.nbytes / 4
    shared.close()
    made = Pool(source, 1)
    try:
        (view,) = made.stream([(np.array([5, 7]), view_seeds(0, 0, np.array([5, 7])))])
        np.testing.assert_array_equal(view.inputs["x"], array[[5, 7]])
    finally:
        made.close()


@pytest.mark.parametrize(
    ("reading_s", "working_s", "batches", "cores", "wanted"),
    [
        (0.0001, 0.05, 10_000, 8, 0),  # arrays in memory
        (0.05, 0.05, 10, 8, 0),  # over before workers have started
        (0.05, 0.05, 10_000, 1, 0),  # no core of its own
        (0.05, 0.05, 10_000, 2, 1),
        (0.4, 0.1, 10_000, 16, 4),
        (9.0, 0.1, 10_000, 64, 8),
    ],
)
def test_auto_starts_workers_only_where_they_pay(
    reading_s: float, working_s: float, batches: int, cores: int, wanted: int
) -> None:
    """By the times of reading and working, the number of batches to come, and the cores."""
    assert wanted_workers(reading_s, working_s, batches, cores) == wanted


def test_auto_reads_arrays_in_this_process() -> None:
    """Arrays in memory start no worker however long the training is."""
    split = ArraySplit({"x": np.zeros((96, 1, 4, 4), np.float32)})
    loader = Loader(views_of(split, TrainOptions(augment=("flip",)).augment), "auto", 100_000)
    for _ in loader.stream(_jobs(96)):
        time.sleep(0.01)
    assert loader.workers == 0
    assert loader._wanted == 0


def test_auto_goes_on_with_workers_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading is measured to be slow, the rest of the epoch comes from workers, and the batches stay the same."""
    monkeypatch.setattr("retort.core.data.workers.loader.wanted_workers", lambda *_: 1)
    own = views(Ramps(96), "flip")
    loader = Loader(own, "auto", 12)
    made = list(loader.stream(_jobs(96)))
    assert loader.workers == 1
    loader.close()
    assert all(_same(view, own.read(*job)) for view, job in zip(made, _jobs(96), strict=True))
    assert len(made) == 12


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from worker_data import Ramps, views
from retort.core.data.augmentation.draws import view_seeds
from retort.core.data.workers.pool import Pool

pool = Pool(views(Ramps(slow=20)), 2)
rows = np.arange(48)
try:
    for view in pool.stream([(part, view_seeds(0, 0, part)) for part in np.split(rows, 6)]):
        print("read", flush=True)
finally:
    pool.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_no_worker_outlives_the_process_that_started_it(how: str) -> None:
    """After Ctrl-C and after a kill, also while a sample takes for ever; what a data set prints is no message."""
    command: Any = [sys.executable, "-c", SCRIPT.format(tests=str(TESTS))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "read\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    if how == "kill":
        process.kill()
    else:
        for number in (process.pid, *(child.pid for child in children)):  # a terminal sends it to all of them
            os.kill(number, signal.SIGINT)
    process.wait(30)
    _, alive = psutil.wait_procs(children, 20)
    assert not alive
    process.stdout.close()
