"""The diagnosis of other networks: the same ten faults planted in a CNN, a ViT, a BERT and an RNN."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from known import in_memory, known
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.graph.module_edit import fetch
from retort.compress.graph.train_eval_mode import TRAINS
from retort.compress.program import Program, clone, save_program
from retort.compress.quantization import quantize_program
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import ExportOptions, QuantizeOptions
from retort.pipeline import stages
from retort.pipeline.diagnosis.diagnose import diagnose

pytestmark = pytest.mark.slow
PLAIN = QuantizeOptions(correction=("none",), method="minmax")
CLASSES = 4


class Cnn(nn.Module):
    """Convolutions with BatchNorm, pooling and squeeze-and-excite by a sigmoid, for ``[N, 3, 12, 12]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24)
        self.second, self.norm2 = nn.Conv2d(24, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24)
        self.down, self.up = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.third, self.head = nn.Conv2d(24, 40, 3, 2, 1), nn.Linear(40, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.norm1(self.first(x))), 2)
        x = torch.relu(self.norm2(self.second(x)))
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(functional.silu(self.third(x)).mean((2, 3)))


class Vit(nn.Module):
    """Two blocks of a Vision Transformer over 3x3 patches of ``[N, 3, 12, 12]``."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.first, self.place = nn.Conv2d(3, width, 3, 3), nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = functools.partial(nn.TransformerEncoderLayer, width, 4, 96, 0.0, "gelu", batch_first=True)
        self.blocks = nn.ModuleList(layer(norm_first=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Heard(nn.Module):
    """A gated convolution and an LSTM over ``[N, 3, 32]`` series."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv1d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm1d(32)
        self.second, self.gate = nn.Conv1d(32, 32, 3, 1, 1), nn.Conv1d(32, 32, 3, 1, 1)
        self.rnn, self.head = nn.LSTM(32, 24, batch_first=True), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        x = self.second(x) * torch.sigmoid(self.gate(x))
        return self.head(self.rnn(x.transpose(1, 2))[0].mean(1))


class Text(nn.Module):
    """A small BERT that classifies token sequences."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        sizes: dict[str, Any] = {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
        }
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": CLASSES}
        config = BertConfig(vocab_size=60, max_position_embeddings=16, **sizes)
        self.net = BertForSequenceClassification(config)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.net(input_ids=ids).logits


@dataclass(frozen=True)
class Case:
    """A network, its input, and places for faults: norm bias with its reader, gate weight, a node to clip."""

    build: Callable[[], nn.Module]
    inputs: str
    outlier: tuple[str, tuple[str, ...]]
    gate: str = ""
    batch_norm: bool = False


CASES = {
    "cnn": Case(Cnn, "images", ("norm2.bias", ("down.weight", "third.weight")), "up.weight", True),
    "vit": Case(Vit, "images", ("blocks.1.norm2.bias", ("blocks.1.linear1.weight",))),
    "heard": Case(Heard, "series", ("norm1.bias", ("second.weight", "gate.weight")), "gate.weight", True),
    "bert": Case(Text, "ids", ("net.bert.encoder.layer.0.attention.output.LayerNorm.bias", ())),
}


def _values(kind: str, labels: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples with visible classes: the orientation of stripes, a channel's frequency, or marker tokens."""
    rows = len(labels)
    if kind == "ids":
        ids = random.integers(10, 60, (rows, 16))
        ids[np.arange(rows), random.integers(0, 16, rows)] = 1 + labels
        ids[np.arange(rows), random.integers(0, 16, rows)] = 1 + labels
        return {"ids": ids.astype(np.int64)}
    if kind == "series":
        time = np.arange(32)[None] * (0.2 + 0.25 * labels[:, None]) + random.uniform(0, 6, (rows, 1))
        parts = [np.sin(time), 0.4 * np.cos(time), 0.2 * random.normal(size=(rows, 32))]
        return {"x": np.stack(parts, 1).astype(np.float32)}
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)))[None]
    angle = labels[:, None, None] * np.pi / CLASSES
    wave = np.sin(grid[:, 0] * np.cos(angle) + grid[:, 1] * np.sin(angle) + random.uniform(0, 6, (rows, 1, 1)))
    image = np.stack([wave, 0.5 * wave**2, 0.3 - 0.2 * wave], 1) + 0.1 * random.normal(size=(rows, 3, 12, 12))
    return {"x": image.astype(np.float32)}


