"""The captured program computes the same as the model, can be trained, and is saved and loaded."""

from __future__ import annotations

import copy
import functools as tools
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from known import known
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.graph import train_eval_mode
from retort.compress.program import Program, clone, load_program, move, predict, save_program, set_training
from retort.core.data.splits import ArraySplit
from retort.core.errors import DataError

torch.set_num_threads(1)


class Residual(nn.Module):
    """Residual and depthwise convolutions, in-place ReLUs, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.norm2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(image)))
        x += self.norm2(self.point(self.depthwise(x)))
        return self.head(self.drop(self.relu(x).mean((2, 3))))


class Recurrent(nn.Module):
    """A stacked bidirectional LSTM with dropout, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, dropout=0.4, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(sequence)
        x, _ = self.gru(x)
        return self.head(x[:, -1])


class Attention(nn.Module):
    """A ViT-like block on patches: class token, scaled_dot_product_attention with dropout, MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.place = nn.Parameter(torch.randn(1, 5, 16) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return self.head((x + self.mlp(self.norm2(x)))[:, 0])


def bert() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A tiny Hugging Face BERT with random weights, and inputs with padding."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return transformers.BertModel(config), {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": mask}


def vit() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small ViT with random weights and every kind of dropout."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=16,
        num_labels=4, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


FAMILIES: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {
    "cnn": lambda: (Residual(), {"image": torch.randn(2, 1, 8, 8)}),
    "rnn": lambda: (Recurrent(), {"sequence": torch.randn(2, 3, 4)}),
    "transformer": lambda: (Attention(), {"image": torch.randn(2, 1, 8, 8)}),
    "bert": bert,
    "vit": vit,
}


def outputs(program: Program, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The program's outputs without gradients."""
    with torch.no_grad():
        return list(program.module(*(feeds[spec.name] for spec in program.signature.inputs)))


@tools.cache
def captured(family: str) -> tuple[nn.Module, dict[str, torch.Tensor], Program]:
    """A model whose running statistics have changed, its inputs and its program; shared, so clone it first."""
    torch.manual_seed(0)
    model, feeds = FAMILIES[family]()
    with torch.no_grad():
        for _ in range(3):
            model.train()(**feeds)
    return model, feeds, capture(model, feeds)


@pytest.mark.parametrize("family", FAMILIES)
def test_program_agrees_trains_and_survives_the_disk(family: str, tmp_path: Path) -> None:
    """Every family of models is captured bit for bit, gives gradients to all parameters, and can be loaded."""
    model, feeds, program = captured(family)
    program = clone(program)
    more = {name: torch.cat([tensor, tensor.flip(0), tensor[:1]]) for name, tensor in feeds.items()}
    model.eval()
    with torch.no_grad():
        reference = model(**more)
    wanted = [reference] if isinstance(reference, torch.Tensor) else list(reference.values())
    for got, want in zip(outputs(program, more), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)

    save_program(program, tmp_path / "model.pt2")
    loaded = load_program(tmp_path / "model.pt2")
    assert all(map(torch.equal, outputs(program, more), outputs(loaded, more)))
    assert loaded.signature == program.signature
    assert train_eval_mode.to_json(loaded.module) == train_eval_mode.to_json(program.module)

    for candidate in (program, loaded):
        set_training(candidate, True)
        torch.manual_seed(1)
        candidate.module(*more.values())[-1].square().sum().backward()
    pairs = zip(program.module.named_parameters(), loaded.module.named_parameters(), strict=True)
    for (name, one), (other_name, other) in pairs:
        assert name == other_name
        assert one.grad is not None, name
        assert torch.equal(known(one.grad), known(other.grad)), name


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_training_is_random_and_evaluation_is_not(family: str) -> None:
    """Switching the mode turns dropout on and off again, any number of times."""
    _, feeds, program = captured(family)
    program = clone(program)
    for _ in range(2):
        set_training(program, True)
        assert not torch.equal(outputs(program, feeds)[0], outputs(program, feeds)[0])
        set_training(program, False)
        assert torch.equal(outputs(program, feeds)[0], outputs(program, feeds)[0])


def test_training_form_equals_the_model_in_training() -> None:
    """With the same random numbers, a program in training computes what the model in training computes."""
    model, _, program = captured("cnn")
    model, program, image = copy.deepcopy(model).train(), clone(program), torch.randn(6, 1, 8, 8)
    set_training(program, True)
    torch.manual_seed(5)
    wanted = model(image)
    torch.manual_seed(5)
    got = program.module(image)[0]
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(program.module.get_buffer("norm.running_var"), model.get_buffer("norm.running_var"))


