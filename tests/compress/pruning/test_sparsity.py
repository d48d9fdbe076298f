"""Zeros in weights: patterns, reconstruction, recovery training that keeps them, and the file that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from known import typed
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, reexport, store
from retort.compress.pruning.sparsity.masks import find_places
from retort.compress.pruning.sparsity.sparsegpt import as_matrix, from_matrix, hessians
from retort.compress.pruning.sparsity.stage import check, make_sparse, sparsify
from retort.compress.pruning.stage import prune
from retort.compress.quantization import quantize
from retort.core.artifact import Artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import UserError, VerificationError
from retort.core.facts.prune_facts import SparsifyFacts
from retort.core.options.stage_options import (
    ExportOptions,
    PruneOptions,
    QuantizeOptions,
    RecoverOptions,
    SparsifyOptions,
)
from retort.export.stage import write_graph
from retort.export.translate import to_onnx
from retort.export.verify.sparsity import read_sparsity, verify_sparsity


class Net(nn.Module):
    """A 3-channel stem (no multiple of 4), convolutions, a depthwise one, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.deep, self.wide = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 32, 3, 2, 1)
        self.hidden, self.out = nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.deep(F.relu(self.norm(self.stem(x)))))
        return self.out(F.relu(self.hidden(F.relu(x).mean((2, 3)))))


def split(rows: int, seed: int) -> ArraySplit:
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(rows, 3, 8, 8)).astype("float32")
    return ArraySplit({"image": images}, draw.integers(0, 5, rows))


DATA = Splits(split(64, 0), split(16, 1), split(32, 2), split(16, 3))


def program_of() -> Program:
    torch.manual_seed(0)
    return capture(Net(), {"image": torch.randn(2, 3, 8, 8)})


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return store(program_of(), Place(tmp_path / "model"), "train")


def options(**given: object) -> SparsifyOptions:
    return SparsifyOptions.model_validate({"recover": None, **given})


def inputs() -> list[dict[str, torch.Tensor]]:
    images = torch.from_numpy(DATA.calibration.read(range(32))[0]["image"])
    return [{"image": part} for part in images.split(8)]


def run(model: Artifact, wanted: SparsifyOptions, name: str = "sparse") -> Artifact:
    folder = model.path.parent
    given: dict[str, Any] = {"data": DATA, "task": "classification", "seed": 0, "scratch": folder / "scratch"}
    return sparsify(wanted, model, Place(folder / name), Context(**given))


def groups_of_four(weight: torch.Tensor) -> torch.Tensor:
    return (weight.movedim(1, -1).reshape(-1, 4) != 0).sum(1)


@pytest.mark.parametrize("method", ["magnitude", "reconstruct"])
def test_two_of_four_run_along_the_input_channels(method: str) -> None:
    """Of every 4 weights along C (convolution) or in_features (linear), at most 2 are kept; half of all are zero."""
    program = program_of()
    make_sparse(program, options(method=method), inputs)
    state = program.module.state_dict()
    for name in ("wide.weight", "hidden.weight", "out.weight"):
        assert groups_of_four(state[name]).max() == 2
        assert 0.5 <= float((state[name] == 0).float().mean()) < 0.65


def test_layers_that_cannot_take_the_pattern_are_named(model: Artifact) -> None:
    """Layers whose channels are not a multiple of 4, and excluded layers, stay dense, each with its reason."""
    made = run(model, options(exclude=("out",)))
    facts = made.facts
    typed(made, SparsifyFacts)
    assert {item["name"]: item["reason"] for item in facts["dense"]} == {
        "stem.weight": "has 3 input channels, which is not a multiple of 4",
        "deep.weight": "has 1 input channels, which is not a multiple of 4",
        "out.weight": "excluded",
    }
    assert [item["name"] for item in facts["layers"]] == ["wide.weight", "hidden.weight"]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_unstructured_magnitude_zeroes_the_asked_share(scope: str) -> None:
    """The smallest weights become zero: the requested share of each layer, or of all weights."""
    program, before = program_of(), program_of().module.state_dict()
    make_sparse(program, options(pattern="unstructured", sparsity="70%", method="magnitude", scope=scope), inputs)
    after = program.module.state_dict()
    names = list(program.meta["sparsity"]["layers"])
    assert set(names) == {"stem.weight", "deep.weight", "wide.weight", "hidden.weight", "out.weight"}
    zeros = [float((after[name] == 0).float().mean()) for name in names]
    if scope == "layer":
        assert zeros == pytest.approx([0.7] * len(names), abs=0.01)
    total = sum(int((after[name] == 0).sum()) for name in names) / sum(after[name].numel() for name in names)
    assert total == pytest.approx(0.7, abs=0.01)
    gone = torch.cat([before[name][after[name] == 0].abs() for name in names])
    left = torch.cat([before[name][after[name] != 0].abs() for name in names])
    assert scope == "layer" or gone.max() <= left.min()


@pytest.mark.parametrize("pattern", ["2:4", "unstructured"])
def test_reconstruction_does_less_harm_than_magnitude(pattern: str) -> None:
    """For correlated inputs, the outputs of a reconstructed model are much closer to those of the dense one."""
    torch.manual_seed(0)
    mix = torch.randn(32, 32) @ torch.diag(torch.logspace(0, -2, 32))
    data = torch.randn(256, 32) @ mix
    errors = {}
    for method in ("magnitude", "reconstruct"):
        torch.manual_seed(1)
        program = capture(nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8)), {"x": data[:4]})
        dense = program.module(data)[0].detach()
        make_sparse(program, options(pattern=pattern, method=method), lambda: [{"x": part} for part in data.split(64)])
        errors[method] = float((program.module(data)[0].detach() - dense).square().mean())
    assert errors["reconstruct"] < 0.5 * errors["magnitude"]


