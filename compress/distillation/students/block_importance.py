"""Importance of residual blocks: how much the outputs change if a block is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ....core.context import Context
from ....core.data.splits import batches
from ....core.errors import DataError
from ...graph.devices import as_tensor
from ...program import Program, evaluating
from ...training.output_distance import output_distance
from .removable_blocks import Block, without

SAMPLES = 64
"""Most calibration samples that are run for each block."""
ROUNDS = 4
"""How often the importance of the blocks that are left is measured again while blocks are dropped."""
_BATCH = 16
Runs = list[tuple[list[torch.Tensor], list[torch.Tensor]]]


@dataclass(frozen=True)
class Dropped:
    """A block that is left out.

    Attributes:
        block: the block.
        distance: distance of the outputs without it and without those dropped before: the Kullback-Leibler divergence
            of the classes, or the squared error divided by the variance.
    """

    block: Block
    distance: float


def least_important(program: Program, blocks: Sequence[Block], drop: int, context: Context) -> list[Dropped]:
    """The blocks whose absence changes the outputs least, chosen in rounds.

    Blocks matter differently after others are gone, so that the importance is measured anew in up to four rounds, each
    of which drops the least important ones of those that are left.

    Args:
        drop: number of blocks to leave out.

    Raises:
        DataError: there are no calibration samples.
    """
    runs = _runs(program, context)
    sizes = [len(part) for part in _rounds(drop)]
    left, gone = list(blocks), list[Dropped]()
    total = sum(len(left) - sum(sizes[:turn]) for turn in range(len(sizes)))
    with context.console.progress("block importance", total) as bar:
        for size in sizes:
            before = [item.block for item in gone]
            distances = []
            for block in left:
                distances.append(_distance(without(program, [*before, block]), runs, context))
                bar.advance()
            order = sorted(range(len(left)), key=lambda place: distances[place])[:size]
            gone += [Dropped(left[place], distances[place]) for place in order]
            left = [block for place, block in enumerate(left) if place not in order]
    return gone


def _rounds(drop: int) -> list[range]:
    edges = [drop * turn // ROUNDS for turn in range(ROUNDS + 1)]
    return [range(one, other) for one, other in pairwise(edges) if other > one]


def _runs(program: Program, context: Context) -> Runs:
    split = context.data.calibration
    if not len(split):
        raise DataError("there are no calibration samples", "give at least one sample, so that blocks can be compared")
    runs: Runs = []
    with evaluating(program), torch.no_grad():
        for raw, _ in batches(split, _BATCH, SAMPLES):
            inputs = [as_tensor(value, torch.device("cpu")) for value in program.signature.validate(raw).values()]
            runs.append((inputs, list(program.module(*inputs))))
    return runs


def _distance(program: Program, runs: Runs, context: Context) -> float:
    total, rows = 0.0, 0
    with evaluating(program), torch.no_grad():
        for inputs, outputs in runs:
            distance, count = output_distance(program.module(*inputs), outputs, context.task)
            total, rows = total + distance * count, rows + count
    mean = total / max(rows, 1)
    return mean if math.isfinite(mean) else math.inf