@functools.cache
def _data(kind: str) -> Splits:
    random = np.random.default_rng(1)
    labels = random.integers(0, CLASSES, 1000)
    values = _values(kind, labels, random)
    parts = [slice(0, 640), slice(640, 840), slice(0, 128), slice(840, None)]
    train, validation, calibration, test = (
        ArraySplit({k: v[part] for k, v in values.items()}, labels[part]) for part in parts
    )
    return Splits(train, validation, calibration, test)


@functools.cache
def _trained(name: str, seed: int = 0) -> Program:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    case, data = CASES[name], _data(CASES[name].inputs)
    model, (key, values) = case.build(), next(iter(in_memory(data.train).inputs.items()))
    inputs, labels = torch.from_numpy(values), torch.from_numpy(known(in_memory(data.train).targets))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(10):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return capture(model.eval(), {key: inputs[:8]})


@functools.cache
def _int8(name: str) -> Program:
    return quantize_program(_trained(name), PLAIN, _data(CASES[name].inputs).calibration, "cpu")


def _saved(program: Program, path: Path) -> Path:
    save_program(program, path)
    return path


def _file(program: Program, folder: Path, context: Context, name: str) -> Path:
    artifact = load_artifact(_saved(program, folder / f"{name}.pt2"))
    return stages.export(ExportOptions(), artifact, Place(folder / name), context).main


Planted = tuple[list[Path], Context]


def _preprocessing(name: str, folder: Path, context: Context) -> Planted:
    wild = ArraySplit({key: value * 255 for key, value in in_memory(context.data.calibration).inputs.items()})
    made = quantize_program(_trained(name), PLAIN, wild, "cpu")
    return [_saved(_trained(name), folder / "fp32.pt2"), _saved(made, folder / "int8.pt2")], context


def _outlier(name: str, folder: Path, context: Context) -> Planted:
    broken, (bias, readers) = clone(_trained(name)), CASES[name].outlier
    fetch(broken.module, bias).data[7] = 1500.0
    for reader in readers:
        fetch(broken.module, reader).data[:, 7] = 0.0
    return [_saved(broken, folder / "fp32.pt2")], context


