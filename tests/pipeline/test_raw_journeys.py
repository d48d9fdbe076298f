"""Images, texts and recordings, from the files of a data source to the answers about raw samples."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import write
from PIL import Image

from retort.core.artifact import load_artifact
from retort.core.data.data_sources import load_data
from retort.core.data.model_inputs import fit_to
from retort.core.errors import ArtifactError
from retort.core.options.stage_options import DataSpec
from retort.core.preprocessing.sample_reader import SampleReader
from retort.core.preprocessing.specs import TextInput
from retort.core.signature import Signature
from retort.pipeline.run import run
from retort.serve.engine import Engine
from retort.serve.requests.replies import Answer
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPZ, read_npz
from retort.serve.settings import TRUSTED

NETS = """
import torch
from torch import nn


def pictures():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def sounds():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 4, 16, 8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))


class Reader(nn.Module):
    def __init__(self, symbols):
        super().__init__()
        self.embed = nn.Embedding(symbols, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids):
        return self.head(self.gru(self.embed(input_ids))[0].amax(1))


class Masked(Reader):
    def forward(self, input_ids, attention_mask):
        found = self.gru(self.embed(input_ids))[0] * attention_mask[..., None]
        return self.head(found.sum(1) / attention_mask.sum(1, keepdim=True))


def reader(symbols=300):
    torch.manual_seed(0)
    return Reader(symbols)


def masked(symbols=300):
    torch.manual_seed(0)
    return Masked(symbols)
"""
WORDS = {"animals": ("cat", "horse", "sparrow", "Löwe"), "colours": ("red", "green", "violet", "blau")}


@dataclass(frozen=True)
class Packed:
    """A packed model, raw samples of its test split, and the inputs that training makes of them."""

    engine: Engine
    raw: list[bytes | str]
    feeds: dict[str, Any]
    folder: Path

    def alone(self, index: int) -> dict[str, Any]:
        """The outputs of the model for one sample as training reads it."""
        return self.engine.session.run({name: array[[index]] for name, array in self.feeds.items()})

    def ask(self, body: bytes | str, kind: str, **headers: str) -> Answer:
        """The answer to one body."""
        return self.engine.answer([Incoming({"body": body}, {}, {"content-type": kind, **headers})])[0]


def packed(folder: Path, net: str, data: Mapping[str, Any], raw: list[bytes | str], capture: str = "capture") -> Packed:
    """The model of a recipe, packed; ``raw`` are the samples in the order of the data."""
    write(folder / "raw_nets.py", NETS)
    recipe = {"name": "raw", "model": {"source": f"raw_nets:{net}"}, "data": data}
    stages = [capture, "train: {epochs: 1}", "export", "pack: {name: raw}"]
    lines = [f"{key}: {json.dumps(value)}" for key, value in recipe.items()]
    write(folder / "recipe.yaml", *lines, "stages:", *(f"  - {stage}" for stage in stages))
    outcome = run(folder / "recipe.yaml", folder / "runs")
    archive = load_artifact(outcome.artifacts["pack"].path)
    signature = Signature.from_json((archive.path / "bundle/signature.json").read_bytes())
    splits = fit_to(load_data(DataSpec(**data), folder), signature)
    feeds = splits.test.read(range(len(splits.test)))[0]
    return Packed(Engine.load(archive.path / "bundle"), raw, feeds, archive.path / "bundle")


def assert_outputs_agree(answers: Mapping[str, Answer], wanted: Mapping[str, Any]) -> None:
    """Each answer has the outputs that the model gives for the inputs of training, bit for bit."""
    for form, answer in answers.items():
        assert answer.status == 200, (form, answer.body)
        found = read_npz(answer.body, TRUSTED)
        for name, array in wanted.items():
            assert found[name].tobytes() == array.tobytes(), form


def b64(content: bytes | str) -> dict[str, str]:
    """A file in JSON."""
    assert isinstance(content, bytes)
    return {"b64": base64.b64encode(content).decode()}


def images(folder: Path) -> list[bytes | str]:
    """Folders of images of several kinds and sizes for training and test, and the files of the test in their order."""
    generator = np.random.default_rng(0)
    for index in range(24):
        size = int(generator.integers(9, 60))
        mode = ("RGB", "L", "RGBA", "P")[index // 2 % 4]
        image = Image.fromarray(generator.integers(0, 255, (size, size + 3, 3), np.uint8)).convert(mode)
        name = f"{'train' if index < 12 else 'test'}/{'ab'[index % 2]}/{index:02d}.{'png' if mode != 'RGB' else 'jpg'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return [path.read_bytes() for path in sorted((folder / "test").rglob("*.*"))]


def test_files_of_images_are_answered_like_the_arrays_of_training(tmp_path: Path) -> None:
    """JPEG and PNG, grey, transparent, of any size, as bodies and in JSON: outputs as for training's arrays."""
    raw = images(tmp_path / "images")
    args = {"size": [20, 24], "resize": 26, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "resample": "bilinear"}
    made = packed(tmp_path, "pictures", {"source": "images", "args": args}, raw)
    for index, one in enumerate(raw):
        wanted = made.alone(index)
        text = json.dumps(b64(one))
        forms = {
            "image": made.ask(one, "image/png", accept=NPZ),
            "octets": made.ask(one, "application/octet-stream", accept=NPZ),
            "no type": made.ask(one, "", accept=NPZ),
            "instances": made.ask(json.dumps({"instances": [b64(one)]}).encode(), JSON, accept=NPZ),
            "bare": made.ask(text.encode(), JSON, accept=NPZ),
            "named": made.ask(json.dumps({"image": b64(one)["b64"]}).encode(), JSON, accept=NPZ),
            "part": made.engine.answer([Incoming({"image": one}, {}, {"accept": NPZ})])[0],
        }
        assert_outputs_agree(forms, wanted)
    several = made.ask(json.dumps({"instances": list(map(b64, raw))}).encode(), JSON)
    predictions = json.loads(several.body)["predictions"]
    assert [set(row) for row in predictions] == [{"label", "score", "labels"}] * len(raw)
    assert all(abs(sum(label["score"] for label in row["labels"]) - 1) < 1e-5 for row in predictions)
    made.engine.close()


