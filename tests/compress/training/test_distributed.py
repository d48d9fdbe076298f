"""Two processes train like one: the same results, errors of one process, and resuming after a process died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from training_kit import same
from two_processes import CASES, trained, with_dropout

torch.set_num_threads(1)
TESTS = Path(__file__).parents[2]


def torchrun(processes: int, work: str, folder: Path, *death: int) -> subprocess.CompletedProcess[str]:
    """Start processes and wait until all have ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    given = [*command, str(TESTS / "two_processes.py"), work, str(folder), *map(str, death)]
    return subprocess.run(given, env=environment, capture_output=True, text=True, timeout=180)


def said(text: str) -> list[str]:
    """The messages of Retort in an output."""
    return [line for line in text.splitlines() if line.startswith("retort: ")]


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """BatchNorm, class weights, clipping, accumulation, averages and unequal shares give the weights of one process."""
    done = torchrun(2, "all_cases", tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    history = json.loads((tmp_path / "history.json").read_text())
    for case in CASES:
        wanted, steps = trained(case)
        for name, value in wanted.items():
            torch.testing.assert_close(found[case][name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(history[case]), torch.tensor(steps), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_dead_process_ends_the_run_and_any_number_goes_on(tmp_path: Path) -> None:
    """A killed rank ends the run in seconds with one message; two processes go on bit for bit, and one goes on too."""
    whole, broken, alone = (tmp_path / name for name in ("whole", "broken", "alone"))
    assert torchrun(2, "with_dropout", whole).returncode == 0
    for step, rank in ((5, 1), (11, 0)):
        started = time.monotonic()
        done = torchrun(2, "with_dropout", broken, step, rank)
        assert done.returncode != 0
        assert len(said(done.stderr)) == 1, done.stderr
        assert time.monotonic() - started < 60
    for path in broken.glob("*.checkpoint"):
        alone.mkdir(exist_ok=True)
        (alone / path.name).write_bytes(path.read_bytes())
    assert torchrun(2, "with_dropout", broken).returncode == 0
    wanted = torch.load(whole / "weights.pt", weights_only=True)
    assert same(wanted, torch.load(broken / "weights.pt", weights_only=True))
    with_dropout(alone)
    assert torch.load(alone / "weights.pt", weights_only=True).keys() == wanted.keys()


@pytest.mark.slow
def test_the_error_of_one_process_is_told_once(tmp_path: Path) -> None:
    """A sample that only one process reads is named in the one message, with the exit code of its error."""
    done = torchrun(2, "bad_rows", tmp_path)
    assert len(said(done.stderr)) == 1, done.stderr
    assert "NaN or infinite values in sample 17" in done.stderr
    assert "internal error" not in done.stderr
