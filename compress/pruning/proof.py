"""The proof of a cut: the pruned program equals the original with the removed channels masked to zero.

What "masked to zero" means. The original graph runs node by node with its own parameters and constants, and every
value that an operator computes is set to zero where its channel is removed, so that whoever consumes it (the columns
of the next contraction, a sum, an attention product) reads zeros there, whatever the activation makes of zero.
Statistics over channels (normalisations, means, maxima …) count only what is kept, which is computed here from masks
and plain formulas. Nothing of surgery takes part: no parameter is sliced, no size rewritten, no group counted. The
pruned program runs beside it as plain code that knows of no label, and every floating-point value it computes is
compared with the kept part of its twin. A wrong rule (channels not united, a constant not rewritten) makes them differ.

It is done at two batch sizes with the program's own parameters, and once with parameters moved at random, so that a
branch that a zero weight hides (a zero-initialised residual) is proven too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...core.errors import VerificationError
from ..capture import rows
from ..modes import graphs
from ..program import Program, clone, ordered, set_training
from .context import fetch
from .coupling import Coupling, couple
from .labels import Mask
from .masked import Masks, run_masked
from .shapes import bind, describe
from .surgery import kept_of, sliced

_NOISE = 0.25
_FLOOR = 1e-6


@dataclass(frozen=True)
class Proof:
    """A proof that held.

    Attributes:
        error: largest relative error of any value.
        outputs: largest relative error of an output.
        dtype: ``float64``, or the program's own where its graph does not run in double precision.
        batches: batch sizes it was done at.
    """

    error: float
    outputs: float
    dtype: str
    batches: tuple[int, ...]


def prove(before: Program, after: Program, coupling: Coupling, removed: Mask, tolerance: float) -> Proof:
    """Prove a cut.

    Args:
        before: the program that was cut, unchanged.
        after: the pruned program.
        coupling: labels of ``before``.
        removed: the classes that were removed, as a mask over labels.
        tolerance: largest relative error to accept: the largest deviation in a value by its largest magnitude.

    Raises:
        VerificationError: they differ; names the first operator whose value does.
    """
    with _few_threads(before), torch.no_grad():
        try:
            return _trials(before, after, coupling, removed, tolerance, "float64")
        except _DoesNotRunError:
            pass
        try:
            return _trials(before, after, coupling, removed, tolerance, _precision(before))
        except _DoesNotRunError as error:
            raise VerificationError(
                f"the cut cannot be proven: the original program does not run on the proof's inputs, at {error}",
                "give example inputs that stay valid when a little noise is added to floating-point values",
            ) from error


class _DoesNotRunError(Exception):
    """The original graph does not run; says at which node and why."""


def _precision(program: Program) -> str:
    kinds = [item.dtype for item in program.module.parameters() if item.is_floating_point()]
    return str(kinds[0] if kinds else torch.float32).removeprefix("torch.")


def _trials(before: Program, after: Program, coupling: Coupling, removed: Mask, tolerance: float, dtype: str) -> Proof:
    known = len(_first(before.example))
    sizes = (known, known - 1 if known > 2 else known + 1)
    pair = tuple(_prepared(program, dtype) for program in (before, after))
    worst = Proof(0.0, 0.0, dtype, sizes)
    for trial, size in enumerate((*sizes, known)):
        dense, pruned = (replace(item, example=_feeds(item, size)) for item in pair)
        labels = coupling if size == known else couple(dense, coupling.narrow)
        _check_labels(coupling, labels)
        if trial == len(sizes):
            _shake(dense, pruned, coupling, removed)
        error, outputs = _lock_step(dense, pruned, labels, removed, tolerance, dtype)
        worst = replace(worst, error=max(worst.error, error), outputs=max(worst.outputs, outputs))
    return worst


@contextmanager
def _few_threads(program: Program) -> Iterator[None]:
    """One thread where convolutions are grouped: in double precision every group would wait for all threads."""
    before = torch.get_num_threads()
    grouped = any("groups" in bind(node) and bind(node)["groups"] != 1 for node in program.module.graph.nodes)
    torch.set_num_threads(1 if grouped else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first(feeds: Mapping[str, Tensor]) -> Tensor:
    return next(iter(feeds.values()))


def _feeds(program: Program, size: int) -> dict[str, Tensor]:
    """Example feeds of ``size`` rows, with noise on floating-point inputs."""
    generator = torch.Generator().manual_seed(size)
    feeds = rows(program.example, size)
    for name, value in feeds.items():
        if value.is_floating_point():
            spread = float(value.std()) if value.numel() > 1 else 0.0
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
            feeds[name] = value + (noise * (spread * _NOISE if spread > 0 else 1.0)).to(value.dtype)
    return feeds


def _check_labels(first: Coupling, second: Coupling) -> None:
    if len(first.unions) != len(second.unions):
        raise VerificationError(
            "the channels of this model depend on the batch size, so its cut cannot be proven",
            "take the batch size out of the parameter shapes",
        )


def _shake(dense: Program, pruned: Program, coupling: Coupling, removed: Mask) -> None:
    """Move every parameter at random, in both programs alike."""
    generator = torch.Generator().manual_seed(0)
    parameters = {id(item) for item in dense.module.parameters()}
    for name in coupling.parameters:
        tensor = fetch(dense.module, name)
        if id(tensor) not in parameters or not tensor.is_floating_point():
            continue
        spread = float(tensor.detach().float().std()) if tensor.numel() > 1 else 0.0
        noise = torch.randn(tensor.shape, generator=generator) * _NOISE * (spread if spread > 0 else 0.5)
        tensor += noise.to(tensor)
        fetch(pruned.module, name).copy_(sliced(tensor, kept_of(coupling, name, removed)))


def _prepared(program: Program, dtype: str) -> Program:
    """A copy in evaluation form and in this precision."""
    copy = clone(program)
    set_training(copy, False)
    if dtype == "float64":
        _to_double(copy)
    return copy


def _to_double(program: Program) -> None:
    """Turn parameters, inputs and the dtypes written into the graph to double precision."""
    program.module.double()
    program.example.update(
        {name: value.double() if value.is_floating_point() else value for name, value in program.example.items()}
    )

    def _wide(item: Any) -> Any:
        return torch.float64 if isinstance(item, torch.dtype) and item.is_floating_point else item

    for graph in graphs(program.module):
        for node in graph.graph.nodes:
            node.args = tuple(_wide(item) for item in node.args)
            node.kwargs = {key: _wide(item) for key, item in node.kwargs.items()}
        graph.recompile()


def _lock_step(
    dense: Program, pruned: Program, labels: Coupling, removed: Mask, tolerance: float, dtype: str
) -> tuple[float, float]:
    """Largest error of any value and of an output; in single precision the outputs alone decide."""
    worst, first = 0.0, ""
    outputs = 0.0
    results = {item.name for item in dense.module.graph.output_node().all_input_nodes}
    for node, theirs, ours, scale in _twins(dense, pruned, Masks(labels, removed)):
        error = _deviation(theirs, ours, scale, exact=node.name in results)
        worst = max(worst, error)
        if node.name in results:
            outputs = max(outputs, error)
        if error > tolerance and not first:
            first = f"{describe(node)} (relative error {error:.2g})"
        if first and (dtype == "float64" or outputs > tolerance):
            raise VerificationError(
                f"the cut is refused: the pruned program deviates from the masked one, first at {first},"
                f" where at most {tolerance:g} is accepted",
                "the input is untouched; exclude this layer, and report the operator",
                node=node.name,
                error=error,
            )
    return (worst if dtype == "float64" else outputs), outputs


def _twins(dense: Program, pruned: Program, masks: Masks) -> Iterator[tuple[fx.Node, Tensor, Tensor, float]]:
    """Run both programs node by node; yields floating-point twins and the scale of what they were made from."""
    feeds = iter(zip(ordered(dense).values(), ordered(pruned).values()))
    left: dict[fx.Node, Any] = {}
    right: dict[fx.Node, Any] = {}
    twin_of = dict(zip(dense.module.graph.nodes, pruned.module.graph.nodes))
    last = {item: node for node in dense.module.graph.nodes for item in node.all_input_nodes}
    pairs = zip(dense.module.graph.nodes, pruned.module.graph.nodes, strict=True)
    for node, twin in pairs:
        if node.op == "output":
            return
        if node.op == "placeholder":
            left[node], right[twin] = next(feeds)
            continue
        left[node] = _run_dense(dense.module, node, left, masks)
        right[twin] = _run_pruned(pruned.module, twin, right)
        scale = max((_magnitude(left[item]) for item in node.all_input_nodes), default=0.0)
        for value, (theirs, ours) in zip(masks.values(node), _tensors(left[node], right[twin])):
            yield node, masks.kept(theirs, value), ours, scale
        for item in node.all_input_nodes:
            if last[item] is node:
                del left[item], right[twin_of[item]]


def _run_dense(module: nn.Module, node: fx.Node, env: dict[fx.Node, Any], masks: Masks) -> Any:
    if node.op == "get_attr":
        return masks.zeroed(_attribute(module, node), masks.values(node))
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return run_masked(node, args, kwargs, masks)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise _DoesNotRunError(f"{describe(node)}: {error}") from error


def _run_pruned(module: nn.Module, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return _attribute(module, node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise VerificationError(
            f"the cut is refused: the pruned program does not run at {describe(node)}: {error}",
            "the input is untouched; exclude this layer, and report the operator",
            node=node.name,
        ) from error


def _attribute(module: nn.Module, node: fx.Node) -> Any:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.clone() if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value


def _tensors(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(first, second) if isinstance(first, list | tuple) else [(first, second)]
    for one, two in pairs:
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            yield one, two


def _magnitude(value: Any) -> float:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return 0.0
    finite = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
    return float(finite.abs().max())


def _deviation(theirs: Tensor, ours: Tensor, scale: float, exact: bool) -> float:
    """Largest difference by the largest magnitude; infinite when the shapes differ.

    Args:
        scale: magnitude of what the values were made from; differences far below it are rounding.
        exact: integers must be equal; else they are left to the values that follow from them.
    """
    if theirs.shape != ours.shape:
        return math.inf
    if not theirs.is_floating_point() or theirs.numel() == 0:
        return math.inf if exact and not torch.equal(theirs, ours) else 0.0
    same = (theirs == ours) | (theirs.isnan() & ours.isnan())
    difference = torch.where(same, torch.zeros_like(theirs), (theirs - ours).abs())
    largest = max(_magnitude(theirs), _FLOOR * scale, torch.finfo(torch.float32).tiny)
    worst = float(difference.max()) / largest
    return math.inf if math.isnan(worst) else worst


__all__ = ["Proof", "prove"]
