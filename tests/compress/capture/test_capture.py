"""Capture: models that it accepts, the names in the program, and its errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, save_program
from retort.core.errors import CaptureError, ModelError, UserError

torch.set_num_threads(1)


def outputs(program: Program, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The program's outputs without gradients."""
    with torch.no_grad():
        return list(program.module(*(feeds[spec.name] for spec in program.signature.inputs)))


@dataclass
class Result:
    """A model output as a dataclass."""

    logits: torch.Tensor
    hidden: list[torch.Tensor]
    nothing: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (lambda y: y, ["output"]),
        (lambda y: (y, y + 1), ["output_0", "output_1"]),
        (lambda y: {"logits": y, "none": None, "count": 3, "pair": (y, y * 2)}, ["logits", "pair_0", "pair_1"]),
        (lambda y: Result(y, [y, y + 1]), ["logits", "hidden_0", "hidden_1"]),
        (lambda y: {"x": y, "a b": y, "a_b": y + 1}, ["x_out", "a_b", "a_b_2"]),
    ],
)
def test_outputs_get_readable_names_without_collision(shape: Callable[[torch.Tensor], Any], names: list[str]) -> None:
    """Tensors, tuples, dicts and dataclasses are flattened; None and numbers are dropped; names are unique."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return shape(self.layer(x))

    program = capture(Model(), {"x": torch.randn(2, 4)})
    assert [spec.name for spec in program.signature.outputs] == names
    assert all(spec.shape == ("batch", 4) for spec in program.signature.outputs)


class Pair(nn.Module):
    """Two inputs whose order matters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.layer(left) - 2 * right


def test_inputs_go_by_name_when_names_match_else_by_position() -> None:
    """An example in another order is matched by name; with other names, the order of forward is used."""
    model, left, right = Pair(), torch.randn(2, 4), torch.randn(2, 4)
    swapped = capture(model, {"right": right, "left": left})
    placed = capture(model, {"my input": left, "2nd": right})
    assert [spec.name for spec in swapped.signature.inputs] == ["right", "left"]
    assert [spec.name for spec in placed.signature.inputs] == ["my input", "2nd"]
    assert torch.equal(outputs(swapped, {"left": left, "right": right})[0], model(left, right))
    assert torch.equal(outputs(placed, {"my input": left, "2nd": right})[0], model(left, right))
    named = capture(model, {"left": left, "right": right}, output_names=["difference"])
    assert named.signature.outputs[0].name == "difference"


@pytest.mark.parametrize(
    ("names", "rows", "word"),
    [
        (["right", "other"], 2, "right, other"),
        (["left"], 2, "left"),
        (["left", "right", "third"], 2, "third"),
        ([], 2, "nothing"),
    ],
)
def test_wrong_example_inputs_are_named(names: list[str], rows: int, word: str) -> None:
    """Example inputs that do not fit forward are rejected before the capture."""
    with pytest.raises(ModelError, match=word):
        capture(Pair(), {name: torch.randn(2, 4) for name in names})


def test_ragged_example_and_wrong_output_names_are_refused() -> None:
    """Inputs of different lengths, and output names that do not fit, are reported clearly."""
    with pytest.raises(ModelError, match="same number of rows"):
        capture(Pair(), {"left": torch.randn(2, 4), "right": torch.randn(3, 4)})
    example = {"left": torch.randn(2, 4), "right": torch.randn(2, 4)}
    with pytest.raises(UserError, match="1 output: output"):
        capture(Pair(), example, output_names=["a", "b"])


def test_one_row_is_enough_and_an_axis_can_be_dynamic() -> None:
    """A single example row is repeated; another named axis accepts other sizes."""
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    program = capture(model, {"signal": np.zeros((1, 4, 7), np.float32)}, dynamic={"signal": {2: "time"}})
    assert program.signature.inputs[0].shape == ("batch", 4, "time")
    assert len(program.example["signal"]) == 2
    for batch, length in ((1, 3), (5, 11)):
        x = torch.randn(batch, 4, length)
        torch.testing.assert_close(outputs(program, {"signal": x})[0], model(x))


@pytest.mark.parametrize(
    ("dynamic", "word"),
    [
        ({"signal": {0: "time"}}, "axes from 1"),
        ({"noise": {1: "time"}}, "noise"),
        ({"signal": {1: "channel"}}, "size 1"),
    ],
)
def test_dynamic_axes_that_do_not_fit_are_refused(dynamic: dict[str, dict[int, str]], word: str) -> None:
    """Axes of unknown inputs, the batch axis, and axes of size 1 in the example are rejected."""
    with pytest.raises(ModelError, match=word):
        capture(nn.Flatten(), {"signal": torch.zeros(2, 1, 7)}, dynamic=dynamic)


