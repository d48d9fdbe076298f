"""Answers name the class of every row where the model's classes have names, in every form, and `predict` shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import site

from retort.__main__ import main
from retort.core.session import open_session
from retort.serve.bundles.bundle import Parts, write_bundle
from retort.serve.client import Client
from retort.serve.engine import Engine
from retort.serve.requests.replies import HEADER_LIMIT, classes_header
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPZ, write_npz
from retort.serve.settings import Settings

NAMES = ("minus", "plus, größer")
ROWS = np.array([[-1.0], [2.0], [3.0]], np.float32)
WANTED = ["minus", "plus, größer", "plus, größer"]


def bundle(folder: Path, names: tuple[str, ...]) -> Path:
    """A model that scores a number as negative or positive, and returns its square too."""
    weights = numpy_helper.from_array(np.array([[-1.0, 1.0]], np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"]), helper.make_node("Mul", ["x", "x"], ["square"])]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s])
        for n, s in (("x", 1), ("scores", 2), ("square", 1))
    ]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weights])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    session = open_session(path)
    golden = {"in.x": ROWS, **{f"out.{name}": value for name, value in session.run({"x": ROWS}).items()}}
    write_bundle(folder / "bundle", Parts(path, (), session.signature.naming(names), golden), Settings())
    return folder / "bundle"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The loaded model with names."""
    loaded = Engine.load(bundle(tmp_path, NAMES))
    yield loaded
    loaded.close()


def ask(engine: Engine, body: bytes, kind: str) -> tuple[Any, dict[str, str]]:
    """The answer to one request: its value if it is JSON, and its headers."""
    made = engine.answer([Incoming({"body": body}, {}, {"content-type": kind})])[0]
    assert made.status == 200, made.body
    return json.loads(made.body) if kind == JSON else None, dict(made.headers)


SCORES, SQUARES = [[1.0, -1.0], [-2.0, 2.0], [-3.0, 3.0]], [[1.0], [4.0], [9.0]]


@pytest.mark.parametrize(
    ("request_body", "always"),
    [
        ({"x": ROWS.tolist()}, {"scores": SCORES, "square": SQUARES}),
        (
            {"instances": [{"x": row} for row in ROWS.tolist()]},
            {"predictions": [{"scores": s, "square": q} for s, q in zip(SCORES, SQUARES, strict=True)]},
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 1], "data": [-1, 2, 3]}]},
            {
                "model_name": "model",
                "model_version": "1.0",
                "outputs": [
                    {"name": "scores", "datatype": "FP32", "shape": [3, 2], "data": [1, -1, -2, 2, -3, 3]},
                    {"name": "square", "datatype": "FP32", "shape": [3, 1], "data": [1, 4, 9]},
                ],
            },
        ),
    ],
)
def test_json_objects_have_the_names(request_body: object, always: dict[str, object], engine: Engine) -> None:
    """Under the key `classes`, for every row, beside what the answer always had."""
    value, headers = ask(engine, json.dumps(request_body).encode(), JSON)
    assert value.pop("classes") == WANTED
    assert value == always
    assert headers["x-retort-classes"].isascii()
    assert json.loads(headers["x-retort-classes"]) == WANTED


def test_other_forms_have_a_header(engine: Engine) -> None:
    """Arrays stay arrays: their names are in the header."""
    assert json.loads(ask(engine, write_npz({"x": ROWS}), NPZ)[1]["x-retort-classes"]) == WANTED
    only = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
        "outputs": [{"name": "square"}],
    }
    value, headers = ask(engine, json.dumps(only).encode(), JSON)
    assert "classes" not in value
    assert "x-retort-classes" not in headers


def test_too_many_names_are_not_in_the_header(engine: Engine) -> None:
    """A header must stay small; JSON answers have all names."""
    rows = np.tile(ROWS, (80, 1))
    value, headers = ask(engine, json.dumps({"x": rows.tolist()}).encode(), JSON)
    assert value["classes"] == WANTED * 80
    assert "x-retort-classes" not in headers
    assert classes_header(["x" * 50] * 100) == {}
    assert len(classes_header(["x" * 50] * 20)["x-retort-classes"]) < HEADER_LIMIT
    assert classes_header(None) == {}


def test_without_names_answers_are_as_before(tmp_path: Path) -> None:
    """A model whose classes have no names adds nothing."""
    plain = Engine.load(bundle(tmp_path, ()))
    value, headers = ask(plain, json.dumps({"x": ROWS.tolist()}).encode(), JSON)
    assert set(value) == {"scores", "square"}
    assert "x-retort-classes" not in headers
    plain.close()


def test_the_client_and_predict_name_classes(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`Client.classify` returns the names; `retort predict` prints them and writes them, for a server and a file."""
    with site(engine) as url:
        client = Client(url)
        outputs, names = client.classify({"x": ROWS}, "npz")
        client.close()
        assert names == WANTED
        assert set(outputs) == {"scores", "square"}
        np.savez(tmp_path / "x.npz", x=ROWS)
        with pytest.raises(SystemExit) as stopped:
            main(["predict", f"{url}/predictions/model", "--input", str(tmp_path / "x.npz")])
        assert not stopped.value.code
        assert "classes: minus, plus, größer, plus, größer" in capsys.readouterr().out
        served = tmp_path / "served.npz"
        with pytest.raises(SystemExit) as stopped:
            main(["predict", f"{url}/predictions/model", "--input", str(tmp_path / "x.npz"), "--output", str(served)])
        assert not stopped.value.code
        capsys.readouterr()
    written = tmp_path / "out.npz"
    model = tmp_path / "named.onnx"
    graph = onnx.load(tmp_path / "model.onnx")
    graph.metadata_props.add(key="retort.signature", value=engine.signature.to_json())
    onnx.save(graph, model)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(model), "--input", str(tmp_path / "x.npz"), "--output", str(written), "--json"])
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out)["predicted"] == {"plus, größer": 2, "minus": 1}
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(model), "--input", str(tmp_path / "x.npz")])
    assert not stopped.value.code
    assert "classes: minus, plus, größer, plus, größer" in capsys.readouterr().out
    for file in (served, written):
        with np.load(file) as found:
            assert found["classes"].tolist() == WANTED
