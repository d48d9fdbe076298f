"""BatchNorm folding and rewrites to operators with integer kernels change no output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from known import known
from torch import Tensor, nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, save_program
from retort.compress.quantization import fold_batch_norms
from retort.compress.quantization.prepare import batch_norm_folding
from retort.compress.quantization.prepare.integer_forms import rewrite
from retort.core.aten_names import name_of
from retort.core.errors import VerificationError
from retort.core.options.stage_options import Target


def settled(model: nn.Module) -> nn.Module:
    """The model with statistics and affine parameters that differ from their initial values."""
    generator = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            known(part.running_mean).normal_(generator=generator)
            known(part.running_var).uniform_(0.3, 3, generator=generator)
            if part.affine:
                nn.init.normal_(part.weight, 1, 0.5, generator=generator)
                nn.init.normal_(part.bias, 0, 0.5, generator=generator)
    return model.eval()


def operators(program: Program) -> list[str]:
    return [name_of(node) for node in program.module.graph.nodes if node.op == "call_function"]


def outputs(program: Program, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return program.module(*inputs)


class Sum(nn.Module):
    """Applies its layers to the same input and adds the results."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "conv without bias": ((4, 3, 9, 9), lambda: [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)]),
    "conv with bias": ((4, 3, 9, 9), lambda: [nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6)]),
    "grouped conv": ((4, 4, 9, 9), lambda: [nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)]),
    "depthwise conv": ((4, 4, 9, 9), lambda: [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)]),
    "conv1d": ((4, 3, 12), lambda: [nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)]),
    "conv3d": ((4, 2, 5, 5, 5), lambda: [nn.Conv3d(2, 4, 3, bias=False), nn.BatchNorm3d(4)]),
    "transposed conv": ((4, 3, 5, 5), lambda: [nn.ConvTranspose2d(3, 6, 2, 2), nn.BatchNorm2d(6)]),
    "grouped transposed": ((4, 4, 5, 5), lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)]),
    "linear": ((4, 7), lambda: [nn.Linear(7, 5, bias=False), nn.BatchNorm1d(5)]),
    "without affine": ((4, 3, 9, 9), lambda: [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)]),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_batch_norm_folds_into_the_layer_before_it(name: str) -> None:
    """The BatchNorm and its parameters are gone, and the outputs are the same to rounding."""
    shape, layers = LAYERS[name]
    program = capture(settled(nn.Sequential(*layers(), nn.ReLU())), {"x": torch.randn(shape)})
    folded = fold_batch_norms(program)
    assert "batch_norm" not in operators(folded)
    assert sorted(dict(folded.module.named_parameters())) == ["0.bias", "0.weight"]
    assert not dict(folded.module.named_buffers())
    x = torch.randn(3, *shape[1:])
    assert torch.allclose(outputs(folded, x)[0], outputs(program, x)[0], atol=1e-5)


def test_folding_leaves_the_program_it_was_given_untouched() -> None:
    """The input program keeps its BatchNorm, its values and its training mode."""
    model = settled(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))).train()
    program = capture(model, {"x": torch.randn(4, 3, 8, 8)})
    before = {key: value.clone() for key, value in program.module.state_dict().items()}
    nodes = operators(program)
    fold_batch_norms(program)
    after = program.module.state_dict()
    assert operators(program) == nodes
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


class Shared(nn.Module):
    """A convolution whose output has two readers, a BatchNorm and another node."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Twice(nn.Module):
    """One convolution that is used twice, each time with another BatchNorm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(self.one(self.conv(x))))