def test_a_branch_that_no_output_reads_is_left_out() -> None:
    """A layer that is followed only by dropout and no output is not part of the program."""

    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.spare, self.drop = nn.Linear(4, 3), nn.Linear(4, 9), nn.Dropout(0.1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.drop(self.spare(x))
            result: torch.Tensor = self.out(x)
            return result

    program = capture(Spare().eval(), {"x": torch.randn(4, 4)})
    assert {name for name, _ in program.module.named_parameters()} == {"out.weight", "out.bias"}


def test_transformer_with_a_mask_is_captured() -> None:
    """nn.Transformer reads its mask's values; the capture does not need them, and the outputs are equal."""

    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.body(source, target, tgt_mask=mask)

    model, source, target = Translator(), torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    program = capture(model, {"source": source, "target": target})
    with torch.no_grad():
        wanted = model.eval()(source, target)
    torch.testing.assert_close(outputs(program, {"source": source, "target": target})[0], wanted, rtol=1e-4, atol=1e-5)


def test_dtypes_that_arrays_cannot_hold_are_refused() -> None:
    """A bfloat16 model is rejected with a conversion as remedy; half and double precision are accepted."""
    with pytest.raises(ModelError, match=r"x: bfloat16.*\n.*with `\.float\(\)`"):
        capture(nn.Flatten(), {"x": torch.randn(2, 4, dtype=torch.bfloat16)})
    assert (
        capture(nn.Linear(4, 2).double(), {"input": torch.randn(2, 4).double()}).signature.inputs[0].dtype == "float64"
    )


class Decides(nn.Module):
    """Control flow that depends on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the line that the error must name
            return x * 2
        return x


class FixedBatch(nn.Module):
    """A batch size that is a constant in the model."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(2, 4) + 1


class LoopsOverBatch(nn.Module):
    """A Python loop over rows, which is unrolled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row * 2 for row in x])


class EvenBatch(nn.Module):
    """Another branch for large batches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 100 else x + 1


class UsesNumpy(nn.Module):
    """Leaves PyTorch in the middle of forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


class AlwaysRandom(nn.Module):
    """Dropout that ignores evaluation mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, 0.5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Decides(), ["values of its data", "test_capture.py line", "if x.sum() > 0", "torch.where"]),
        (FixedBatch(), ["the model fixes the batch to 2", "x.size(0)"]),
        (LoopsOverBatch(), ["the model fixes the batch to 2 at", "test_capture.py line"]),
        (EvenBatch(), ["batch", "sizes up to 100"]),
        (UsesNumpy(), ["test_capture.py line", "numpy"]),
        (AlwaysRandom(), ["random in evaluation", "training=self.training"]),
    ],
)
def test_capture_failures_are_readable(model: nn.Module, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The error for a model that cannot be captured uses the model's terms, with file and line if known."""
    with pytest.raises(CaptureError) as caught:
        capture(model, {"x": torch.ones(2, 4)})
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert len(text.splitlines()) == 2
    assert len(text) < 600
    assert capsys.readouterr() == ("", "")


def test_length_of_a_tensor_is_a_size() -> None:
    """``len(x)`` is as dynamic as ``x.size(0)``, on the batch and on other axes, also in comparisons."""

    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) != len(x + 1) or len(x.shape) != 3:
                raise ValueError("never")
            return x.view(len(x), -1) * len(x[0])

    program = capture(Counted(), {"x": torch.ones(2, 4, 3)}, dynamic={"x": {1: "time"}})
    x = torch.randn(5, 7, 3)
    assert torch.equal(program.module(x)[0], 7 * x.flatten(1))