def test_hessians_are_those_of_the_layer_as_a_matrix() -> None:
    """For a convolution, W X over unfolded inputs is its output, so X Xᵀ is the Hessian of its error."""
    program = program_of()
    place = next(item for item in find_places(program, options()) if item.parameter == "wide.weight")
    found = hessians(program, [place], inputs())["wide.weight"]
    weight = program.module.get_parameter("wide.weight")
    matrix = as_matrix(place, weight)
    assert torch.equal(from_matrix(place, matrix, weight), weight)
    with torch.no_grad():
        outputs = []
        for feeds in inputs():
            x = F.relu(program.module.get_parameter("norm.weight").new_tensor(0)) + feeds["image"]
            net = Net().eval()
            net.load_state_dict(program.module.state_dict(), strict=False)
            hidden = net.deep(F.relu(net.norm(net.stem(x))))
            outputs.append(F.conv2d(hidden, weight, None, 2, 1).double().square().sum((0, 2, 3)) / (8 * 16))
    energy = ((matrix @ found) * matrix).sum(1)
    assert torch.allclose(energy, torch.stack(outputs).mean(0), rtol=1e-4)


def test_zeros_survive_recovery_training_saving_and_loading(model: Artifact) -> None:
    """After training with momentum, decay and averaging, every zero is still zero; other weights have changed."""
    recover = RecoverOptions(epochs=2, ema=0.9, optimizer="sgd", learning_rate=0.05)
    plain, trained = run(model, options(), "plain"), run(model, options(recover=recover), "trained")
    one, two = (load_program(item.main) for item in (plain, trained))
    for name in two.meta["sparsity"]["layers"]:
        before, after = one.module.state_dict()[name], two.module.state_dict()[name]
        assert bool((after[before == 0] == 0).all())
        assert not torch.equal(before, after)
    check(two)
    assert 0.5 <= trained.facts["zeros"] < 0.6
    assert list((model.path.parent / "scratch").iterdir()) == []


@pytest.mark.parametrize("quantized", [False, True])
def test_the_shipped_file_holds_the_zeros(model: Artifact, quantized: bool) -> None:
    """Export verifies the pattern in the ONNX file, in floating point and in INT8, and states it in its facts."""
    folder = model.path.parent
    made = run(model, options())
    if quantized:
        chosen = QuantizeOptions(method="minmax")
        made = quantize(chosen, made, Place(folder / "int8"), Context(data=DATA, seed=0, target="cpu"))
    graph = write_graph(ExportOptions(), made, Place(folder / "graph"), DATA.calibration.read(range(8))[0])
    found = graph.facts["sparsity"]
    assert (found["pattern"], found["zeros"]) == ("2:4", pytest.approx(0.5, abs=0.1))
    weights = read_sparsity(onnx.load(str(graph.main)))
    assert sum(item.valid and item.zeros > 0 for item in weights) == 3


def test_lost_zeros_are_refused() -> None:
    """A program whose zeros were overwritten, or a file without them, is rejected."""
    program = program_of()
    make_sparse(program, options(), inputs)
    dense = program_of()
    model = to_onnx(reexport(dense), dense.signature)
    with pytest.raises(VerificationError, match="zeros in weights with the pattern 2:4, but the program has"):
        verify_sparsity(model, program.meta)
    assert verify_sparsity(model, dense.meta) is None
    with torch.no_grad():
        program.module.get_parameter("wide.weight").add_(1e-3)
    with pytest.raises(VerificationError, match=r"'wide\.weight' has lost zeros"):
        check(program)


def test_cuts_after_two_of_four_are_refused(model: Artifact) -> None:
    """Structured pruning would destroy the pattern, so it must come first."""
    sparse = run(model, options())
    given: dict[str, Any] = {"data": DATA, "task": "classification", "seed": 0, "scratch": model.path.parent / "s"}
    with pytest.raises(UserError, match="which a cut would break"):
        prune(PruneOptions(macs=0.5), sparse, Place(model.path.parent / "cut"), Context(**given))


def test_bad_sparsity_is_one_message(model: Artifact) -> None:
    """Patterns without a match, unsupported by all layers, or without any zeros are rejected in one message."""
    with pytest.raises(UserError, match=r"no layer or parameter matches 'hiden'"):
        run(model, options(only=("hiden",)))
    with pytest.raises(UserError, match=r"no layer can have the pattern 2:4: stem\.weight has 3 input channels"):
        run(model, options(only=("stem",)))
    with pytest.raises(ValueError, match="keeps every weight"):
        options(pattern="4:4")


def test_recurrent_and_transposed_weights_take_zeros() -> None:
    """LSTM weights have 2:4 along their inputs; a matrix that is a left factor has it along its rows."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.right = nn.LSTM(8, 16, batch_first=True), nn.Parameter(torch.randn(16, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0][:, -1] @ self.right

    torch.manual_seed(0)
    program = capture(Mixed(), {"x": torch.randn(2, 5, 8)})
    make_sparse(program, options(), lambda: [{"x": torch.randn(8, 5, 8)}])
    state = program.module.state_dict()
    assert groups_of_four(state["rnn.weight_ih_l0"]).max() == 2
    assert groups_of_four(state["rnn.weight_hh_l0"]).max() == 2
    assert groups_of_four(state["right"].T).max() == 2
