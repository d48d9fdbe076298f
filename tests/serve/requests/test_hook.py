"""A user's own functions around a served model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served_models import VECTOR, graph

from retort.core.artifact import load_artifact
from retort.core.context import Place
from retort.core.errors import ArtifactError, MissingFileError, UserError
from retort.core.options.serving_options import PackOptions
from retort.serve.engine import Engine
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPY, NPZ, write_npy
from retort.serve.torchserve.archives.archive import open_mar, write_archive
from retort.serve.torchserve.archives.mar import STAND_IN

OWN = """
import numpy as np


def decode(request):
    if request.headers.get("content-type") != "text/csv":
        return None
    text = bytes(request.parts["body"]).decode()
    if text == "exit":
        raise SystemExit(3)
    return {"x": np.array([[float(cell) for cell in line.split(",")] for line in text.splitlines()])}


def answer(outputs, request):
    if request.reply != "application/json":
        return None
    return {"sums": outputs["total"], "rows": request.rows}
"""


def packed(folder: Path, source: str, **options: Any) -> Path:
    """The folder of an archive whose handler is a file with this source."""
    path = folder / "my_handler.py"
    path.write_text(source)
    made = write_archive(PackOptions(handler=str(path), **options), graph("vector", folder), Place(folder / "mar"))
    return made.path


def test_own_functions_decode_and_answer_each_request_alone(tmp_path: Path) -> None:
    """What `decode` and `answer` raise is the answer to that request; None leaves it to Retort."""
    engine = Engine.load(packed(tmp_path, OWN) / "bundle")
    bodies = [
        (b"1,2\n3,4", "text/csv"), (b"1,two", "text/csv"), (b"1,2,3", "text/csv"), (b"exit", "text/csv"),
        (b"[[1, 2]]", JSON), (write_npy(VECTOR["x"]), NPY), (b"5,6", "text/csv"),
    ]  # fmt: skip
    answers = engine.answer([Incoming({"body": body}, {}, {"content-type": kind}) for body, kind in bodies])
    assert [answer.status for answer in answers] == [200, 500, 400, 500, 200, 200, 200]
    assert json.loads(answers[0].body) == {"sums": [3.0, 7.0], "rows": 2}
    assert json.loads(answers[4].body) == {"sums": [3.0], "rows": 1}
    assert json.loads(answers[6].body) == {"sums": [11.0], "rows": 1}
    assert answers[1].cause == "ValueError"
    plain = engine.answer([Incoming({"body": b"1,2"}, {}, {"content-type": "text/csv", "accept": NPZ})])[0]
    assert plain.body.startswith(b"PK")
    engine.close()


def test_an_archive_with_own_functions_is_as_checked_as_any_other(tmp_path: Path) -> None:
    """The file is in the checksums; the stand-in for PyTorch is left out if the file imports PyTorch."""
    archive = load_artifact(packed(tmp_path, OWN))
    mar = open_mar(archive)
    assert mar.settings.hook
    assert {"hook.py", STAND_IN} <= set(mar.sums)
    again = tmp_path / "again"
    again.mkdir()
    other = open_mar(load_artifact(packed(again, "import torch\n" + OWN)))
    assert STAND_IN not in other.sums
    (archive.path / "bundle/hook.py").write_text(OWN + "\n")
    with pytest.raises(ArtifactError):
        Engine.load(archive.path / "bundle")


@pytest.mark.parametrize(
    ("source", "words"),
    [("x = 1", "neither"), ("def decode(:", "SyntaxError"), ("raise OSError('no disk')", "no disk")],
)
def test_a_file_without_functions_is_refused_when_it_is_packed(source: str, words: str, tmp_path: Path) -> None:
    """A file that cannot be run, or defines neither function, is told with its name."""
    with pytest.raises(UserError, match=words) as caught:
        packed(tmp_path, source)
    assert "my_handler.py" in caught.value.message
    with pytest.raises(MissingFileError, match=r"no such handler: .*other\.py"):
        write_archive(
            PackOptions(handler=str(tmp_path / "other.py")), graph("vector", tmp_path / "n"), Place(tmp_path / "o")
        )


def test_a_function_that_changes_the_golden_request_is_refused(tmp_path: Path) -> None:
    """A `decode` that cannot read the model's own known request would fail at every start of the server."""
    with pytest.raises(UserError, match="golden request"):
        packed(tmp_path, "def decode(request):\n    return {'x': [['a', 'b']]}\n")
