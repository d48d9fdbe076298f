"""The inner loop, `make quick`: its files are there, and none of them loads torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def selected() -> list[str]:
    """The files and folders that the Makefile names for `make quick`."""
    found = re.search(r"^QUICK := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1).replace("\\\n", " ").split()


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own that refuses to import torch."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "without_torch", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_quick_selection_loads_without_torch() -> None:
    """Every file that `make quick` names is there and can be collected where torch cannot be imported."""
    done = without_torch("--collect-only", *selected())
    assert done.returncode == 0, done.stdout


def test_a_test_that_imports_torch_fails_with_a_remedy(tmp_path: Path) -> None:
    """Torch imported inside a test is refused as well, even where the test would do without it."""
    tested = tmp_path / "test_swallows.py"
    lines = ["def test_it():", "    try:", "        import torch", "    except ImportError:", "        pass"]
    tested.write_text("\n".join(lines))
    done = without_torch(str(tested))
    assert done.returncode == 1, done.stdout
    assert "take its file out of QUICK" in done.stdout


def test_ci_runs_the_inner_loop() -> None:
    """CI runs `make quick`, so what only shows when a test runs is seen there."""
    assert "make quick\n" in (ROOT / ".ci" / "run").read_text()