class Concatenated(nn.Module):
    """A BatchNorm after a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))


def test_a_batch_norm_stays_where_the_layers_output_is_used_elsewhere() -> None:
    """Folding would change the input of the other reader."""
    program = capture(settled(Shared()), {"x": torch.randn(4, 3, 8, 8)})
    assert operators(fold_batch_norms(program)).count("batch_norm") == 1


def test_a_batch_norm_behind_a_concatenation_stays() -> None:
    """There is no single layer into which it could be folded."""
    program = capture(settled(Concatenated()), {"x": torch.randn(4, 3, 8, 8)})
    assert operators(fold_batch_norms(program)).count("batch_norm") == 1


def test_a_layer_used_twice_gets_a_weight_for_each_of_its_norms() -> None:
    """Both BatchNorms fold, each into its own copy of the shared weight."""
    program = capture(settled(Twice()), {"x": torch.randn(4, 3, 8, 8)})
    folded = fold_batch_norms(program)
    assert "batch_norm" not in operators(folded)
    assert len([name for name, _ in folded.module.named_parameters() if "weight" in name]) == 2
    x = torch.randn(5, 3, 8, 8)
    assert torch.allclose(outputs(folded, x)[0], outputs(program, x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Linear(6, 5), nn.BatchNorm1d(3)], (4, 3, 6)),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)], (4, 3, 8, 8)),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)], (4, 3, 8, 8)),
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)], (4, 3, 8, 8)),
    ],
    ids=["linear over another axis", "behind a ReLU", "without running statistics", "before the layer"],
)
def test_what_cannot_be_folded_stays(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    """The BatchNorm stays in the graph and the outputs do not change."""
    program = capture(settled(nn.Sequential(*copy.deepcopy(layers))), {"x": torch.randn(shape)})
    folded = fold_batch_norms(program)
    assert operators(folded).count("batch_norm") == 1
    x = torch.randn(shape)
    assert torch.equal(outputs(folded, x)[0], outputs(program, x)[0])


def test_a_fold_that_changes_the_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numeric check follows the transformation: a wrong fold raises an error."""
    program = capture(settled(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))), {"x": torch.randn(4, 3, 8, 8)})
    monkeypatch.setattr(batch_norm_folding, "_spread", lambda factor, weight, layer: torch.ones(weight.shape))
    with pytest.raises(VerificationError, match="folding BatchNorm changed output 0"):
        fold_batch_norms(program)


def test_a_folded_program_is_saved_and_loaded(tmp_path: Path) -> None:
    """The file gives the same outputs, bit for bit."""
    model = settled(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU()))
    folded = fold_batch_norms(capture(model, {"x": torch.randn(4, 3, 8, 8)}))
    save_program(folded, tmp_path / "folded.pt2")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(outputs(load_program(tmp_path / "folded.pt2"), x)[0], outputs(folded, x)[0])


class Means(nn.Module):
    """Spatial means, with and without kept axes, and means that are not spatial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        gate = functional.adaptive_avg_pool2d(y, 1) + functional.adaptive_avg_pool2d(y, 2).amax((2, 3), keepdim=True)
        return (y * gate).mean([-1, -2]), y.mean(1), y.mean((0, 2, 3)), y.mean(-1)


def test_global_pooling_has_one_form_and_no_other_mean_takes_it() -> None:
    """Adaptive pooling to one value and means over all spatial axes become one operator; other means do not."""
    program = capture(Means(), {"x": torch.randn(4, 3, 8, 8)})
    folded = fold_batch_norms(program)
    rewrite(folded, "tensorrt")
    assert operators(folded).count("adaptive_avg_pool2d") == 1
    forms = [node.args[1:] for node in folded.module.graph.nodes if name_of(node) == "mean"]
    assert sum(form == ([2, 3], True) for form in forms) == 2
    assert len(forms) == 5
    x = torch.randn(4, 3, 8, 8)
    for one, other in zip(outputs(folded, x), outputs(program, x), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([Sum(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU()], (4, 3, 8, 8)),
        ([Sum(nn.Conv1d(3, 4, 3), nn.Conv1d(3, 4, 3)), nn.BatchNorm1d(4)], (4, 3, 9)),
        ([nn.BatchNorm3d(2, affine=False), nn.Conv3d(2, 4, 3)], (4, 2, 5, 5, 5)),
    ],
    ids=["behind an add", "1d", "on the input"],
)
def test_a_lone_batch_norm_of_integers_becomes_a_depthwise_convolution(
    layers: list[nn.Module], shape: tuple[int, ...]
) -> None:
    """On `cpu` it then has an integer kernel; the outputs are the same except for rounding."""
    program = capture(settled(nn.Sequential(*copy.deepcopy(layers))), {"x": torch.randn(shape)})
    folded = fold_batch_norms(program)
    rewrite(folded, "cpu")
    assert "batch_norm" not in operators(folded)
    x = torch.randn(3, *shape[1:])
    assert torch.allclose(outputs(folded, x)[0], outputs(program, x)[0], atol=1e-4)


@pytest.mark.parametrize("activation", [nn.Hardswish, nn.SiLU])
def test_gated_activations_of_integers_become_products_on_cpu_alone(activation: type[nn.Module]) -> None:
    """`x * hardsigmoid(x)` has integer kernels in ONNX Runtime; TensorRT gets the fused activation."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), activation(), nn.Conv2d(8, 4, 3), nn.Flatten(), activation())
    program = capture(model, {"x": torch.randn(4, 3, 8, 8)})
    wanted: dict[Target, int] = {"cpu": 2, "tensorrt": 0}
    for target, products in wanted.items():
        folded = fold_batch_norms(program)
        rewrite(folded, target)
        assert operators(folded).count("mul") == products
        x = torch.randn(3, 3, 8, 8)
        assert torch.allclose(outputs(folded, x)[0], outputs(program, x)[0], atol=1e-6)
