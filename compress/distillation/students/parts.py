"""What a student can leave out of its teacher: stacks of equal layers of either kind, and residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...program import Program, cost, macs_by_node
from .recurrent_depth import RecurrentStack, recurrent_stacks, widths_fit
from .removable_blocks import Block
from .residual_blocks import residual_blocks
from .stacks import stacks_of


@dataclass(frozen=True)
class Stack:
    """A stack of equal layers: parts of the graph, or the layers of one recurrent call.

    Attributes:
        name: paths of its first and its last layer.
        size: number of its layers.
        layers: its layers; empty for a recurrent call.
        recurrent: the recurrent call; None for parts of the graph.
    """

    name: str
    size: int
    layers: tuple[Block, ...] = ()
    recurrent: RecurrentStack | None = None


@dataclass(frozen=True)
class Part:
    """A stack or a block, for people.

    Attributes:
        name: its path.
        macs: share of the program's multiply-accumulates, of one layer if it is a stack.
        layers: number of its layers.
    """

    name: str
    macs: float
    layers: int = 1


@dataclass(frozen=True)
class Parts:
    """What can be left out of a program.

    Attributes:
        stacks: stacks of equal layers, in the order of execution.
        blocks: residual blocks, in the order of execution; most of them are parts of layers.
    """

    stacks: tuple[Part, ...]
    blocks: tuple[Part, ...]


def all_stacks(program: Program) -> list[Stack]:
    """All stacks of a program, those of recurrent calls last."""
    blocks = [Stack(_name(layers), len(layers), layers=layers) for layers in stacks_of(program)]
    fitting = [item for item in recurrent_stacks(program) if widths_fit(program, item)]
    return [*blocks, *[Stack(item.name, item.layers, recurrent=item) for item in fitting]]


def leavable(program: Program) -> Parts:
    """The stacks and blocks of a program with their shares of its cost."""
    whole, macs = max(cost(program).macs, 1), macs_by_node(program)
    stacks = [Part(item.name, _layer_macs(item, macs) / whole, item.size) for item in all_stacks(program)]
    blocks = [Part(item.name, item.macs / whole) for item in residual_blocks(program)]
    return Parts(tuple(stacks), tuple(blocks))


def _layer_macs(stack: Stack, macs: dict[str, int]) -> float:
    if stack.recurrent is not None:
        return macs.get(stack.recurrent.node, 0) / stack.size
    return stack.layers[0].macs


def _name(layers: Sequence[Block]) -> str:
    first, last = layers[0].name, layers[-1].name
    return first if first == last else f"{first} to {last}"
