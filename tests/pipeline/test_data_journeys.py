"""Data in files, from the file to the served answer: class names are on every artifact, in the report, in answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from data_files import write

import retort
from retort.core.artifact import load_artifact
from retort.core.formats.program_file import read_signature
from retort.core.signature import Signature
from retort.pipeline.run import run
from retort.serve.engine import Engine
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPY, write_npy

NETS = """
import torch
from torch import nn


def table():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))


class Reader(nn.Module):
    def __init__(self, symbols):
        super().__init__()
        self.embed = nn.Embedding(symbols, 16)
        self.gru = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids):
        return self.head(self.gru(self.embed(input_ids))[0].amax(1))


def reader(symbols=64):
    torch.manual_seed(0)
    return Reader(symbols)
"""


def answer(engine: Engine, body: bytes, kind: str) -> tuple[Any, dict[str, str]]:
    """The body and the headers of an answer."""
    made = engine.answer([Incoming({"body": body}, {}, {"content-type": kind})])[0]
    assert made.status == 200, made.body
    return json.loads(made.body) if kind == JSON else made.body, dict(made.headers)


def assert_names_are_everywhere(folder: Path, names: tuple[str, ...]) -> None:
    """Every program and graph of a run has the names in its signature."""
    for path in sorted(folder.iterdir()):
        if not path.name[:2].isdigit():
            continue
        artifact = load_artifact(path)
        if artifact.kind == "program":
            assert read_signature(artifact.main).classes == names, path
        elif artifact.kind == "graph":
            assert Signature.from_json(artifact.file("signature.json").read_bytes()).classes == names, path
            assert retort.open_session(artifact.main).signature.classes == names, path


@pytest.mark.slow
def test_a_csv_goes_to_a_report_and_to_an_answer_with_its_names(tmp_path: Path) -> None:
    """A table with text labels is trained, quantized, packed, served and reported, always with the names."""
    datasets = pytest.importorskip("sklearn.datasets")
    cancer = datasets.load_breast_cancer()
    with (tmp_path / "cancer.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*cancer.feature_names, "diagnosis"])
        labels = cancer.target_names[cancer.target]
        writer.writerows([*row, label] for row, label in zip(cancer.data, labels, strict=True))
    write(tmp_path / "csv_nets.py", NETS)
    write(
        tmp_path / "recipe.yaml",
        "name: cancer",
        'model: {source: "csv_nets:table"}',
        "data: {source: cancer.csv}",
        "stages:",
        "  - train: {epochs: 15}",
        "  - quantize: {timed: false}",
        "  - export",
        "  - pack: {name: cancer}",
        "  - bench: {batch_sizes: [1], budget_s: 1, blocks: 8}",
        "  - report",
    )
    outcome = run(tmp_path / "recipe.yaml", tmp_path / "runs")
    names = ("benign", "malignant")
    assert_names_are_everywhere(tmp_path / "runs/cancer", names)
    assert outcome.result is not None
    trained = outcome.result.stage("train")
    assert [entry.name for entry in trained.classes] == list(names)
    assert sum(entry.n for entry in trained.classes) == 114
    assert trained.metric is not None
    assert trained.metric.value is not None
    assert trained.metric.value > 0.9
    assert outcome.report is not None
    page = outcome.report.read_text()
    assert "<h2>Classes</h2>" in page
    assert "<b>malignant</b>" in page
    engine = Engine.load(outcome.artifacts["pack"].path / "bundle")
    chosen = [int(np.flatnonzero(cancer.target == kind)[5]) for kind in (1, 0)]
    rows = cancer.data[chosen].astype(np.float32)
    value, headers = answer(engine, json.dumps({"features": rows.tolist()}).encode(), JSON)
    assert value["classes"] == list(cancer.target_names[cancer.target[chosen]])
    assert json.loads(headers["x-retort-classes"]) == value["classes"]
    value, _ = answer(engine, json.dumps({"instances": rows.tolist()}).encode(), JSON)
    assert value["classes"] == ["benign", "malignant"]
    _, headers = answer(engine, write_npy(rows), NPY)
    assert json.loads(headers["x-retort-classes"]) == ["benign", "malignant"]
    bare, _ = answer(engine, json.dumps(rows.tolist()).encode(), JSON)
    assert np.shape(bare) == (2, 2)
    engine.close()


@pytest.mark.slow
def test_text_files_go_through_a_recurrent_network(tmp_path: Path) -> None:
    """Two files of lines, read as characters, train a GRU that is quantized and exported with the names."""
    generator = np.random.default_rng(0)
    words = {"animals": ("cat", "horse", "sparrow", "lion"), "colours": ("red", "green", "violet", "blue")}
    for name, few in words.items():
        write(tmp_path / f"words/{name}.txt", *(" ".join(generator.choice(few, 3)) for _ in range(200)))
    write(tmp_path / "text_nets.py", NETS)
    write(
        tmp_path / "recipe.yaml",
        "name: words",
        'model: {source: "text_nets:reader"}',
        "data: {source: words, args: {vocabulary: characters, max_length: 24}}",
        "stages:",
        "  - train: {epochs: 12, learning_rate: 0.01}",
        "  - quantize: {timed: false}",
        "  - export",
        "  - bench: {batch_sizes: [1], budget_s: 1, blocks: 8}",
    )
    outcome = run(tmp_path / "recipe.yaml", tmp_path / "runs")
    assert_names_are_everywhere(tmp_path / "runs/words", ("animals", "colours"))
    assert outcome.result is not None
    for stage in ("train", "export"):
        found = outcome.result.stage(stage).metric
        assert found is not None
        assert found.value is not None
        assert found.value > 0.95
    again = run(tmp_path / "recipe.yaml", tmp_path / "runs")
    assert set(again.reused) >= {"capture", "train", "quantize", "export"}


def test_python_gets_the_names_too(tmp_path: Path) -> None:
    """Names in a mapping of splits reach the program, the graph and its saved file; a bare export has them too."""
    import torch

    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    data = {"train": (x, (x[:, 0] > 0).astype(int)), "classes": ["minus", "plus"]}
    program = retort.capture(torch.nn.Linear(4, 2), x[:4])
    assert program.signature.classes == ()
    trained = retort.train(program, data=data, epochs=1)
    graph = retort.export(trained, tmp_path / "net.onnx")
    assert trained.signature.classes == graph.signature.classes == ("minus", "plus")
    assert retort.load(tmp_path / "net.onnx").signature.classes == ("minus", "plus")
    assert retort.capture(tmp_path / "net.onnx", data=x).signature.classes == ("minus", "plus")
    assert retort.capture(torch.nn.Linear(4, 2), data=data).signature.classes == ("minus", "plus")
    found = graph(x[:3])
    assert graph.signature.class_names({"output": found}) is not None


def test_a_model_of_transformers_brings_its_names() -> None:
    """The names in `id2label` of a config are the classes; placeholders are not."""
    small: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    }  # fmt: skip
    named = transformers.BertConfig(**small, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    for config, wanted in ((named, ("bad", "good")), (transformers.BertConfig(**small), ())):
        model = transformers.BertForSequenceClassification(config)
        assert retort.capture(model).signature.classes == wanted