class Shared(nn.Module):
    """Tied weights, a constant attribute, a non-persistent buffer, a literal tensor, and a counter buffer."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight
        self.constant = torch.full((4,), 2.0)
        self.register_buffer("mask", torch.tensor([1.0, 0, 1, 1]), persistent=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.embed(ids) * self.constant * self.mask + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return self.head(x) + self.calls


def test_shared_weights_constants_and_state_survive(tmp_path: Path) -> None:
    """Tied weights stay tied, constants and non-persistent buffers are kept, and a counter still counts."""
    model, ids = Shared().eval(), torch.randint(0, 9, (2, 3))
    program = capture(model, {"ids": ids})
    assert float(model.calls) == 0
    assert [tuple(weight.shape) for weight in program.module.parameters()] == [(9, 4)]
    save_program(program, tmp_path / "model.pt2")
    loaded = load_program(tmp_path / "model.pt2")
    with torch.no_grad():
        wanted = [model(ids), model(ids)]
    for candidate in (program, loaded):
        got = [outputs(candidate, {"ids": ids})[0] for _ in range(2)]
        assert all(map(torch.equal, got, wanted))


def test_program_shares_no_memory_with_its_model_or_clone() -> None:
    """Training a program changes neither its model nor a clone."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    program = capture(model, {"x": torch.randn(2, 4)})
    copied = clone(program)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for tensor in (*program.module.parameters(), *program.module.buffers()):
            tensor.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in copied.module.state_dict().items())
    set_training(copied, True)
    assert not any(
        train_eval_mode.argument(node, str(train_eval_mode.mode_argument(node)))
        for node in train_eval_mode.mode_nodes(program.module)
    )


def test_inputs_are_not_written_to() -> None:
    """After the capture, a model that works in place on its input does not change the caller's array."""

    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x += 1
            x[:, 0] = 0
            return x.relu_()

    program = capture(InPlace(), {"x": torch.randn(2, 4)})
    data = np.full((5, 4), -3, np.float32)
    result = predict(program, ArraySplit({"x": data}))["output"]
    assert np.array_equal(data, np.full((5, 4), -3, np.float32))
    assert not result.any()


def test_in_place_operators_become_plain_ones_where_that_is_safe() -> None:
    """The graph of a network with in-place ReLUs and additions has no in-place operator left."""
    program = captured("cnn")[2]
    names = [str(node.target) for node in program.module.graph.nodes if node.op == "call_function"]
    assert "aten.relu.default" in names
    assert not [name for name in names if name.split(".")[1].endswith("_")]


def test_predict_gives_every_sample_once_in_order() -> None:
    """Predicting in uneven batches equals one pass, keeps the mode, and rejects outputs that cannot be joined."""
    model, _, program = captured("cnn")
    model, program = copy.deepcopy(model).eval(), clone(program)
    images = np.random.default_rng(0).standard_normal((11, 1, 8, 8)).astype(np.float32)
    set_training(program, True)
    got = predict(program, ArraySplit({"image": images}), batch_size=4)
    assert program.module.training
    with torch.no_grad():
        np.testing.assert_allclose(got["output"], model(torch.from_numpy(images)).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="empty"):
        predict(program, ArraySplit({"image": images[:0]}))

    class Summed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(0)

    summed = capture(Summed(), {"x": torch.randn(2, 4)})
    with pytest.raises(DataError, match="no batch axis"):
        predict(summed, ArraySplit({"x": np.ones((4, 4), np.float32)}), batch_size=2)


def test_move_rewrites_devices_written_into_the_graph() -> None:
    """After a move, tensors that the graph creates are on the new device too."""
    program = clone(captured("rnn")[2])
    move(program, "meta")
    assert program.module(torch.empty(3, 3, 4, device="meta"))[0].shape == (3, 3)


@pytest.mark.gpu
def test_program_agrees_on_a_gpu() -> None:
    """Moved to a GPU, a program gives the CPU's outputs to rounding."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    sequence, program = torch.randn(3, 3, 4), clone(captured("rnn")[2])
    wanted = outputs(program, {"sequence": sequence})[0]
    move(program, "cuda")
    torch.testing.assert_close(outputs(program, {"sequence": sequence.cuda()})[0].cpu(), wanted, rtol=1e-4, atol=1e-5)
