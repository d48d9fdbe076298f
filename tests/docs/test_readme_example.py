"""The Python example of the README runs unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_python_example_runs(tmp_path: Path) -> None:
    """The Python example runs unchanged in an empty folder, writes its file and prints the comparison."""
    code = README.split("<!-- example:begin -->\n```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    code += "\nassert graph(np.zeros((4, 1, 8, 8), np.float32)).shape == (4, 10)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits.onnx").is_file()
    assert "after against before" in done.stdout