def test_a_bad_image_harms_only_itself(tmp_path: Path) -> None:
    """A truncated file, a text and a bomb beside good images are refused each by itself."""
    made = packed(tmp_path, "pictures", {"source": "images", "args": {"size": 20}}, images(tmp_path / "images"))
    buffer = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(buffer, "PNG")
    one = made.raw[0]
    bodies = (one, one[:99], b"no image", buffer.getvalue(), one)
    answers = made.engine.answer([Incoming({"body": body}, {}, {"content-type": "image/png"}) for body in bodies])
    assert [answer.status for answer in answers] == [200, 400, 400, 413, 200]
    assert answers[0].body == answers[4].body
    assert made.ask(b"RIFF....WAVEfmt ", "").status == 415
    made.engine.close()


@pytest.mark.parametrize("vocabulary", ["characters", "bytes"])
def test_texts_are_answered_like_the_numbers_of_training(vocabulary: str, tmp_path: Path) -> None:
    """Texts as plain bodies, in JSON, as form fields and as V2 BYTES: outputs as for training's numbers."""
    args = {"max_length": 20, "vocabulary": vocabulary}
    made = packed(tmp_path, "reader", {"source": "words", "args": args}, words(tmp_path / "words"))
    for index, text in enumerate(made.raw):
        assert isinstance(text, str)
        v2 = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        forms = {
            "plain": made.ask(text.encode(), "text/plain", accept=NPZ),
            "instances": made.ask(json.dumps({"instances": [text]}).encode(), JSON, accept=NPZ),
            "bare": made.ask(json.dumps(text).encode(), JSON, accept=NPZ),
            "list": made.ask(json.dumps([text]).encode(), JSON, accept=NPZ),
            "named": made.ask(json.dumps({"text": text}).encode(), JSON, accept=NPZ),
            "part": made.engine.answer([Incoming({"text": text.encode()}, {}, {"accept": NPZ})])[0],
            "v2": made.ask(json.dumps(v2).encode(), JSON, accept=NPZ),
        }
        assert_outputs_agree(forms, made.alone(index))
    answer = made.ask(json.dumps({"instances": made.raw, "parameters": {"top_k": 1}}).encode(), JSON)
    assert [len(row["labels"]) for row in json.loads(answer.body)["predictions"]] == [1] * len(made.raw)
    assert made.ask(b"\xff\xfe", "text/plain").status == 400
    made.engine.close()


