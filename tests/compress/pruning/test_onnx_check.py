"""The proof of a cut in ONNX Runtime: the file of the pruned program computes the same as the masked program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest
import torch
from known import known
from torch import nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, store
from retort.compress.pruning.coupling import rules
from retort.compress.pruning.proof.onnx_check import prove_file
from retort.compress.pruning.step import prune_program
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import CaptureError, VerificationError
from retort.core.facts.prune_facts import FileProof
from retort.core.options.stage_options import PruneOptions
from retort.export.verify import pruned_file
from retort.export.verify.pruned_file import check_outputs, deviation
from retort.pipeline import stages

OPTIONS = PruneOptions(macs=0.5, min_channels=2, recover=None)
IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual of two convolutions and a hard-coded size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.out = nn.Linear(16 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(self.stem(x))
        return self.out((F.gelu(self.left(x)) + self.right(x)).view(-1, 16 * 64))


def program_of(model: nn.Module | None = None) -> Program:
    torch.manual_seed(0)
    return capture(model or Net(), {"image": IMAGE})


def proven(program: Program, check: Any) -> FileProof:
    pruned = prune_program(program, OPTIONS)
    return prove_file(lambda: program, pruned.program, pruned.proof, check)


def disturbed(factor: float) -> Any:
    """An exporter that multiplies the first weight of the file it writes."""
    right: Callable[..., ir.Model] = vars(pruned_file)["build"]

    def wrong(*given: Any) -> ir.Model:
        model = right(*given)
        weight = next(item for name, item in model.graph.initializers.items() if name.endswith("left.weight"))
        weight.const_value = ir.tensor(known(weight.const_value).numpy() * np.float32(factor), name=weight.name)
        return model

    return wrong


def test_the_file_agrees_with_the_masked_program_at_two_batch_sizes() -> None:
    """ONNX Runtime's outputs equal those of the original with masked channels, in single precision."""
    seen: list[int] = []

    def check(program: Any, signature: Any, cases: Sequence[Any]) -> float | None:
        seen.extend(len(feeds["image"]) for feeds, _ in cases)
        return check_outputs(program, signature, cases)

    file = proven(program_of(), check)
    assert seen == [4, 3]
    assert file.error is not None
    assert file.error < 1e-5


