"""The memory that quantization may use: batches, samples and matrices are made as small as it requires.

Three copies of the weights are counted (the FP32 program, the INT8 program with corrected weights, and a trial), and
one more of the largest weight, which is rounded when it is read. What is left is the room in which every step works.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from ...core.data.splits import Split, Subset
from ...core.errors import MachineError, UserError
from ...core.options.stage_options import QuantizeOptions
from ...core.system.memory import ran_out
from ..graph.module_edit import Shapes, shapes_of
from ..program import Program
from .live_memory import live_bytes, rows_of_example

COPIES, SLACK_BYTES = 3, 1_000_000_000
"""By default, quantization may use three times the bytes of the model and 1 GB."""
_LEAST_ROOM = 32 << 20
_SHARE_OF_OUTPUTS = 8
_FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class Budget:
    """The memory of one quantization, in bytes.

    Attributes:
        total_bytes: all that may be used on top of what the process used before it opened the model.
        model_bytes: bytes of the program's parameters.
        largest_bytes: bytes of the largest parameter.
    """

    total_bytes: int
    model_bytes: int
    largest_bytes: int

    @property
    def room_bytes(self) -> int:
        """What a step may hold besides the weights."""
        return max(self._beyond(COPIES), min(self._beyond(COPIES - 1), _LEAST_ROOM))

    @property
    def allows_trials(self) -> bool:
        """Whether a correction may make a third copy of the weights."""
        return self._beyond(COPIES) >= _LEAST_ROOM

    def _beyond(self, copies: int) -> int:
        return self.total_bytes - copies * self.model_bytes - self.largest_bytes


def budget_of(program: Program, options: QuantizeOptions) -> Budget:
    """The budget that the options give a program.

    Raises:
        UserError: it is too small for two copies of the weights.
    """
    sizes = [weight.numel() * weight.element_size() for weight in program.module.parameters()]
    model, largest = sum(sizes), max(sizes, default=0)
    total = options.memory or COPIES * model + max(SLACK_BYTES, largest + _LEAST_ROOM)
    least = (COPIES - 1) * model + largest + _LEAST_ROOM
    if total < least:
        raise UserError(
            f"`memory` is {total / 1e6:.0f} MB, but quantizing this model of {model / 1e6:.0f} MB takes at least "
            f"{least / 1e6:.0f} MB",
            f"give `memory: {-(-least // 10**6)}MB` or more, or leave it out",
        )
    return Budget(total, model, largest)


def within(program: Program, options: QuantizeOptions) -> QuantizeOptions:
    """The options with as many samples per batch as fit, with their activations, into the budget."""
    room = budget_of(program, options).room_bytes
    return options.model_copy(update={"batch_size": min(options.batch_size, rows_within(program, room))})


def rows_within(program: Program, room_bytes: int) -> int:
    """Number of samples whose activations fit into ``room_bytes``, at least 1."""
    shapes = shapes_of(program)
    # an operator may need as much again as it reads and writes
    return max(1, room_bytes // max(1, 2 * live_bytes(program, shapes)))


def judged_within(program: Program, split: Split, room_bytes: int) -> Split:
    """At most as many samples, evenly spread, as two sets of outputs of which take an eighth of the room."""
    shapes = shapes_of(program)
    size = sum(_size(node, shapes) for node in _outputs(program)) // rows_of_example(program)
    most = max(_FEWEST_SAMPLES, room_bytes // _SHARE_OF_OUTPUTS // max(1, 2 * size))
    if len(split) <= most:
        return split
    return Subset(split, np.unique(np.linspace(0, len(split) - 1, most).astype(np.int64)))


def _outputs(program: Program) -> list[fx.Node]:
    return list(next(iter(reversed(program.module.graph.nodes))).all_input_nodes)


def _size(node: fx.Node, shapes: Shapes) -> int:
    shape, dtype = shapes.get(node, (torch.Size([0]), torch.float32))
    return int(shape.numel()) * int(dtype.itemsize)


def why_left_out(error: Exception) -> str:
    """Why a step is left out: no memory, or activations whose products are no numbers; other errors are raised."""
    if type(error).__name__ == "_LinAlgError":  # torch.linalg.LinAlgError, which has no types
        return "its activations are too large or too different in size"
    if not ran_out(error):
        raise error
    return "the memory ran out"


def left_out(error: Exception, what: str) -> str:
    """The reason in a sentence why a step was left out: see :func:`why_left_out`."""
    return f"left out: {what}: {why_left_out(error)}"


def out_of_memory(error: Exception, what: str) -> MachineError:
    """The error for users if a step that cannot be left out ran out of memory; any other error is raised again."""
    if not ran_out(error):
        raise error
    return MachineError(
        f"there is not enough memory to {what}",
        "give a smaller `quantize.batch_size` or `quantize.memory`, or use a machine with more memory",
    )