@pytest.mark.parametrize("free", [False, True])
def test_texts_of_a_tokenizer_are_answered_like_the_tokens_of_training(free: bool, tmp_path: Path) -> None:
    """A tokenizer goes with the archive; a mask lets short texts be padded to fewer values."""
    tokenizer(tmp_path / "tokenizer")
    args = {"max_length": 24, "tokenizer": "tokenizer"}
    capture = "capture: {dynamic: {input_ids: {1: length}, attention_mask: {1: length}}}" if free else "capture"
    data = {"source": "words", "args": args}
    made = packed(tmp_path, "masked", data, words(tmp_path / "words"), capture)
    spec = made.engine.signature.preprocessing[0]
    assert isinstance(spec, TextInput)
    assert spec.free == free
    for index, text in enumerate(made.raw):
        assert isinstance(text, str)
        wanted = made.alone(index)
        answer = made.ask(text.encode(), "text/plain", accept=NPZ)
        found = read_npz(answer.body, TRUSTED)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=1e-6)
            assert free or found[name].tobytes() == array.tobytes()
    wrong = (made.folder / "tokenizer.json").read_bytes().replace(b'"cat"', b'"dog"')
    with pytest.raises(ArtifactError, match="not the one with which the model was trained"):
        SampleReader(made.engine.signature, wrong)
    made.engine.close()


def test_recordings_are_answered_like_the_arrays_of_training(tmp_path: Path) -> None:
    """Recordings of another rate, with two channels and of other lengths: outputs as for training's arrays."""
    soundfile = pytest.importorskip("soundfile")
    generator = np.random.default_rng(0)
    for index in range(24):
        name = f"{'train' if index < 12 else 'test'}/{'ab'[index % 2]}/{index:02d}.{'wav' if index % 4 < 2 else 'flac'}"
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        samples = generator.uniform(-0.5, 0.5, (int(generator.integers(900, 2500)), 1 + index % 2))
        soundfile.write(tmp_path / "sounds" / name, samples, (8000, 16000)[index % 2])
    raw: list[bytes | str] = [path.read_bytes() for path in sorted((tmp_path / "sounds/test").rglob("*.*"))]
    args = {"sample_rate": 8000, "seconds": 0.2, "channel_axis": True}
    made = packed(tmp_path, "sounds", {"source": "sounds", "args": args}, raw)
    for index, one in enumerate(raw):
        assert isinstance(one, bytes)
        forms = {"wav": made.ask(one, "audio/wav", accept=NPZ), "no type": made.ask(one, "", accept=NPZ)}
        assert_outputs_agree(forms, made.alone(index))
    assert made.ask(b"RIFF", "audio/wav").status == 400
    made.engine.close()


def words(folder: Path) -> list[bytes | str]:
    """A file of texts per class, and the texts in their order."""
    generator = np.random.default_rng(0)
    chosen = {name: [" ".join(generator.choice(few, 3)) for _ in range(12)] for name, few in WORDS.items()}
    for name, texts in chosen.items():
        write(folder / f"train/{name}.txt", *texts)
        write(folder / f"test/{name}.txt", *texts)
    return [text for texts in chosen.values() for text in texts]


def tokenizer(folder: Path) -> None:
    """A folder with a tokenizer of word pieces."""
    library = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    made = library.BertWordPieceTokenizer()
    made.train_from_iterator([word for few in WORDS.values() for word in few] * 3, vocab_size=200, show_progress=False)
    own = transformers.BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=64)
    own.model_input_names = ["input_ids", "attention_mask"]
    own.save_pretrained(folder)
