"""Interrupted trainings end with the same bits as uninterrupted ones."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from known import known
from training_kit import Killed, Unplugged, blobs, net, run, same, splits, weights

from retort.compress.program import load_program, save_program
from retort.compress.training.checkpoint import checkpoint_path
from retort.compress.training.train import discard, fit
from retort.core.console import Console
from retort.core.context import Context
from retort.core.data.splits import Splits
from retort.core.errors import StorageError
from retort.core.options.stage_options import TrainOptions

torch.set_num_threads(1)


def test_same_seed_same_weights_and_other_seed_others() -> None:
    """Training depends on its seed and not on the global random state, which it does not change."""
    results = []
    for noise, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(noise)
        state, program = torch.get_rng_state(), net()
        torch.set_rng_state(state)
        fit(program, TrainOptions(epochs=2, batch_size=16), Context(splits(), task="classification", seed=seed))
        assert torch.equal(state, torch.get_rng_state())
        results.append(weights(program))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("limit", [0, 3, 7, 15])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"ema": 0.9, "optimizer": "sgd", "accumulate": 2, "checkpoint_epochs": 2},
        {"ema": 0.9, "checkpoint_steps": 1, "l1": 1e-3},
        {"accumulate": 3, "checkpoint_steps": 1, "checkpoint_epochs": 9},
        {"freeze": {"*": 1}, "checkpoint_steps": 1},
    ],
)
def test_interrupted_training_resumes_bit_for_bit(limit: int, extra: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after any number of batches and run again, a training ends with the same weights and history."""
    whole, broken, original = net(), net(), blobs(65, 1)
    wanted = run(whole, **extra)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, limit
    with pytest.raises(Killed):
        run(broken, data, tmp_path, **extra)
    Unplugged.limit = 10**9
    resumed = net()
    got = run(resumed, data, tmp_path, **extra)
    assert same(weights(whole), weights(resumed))
    assert got.history == wanted.history
    reads = Unplugged.reads
    again = net()
    assert run(again, data, tmp_path, **extra).history == wanted.history
    assert (Unplugged.reads, same(weights(again), weights(whole))) == (reads, True)


def test_checkpoints_inside_an_epoch_lose_less_work(tmp_path: Path) -> None:
    """With a checkpoint at each step, a training that was stopped in an epoch goes on at that step."""
    original = blobs(65, 1)
    data = splits(train=Unplugged(original.inputs, original.targets))
    Unplugged.reads, Unplugged.limit = 0, 7  # one read when the training starts, and 4 in an epoch
    with pytest.raises(Killed):
        run(net(), data, tmp_path, checkpoint_steps=1)
    done = torch.load(checkpoint_path(tmp_path, "train"), weights_only=True)["state"]["progress"]
    assert (done["epoch"], done["position"], done["step"]) in {(1, 2, 6), (1, 3, 7)}


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that cannot be written ends the training with one message, and the one before can be used."""
    syncs = 0

    def _full(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(StorageError, match=r"No space left.*the checkpoint after epoch 2 of 4 is kept"):
        run(net(), scratch=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.checkpoint"]
    assert torch.load(checkpoint_path(tmp_path, "train"), weights_only=True)["state"]["progress"]["epoch"] == 2
    whole, resumed = net(), net()
    run(whole)
    run(resumed, scratch=tmp_path)
    assert same(weights(whole), weights(resumed))


SCRIPT = """
import sys, torch, numpy as np
torch.set_num_threads(1)
from pathlib import Path
from retort.compress.program import load_program
from retort.compress.training.train import fit
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import TrainOptions
import time

class Slow(ArraySplit):
    def read(self, indices):
        time.sleep(0.05)
        return super().read(indices)

io = np.load(sys.argv[1] + "/data.npz")
split = Slow({"x": io["x"]}, io["y"])
program = load_program(Path(sys.argv[1]) / "start.pt2")
options = TrainOptions(epochs=6, batch_size=16, ema=0.9)
fit(program, options, Context(Splits(split, split, split, split), seed=1, scratch=Path(sys.argv[1]) / "broken"))
"""


def test_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A training that is killed with SIGKILL in another process and goes on in this one ends with the same bits."""
    data = blobs(65, 1)
    np.savez(tmp_path / "data.npz", x=data.inputs["x"], y=known(data.targets))
    save_program(net(), tmp_path / "start.pt2")

    def trained(name: str) -> dict[str, torch.Tensor]:
        program = load_program(tmp_path / "start.pt2")
        every = Splits(data, data, data, data)
        options = TrainOptions(epochs=6, batch_size=16, ema=0.9)
        fit(program, options, Context(every, seed=1, scratch=tmp_path / name))
        return weights(program)

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment)
    whole = trained("whole")
    checkpoint = checkpoint_path(tmp_path / "broken", "train")
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert same(whole, trained("broken"))


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With other options, data or start, or if damaged, a checkpoint is ignored with a message."""
    wanted = net()
    run(wanted, learning_rate=0.02)
    run(net(), scratch=tmp_path)
    path = checkpoint_path(tmp_path, "train")
    for content in (path.read_bytes(), path.read_bytes()[:500], b"rubbish"):
        path.write_bytes(content)
        program = net()
        options = TrainOptions(epochs=4, batch_size=16, learning_rate=0.02)
        fit(program, options, Context(splits(), task="classification", seed=3, scratch=tmp_path, console=Console()))
        assert same(weights(program), weights(wanted))
        assert "from the beginning" in capsys.readouterr().err
    other = net()
    fit(other, options, Context(splits(train=blobs(65, 9)), task="classification", seed=3, scratch=tmp_path))
    assert not same(weights(other), weights(wanted))
    discard(tmp_path, "train")
    assert list(tmp_path.iterdir()) == []
