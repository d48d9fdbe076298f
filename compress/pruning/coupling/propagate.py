"""The coupling engine: propagates labels through a captured graph to find which channels must go together.

Specification: compress.md 2. Every operator has a rule, or its inputs and outputs are locked; data movements share one
rule. Everything that no rule forbids can be removed, and the proof checks every removal.
"""

from __future__ import annotations

import operator as python_operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ....core.aten_names import operator_name
from ...program import Program
from .broadcasting import keep_whole
from .coupler import Arguments, Coupler, Producer, Result, Term, Unsupported, start
from .labels import Ids, Mask, Unions, Value, core, settle, varying
from .rules import find_rule
from .shapes import bind, describe


@dataclass
class Coupling:
    """Which channels of a program go together.

    Attributes:
        unions: classes of labels; a class is removed or kept as a whole.
        values: labels of every tensor node, each array varying along one dimension.
        parameters: labels of every parameter and buffer per dimension, by its first name.
        aliases: first name of every name of a parameter or buffer.
        producers: parameter dimensions that produce channels.
        terms: the dimensions on which the multiply-accumulates of every node depend.
        unknown: operators without a rule, by node name, with the reason their labels are locked.
        narrow: contractions in which parts of the head dimension are removed instead of complete heads.
    """

    unions: Unions
    values: dict[str, Result]
    parameters: dict[str, list[Tensor]]
    aliases: dict[str, str]
    producers: list[Producer]
    terms: list[Term]
    unknown: dict[str, str]
    narrow: frozenset[str] = frozenset()

    def kept(self, value: Value, removed: Mask) -> list[Ids | None]:
        """Kept indices of every dimension, or None if all are kept.

        Args:
            removed: removed classes, as a boolean mask over labels.
        """
        kept: list[Ids | None] = [None] * len(value.shape)
        for array in value.arrays:
            gone = removed[self.unions.find(core(array).numpy())]
            for dim in varying(array):
                flat = gone.any(axis=tuple(axis for axis in range(gone.ndim) if axis != dim))
                before = kept[dim]
                now = np.flatnonzero(~flat)
                kept[dim] = now if before is None else np.intersect1d(before, now)
        return [None if item is not None and len(item) == size else item for item, size in zip(kept, value.shape)]


def couple(program: Program, narrow: frozenset[str] | None = None) -> Coupling:
    """Propagate labels through a program and find the channels that go together.

    Args:
        narrow: contractions in which parts of the head dimension are removed instead of complete heads, by node name;
            if None, those whose heads are locked.
    """
    first, heads = _pass(program, narrow or frozenset())
    if narrow is not None:
        return first
    locked = frozenset(
        name for name, arrays in heads.items() for array in arrays if first.unions.locked(core(array).numpy()).all()
    )
    return _pass(program, locked)[0] if locked else first


def _pass(program: Program, narrow: frozenset[str]) -> tuple[Coupling, dict[str, list[Tensor]]]:
    coupler = start(program, narrow)
    for node in program.module.graph.nodes:
        if node.op == "output":
            _lock_outputs(coupler, program, node)
        else:
            result = _visit(coupler, node)
            if result is not None:
                coupler.values[node] = result
    values = {node.name: value for node, value in coupler.values.items()}
    coupling = Coupling(
        coupler.unions,
        values,
        coupler.parameters,
        coupler.aliases,
        coupler.producers,
        coupler.terms,
        coupler.unknown,
        narrow,
    )
    _make_rectangular(coupling)
    return coupling, coupler.heads


