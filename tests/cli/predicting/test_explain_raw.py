"""`retort explain` for pictures, recordings and texts, as a person has them."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained_models import colour_model, photo, recording, sound_model, token_model, tokenizer
from PIL import Image
from served_models import site

from retort.__main__ import main
from retort.core.artifact import load_artifact
from retort.core.errors import InputError
from retort.pipeline.raw_explaining import SENT_EDGE, sendable
from retort.serve.engine import Engine

TEXT = "The plot was thin, but the end was great and I left."


def asked(capsys: pytest.CaptureFixture[str], *given: str | Path) -> tuple[int, Any]:
    """The exit code and the JSON of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, given), "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def packed(model: Path, *options: str) -> Path:
    """The archive of a model that reads raw samples."""
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(model), "--out", str(model.with_suffix(".packed")), *options])
    assert not ended.value.code
    return model.with_suffix(".packed")


def engine(archive: Path) -> Engine:
    """The engine of an archive."""
    return Engine.load(load_artifact(archive).path / "bundle")


def pictures_of(page: Path) -> list[np.ndarray[Any, Any]]:
    """The pictures of a page as pixels."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", page.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def letters_of(page: Path) -> list[str]:
    """The coloured pieces of a text in a page, with the blanks before them."""
    found = re.findall(r'([ ]?)<span style="background:rgba\([^"]*" title="[^"]*">([^<]*)</span>', page.read_text())
    return ["".join(one) for one in found]


def assert_red_spot(strongest: str, height: int, width: int) -> None:
    """The strongest part lies in the spot of the photo, rows 300 to 400 of 480 and columns 100 to 220 of 640."""
    rows, columns = (list(map(int, re.findall(r"\d+", part))) for part in strongest.split(","))
    assert 300 / 480 - 0.07 < np.mean(rows) / height < 400 / 480 + 0.07
    assert 100 / 640 - 0.07 < np.mean(columns) / width < 220 / 640 + 0.07


def test_photos_are_shown_in_their_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several files are explained, and the page shows each as the model sees it, without mean and deviation."""
    model, page = colour_model(tmp_path / "net.onnx"), tmp_path / "page.html"
    photos = [photo(tmp_path / "a.png"), photo(tmp_path / "b.jpg")]
    given = [part for path in photos for part in ("--input", path)]
    code, found = asked(capsys, model, *given, "--output", page)
    assert (code, [one["row"] for one in found["explanations"]]) == (0, [0, 1])
    for one in found["explanations"]:
        assert (one["label"], one["evidence"]) == ("red", True)
        assert_red_spot(one["strongest"], 32, 32)
    shown = pictures_of(page)[0]
    resized = np.asarray(Image.open(photos[0]).resize((32, 32), Image.Resampling.BICUBIC), np.int64)
    assert np.abs(shown[::8, ::8] - resized).max() <= 1


def test_recordings_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .wav file is read as behind an endpoint, and its tone is found."""
    pytest.importorskip("soundfile")
    code, found = asked(capsys, sound_model(tmp_path / "net.onnx"), "--input", recording(tmp_path / "tone.wav"))
    assert (code, found["explanations"][0]["strongest"]) == (0, "samples 1200 to 1249")


def test_texts_are_shown_as_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page has the text with a colour for each token, and pieces of a word are named together."""
    pytest.importorskip("tokenizers")
    archive = packed(token_model(tmp_path / "net.onnx"), "--processor", str(tokenizer(tmp_path / "tokenizer.json")))
    lines, page = tmp_path / "lines.txt", tmp_path / "page.html"
    lines.write_text(f"{TEXT}\nThe end was thin.\n")
    code, found = asked(capsys, archive, "--input", lines, "--output", page, "--class", "praise")
    assert (code, len(found["explanations"])) == (0, 2)
    assert found["explanations"][0]["strongest"] == "'great'"
    pieces = letters_of(page)
    assert pieces[:3] == ["[CLS]", " The", " plot"]
    assert f"[CLS] {TEXT} [SEP]" in "".join(pieces)
    code, found = asked(capsys, archive, "--text", TEXT, "--text", "great", "--start", "1")
    assert (code, [one["row"] for one in found["explanations"]]) == (0, [1])


