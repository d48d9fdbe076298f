"""Models of every task go the whole line: trained, in INT8, exported, judged by their metric, and gated on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from known import known

from retort.__main__ import main
from retort.pipeline import run

MODULE = '''"""Small nets and data of several tasks."""

import numpy as np
import torch
from torch import nn

RNG = np.random.default_rng(0)


def labels_net():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def labels_data(rows=500):
    inputs = RNG.normal(size=(rows, 8)).astype(np.float32)
    return {"input": inputs}, (inputs[:, :4] + inputs[:, 4:] > 0.5).astype(np.int64)


def masks_net():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 1))


def masks_data(rows=160):
    masks = np.zeros((rows, 16, 16), np.int64)
    for row in range(rows):
        for kind in (1, 2):
            top, left = RNG.integers(0, 10, 2)
            masks[row, top : top + 5, left : left + 5] = kind
    images = masks + 0.3 * RNG.normal(size=masks.shape)
    masks[:, :1] = 255  # the border does not count
    return {"image": images[:, None].astype(np.float32)}, masks


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mix = nn.Embedding(20, 16), nn.Conv1d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(torch.relu(self.mix(self.words(ids).transpose(1, 2))).transpose(1, 2))


def tokens_net():
    return Tokens()


def tokens_data(rows=400):
    ids = RNG.integers(1, 20, (rows, 10))
    labels = np.where(ids % 3 == 0, 1, np.where(np.roll(ids, 1, axis=1) % 5 == 0, 2, 0))
    length = RNG.integers(4, 11, rows)
    behind = np.arange(10) >= length[:, None]
    return {"ids": np.where(behind, 0, ids)}, np.where(behind, -100, labels)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.head = nn.GRU(6, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, frames):
        return self.head(self.read(frames)[0])


def reader_net():
    return Reader()


def reader_data(rows=400):
    symbols = RNG.integers(1, 6, (rows, 3))
    frames = np.repeat(np.insert(symbols, [1, 2, 3], 0, axis=1), 2, axis=1)  # each symbol and a gap, two frames each
    inputs = np.eye(6)[frames] + 0.1 * RNG.normal(size=(*frames.shape, 6))
    targets = symbols.copy()
    return {"frames": inputs.astype(np.float32)}, targets


class Detector(nn.Module):
    """Finds one bright square by its centre, and says its class by its brightness."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 5, bias=False)
        self.body.weight.data.fill_(1 / 25)

    def forward(self, image):
        level = self.body(image).flatten(1)
        score, place = level.max(1)
        top, left = (place // 12).float(), (place % 12).float()
        boxes = torch.stack([left, top, left + 5, top + 5], dim=1)[:, None]
        labels = (score > 1.5).long()[:, None]
        return boxes, torch.sigmoid(score)[:, None], labels


def detector_net():
    return Detector()


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Detector()

    def forward(self, image):
        boxes, scores, labels = self.inner(image)
        return {"boxes": boxes, "scores": scores, "labels": labels}


def boxes_net():
    return Boxes()


def boxes_data(rows=60):
    images = 0.02 * RNG.normal(size=(rows, 1, 16, 16))
    targets = np.full((rows, 2, 5), -1, np.float32)
    for row in range(rows):
        top, left, label = *RNG.integers(0, 11, 2), RNG.integers(0, 2)
        images[row, 0, top : top + 5, left : left + 5] += 1 + label
        targets[row, 0] = [left, top, left + 5, top + 5, label]
    return {"image": images.astype(np.float32)}, targets


def embed_net():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))


def embed_data(rows=300):
    classes = RNG.integers(0, 6, rows)
    centres = np.random.default_rng(1).normal(size=(6, 8))
    return {"input": (centres[classes] + 0.4 * RNG.normal(size=(rows, 8))).astype(np.float32)}, classes


def exact(outputs, targets):
    return ((outputs > 0) == (targets == 1)).all(axis=1).astype(float)
