"""`make quick`: its files exist, and none of them loads torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def selected() -> list[str]:
    """The files and folders of `make quick` in the Makefile."""
    found = re.search(r"^QUICK := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1).replace("\\\n", " ").split()


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A pytest process in which torch cannot be imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "without_torch", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # CI runs `make quick` itself
def test_the_quick_selection_loads_without_torch() -> None:
    """Every file of `make quick` exists and can be collected without torch."""
    done = without_torch("--collect-only", *selected())
    assert done.returncode == 0, done.stdout


def test_a_test_that_imports_torch_fails_with_a_remedy(tmp_path: Path) -> None:
    """An import of torch inside a test is rejected as well, even if the test would handle its absence."""
    tested = tmp_path / "test_swallows.py"
    lines = ["def test_it():", "    try:", "        import torch", "    except ImportError:", "        pass"]
    tested.write_text("\n".join(lines))
    done = without_torch(str(tested))
    assert done.returncode == 1, done.stdout
    assert "take its file out of QUICK" in done.stdout


def test_ci_runs_the_inner_loop() -> None:
    """CI runs `make quick`, so failures that occur only when a test runs are found there, and ends before its limit."""
    stages = re.findall(r"^stage (\d+)m (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert [name for _, name in stages] == ["quick", "check", "test", "test-slow", "demo"]
    assert sum(int(minutes) for minutes, _ in stages) < 90