def _clipping(name: str, folder: Path, context: Context) -> Planted:
    broken = clone(_int8(name))
    paths = list(broken.meta["quantization"]["activations"])
    fetch(broken.module, paths[len(paths) // 2]).div_(8)
    return [_saved(_trained(name), folder / "fp32.pt2"), _saved(broken, folder / "int8.pt2")], context


def _one_class(name: str, folder: Path, context: Context) -> Planted:
    train = context.data.train
    rows = np.flatnonzero(known(in_memory(train).targets) == 2)[:64]
    alone = ArraySplit(
        {key: value[rows] for key, value in in_memory(train).inputs.items()}, known(in_memory(train).targets)[rows]
    )
    made = quantize_program(_trained(name), PLAIN, alone, "cpu")
    told = Context(replace(context.data, calibration=alone))
    return [_saved(_trained(name), folder / "fp32.pt2"), _saved(made, folder / "int8.pt2")], told


def _swapped(name: str, folder: Path, context: Context) -> Planted:
    broken = clone(_trained(name))
    weight = fetch(broken.module, "first.weight").data
    weight.copy_(weight[:, [1, 0, 2]].clone())
    return [_saved(_trained(name), folder / "fp32.pt2"), _file(broken, folder, context, "swapped")], context


def _axis(name: str, folder: Path, context: Context) -> Planted:
    model = onnx.load(_file(_int8(name), folder, context, "int8"))
    sizes = {item.name: list(item.dims) for item in model.graph.initializer}
    scaled = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in sizes]
    square = [node for node in scaled if len(set(sizes[node.input[0]][:2])) == 1 and len(sizes[node.input[0]]) > 1]
    axis = next(item for item in square[0].attribute if item.name == "axis")
    axis.i = 1 - axis.i
    onnx.save(model, folder / "broken.onnx")
    return [_saved(_trained(name), folder / "fp32.pt2"), folder / "broken.onnx"], context


def _zero_point(name: str, folder: Path, context: Context) -> Planted:
    model = onnx.load(_file(_int8(name), folder, context, "int8"))
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    chosen = nodes[len(nodes) // 2]
    zero = int(values[chosen.input[2]].reshape(-1)[0])
    fresh = np.array(zero + 100 if zero < 128 else zero - 100, np.uint8).reshape(values[chosen.input[2]].shape)
    model.graph.initializer.append(numpy_helper.from_array(fresh, "planted_zero"))
    old = (chosen.input[1], chosen.input[2])
    for node in model.graph.node:
        if len(node.input) > 2 and tuple(node.input[1:3]) == old and "Linear" in node.op_type:
            node.input[2] = "planted_zero"
    onnx.save(model, folder / "broken.onnx")
    return [_saved(_trained(name), folder / "fp32.pt2"), folder / "broken.onnx"], context


def _training(name: str, folder: Path, context: Context) -> Planted:
    broken = clone(_trained(name))
    for node in broken.module.graph.nodes:
        if "batch_norm" in str(node.target):
            node.meta.pop(TRAINS, None)
            node.args = (*node.args[:5], True, *node.args[6:])
    broken.module.recompile()
    return [_saved(_trained(name), folder / "fp32.pt2"), _saved(broken, folder / "training.pt2")], context


def _saturated(name: str, folder: Path, context: Context) -> Planted:
    broken = clone(_trained(name))
    fetch(broken.module, CASES[name].gate).data *= 500
    return [_saved(broken, folder / "fp32.pt2")], context


def _stale(name: str, folder: Path, context: Context) -> Planted:
    fresh, stale = _trained(name, 5), clone(_int8(name))
    made = quantize_program(fresh, PLAIN, context.data.calibration, "cpu")
    state = stale.module.state_dict()
    for key, value in made.module.state_dict().items():
        if not key.startswith("quantization"):
            state[key].copy_(value)
    return [_saved(fresh, folder / "fp32.pt2"), _saved(stale, folder / "int8.pt2")], context


FAULTS: dict[str, Callable[[str, Path, Context], Planted]] = {
    "preprocessing scale": _preprocessing,
    "outlier channel": _outlier,
    "clipping": _clipping,
    "calibration set": _one_class,
    "swapped channels": _swapped,
    "weight axis": _axis,
    "zero point": _zero_point,
    "batch dependence": _training,
    "saturation": _saturated,
    "stale calibration": _stale,
}
NEEDS = {"preprocessing scale": "float", "swapped channels": "float", "batch dependence": "norm", "saturation": "gate"}

MENDED = {("vit", "outlier channel")}


def _fits(name: str, fault: str) -> bool:
    """Whether a network has the kind of node to which a fault applies."""
    case = CASES[name]
    has = {"float": case.inputs != "ids", "norm": case.batch_norm, "gate": bool(case.gate), "": True}
    return has[NEEDS.get(fault, "")]


@pytest.mark.parametrize(
    ("name", "fault"),
    [pytest.param(n, f, marks=pytest.mark.long if n == "vit" else ()) for n in CASES for f in FAULTS if _fits(n, f)],
)
def test_a_planted_fault_is_named_first(name: str, fault: str, tmp_path: Path) -> None:
    """The first finding is the planted fault; if smoothing has already fixed the fault, there is no finding."""
    models, context = FAULTS[fault](name, tmp_path, Context(_data(CASES[name].inputs)))
    found = diagnose(models, context)
    if (name, fault) in MENDED:
        assert all(form.sqnr_db is None or form.sqnr_db > 40 for form in found.forms)
        assert found.findings == []
        return
    assert found.findings, found.forms
    assert found.findings[0].cause == fault, found.findings


@pytest.mark.parametrize("name", CASES)
def test_a_sound_net_has_no_finding(name: str, tmp_path: Path) -> None:
    """A network without a planted fault has no finding."""
    paths = [_saved(_trained(name), tmp_path / "fp32.pt2"), _saved(_int8(name), tmp_path / "int8.pt2")]
    found = diagnose(paths, Context(_data(CASES[name].inputs)))
    assert found.findings == []
    assert (found.forms[0].accuracy or 0) > 0.8
