"""Commands survive closed and full streams, and every seed that a generator would refuse is told before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.__main__ import main
from retort.core.context import Context
from retort.core.errors import UserError
from retort.core.options.option_types import SEED_MAX
from retort.core.options.recipe import parse_recipe
from retort.pipeline.live.running import Request

SEEDED = ("capture", "train", "distill", "prune", "sparsify", "quantize", "bench", "predict", "doctor", "data")


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        ("schema", ">&-"),
        ("schema", "<&-"),
        ("schema", ">/dev/full"),
        ("check none.yaml", "2>&-"),
        ("check none.yaml", ">&- 2>&- <&-"),
        ("init new.yaml", ">&-"),
        ("init new.yaml", ">&- 2>&- <&-"),
        ("init new.yaml", ">/dev/full"),
    ],
)
def test_closed_and_full_streams(tmp_path: Path, command: str, closed: str) -> None:
    """A command whose streams are closed ends as it would otherwise, and writes nothing into a file by mistake."""
    line = f"{sys.executable} -m retort {command} {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    told = done.stdout + done.stderr
    assert "internal error" not in told
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    if closed != ">/dev/full":
        assert done.returncode == (2 if command.startswith("check") else 0), told
    elif command == "schema":
        assert done.returncode == 8
        assert "No space left" in told
    if (tmp_path / "new.yaml").exists():
        assert "wrote new.yaml" not in (tmp_path / "new.yaml").read_text()


@pytest.mark.parametrize("seed", ["-1", str(SEED_MAX + 1)])
@pytest.mark.parametrize("command", SEEDED)
def test_seeds_out_of_range(command: str, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command with a seed refuses one that is negative or too large, before it reads anything."""
    with pytest.raises(SystemExit) as stop:
        main([command, "none", "--seed", seed])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert "internal error" not in told
    assert "--seed" in told


@pytest.mark.parametrize("seed", [-1, SEED_MAX + 1, 1.5, True])
def test_seeds_of_scripts(seed: Any) -> None:
    """A seed out of range is one sentence in Python too; numpy's whole numbers are seeds."""
    with pytest.raises(UserError, match="whole number from 0"):
        Request(seed=seed)
    with pytest.raises(UserError, match="whole number from 0"):
        Context(None, seed=seed)  # type: ignore[arg-type]  # data are not looked at
    assert Request(seed=np.int64(3)).seed == 3  # type: ignore[arg-type]


def test_seed_of_a_recipe() -> None:
    """A negative seed is a fault of its key."""
    with pytest.raises(UserError, match="seed: must be at least 0, not -1"):
        parse_recipe({"model": "a:b", "data": "digits", "seed": -1, "stages": ["export"]})
