"""Branches and loops: a branch is chosen by sizes, or both are kept; a loop is unrolled."""

from __future__ import annotations

from typing import Any

import torch

from ...core.errors import ModelError
from .operator_call import Call, Operator, as_tensor
from .reader import Body
from .shape_arithmetic import whole

MOST_STEPS = 4096
"""A loop with more steps would make a program that nothing could compile."""


def _run(call: Call, body: Body, given: list[Any]) -> list[Any]:
    assert call.run_body is not None
    return call.run_body(body, given)


def _if(call: Call) -> tuple[Any, ...]:
    """The branch that is taken if the condition depends on sizes alone, else both, of which the data choose."""
    condition = call.values[0]
    branches = [call.get(name) for name in ("then_branch", "else_branch")]
    if not isinstance(condition, torch.Tensor):
        taken = branches[0] if bool(whole(condition)[0]) else branches[1]
        return tuple(_run(call, taken, []))
    yes, no = ([_tensor(value) for value in _run(call, branch, [])] for branch in branches)
    if any(len(a.shape) != len(b.shape) or _known(a) != _known(b) for a, b in zip(yes, no, strict=True)):
        raise ModelError(
            f"{call.node.describe()} cannot be imported: its condition depends on data, and its branches give "
            "different shapes",
            "if an input decides it, fix that input: `retort capture FILE.onnx --fix NAME=VALUE`",
        )
    return tuple(torch.where(condition.reshape(()), a, b) for a, b in zip(yes, no, strict=True))


def _known(value: torch.Tensor) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in value.shape]


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else as_tensor(value)


def _loop(call: Call) -> tuple[Any, ...]:
    """A ``Loop`` whose number of steps follows from sizes."""
    body, most, going = call.get("body"), call.values[0], call.values[1]
    carried, conditional = list(call.values[2:]), going is not None
    going = True if going is None else going
    count = MOST_STEPS + 1 if most is None else _count(call, most)
    stacked: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    step = 0
    while step < count and (not conditional or _decided(call, going)):
        if step == MOST_STEPS:
            raise call.refuse(f"it has more than {MOST_STEPS} steps")
        going, *results = _run(call, body, [step, going, *carried])
        carried, scanned = results[: len(carried)], results[len(carried) :]
        for rows, row in zip(stacked, scanned, strict=True):
            rows.append(row)
        step += 1
    return *carried, *(_stack(call, rows) for rows in stacked)


def _count(call: Call, most: Any) -> int:
    if isinstance(most, torch.Tensor):
        raise _undecided(call, "the number of its steps is computed from data")
    (count,) = whole(most)
    return min(int(count), MOST_STEPS + 1)


def _decided(call: Call, going: Any) -> bool:
    if isinstance(going, torch.Tensor):
        raise _undecided(call, "its condition is computed from data")
    return bool(whole(going)[0])


def _undecided(call: Call, why: str) -> ModelError:
    return ModelError(
        f"{call.node.describe()} cannot be imported: {why}",
        "export the model with a fixed number of steps, or capture the PyTorch model with the loop unrolled",
    )


def _stack(call: Call, rows: list[Any]) -> torch.Tensor:
    if not rows:
        raise call.refuse("it has no step, so that the shape of its output is not known")
    return torch.stack([_tensor(row) for row in rows])


def _scan(call: Call) -> tuple[Any, ...]:
    """A ``Scan`` over axes of fixed size; opset 8 scans each sample by itself."""
    body, scans = call.get("body"), call.get("num_scan_inputs")
    if call.opset < 9:
        return _scan_of_batches(call, body, scans)
    states, series = list(call.values[:-scans]), call.tensors()[-scans:]
    return tuple(_scanned(call, body, states, series))


def _scan_of_batches(call: Call, body: Body, scans: int) -> tuple[Any, ...]:
    if call.values[0] is not None:
        raise call.refuse("its sequences have lengths of their own")
    given = call.values[1:]
    rows = call.tensor(len(call.values) - 1).shape[0]
    if not isinstance(rows, int):
        raise call.refuse("in opset 8 it scans each sample of the batch by itself; opset 9 and later do not")
    parts = []
    for row in range(rows):
        values = [_tensor(value)[row] for value in given]
        parts.append(_scanned(call, body, list(values[:-scans]), values[-scans:]))
    return tuple(torch.stack([_tensor(value) for value in column]) for column in zip(*parts, strict=True))


def _scanned(call: Call, body: Body, states: list[Any], series: list[torch.Tensor]) -> list[Any]:
    scans, results = len(series), len(body.outputs) - len(states)
    axes = call.get("scan_input_axes") or [0] * scans
    backward = call.get("scan_input_directions") or call.get("directions") or [0] * scans
    steps = series[0].shape[axes[0]]
    if not isinstance(steps, int):
        raise call.refuse("the number of its steps is a dynamic size; export the model with a fixed length")
    if steps > MOST_STEPS:
        raise call.refuse(f"it has more than {MOST_STEPS} steps")
    rows: list[list[torch.Tensor]] = [[] for _ in range(results)]
    for step in range(steps):
        places = [steps - 1 - step if way else step for way in backward]
        slices = [value.select(axis, place) for value, axis, place in zip(series, axes, places, strict=True)]
        found = _run(call, body, [*states, *slices])
        states = found[: len(states)]
        for part, value in zip(rows, found[len(states) :], strict=True):
            part.append(_tensor(value))
    ends = call.get("scan_output_axes") or [0] * results
    ways = call.get("scan_output_directions") or [0] * results
    return [*states, *(torch.stack(p[::-1] if w else p, a) for p, a, w in zip(rows, ends, ways, strict=True))]


OPERATORS: dict[str, Operator] = {"If": _if, "Loop": _loop, "Scan": _scan}
