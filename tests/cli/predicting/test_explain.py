"""`retort explain`: what it finds, what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained_models import (
    TEXT,
    picture_model,
    pictures,
    sequence_model,
    sequences,
    signal_model,
    signals,
    table_model,
    text_model,
    texts,
)
from served_models import site

import retort
from retort.__main__ import main
from retort.core.artifact import load_artifact
from retort.core.errors import UserError
from retort.core.explanation.explanation import Asked
from retort.core.session import open_session
from retort.pipeline.explaining import explained
from retort.serve.bundles.bundle import Parts, write_bundle
from retort.serve.engine import Engine
from retort.serve.settings import Settings

KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[], Any], str]] = {
    "picture": (picture_model, lambda: pictures(2), "rows 8 to 11, columns 4 to 7"),
    "sequence": (sequence_model, lambda: sequences(2), "step 21, feature 2"),
    "signal": (signal_model, lambda: signals(2), "samples 1200 to 1249"),
    "table": (table_model, lambda: np.array([[1, 2, 3, 4]], np.float32), "dose"),
    "text": (text_model, texts, "'great'"),
}


def asked(capsys: pytest.CaptureFixture[str], *given: str | Path) -> tuple[int, Any]:
    """The exit code and the JSON of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, given), "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.fixture(params=KINDS)
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, str]:
    """A model, a file with its samples, and the planted feature in words."""
    build, samples, words = KINDS[request.param]
    np.save(tmp_path / "x.npy", samples())
    return build(tmp_path / "net.onnx"), tmp_path / "x.npy", words


def test_the_planted_feature_is_named(planted: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    """For pictures, sequences, signals, tables and texts, the strongest part is the planted one."""
    model, samples, words = planted
    code, found = asked(capsys, model, "--input", samples, "--rows", "1")
    (one,) = found["explanations"]
    assert (code, one["strongest"], one["evidence"]) == (0, words, True)
    assert one["used"] <= one["budget"] == 256


def test_pages_pictures_and_arrays_are_written(
    planted: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page loads nothing and has a card per explanation; a picture is a PNG; arrays have heatmap and sample."""
    model, samples, words = planted
    files = [tmp_path / f"out{ending}" for ending in (".html", ".png", ".npz")]
    given = [part for path in files for part in ("--output", path)]
    code, found = asked(capsys, model, "--input", samples, "--class", "1", "--class", "0", *given)
    assert (code, found["files"]) == (0, [str(path) for path in files])
    page = files[0].read_text()
    assert page.count("<article>") == len(found["explanations"]) == 2 * len(np.load(samples))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert words.replace("'", "&#39;") in page
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    arrays = np.load(files[2])
    assert np.array_equal(arrays["0.sample.x"], np.load(samples)[0])
    assert arrays["0.heatmap.x"].sum() == pytest.approx(
        found["explanations"][0]["score"] - found["explanations"][0]["baseline_score"]
    )


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file is kept before any work, unless --force is given."""
    model, page = table_model(tmp_path / "net.onnx"), tmp_path / "page.html"
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    page.write_text("mine")
    code, found = asked(capsys, model, "--input", tmp_path / "x.npy", "--output", page)
    assert (code, page.read_text(), "kept" in found["error"]["message"]) == (2, "mine", True)
    assert asked(capsys, model, "--input", tmp_path / "x.npy", "--output", page, "--force")[0] == 0
    assert page.read_text().startswith("<!doctype html>")


def test_bad_questions_have_remedies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong files, classes, rows, outputs and forms are refused in one sentence with a remedy."""
    model = picture_model(tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", pictures(1))
    np.save(tmp_path / "wrong.npy", np.ones((1, 3)))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 16, 16), np.nan, np.float32))
    good = (model, "--input", tmp_path / "x.npy")
    for given, words in [
        ((model,), "give one of --input"),
        ((tmp_path / "no.onnx", "--data", "digits"), "no such artifact"),
        ((*good, "--class", "patern"), "did you mean 'pattern'"),
        ((*good, "--start", "7"), "no sample 7"),
        ((*good, "--output", tmp_path / "page.pdf"), "its form"),
        ((*good, "--of", "y"), "'y' cannot be explained"),
        ((*good, "--score", "y"), "no output 'y'"),
        ((*good, "--baseline", "pad"), "does not fit"),
        ((model, "--input", tmp_path / "wrong.npy"), "axes"),
        ((model, "--input", tmp_path / "nan.npy"), "NaN"),
    ]:
        code, found = asked(capsys, *given)
        assert code == 2, words
        assert words in found["error"]["message"]
        assert found["error"]["remedy"]


def test_an_endpoint_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server is asked for predictions only, so that any model behind one can be explained."""
    samples = {"x": pictures(1)}
    session = open_session(picture_model(tmp_path / "net.onnx"))
    golden = {"in.x": samples["x"], "out.scores": session.run(samples)["scores"]}
    parts = Parts(tmp_path / "net.onnx", (), session.signature, golden)
    write_bundle(tmp_path / "bundle", parts, Settings())
    np.savez(tmp_path / "x.npz", allow_pickle=False, **samples)
    with site(Engine.load(tmp_path / "bundle")) as url:
        code, found = asked(capsys, f"{url}/predictions/net", "--input", tmp_path / "x.npz")
    (one,) = found["explanations"]
    assert (code, found["model"], one["strongest"]) == (0, "net", "rows 8 to 11, columns 4 to 7")
    assert one["used"] <= one["budget"]


def test_spelled_texts_show_their_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page of a text has its letters, each with its colour, and no padding."""
    model = text_model(tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", texts())
    with pytest.raises(SystemExit):
        main(["explain", str(model), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "p.html")])
    letters = re.findall(
        r'<span style="background:rgba\([^"]*" title="[^"]*">(.)</span>', (tmp_path / "p.html").read_text()
    )
    assert "".join(letters) == TEXT
    assert "strongest part" in capsys.readouterr().out


def test_live_explanations_are_a_sequence(tmp_path: Path) -> None:
    """`retort.explain` gives a sequence that is saved as a page and shown in a notebook."""
    found = retort.explain(picture_model(tmp_path / "net.onnx"), pictures(3), rows=2, label="pattern")
    assert (len(found), found[0].label, len(found[:1])) == (2, "pattern", 1)
    assert str(found).splitlines()[0] == "sample 0: 'pattern', 99.8 %, by rows 8 to 11, columns 4 to 7"
    assert found.save(tmp_path / "page.html").read_text().count("<article>") == 2
    assert "data:image/png" in found._repr_html_()
    with pytest.raises(UserError, match="kept"):
        found.save(tmp_path / "page.html")


def test_live_data_may_be_a_source(tmp_path: Path) -> None:
    """Samples may be arrays with targets, which the explanations tell."""
    artifact = load_artifact(picture_model(tmp_path / "net.onnx"))
    made = explained(artifact, (pictures(3), np.array([1, 1, 0])), 2, Asked())
    assert [item.truth for item in made.items] == ["'pattern'", "'pattern'"]
