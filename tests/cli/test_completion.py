"""What a shell offers after Tab, without loading a runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.core.artifact import new_artifact
from retort.core.context import Place

CODE = (
    "import sys; sys.argv = ['retort']; from retort.__main__ import main\n"
    "try: main()\nexcept SystemExit: pass\n"
    "print([m for m in ('torch', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib') if m in sys.modules], file=sys.stderr)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe, a model and a run."""
    (tmp_path / "r.yaml").write_text("model: net:build\ndata: digits\nstages: [quantize, export]\n")
    (tmp_path / "digest.npz").touch()
    with new_artifact(Place(tmp_path / "runs" / "small" / "00-capture-0123", "k"), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(b"x")
    return tmp_path


def of_shell(line: str) -> dict[str, str]:
    """The variables with which bash asks for the last word of a line."""
    return {"_RETORT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}


def test_no_runtime_is_loaded_for_it(folder: Path) -> None:
    """A process that completes a line answers without PyTorch and the other large packages."""
    environment = {**os.environ, **of_shell("retort run r.yaml --until ")}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.strip() == "[]"
    assert set(done.stdout.split()) == {"capture", "quantize", "export"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("retort ru", {"run", "runs"}),
        ("retort run none.yaml --until qu", {"quantize"}),
        ("retort train x --data dig", {"digits", "digest.npz"}),
        ("retort export runs/sm", {"runs/small/", "runs/small/00-capture-0123"}),
        ("retort clean sm", {"small"}),
        ("retort run r.yaml --pl", {"--plan"}),
    ],
)
def test_tab_offers_what_fits(
    folder: Path, line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, stages of the recipe, sources of data, artifacts, runs and options."""
    monkeypatch.chdir(folder)
    for name, value in of_shell(line).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    assert set(capsys.readouterr().out.split()) == expected
