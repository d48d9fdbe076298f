"""Each patch of a library's private part is still needed, does what it says, and leaves nothing behind.

The first kind of test runs the library without the patch and expects the fault. When one fails, the library no longer
needs the patch: remove what the message names, and this test with it.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from needed import needed
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from retort.compress.capture import workarounds as packed
from retort.compress.capture.mixture_of_experts import dense_experts
from retort.compress.graph import workarounds as compressing
from retort.core import workarounds as shared
from retort.core.backends.eager import quiet
from retort.export.ort import workarounds as exporting

ROOT = Path(__file__).resolve().parents[2]


def traced(model: nn.Module, *inputs: torch.Tensor, **axes: Any) -> ExportedProgram:
    """``torch.export`` as Retort calls it, with dynamic axes by position of the input."""
    shapes = tuple(axes.get(f"input_{index}", {}) for index in range(len(inputs)))
    return torch.export.export(model, inputs, dynamic_shapes=shapes if axes else None, strict=False)


class Recurrent(nn.Module):
    """A recurrent layer of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All steps."""
        result: torch.Tensor = self.layer(x)[0]
        return result


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_still_unroll_over_time(kind: str) -> None:
    """PyTorch makes the number of steps constant; with the patch it is dynamic, and the tables are restored."""
    from torch._decomp import decomposition_table

    axes: Any = {"input_0": {0: Dim("batch"), 1: Dim("time")}}
    with needed("core.workarounds.free_time", r"specialized it to be a constant \(7\)"):
        traced(Recurrent(kind), torch.randn(2, 7, 4), **axes)
    before = dict(decomposition_table)
    with shared.free_time(), quiet():
        program = traced(Recurrent(kind), torch.randn(2, 7, 4), **axes)
    assert program.module()(torch.randn(3, 2, 4)).shape == (3, 2, 5)
    assert decomposition_table == before


class Halved(nn.Module):
    """Accepts only even heights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mean of pairs of rows."""
        return F.avg_pool2d(x, 2).mean((2, 3))


def test_formulas_of_a_loaded_program_still_break_its_decomposition() -> None:
    """A program with an axis in steps of 2 has a formula as a symbol after loading."""
    height = Dim("_height")
    stored = io.BytesIO()
    with quiet():
        torch.export.save(traced(Halved(), torch.randn(2, 3, 8, 8), input_0={0: Dim("b"), 2: 2 * height}), stored)
    with needed("core.workarounds.drop_formulas", "AssertionError: expected sympy.Symbol"):
        torch.export.load(io.BytesIO(stored.getvalue())).run_decompositions()
    with quiet():
        program = torch.export.load(io.BytesIO(stored.getvalue()))
        shared.drop_formulas(program)
        assert program.run_decompositions().graph_signature.user_outputs


class Counted(nn.Module):
    """Reads the length of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One row per sample."""
        return x.reshape(len(x), -1)


class Distant(nn.Module):
    """Distances to a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(40, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of every sample to every row."""
        return torch.cdist(x, self.table)


@pytest.mark.parametrize(
    ("model", "shape", "fault"),
    [(Counted(), (4, 3, 2), r"specialized it to be a constant \(4\)"), (Distant(), (4, 3), r"size\(\)\[0\] <= 25")],
    ids=["len", "cdist"],
)
def test_lengths_still_fix_the_batch(model: nn.Module, shape: tuple[int, ...], fault: str) -> None:
    """`len(x)` and `torch.cdist` fix the batch; with the patch they do not, with equal outputs."""
    distance, axes = torch.cdist, {"input_0": {0: Dim("batch")}}
    with needed("compress.graph.workarounds.free_lengths", fault):
        traced(model, torch.randn(shape), **axes)
    with compressing.free_lengths(model), quiet():
        program = traced(model, torch.randn(shape), **axes)
    x = torch.randn(50, *shape[1:])
    torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)
    assert torch.cdist is distance
    assert "len" not in globals()


def test_pytorch_still_does_not_name_the_line_that_fixes_a_size() -> None:
    """The error of an export has the axis but not the model's line; the patch adds the line."""
    axes = {"input_0": {0: Dim("batch")}}
    with pytest.raises(Exception, match="specialized it to be a constant") as caught, quiet():
        traced(Counted(), torch.randn(4, 3, 2), **axes)
    told = str(caught.value).partition("The error above occurred when calling torch.export.export.")[0]
    assert Path(__file__).name not in told, "remove compress.graph.workarounds.fixed_sizes: PyTorch names the line"
    with pytest.raises(Exception, match="specialized"), quiet(), compressing.fixed_sizes(_line) as places:
        traced(Counted(), torch.randn(4, 3, 2), **axes)
    assert places[4] == "return x.reshape(len(x), -1)"


def _line(stack: Any) -> str:
    return str(next(frame.line for frame in reversed(stack) if frame.filename == __file__))


def test_a_mask_is_still_looked_at() -> None:
    """An encoder compares its mask's values; with the patch it does not, and gives the same outputs."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    inputs = torch.randn(2, 5, 8), torch.zeros(5, 5)
    before, detect = torch.backends.mha.get_fastpath_enabled(), nn.modules.transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with needed("compress.graph.workarounds.masks_unseen", "GuardOnDataDependentSymNode"):
            traced(encoder, *inputs)
        with compressing.masks_unseen(), quiet():
            program = traced(encoder, *inputs)
        torch.testing.assert_close(program.module()(*inputs), encoder(*inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert nn.modules.transformer._detect_is_causal_mask is detect


def test_the_fast_path_still_zeroes_padded_positions() -> None:
    """An evaluated encoder is zero at padding only without gradients; with the patch it is so in every trace."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False, False, False]])
    forward = nn.TransformerEncoder.forward
    with torch.no_grad():
        fast = encoder(x, src_key_padding_mask=padding)
    plain = encoder(x, src_key_padding_mask=padding)
    assert (fast[0, 2] == 0).all()
    assert (plain[0, 2] != 0).any(), "remove compress.graph.workarounds.padding_as_in_evaluation and this test"
    with compressing.padding_as_in_evaluation():
        torch.testing.assert_close(encoder(x, src_key_padding_mask=padding), fast, atol=1e-5, rtol=1e-5)
    assert nn.TransformerEncoder.forward is forward


def test_no_form_of_experts_is_dense_yet() -> None:
    """Each form of transformers sorts tokens by expert, or gathers matrices for each token."""
    pytest.importorskip("transformers")
    from transformers import MixtralConfig
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    def _copies(form: str) -> bool:
        """Whether a value has more numbers than all experts' matrices, or an operator is the library's own."""
        shape: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_local_experts": 4}
        shape["experts_implementation"] = form
        experts = MixtralExperts(MixtralConfig(**shape)).eval()
        for value in experts.parameters():
            nn.init.normal_(value)
        inputs = torch.randn(64, 8), torch.randint(0, 4, (64, 2)), torch.rand(64, 2)
        with quiet():
            graph = traced(experts, *inputs).graph
        most = max(weight.numel() for weight in experts.parameters())
        made = [node for node in graph.nodes if node.op == "call_function"]
        own = any("transformers" in str(node.target) or "grouped_mm" in str(node.target) for node in made)
        return own or any(getattr(node.meta.get("val"), "numel", int)() > 4 * most for node in made)

    forms = [name for name in ALL_EXPERTS_FUNCTIONS.valid_keys() if name in ("batched_mm", "grouped_mm")]
    assert forms, "transformers names its forms of experts otherwise: look at compress.graph.workarounds again"
    dense = [form for form in forms if not _copies(form)]
    assert not dense, f"{dense} of transformers is dense: remove compress.graph.workarounds.experts_computed_by"
    own = ALL_EXPERTS_FUNCTIONS["batched_mm"]
    with dense_experts():
        assert ALL_EXPERTS_FUNCTIONS.get_interface("batched_mm", None) is not own  # type: ignore[arg-type]
    assert ALL_EXPERTS_FUNCTIONS.get_interface("batched_mm", None) is own  # type: ignore[arg-type]


def test_a_process_still_keeps_its_first_accelerator() -> None:
    """A second precision is refused; after the patch it is taken."""
    compressing.forget_accelerator()
    try:
        Accelerator(cpu=True, mixed_precision="no")
        with needed("compress.graph.workarounds.forget_accelerator", "has already been initialized"):
            Accelerator(cpu=True, mixed_precision="bf16")
        compressing.forget_accelerator()
        assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    finally:
        compressing.forget_accelerator()


class Gaussian(nn.Module):
    """The log-likelihood of a value under a predicted distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N]``."""
        mean, scale = self.layer(x).unbind(1)
        result: torch.Tensor = torch.distributions.Normal(mean, scale.exp()).log_prob(x[:, 0])
        return result


def test_distributions_still_branch_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's checks of parameters cannot be traced; without them they can, and the setting is restored.

    The first ``torch.compile`` of a process turns the checks off for good: the setting depends on earlier tests.
    """
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    x = torch.randn(3, 4)
    with needed("compress.graph.workarounds.unchecked_distributions", "data-dependent|Eq\\(u0, 1\\)"):
        traced(Gaussian(), x)
    with compressing.unchecked_distributions(), quiet():
        program = traced(Gaussian(), x)
    assert program.module()(x).shape == (3,)
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(torch.zeros(1), -torch.ones(1))


PRIVATE = re.compile(
    r"^\s*(?:from|import)\s+(?:torch|transformers|accelerate|onnxscript|onnxruntime|onnx)[\w.]*\._[a-z]"
    r"|^\s*from\s+(?:torch|transformers|accelerate|onnxscript|onnxruntime|onnx)[\w.]*\s+import\s+.*\b_[A-Za-z]"
    r"|import_module\(\"(?:torch|onnxscript|onnxruntime|accelerate|transformers)[\w.]*\._"
    r"|\b(?:torch|nn|transformer|rewriter|lazy|AcceleratorState|ShapeEnv)(?:\.\w+)*\._(?!ops\b)[a-z]\w*\s*(?:=[^=]|\()"
)


def test_operators_are_still_looked_up_again_for_each_export() -> None:
    """PyTorch looks up each operator at every call; with the patch only when one is new."""
    utils: Any = importlib.import_module("torch._export.utils")
    shared.list_operators_once()
    patched = utils._materialize_cpp_cia_ops
    own = inspect.getclosurevars(patched).nonlocals["look_up"]
    assert asked_by(own) == asked_by(own) > 100, "PyTorch keeps them: remove core.workarounds.list_operators_once"
    patched()
    assert asked_by(patched) == 0
    library = torch.library.Library("retort_test_new", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")
    assert asked_by(patched) > 100


def asked_by(function: Callable[[], None]) -> int:
    """How many name spaces of operators a function asks ``torch.ops`` for."""
    asked: list[str] = []

    class Asked:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(torch.ops, name)

    own: Any = inspect.unwrap(function)
    look_up = inspect.getclosurevars(own).nonlocals.get("look_up", own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(look_up.__globals__, "torch", SimpleNamespace(ops=Asked(), _C=torch._C))
        function()
    return len(asked)


def test_private_parts_are_touched_in_four_files() -> None:
    """Only the modules of workarounds import, replace or call a private part of a library."""
    homes = {f"{room}/workarounds.py" for room in ("core", "compress/capture", "compress/graph", "export/ort", "serve")}
    rooms = ("core", "compress", "export", "serve", "handlers", "benchmarks")
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))] + sorted(ROOT.glob("*.py"))
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {line.strip()}"
        for path in files
        if path.relative_to(ROOT).as_posix() not in homes
        for line in path.read_text().splitlines()
        if PRIVATE.search(line)
    }
    assert found == set()


def test_every_patch_says_what_it_is_there_for() -> None:
    """Each docstring has the patched name, its version, the upstream issue, and the fault without the patch."""
    functions: list[Callable[..., Any]] = [
        *(shared.free_time, shared.drop_formulas, shared.list_operators_once),
        *(compressing.free_lengths, compressing.fixed_sizes, compressing.masks_unseen),
        compressing.unchecked_distributions,
        compressing.padding_as_in_evaluation,
        *(compressing.experts_computed_by, compressing.forget_accelerator),
        *(packed.packing_by, packed.lengths_as_tensors, packed.truth_by),
        *(exporting.keep_padding, exporting.parse_operators_once, exporting.linear_rules),
        *(exporting.exact_constants, exporting.without_guards),
    ]
    for function in functions:
        text = " ".join(str(function.__doc__).split())
        assert re.search(r"(Patched|Used|A form)\b", text), function
        assert "Seen in" in text, function
        assert re.search(r"Upstream: (https://github\.com/|no upstream issue found)", text), function
        assert "Without it:" in text, function