'''
STAGES = """
  - train: {{epochs: {epochs}, learning_rate: 0.01, batch_size: 32{more}}}
  - quantize: {{samples: 32, timed: false}}
  - export
  - bench: {{batch_sizes: [1], blocks: 3, block_ms: 1, budget_s: 0.1}}
  - report
gates:
  - {{after: quantize, accuracy_drop: {drop}}}
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests share two cores."""
    torch.set_num_threads(1)


def ran(folder: Path, name: str, task: str, epochs: int, drop: float, metric: str = "", more: str = "") -> Any:
    """The result of a run of a recipe for one of the nets."""
    (folder / "own_tasks.py").write_text(MODULE)
    chosen = f"metric: {metric}\n" if metric else ""
    head = f"name: own\ntask: {task}\n{chosen}model: own_tasks:{name}_net\ndata: own_tasks:{name}_data\nstages:"
    text = head + STAGES.format(epochs=epochs, drop=drop, more=more)
    if task == "detection":
        text = "\n".join(line for line in text.splitlines() if "train:" not in line)
    (folder / "recipe.yaml").write_text(text + "\n")
    return run.run(folder / "recipe.yaml", folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "epochs", "metric", "least", "most"),
    [
        ("labels", "multilabel", 12, "", 0.9, 1.0),
        ("masks", "classification", 30, "miou", 0.8, 1.0),
        ("tokens", "classification", 12, "f1", 0.85, 1.0),
        ("reader", "sequence", 25, "", 0.0, 0.1),
        ("embed", "embedding", 8, "", 0.85, 1.0),
    ],
)
def test_a_task_goes_the_whole_line(
    tmp_path: Path, name: str, task: str, epochs: int, metric: str, least: float, most: float
) -> None:
    """The net learns, INT8 keeps its metric within the gate, and the report tells it."""
    more = f", keep: {metric}" if metric else ""
    outcome = ran(tmp_path, name, task, epochs, 0.2, metric, more)
    judged = {stage.stage: stage for stage in outcome.result.stages if stage.metric is not None}
    expected = metric or {"multilabel": "average_precision", "sequence": "cer", "embedding": "recall@1"}[task]
    for stage in ("train", "quantize"):
        assert judged[stage].metric.name == expected
        assert least <= judged[stage].metric.value <= most, stage
    assert judged["quantize"].drop.low <= judged["quantize"].drop.value <= judged["quantize"].drop.high
    assert [gate.verdict for gate in outcome.gates] == ["passed"]
    assert expected in outcome.report.read_text()


@pytest.mark.slow
def test_a_metric_of_the_user_is_gated_and_part_of_the_key(tmp_path: Path) -> None:
    """It decides which epoch is kept, its drop is gated, and an edit of its source measures again."""
    outcome = ran(tmp_path, "labels", "multilabel", 6, 0.3, "own_tasks:exact", ", keep: 'own_tasks:exact'")
    metric = next(stage.metric for stage in outcome.result.stages if stage.stage == "train")
    assert metric.name == "own_tasks:exact"
    assert 0.5 < metric.value <= 1
    assert [gate.verdict for gate in outcome.gates] == ["passed"]
    text = (tmp_path / "recipe.yaml").read_text().replace("metric: own_tasks:exact", "metric: judged:exact")
    (tmp_path / "recipe.yaml").write_text(text)
    values = []
    for constant in ("1.0", "0.25"):
        (tmp_path / "judged.py").write_text(f"def exact(outputs, targets):\n    return [{constant}] * len(outputs)\n")
        again = run.run(tmp_path / "recipe.yaml", tmp_path / "runs")
        values.append(known(known(again.result).stages[0].metric).value)
    assert values == [1.0, 0.25]


@pytest.mark.slow
def test_a_detector_is_judged_by_its_boxes(tmp_path: Path) -> None:
    """Three outputs are boxes, scores and labels: mean average precision, in gates, of a net that is not trained."""
    pytest.importorskip("pycocotools")
    outcome = ran(tmp_path, "boxes", "detection", 0, 0.9)
    judged = {stage.stage: stage.metric for stage in outcome.result.stages if stage.metric is not None}
    assert judged["capture"].name == "map"
    assert judged["capture"].value == pytest.approx(1.0)


@pytest.mark.slow
def test_bench_finds_the_metric_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`retort bench` chooses average precision for labels, takes any other, and refuses one that does not exist."""
    ran(tmp_path, "labels", "multilabel", 2, 1.0)
    monkeypatch.chdir(tmp_path)
    (exported,) = (tmp_path / "runs" / "own").glob("*-export-*/model.onnx")
    out = tmp_path / "result.json"
    short = ["--batch-sizes", "1", "--blocks", "3", "--budget-s", "0.1", "--out", str(out), "--force"]
    for given, expected in (((), "average_precision"), (("--metric", "f1_micro"), "f1_micro")):
        assert code("bench", str(exported), "--data", "own_tasks:labels_data", *given, *short) == 0
        assert json.loads(out.read_text())["stages"][0]["metric"]["name"] == expected
    assert code("bench", str(exported), "--data", "own_tasks:labels_data", "--metric", "acuracy", *short) == 2


def code(*arguments: str) -> Any:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0