@pytest.mark.parametrize("made", [("bundle",), ("pack", "--target", "ovms")], ids=["bundle", "deployment"])
def test_bundles_and_deployments_are_explained(
    made: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model in a bundle, or in a deployment for another server, is explained with the tokenizer beside it."""
    pytest.importorskip("tokenizers")
    words, folder = tokenizer(tmp_path / "tokenizer.json"), tmp_path / "made"
    with pytest.raises(SystemExit) as ended:
        main([*made, str(token_model(tmp_path / "net.onnx")), "--processor", str(words), "--out", str(folder)])
    assert not ended.value.code
    code, found = asked(capsys, folder, "--text", TEXT, "--class", "praise")
    assert (code, found["explanations"][0]["strongest"]) == (0, "'great'")


def test_endpoints_are_sent_changed_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An endpoint that reads raw samples is explained by changed copies of a photo, with the names of its classes."""
    archive = packed(colour_model(tmp_path / "net.onnx"))
    page = tmp_path / "page.html"
    with site(engine(archive)) as url:
        given = (f"{url}/predictions/net", "--input", photo(tmp_path / "a.jpg"), "--output", page)
        code, found = asked(capsys, *given, "--class", "red")
    (one,) = found["explanations"]
    assert (code, one["label"], one["evidence"]) == (0, "red", True)
    assert_red_spot(one["strongest"], SENT_EDGE * 480 // 640, SENT_EDGE)
    shown = pictures_of(page)[0]
    assert shown.shape == (384, 512, 3)
    assert (shown[280, 130] - np.array([230, 30, 40]) < 8).all()


def test_endpoints_are_sent_texts_without_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words of a text are left out, and the page shows the words."""
    pytest.importorskip("tokenizers")
    archive = packed(token_model(tmp_path / "net.onnx"), "--processor", str(tokenizer(tmp_path / "tokenizer.json")))
    with site(engine(archive)) as url:
        code, found = asked(capsys, f"{url}/predictions/net", "--text", TEXT, "--output", tmp_path / "page.html")
    assert (code, found["explanations"][0]["strongest"]) == (0, "'great'")
    assert "".join(letters_of(tmp_path / "page.html")) == TEXT


def test_bad_raw_samples_have_remedies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are missing, no pictures, of another kind or of a model without a description are refused."""
    model, spot = colour_model(tmp_path / "net.onnx"), photo(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(spot.read_bytes()[:500])
    (tmp_path / "no.txt").write_text("\n\n")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    for given, words in [
        (("--input", tmp_path / "none.png"), "no such input"),
        (("--input", tmp_path / "broken.png"), "not a readable image"),
        (("--input", tmp_path / "no.txt"), "has no text"),
        (("--input", spot, "--input", tmp_path / "x.npy"), "no image, recording or text"),
        (("--input", spot, "--text", "x"), "give one of"),
        (("--text", "x"), "is a text"),
        (("--input", spot, "--start", "1"), "has only 1 sample"),
        (("--input", spot, "--class", "rad"), "did you mean 'red'"),
    ]:
        code, found = asked(capsys, model, *given)
        assert code == 2, words
        assert words in found["error"]["message"]
        assert found["error"]["remedy"]


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xe0 cut off", b"\x89PNG\r\n\x1a\n", b"RIFF0000WAVE", b"any", b"", " "]
)
def test_what_cannot_be_read_is_not_sent(content: bytes | str) -> None:
    """Files that are cut off or of no known kind, and texts without words, are refused."""
    with pytest.raises(InputError) as caught:
        sendable(content)
    assert caught.value.remedy


def test_what_is_sent_can_be_read(tmp_path: Path) -> None:
    """A picture, a recording and a text are written as they were read, and less of a text without some words."""
    pytest.importorskip("soundfile")
    picture, sound = (
        sendable(photo(tmp_path / "a.png").read_bytes()),
        sendable(recording(tmp_path / "a.wav").read_bytes()),
    )
    written, heard = picture.write(picture.array), sound.write(sound.array)
    assert isinstance(written, bytes)
    assert isinstance(heard, bytes)
    assert np.array_equal(sendable(written).array, picture.array)
    assert np.array_equal(sendable(heard).array, sound.array)
    text = sendable("so  good, it is")
    assert text.write(text.array) == "so  good, it is"
    assert text.write(text.array * [1, 0, 1, 1]) == "so it is"
