"""Patches of private parts of PyTorch that ``core`` needs. Each states its reason; a test shows when it is obsolete.

Patches are context managers or functions, and only this file, ``compress/graph/workarounds.py`` and
``export/ort/workarounds.py`` contain them. No other file changes or imports private parts of a library, except for the
types of operators (``torch._ops``) and their schemas. ``tests/house/test_workarounds.py`` runs every library without
its patch and fails once the library is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .aten_names import RECURRENT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shapes = Callable[..., "tuple[Tensor, ...]"]


@contextmanager
def free_time() -> Iterator[None]:
    """Trace recurrent operators without unrolling them, so that their time axis may be dynamic.

    Patched: the Python kernels of ``aten.lstm.input``, ``gru.input``, ``rnn_tanh.input`` and ``rnn_relu.input``
    (``OpOverload.py_kernels`` and ``_dispatch_cache``), ``torch._decomp.decomposition_table`` and
    ``torch._subclasses.fake_impls.op_implementations_dict``. Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/issues/115092 (open); https://github.com/pytorch/pytorch/pull/193192
    does the same within the ONNX exporter.

    Without it: PyTorch computes the shapes of their outputs during tracing with a Python loop over the time steps,
    which turns the number of steps into a constant and takes time proportional to it. The shapes of the inputs alone
    determine the shapes of the outputs.
    """
    import torch
    from torch._decomp import decomposition_table
    from torch._subclasses.fake_impls import op_implementations_dict

    learnt: tuple[dict[Any, Any], ...] = (decomposition_table, op_implementations_dict)
    operators = {getattr(torch.ops.aten, name).input: _lstm if name == "lstm" else _gru for name in RECURRENT}
    kernels = {operator: dict(operator.py_kernels) for operator in operators}
    # The ONNX export leaves the kernels that it finds in the second table.
    tables = [(table, {operator: table.get(operator) for operator in operators}) for table in learnt]
    try:
        for operator, shapes in operators.items():
            _set_kernels(operator, dict.fromkeys(kernels[operator], shapes))
            decomposition_table[operator] = shapes
        yield
    finally:
        for operator in operators:
            _set_kernels(operator, kernels[operator])
        for table, before in tables:
            _restore(table, before)


def _set_kernels(operator: Any, kernels: dict[Any, Shapes]) -> None:
    operator.py_kernels.update(kernels)
    operator._dispatch_cache.clear()


def _restore(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    for operator, entry in before.items():
        if entry is None:
            table.pop(operator, None)
        else:
            table[operator] = entry


def _lstm(
    value: Tensor, states: Sequence[Tensor], weights: Any, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    hidden, cell = states
    return _steps(value, hidden, bidirectional), hidden.new_empty(hidden.shape), cell.new_empty(cell.shape)


def _gru(
    value: Tensor, hidden: Tensor, weights: Any, biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _steps(value, hidden, bidirectional), hidden.new_empty(hidden.shape)


def _steps(value: Tensor, hidden: Tensor, bidirectional: bool) -> Tensor:
    """``[N, T, D·H]`` or ``[T, N, D·H]``, in the same layout as the input."""
    return value.new_empty([value.size(0), value.size(1), hidden.size(2) * (2 if bidirectional else 1)])


@cache
def list_operators_once() -> None:
    """Look up the operators that PyTorch can decompose by itself only when there are new ones.

    Patched: ``_materialize_cpp_cia_ops`` of ``torch._export.utils``, for the rest of the process. Seen in torch 2.13.

    Upstream: no upstream issue found.

    Without it: each export looks up all 800 operators once for every name space, which is an eighth of the time of the
    export of a small model; nothing else changes.
    """
    import torch

    try:
        utils: Any = import_module("torch._export.utils")
        look_up, names = utils._materialize_cpp_cia_ops, torch._C._dispatch_get_registrations_for_dispatch_key
    except (ImportError, AttributeError):
        return  # other names in other versions: each export takes longer
    seen: list[str] = []

    def _look_up_new() -> None:
        found = names("CompositeImplicitAutograd")
        if found != seen:
            look_up()
            seen[:] = found

    utils._materialize_cpp_cia_ops = _look_up_new


def drop_formulas(exported: torch.export.ExportedProgram) -> None:
    """Remove formulas such as ``2*s5`` from the symbol ranges of a program that was read from a file.

    Patched: ``ShapeEnv.var_to_range`` of the program's own environment. Seen in torch 2.13.

    Upstream: no upstream issue found.

    Without it: ``torch.export.load`` registers a formula as if it were a symbol, and ``run_decompositions``, the first
    step of the ONNX exporter, fails with ``AssertionError: expected sympy.Symbol``.
    """
    import torch

    environments = {
        size.node.shape_env
        for node in exported.graph.find_nodes(op="placeholder")
        for size in getattr(node.meta.get("val"), "shape", ())
        if isinstance(size, torch.SymInt)
    }
    for environment in environments:
        for formula in [key for key in environment.var_to_range if not key.is_Symbol]:
            del environment.var_to_range[formula]
