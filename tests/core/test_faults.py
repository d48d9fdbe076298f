"""A defect of Retort is an internal error; an exception of a model or a library is reported with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from defects import OWN, raising
from torch import Tensor, nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.onnx_import import module as imported_module
from retort.compress.onnx_import.module import Imported
from retort.compress.onnx_import.reader import read_graph
from retort.compress.program import Program, reexport, store
from retort.core.console import Console
from retort.core.context import Place
from retort.core.errors import VerificationError
from retort.core.faults import first_line, is_defect
from retort.core.options.stage_options import ExportOptions
from retort.core.signature import Signature
from retort.core.tensors import Array, TensorSpec
from retort.export import stage
from retort.export.translate import to_onnx
from retort.export.verify import parity


class Mlp(nn.Module):
    """Two layers and an activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.last(F.relu(self.norm(self.first(x))))


def mlp() -> Program:
    torch.manual_seed(0)
    return capture(Mlp(), {"x": torch.randn(4, 6)})


class Fixed:
    """A session that computes a function of its input, whose second axis is dynamic."""

    backend = "test"
    providers: tuple[str, ...] = ()

    def __init__(self, answer: Callable[[Array], Array]) -> None:
        self.answer = answer
        spec = TensorSpec("x", "float32", ("batch", "time"))
        self.signature = Signature((spec,), (replace(spec, name="y"),))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The output."""
        return {"y": self.answer(feeds["x"])}

    def close(self) -> None:
        """Nothing to free."""


X = {"x": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)}


def _same(x: Array) -> Array:
    return x


def test_parity_at_half_the_length_that_could_not_be_had_has_its_reason() -> None:
    """A program that rejects shorter inputs is compared at its own length, and the reason is reported."""

    def _long(x: Array) -> Array:
        if x.shape[1] < 8:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return x

    found = parity.check(Fixed(_long), Fixed(_same), X, (1,), 1e-3)
    assert [item.batch_size for item in found.differences] == [1]
    assert found.unchecked == (
        "the program does not run on inputs of half the length (x: [2, 4]): "
        "Kernel size can't be greater than actual input size"
    )
    assert parity.check(Fixed(_same), Fixed(_same), X, (1,), 1e-3).unchecked == ""


@OWN
def test_a_defect_of_a_parity_check_is_no_skipped_check(defect: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of Retort's own code at the shorter length, or in a session, is raised unchanged."""
    short = raising(defect)
    program = Fixed(lambda x: x if x.shape[1] == 8 else short())
    with pytest.raises(type(defect)):
        parity.check(program, Fixed(_same), X, (1,), 1e-3)
    with pytest.raises(type(defect)):
        parity.check(Fixed(_same), program, X, (1,), 1e-3)
    monkeypatch.setattr(parity, "_cut", raising(defect))
    with pytest.raises(type(defect)):
        parity.check(Fixed(_same), Fixed(_same), X, (1,), 1e-3)


def test_an_export_says_which_parity_check_could_not_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The console and the facts of the graph have the check and the reason."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(2, 4, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).mean(2)

    program = capture(Windows(), {"x": torch.randn(4, 2, 12)}, dynamic={"x": {2: "time"}})
    model = store(program, Place(tmp_path / "model"), "train")
    samples = {"x": np.random.default_rng(0).normal(size=(8, 2, 12)).astype(np.float32)}
    graph = stage.write_graph(ExportOptions(target="cpu"), model, Place(tmp_path / "graph"), samples, Console())
    reason = graph.facts["parity_unchecked"]
    assert reason.startswith("the program does not run on inputs of half the length (x: [2, 2, 6]): ")
    said = " ".join(capsys.readouterr().err.split())
    assert f"the file was not compared at a shorter length: {reason}" in said


@OWN
def test_a_defect_of_an_imported_operator_is_no_file_that_cannot_be_imported(
    defect: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An exception in the code of an operator is not reported as an error of the file."""
    program = mlp()
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(reexport(program), program.signature, "cpu").SerializeToString())
    module = Imported(read_graph(path))
    monkeypatch.setitem(imported_module.OPERATORS, "Relu", raising(defect))
    with pytest.raises(type(defect)):
        module(torch.randn(2, 6))


def test_a_model_captured_in_evaluation_alone_says_so() -> None:
    """A model whose training form cannot be captured has the reason in its notes."""

    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            if self.training and float(y.sum()) > 0:
                y = y * 2
            return y

    program = capture(Moody(), {"x": torch.randn(4, 6)})
    (note,) = program.meta["notes"]
    assert note.startswith("the model is captured in evaluation form, because in training ")
    assert "notes" not in mlp().meta


def test_whose_fault_it_is_shows_in_the_innermost_frame() -> None:
    """An exception is Retort's if Retort's code raised it, not if a model, a library or a check did."""

    def _caught(function: Callable[[], object]) -> BaseException:
        with pytest.raises(Exception) as caught:
            function()
        return caught.value

    assert is_defect(_caught(raising(KeyError("gone"))))
    assert not is_defect(_caught(lambda: dict[str, str]()["gone"]))  # this file is a user's
    assert not is_defect(_caught(lambda: json.loads("{")))
    assert not is_defect(_caught(raising(RuntimeError("of a library"))))
    assert not is_defect(_caught(raising(VerificationError("off"))))
    assert not is_defect(KeyError("never raised"))


def test_an_exception_without_a_message_is_reported_by_its_class() -> None:
    """An exception with an empty message is reported by its class."""
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(RuntimeError("\nsecond")) == "RuntimeError"
    assert first_line(RuntimeError("first\nsecond"), 3) == "fir"
