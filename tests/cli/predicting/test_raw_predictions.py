"""`retort predict` for texts and images, by models in files of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retort.__main__ import main

WORDS = ["the film was great and moving", "a boring bad film with no plot", "no plot at all", "great film"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """The exit code of a command, its output and its progress."""
    capsys.readouterr()
    code = ended(*arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def ended(*arguments: str | Path) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as found:
        main([str(argument) for argument in arguments])
    return int(found.value.code or 0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of `save_pretrained`: a classifier of texts with its tokenizer, and one of images with its processor."""
    transformers: Any = pytest.importorskip("transformers")
    tokenizers: Any = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("pretrained")
    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator(WORDS * 5, vocab_size=120, show_progress=False)
    transformers.BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=512).save_pretrained(
        folder / "bert"
    )
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["intermediate_size"] = 16
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    bert = transformers.BertConfig(vocab_size=150, max_position_embeddings=24, **sizes, **names)
    transformers.BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    vit = transformers.ViTConfig(image_size=32, patch_size=16, **sizes, **names)
    transformers.ViTForImageClassification(vit).save_pretrained(folder / "vit")
    steps = {"do_resize": True, "size": {"height": 32, "width": 32}, "do_rescale": True, "rescale_factor": 1 / 255}
    steps |= {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    (folder / "vit/preprocessor_config.json").write_text(json.dumps({"image_processor_type": "X", **steps}))
    (folder / "texts.txt").write_text("\n".join(WORDS))
    (folder / "images").mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{index}.png")
    return folder


def exported(folder: Path, name: str, data: Path, *args: str) -> Path:
    """The graph of a pretrained model."""
    assert ended("capture", folder / name, "--out", folder / f"{name}-program") == 0
    more = [part for arg in args for part in ("--data-arg", arg)]
    graph = folder / f"{name}-graph"
    assert ended("export", folder / f"{name}-program", "--data", data, *more, "--out", graph) == 0
    return graph


@pytest.mark.slow
def test_texts_are_read_by_archives_bundles_and_deployments_alike(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`capture` reads the tokenizer's place in the folder; each form for servers carries it and says the same.

    The text is longer than the 24 places of the model, and is cut to them.
    """
    graph = exported(pretrained, "bert", pretrained / "texts.txt", f"tokenizer={pretrained / 'bert'}", "max_length=24")
    text, packing = "great film " * 40, ("--processor", pretrained / "bert", "--name", "bert")
    own = tmp_path / "own.py"
    own.write_text("def answer(outputs, request):\n    return None\n")
    assert run(capsys, "pack", graph, *packing, "--out", tmp_path / "mar", "--handler", own)[0] == 0
    assert run(capsys, "bundle", graph, *packing, "--out", tmp_path / "bundle")[0] == 0
    assert run(capsys, "pack", graph, *packing, "--target", "docker", "--out", tmp_path / "docker")[0] == 0
    said = {}
    for form in ("mar", "bundle", "docker"):
        code, out, progress = run(capsys, "predict", tmp_path / form, "--text", text, "--text", "bad", "--json")
        assert code == 0, progress
        said[form] = json.loads(out)["predictions"]
        warned = run(capsys, "predict", tmp_path / form, "--text", "bad")[2]
        assert ("functions of its packer" in warned) == (form == "mar")
    assert said["mar"] == said["bundle"] == said["docker"]
    assert [set(row) for row in said["mar"]] == [{"label", "score", "labels"}] * 2
    code, _, progress = run(capsys, "predict", graph, "--text", "bad")
    assert code == 2
    assert "without its tokenizer" in progress


def test_images_are_read_as_the_processor_of_the_folder_says(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive needs no option, and says what the model gives for the processor's own steps."""
    graph = exported(pretrained, "vit", pretrained / "images", "size=32")
    assert run(capsys, "pack", graph, "--out", tmp_path / "mar")[0] == 0
    picture = pretrained / "images/0.png"
    code, out, _ = run(capsys, "predict", tmp_path / "mar", "--input", picture, "--json")
    assert code == 0
    with Image.open(picture) as image:
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    np.save(tmp_path / "x.npy", ((pixels - 0.5) / 0.25).transpose(2, 0, 1)[None])
    code, plain, _ = run(capsys, "predict", graph, "--input", tmp_path / "x.npy", "--json")
    assert code == 0
    found, wanted = json.loads(out)["predictions"][0], json.loads(plain)
    assert found["label"] == wanted["classes"][0]
    logits = np.array(wanted["values"]["logits"][0])
    shares = np.exp(logits - logits.max())
    assert found["score"] == pytest.approx(shares.max() / shares.sum(), abs=1e-4)
