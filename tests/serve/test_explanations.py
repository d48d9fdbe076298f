"""The engine's explanations: per request, within a budget, isolated, as JSON or npz."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import onnx
import pytest
from explained_models import colour_model, photo, token_model, tokenizer
from onnx import TensorProto, helper, numpy_helper

from retort.core.artifact import load_artifact
from retort.core.options.serving_options import BundleOptions
from retort.core.session import open_session
from retort.core.tensors import Array
from retort.serve.bundles.bundle import Parts, read_graph, write_bundle
from retort.serve.bundles.raw_inputs import with_raw_inputs
from retort.serve.engine import Engine
from retort.serve.explanations import FACTS_HEADER, OPTIONS_HEADER
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPY, NPZ, read_npz, write_npy
from retort.serve.settings import TRUSTED, Limits, Settings

RANDOM = np.random.default_rng(3)
PATTERN = np.sign(RANDOM.normal(size=(4, 4))).astype(np.float32)


def pictures(rows: int) -> Array:
    """Noise with the pattern at row 8 and column 4 of each picture."""
    made = RANDOM.normal(size=(rows, 1, 16, 16)).astype(np.float32) * 0.2
    made[:, 0, 8:12, 4:8] = PATTERN
    return made


def ask(array: Array, options: dict[str, str] | None = None, **headers: str) -> Incoming:
    """A request for an explanation, with its options in the header."""
    asked = {OPTIONS_HEADER: urlencode(options)} if options else {}
    return Incoming({"body": write_npy(array)}, {"body": NPY}, {"explain": "True", **asked, **headers})


def explained(engine: Engine, array: Array, options: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The explanations in a JSON answer."""
    (answer,) = engine.answer([ask(array, options, accept=JSON)])
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = json.loads(answer.body)["explanations"]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a convolution with the pattern and its maximum: class 1 has the pattern."""
    folder = tmp_path_factory.mktemp("planted")
    weights = {
        "k": PATTERN[None, None],
        "w": np.array([[0.0, 1.0]], np.float32),
        "b": np.array([0.0, -10.0], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"]),
        helper.make_node("GlobalMaxPool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"]),
    ]
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
    ]
    graph = helper.make_graph(
        nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "m.onnx")
    inputs = {"image": pictures(2)}
    session = open_session(folder / "m.onnx")
    golden = {f"in.{name}": value for name, value in inputs.items()}
    golden |= {f"out.{name}": value for name, value in session.run(inputs).items()}
    parts = Parts(folder / "m.onnx", (), session.signature.naming(["noise", "pattern"]), golden)
    write_bundle(folder / "bundle", parts, Settings())
    return folder / "bundle"


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    """An engine of its own for each test, so that settings may be changed."""
    loaded = Engine.load(folder)
    yield loaded
    loaded.close()


def with_settings(engine: Engine, **changes: Any) -> Engine:
    """The engine with changed settings."""
    engine.settings = engine.executor.settings = replace(engine.settings, **changes)
    return engine


def test_the_planted_pattern_is_explained(engine: Engine) -> None:
    """The answer has the class, its name, method, baseline and budget, and a heatmap that shows the pattern."""
    (found,) = explained(engine, pictures(1))
    heat = np.array(found["heatmaps"]["image"]["values"])
    assert heat[8:12, 4:8].sum() > 0.75 * heat.sum()
    assert heat.sum() == pytest.approx(found["score"] - found["baseline_score"], rel=1e-3)
    assert (found["label"], found["title"], found["evidence"]) == ("pattern", "'pattern'", True)
    assert (found["method"], found["heatmaps"]["image"]["baseline"]) == (
        "occlusion",
        "mean of each channel of the picture",
    )
    assert 0 < found["used"] <= found["budget"] == 256


def test_explanations_stand_beside_predictions(engine: Engine) -> None:
    """Predictions, explanations and bad requests in one batch do not affect each other."""
    image = pictures(1)
    prediction, good, bad, unknown = engine.answer(
        [
            Incoming({"body": write_npy(image)}, {"body": NPY}),
            ask(image, accept=JSON),
            ask(image[:, :, :3]),
            ask(image, {"class": "cat"}),
        ]
    )
    assert [prediction.status, good.status, bad.status, unknown.status] == [200, 200, 400, 400]
    assert json.loads(good.body)["explanations"] == explained(engine, image)
    assert "no class 'cat'" in json.loads(unknown.body)["message"]
    assert prediction.body == write_npy(engine.session.run({"image": image})["scores"])


def test_options_come_from_a_header_or_a_form(engine: Engine) -> None:
    """Method, class, baseline and budget are obeyed; an unknown value or name is 400 with a remedy."""
    options = {"method": "integrated-differences", "class": "noise", "baseline": "zero", "budget": "100"}
    (found,) = explained(engine, pictures(1), options)
    assert (found["method"], found["label"], found["budget"]) == ("integrated-differences", "noise", 100)
    assert found["heatmaps"]["image"]["baseline"] == "zero"
    fields: dict[str, object] = {name: value.encode() for name, value in options.items()}
    form = Incoming({**fields, "image": write_npy(pictures(1))}, headers={"explain": "True"})
    assert json.loads(engine.answer([form])[0].body)["explanations"][0]["label"] == "noise"
    for name, value in [
        ("colour", "red"),
        ("method", "magic"),
        ("budget", "-3"),
        ("budget", "2"),
        ("baseline", "pad"),
        ("input", "z"),
    ]:
        (answer,) = engine.answer([ask(pictures(1), {name: value})])
        assert answer.status == 400
        assert json.loads(answer.body)["remedy"]
    ill = replace(ask(pictures(1)), headers={"explain": "True", OPTIONS_HEADER: "class"})
    assert b"cannot be read" in engine.answer([ill])[0].body


def test_npz_has_heatmaps_of_all_rows(engine: Engine) -> None:
    """An npz has one heatmap per row and the numbers of the explanations; a header says what they mean."""
    (answer,) = engine.answer([ask(pictures(3), accept=NPZ)])
    arrays = read_npz(answer.body, TRUSTED)
    assert (answer.status, answer.content_type, arrays["heatmap.image"].shape) == (200, NPZ, (3, 16, 16))
    assert arrays["index"].tolist() == [1, 1, 1]
    assert json.loads(answer.headers[FACTS_HEADER])[0]["explained"] == "'pattern'"
    assert engine.answer([ask(pictures(1))])[0].content_type == NPZ  # npy cannot hold several arrays
    assert engine.answer([ask(pictures(1), accept=NPY)])[0].status == 400


def test_the_budget_is_that_of_the_server(engine: Engine) -> None:
    """The settings bound all rows of a request together, and what was allowed is told; 0 turns explanations off."""
    with_settings(engine, explain_budget=100)
    assert explained(engine, pictures(1), {"budget": "9999"})[0]["budget"] == 100
    assert [found["budget"] for found in explained(engine, pictures(3))] == [33, 33, 33]
    (many,) = engine.answer([ask(pictures(9))])
    assert (many.status, "at most 4" in json.loads(many.body)["remedy"]) == (413, True)
    with_settings(engine, explain_budget=0)
    assert engine.answer([ask(pictures(1))])[0].status == 501


def test_a_slow_model_is_explained_with_less(engine: Engine) -> None:
    """The measured time of a row bounds the budget; a model that is far too slow says so."""
    engine.executor.plan.times_ms = {1: 100.0, 4: 400.0}
    assert explained(engine, pictures(1))[0]["budget"] == 50
    engine.executor.plan.times_ms = {1: 1000.0}
    (answer,) = engine.answer([ask(pictures(1))])
    assert (answer.status, "too slow" in json.loads(answer.body)["message"]) == (501, True)


def test_an_explanation_that_takes_too_long_ends(engine: Engine) -> None:
    """If the model is slower than it was measured, the explanation ends, and predictions go on."""
    with_settings(engine, explain_s=1e-3)
    engine.executor.plan.times_ms = {1: 1e-6}
    run = engine.session.run

    class Slow:
        signature = engine.session.signature
        backend = "ort"
        providers: tuple[str, ...] = ()

        def run(self, feeds: Any) -> Any:
            """Waits before it computes."""
            time.sleep(0.01)
            return run(feeds)

        def close(self) -> None:
            """Has nothing to free."""

    engine.executor.session = Slow()
    (answer,) = engine.answer([ask(pictures(1))])
    assert (answer.status, "too long" in json.loads(answer.body)["message"]) == (503, True)


def test_limits_of_requests_hold_for_explanations(engine: Engine) -> None:
    """More rows than a request may have are refused before anything is computed."""
    with_settings(engine, limits=Limits(rows=2))
    assert engine.answer([ask(pictures(3))])[0].status == 413


@contextmanager
def served(model: Path, folder: Path, processor: str | None = None) -> Iterator[Engine]:
    """The engine of a model that reads raw samples."""
    options = BundleOptions(processor=processor)
    write_bundle(folder, with_raw_inputs(read_graph(load_artifact(model)), options), Settings())
    loaded = Engine.load(folder)
    yield loaded
    loaded.close()


def test_pictures_and_texts_are_explained(tmp_path: Path) -> None:
    """A body with a picture gets a heatmap of the model's input, and a text also the places of its tokens."""
    spot = photo(tmp_path / "a.png").read_bytes()
    with served(colour_model(tmp_path / "net.onnx"), tmp_path / "photos") as engine:
        asked = {"explain": "true", "accept": JSON, "content-type": "image/png"}
        (answer,) = engine.answer([Incoming({"body": spot}, {}, asked)])
        assert answer.status == 200, answer.body
        (one,) = json.loads(answer.body)["explanations"]
        values = np.array(one["heatmaps"]["x"]["values"])
        assert (one["label"], values.shape) == ("red", (32, 32))
        assert values[20:27, 5:11].sum() > 0.8 * values.sum()
        (form,) = engine.answer([Incoming({"x": spot, "class": b"grey"}, {}, {"explain": "true"})])
        assert json.loads(form.body)["explanations"][0]["label"] == "grey"
    words = str(tokenizer(tmp_path / "tokenizer.json"))
    with served(token_model(tmp_path / "words.onnx"), tmp_path / "words", words) as engine:
        (answer,) = engine.answer([Incoming({"body": b"it was great"}, {}, {**asked, "content-type": "text/plain"})])
        (one,) = json.loads(answer.body)["explanations"]
        strongest = int(np.argmax(one["heatmaps"]["x"]["values"]))
        assert "great"[slice(*(place - 7 for place in one["offsets"][strongest]))] in ("gre", "at")