def _visit(c: Coupler, node: fx.Node) -> Result | None:
    if node.op == "placeholder":
        return c.fixed(node, f"is combined with the input '{node.target}'")
    if node.op == "get_attr":
        return c.parameter(node) if isinstance(c.concrete[node], Tensor) else None
    if node.target is python_operator.getitem:
        parts = c.values.get(node.args[0])  # type: ignore[arg-type]
        return parts[node.args[1]] if isinstance(parts, tuple) else c.fixed(node, describe(node))  # type: ignore[index]
    if isinstance(c.concrete[node], int | float | bool | torch.SymInt):
        _read_number(c, node)
        return None
    if c.fixed(node, "") is None and not list(_tensors(c, node)):
        return None
    rule = find_rule(node) if isinstance(node.target, torch._ops.OpOverload) else None
    if rule is None:
        return _lock_unknown(c, node, "no rule for it")
    try:
        return _checked(c, node, rule(c, node, bind(node)))
    except Unsupported as error:
        return _lock_unknown(c, node, str(error))
    except Exception as error:  # a defect of the rule, which must not be reported as a property of the model
        error.add_note(f"while coupling {describe(node)}")
        raise


def _read_number(c: Coupler, node: fx.Node) -> None:
    """A size needs all channels of its dimension; any other number that is read from a tensor locks that tensor."""
    for item in node.all_input_nodes:
        value = c.values.get(item)
        if isinstance(value, Value) and operator_name(node) == "sym_size":
            c.keep(value, [int(bind(node)["dim"])], node)
        elif value is not None:
            _lock_unknown(c, node, "it converts a tensor to a number")


def _checked(c: Coupler, node: fx.Node, result: Result) -> Result:
    expected = c.fixed(node, "")
    found, wanted = _shapes(result), _shapes(expected)
    if found != wanted:
        raise Unsupported(f"its rule expects the shapes {found}, but the operator returns {wanted}")
    return result


def _shapes(result: Result | None) -> list[tuple[int, ...]]:
    if result is None:
        return []
    return [item.shape for item in (result if isinstance(result, tuple) else (result,))]


def _tensors(c: Coupler, node: fx.Node) -> Iterator[Result]:
    for item in node.all_input_nodes:
        if item in c.values:
            yield c.values[item]


def _lock_unknown(c: Coupler, node: fx.Node, reason: str) -> Result | None:
    touched = list(_tensors(c, node))
    why = f"used by {describe(node)}: {reason}" if touched else f"is combined with the output of {describe(node)}"
    if any(item.arrays for value in touched for item in (value if isinstance(value, tuple) else (value,))):
        c.unknown[node.name] = why
    for value in touched:
        c.lock(value, why)
    return c.fixed(node, why)


def _lock_outputs(c: Coupler, program: Program, node: fx.Node) -> None:
    results = node.args[0]
    assert isinstance(results, list | tuple)
    for spec, item in zip(program.signature.outputs, results):
        if isinstance(item, fx.Node) and item in c.values:
            c.lock(c.values[item], f"is the output '{spec.name}'")


def _make_rectangular(coupling: Coupling) -> None:
    """Unite labels until every array varies along one dimension, so that the kept part is always rectangular."""
    spaces = [*_flat(coupling.values), *((term.space, term) for term in coupling.terms)]
    changed = True
    while changed:
        changed = False
        for value, _ in spaces:
            settled = settle(coupling.unions, value)
            value.arrays = settled.arrays
            for array in settled.arrays:
                if len(varying(array)) > 1:
                    _flatten(coupling.unions, array, value.shape)
                    changed = True


def _flat(values: dict[str, Result]) -> Iterator[tuple[Value, Any]]:
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            yield item, name


def _flatten(unions: Unions, array: Tensor, shape: tuple[int, ...]) -> None:
    """Unite the labels along all dimensions except the one with the most removable indices."""
    dims = sorted(varying(array))
    locked = unions.locked(core(array).numpy())

    def _slabs(dim: int) -> int:
        others = tuple(axis for axis in range(locked.ndim) if axis != dim)
        return int((~locked.any(axis=others)).sum())

    best = max(dims, key=lambda dim: (_slabs(dim), -dim))
    keep_whole(unions, Value(shape, [array]), [dim for dim in dims if dim != best], "has no rectangular part to remove")


__all__ = ["Arguments", "Coupling", "couple"]
