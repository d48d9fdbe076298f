"""The floating-point numbers that decide integer and boolean outputs: classes, masks, places.

Two programs whose outputs are classes can only be compared by the share of equal classes, which says little about a few
samples or rare classes. The scores from which the classes are chosen tell how near the two are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import fx

from ...core.tensors import BATCH, Array, TensorSpec
from ..program import Program, shared
from .module_edit import Shapes, shapes_of

BEHIND = "what decides "


def with_scores(program: Program) -> Program:
    """The program with more outputs: the last floating-point numbers before each output that is not floating-point.

    They are named ``what decides OUTPUT``, with a number from the second on. The same program is returned if all of its
    outputs are floating-point numbers.
    """
    outputs = [spec for spec in program.signature.outputs if not spec.dtype.startswith(("float", "bfloat"))]
    if not outputs:
        return program
    names = [spec.name for spec in program.signature.outputs]
    result = shared(program)
    shapes = shapes_of(result)
    node = result.module.graph.output_node()
    values = list(node.args[0])  # type: ignore[arg-type]
    rows = _rows(program)
    taken = {value for value in values if isinstance(value, fx.Node)}
    specs: list[TensorSpec] = []
    for spec in outputs:
        value = values[names.index(spec.name)]
        number = 0
        for score in _behind(value, shapes) if isinstance(value, fx.Node) else ():
            shape, dtype = shapes[score]
            axes = [axis for axis, size in enumerate(shape) if size == rows]
            if score in taken or not axes:
                continue
            taken.add(score)
            number += 1
            name = f"{BEHIND}{spec.name}{'' if number == 1 else f' ({number})'}"
            sizes = tuple(BATCH if axis == axes[0] else int(size) for axis, size in enumerate(shape))
            specs.append(TensorSpec(name, str(dtype).removeprefix("torch."), sizes))
            values.append(score)
    if not specs:
        return program
    node.args = (tuple(values),)
    result.module.recompile()
    signature = replace(program.signature, outputs=(*program.signature.outputs, *specs))
    return Program(result.module, signature, result.example, result.meta)


def _rows(program: Program) -> int:
    """The number of samples in the example."""
    return next(
        (
            int(program.example[spec.name].shape[spec.shape.index(BATCH)])
            for spec in program.signature.inputs
            if BATCH in spec.shape
        ),
        -1,
    )


def _behind(value: fx.Node, shapes: Shapes) -> Iterator[fx.Node]:
    """The computed floating-point tensors that a tensor of another type is made from, the nearest ones."""
    seen: set[fx.Node] = set()
    left = [value]
    while left:
        node = left.pop(0)
        for source in node.all_input_nodes:
            if source in seen or source.op == "get_attr":
                continue
            seen.add(source)
            known = shapes.get(source)
            if known is None or not known[1].is_floating_point:
                left.append(source)
            elif source.op == "call_function" and isinstance(known[0], torch.Size) and len(known[0]):
                yield source


def comparable(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs ``found`` without scores that the reference does not have in the same form."""
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(BEHIND) or (name in wanted and wanted[name].shape == value.shape)
    }


__all__ = ["BEHIND", "comparable", "with_scores"]