@pytest.mark.parametrize(("rows", "norm"), [(4, 2.0), (40, 2.0), (4, 1.0), (4, float("inf"))])
def test_distances_are_taken_at_any_batch(rows: int, norm: float) -> None:
    """``torch.cdist``, which has another algorithm from 26 rows on, does not limit the batch."""

    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prototypes = nn.Parameter(torch.randn(rows, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(x, self.prototypes, p=norm)

    model, x = Prototypes(), torch.randn(30, 6)
    program = capture(model, {"x": x[:2]})
    assert torch.allclose(program.module(x)[0], model(x), atol=1e-4)


def test_a_length_that_a_kernel_covers_is_refused_in_words() -> None:
    """A pooling over the whole length fixes that axis: one short error, although PyTorch's is a page long."""

    class Pooled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.max_pool1d(functional.max_pool1d(x[:, :, 3:], 4), 4)
            return functional.avg_pool1d(x, x.shape[-1])

    with pytest.raises(CaptureError, match="axis 'time'") as caught:
        capture(Pooled(), {"x": torch.randn(2, 3, 800)}, dynamic={"x": {2: "time"}})
    assert len(str(caught.value).splitlines()) == 2


def test_what_holds_at_every_size_is_no_bound(tmp_path: Path) -> None:
    """Overlapping frames that are added keep a dynamic length, though PyTorch cannot prove `n % (8 * n) != 0`."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.back = nn.Conv1d(1, 4, 16, 8), nn.Linear(4, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            latent = self.into(x.unsqueeze(1))
            rows, channels, count = latent.shape
            masked = latent.unsqueeze(1) * latent.view(rows, 1, channels, count).sigmoid()
            left, right = self.back(masked.transpose(2, 3)).split(8, -1)
            whole = functional.pad(left, (0, 0, 0, 1)) + functional.pad(right, (0, 0, 1, 0))
            return whole.reshape(rows, 1, -1)

    model = Frames()
    save_program(capture(model, {"x": torch.randn(2, 160)}, dynamic={"x": {1: "time"}}), tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2")
    for feeds in (torch.randn(1, 96), torch.randn(3, 240)):
        assert torch.allclose(program.module(feeds)[0], model(feeds), atol=1e-5)


def test_layers_may_bear_the_names_of_a_graphs_own_parts(tmp_path: Path) -> None:
    """A layer called `code`, a buffer called `graph` and a parameter called `meta` are captured and saved."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.meta = nn.Embedding(4, 3), nn.Parameter(torch.randn(3))
            self.register_buffer("graph", torch.randn(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.code(x) @ self.graph * self.meta

    model, x = Named(), torch.tensor([[1, 2], [3, 0]])
    save_program(capture(model, {"x": x}), tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2")
    assert torch.allclose(program.module(x)[0], model(x))
    assert {name for name, _ in program.module.named_parameters()} == {"code_.weight", "meta_"}


def test_model_that_raises_is_quoted() -> None:
    """An exception inside forward is reported as the model's, with its message."""

    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("no such weight")

    with pytest.raises(ModelError, match=r"KeyError.*no such weight"):
        capture(Raises(), {"x": torch.ones(2, 4)})


def test_model_is_left_as_it_was() -> None:
    """Capture does not change modes, parameters, buffers, momentum and the random state."""
    norm = nn.BatchNorm1d(4, momentum=None)
    model = nn.Sequential(norm, nn.Dropout(0.1), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    model.train()
    model[1].eval()
    state, flags = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    capture(model, {"x": torch.randn(2, 4, generator=torch.Generator().manual_seed(1))})
    assert torch.equal(generator, torch.get_rng_state())
    assert [m.training for m in model.modules()] == flags
    assert norm.momentum is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Sound(nn.Module):
    """Strided convolutions over raw audio and a linear layer on their frames, as in wav2vec2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 8, 10, 5, bias=False), nn.Conv1d(8, 8, 3, 2, bias=False)
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.gelu(self.second(functional.gelu(self.first(x[:, None]))))
        return functional.log_softmax(self.out(x.transpose(1, 2)), -1)


@pytest.mark.slow
def test_sizes_that_pytorch_could_not_prove_are_no_conditions_of_a_quantized_program(tmp_path: Path) -> None:
    """An INT8 program of a free length runs at a batch of 1, where PyTorch's own condition on strides is false."""
    from retort.compress.quantization import quantize_program
    from retort.core.data.splits import ArraySplit
    from retort.core.options.stage_options import QuantizeOptions
    from retort.core.session import open_session

    x = np.random.default_rng(0).standard_normal((8, 400)).astype(np.float32)
    program = capture(Sound(), {"x": x[:4]}, dynamic={"x": {1: "time"}})
    options = QuantizeOptions(method="minmax", correction=("none",))
    save_program(quantize_program(program, options, ArraySplit({"x": x}), "cpu"), tmp_path / "int8.pt2")
    for feed in (x[:1], x[:3, :200]):
        (found,) = open_session(tmp_path / "int8.pt2").run({"x": feed}).values()
        np.testing.assert_allclose(found, program.module(torch.from_numpy(feed))[0].detach().numpy(), atol=0.3)