def test_a_file_that_is_off_is_refused_and_the_operator_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is changed in the file is found at the convolution that reads it."""
    monkeypatch.setattr(pruned_file, "build", disturbed(1.01))
    with pytest.raises(
        VerificationError, match=r"ONNX Runtime's output 'output' differs .* first at .*conv2d_1"
    ) as caught:
        proven(program_of(), check_outputs)
    assert 1e-3 < cast(float, caught.value.facts["error"]) < 1e-1


def test_a_model_without_a_file_is_pruned_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator without ONNX form does not prevent pruning; the reason is in the result."""

    @torch.library.custom_op("retort_tests::foreign", mutates_args=())
    def foreign(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    foreign.register_fake(torch.empty_like)

    class Foreign(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return foreign(super().forward(x))

    file = proven(program_of(Foreign()), check_outputs)
    assert file.error is None
    assert "foreign" in file.reason


def test_a_cut_that_keeps_the_file_from_being_written_is_refused() -> None:
    """If the program can be exported before the cut but not after it, the cut is rejected."""
    program = program_of()
    whole = sum(item.numel() for item in program.module.parameters())

    def check(exported: Any, signature: Any, cases: Sequence[Any]) -> float | None:
        if sum(item.numel() for item in exported.parameters()) < whole:
            raise CaptureError("op aten.view has no ONNX form")
        return 0.0

    with pytest.raises(
        VerificationError, match=r"can be written as an ONNX file before the cut but not after it: op aten\.view"
    ):
        proven(program, check)


@pytest.mark.parametrize(("kind", "compared"), [(torch.float16, True), (torch.bfloat16, False)])
def test_half_precision_is_proven_within_its_rounding(kind: torch.dtype, compared: bool) -> None:
    """A half-precision model is proven in double precision; its file within its rounding, if a kernel exists."""

    class Half(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.to(kind)).float()

    program = program_of(Half().to(kind))
    pruned = prune_program(program, OPTIONS)
    assert (pruned.proof.dtype, pruned.proof.error < 1e-9) == ("float64", True)
    file = prove_file(lambda: program, pruned.program, pruned.proof, check_outputs)
    assert (file.error is not None) is compared
    assert compared or "no kernels" in file.reason


def test_deviations_are_relative_and_never_hide_a_nan() -> None:
    """Equal values give 0, a NaN on one side or another shape infinity, integers must be equal."""
    one = np.array([1.0, -4.0], np.float32)
    assert deviation(one, one) == 0
    assert deviation(one, one + np.array([0.0, 0.4], np.float32)) == pytest.approx(0.1)
    assert deviation(one, np.array([1.0, np.nan], np.float32)) == np.inf
    assert deviation(one, one[:1]) == np.inf
    assert deviation(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert (
        pruned_file.tolerance_of(one.astype(np.float16))
        > pruned_file.tolerance_of(one)
        > pruned_file.tolerance_of(np.array([1]))
    )


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return store(program_of(), Place(tmp_path / "model"), "train")


def context_of(folder: Path) -> Context:
    split = ArraySplit({"image": IMAGE.numpy()}, np.arange(4) % 5)
    return Context(Splits(split, split, split, split), scratch=folder / "scratch")


def test_the_stage_proves_the_file_too(model: Artifact, tmp_path: Path) -> None:
    """The manifest of `retort prune` has the difference between ONNX Runtime and the masked program."""
    pruned = stages.prune(OPTIONS, model, Place(tmp_path / "pruned"), context_of(tmp_path))
    (step,) = pruned.facts["steps"]
    assert 0 <= step["file"]["error"] < 1e-5
    assert step["file"]["reason"] == ""


def test_a_planted_wrong_rule_leaves_the_artifact_untouched(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that does not unite the operands of a sum is found, the sum is named, and no file is written."""
    right = rules.pointwise

    def wrong(c: Any, node: Any, a: Any) -> Any:
        return c.of(a["self"]) if "add.Tensor" in str(node.target) and "other" in a else right(c, node, a)

    monkeypatch.setattr(rules, "pointwise", wrong)
    with pytest.raises(VerificationError, match=r"the cut is rejected.*add"):
        stages.prune(
            PruneOptions(macs=0.5, min_channels=2, recover=None),
            model,
            Place(tmp_path / "pruned"),
            context_of(tmp_path),
        )
    assert not (tmp_path / "pruned").exists()
    load_artifact(model.path)
    monkeypatch.setattr(rules, "pointwise", right)
    stages.prune(OPTIONS, model, Place(tmp_path / "pruned"), context_of(tmp_path))


class Doomed(nn.Module):
    """Attention whose scores are all masked by -1e10, so that single precision loses the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(6, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = 9 * self.query(x) @ self.key(x).transpose(1, 2) - 1e10
        result: torch.Tensor = self.out(scores.softmax(-1) @ self.value(x))
        return result


def test_outputs_that_hang_on_rounding_are_compared_in_single_precision() -> None:
    """A file is not rejected for differences that only double precision shows; a wrong file still is."""
    torch.manual_seed(0)
    program = capture(Doomed().eval(), {"x": torch.randn(4, 7, 6)})
    file = proven(program, check_outputs)
    assert file.error is not None
    assert file.error < 1e-5
    assert "rounding" in file.reason

    def check(exported: Any, signature: Any, cases: Any) -> float | None:
        return check_outputs(exported, signature, [(feeds, [value + 1 for value in found]) for feeds, found in cases])

    with pytest.raises(VerificationError, match="differs"):
        proven(program, check)
