"""One call of ``torch.export`` with named dynamic axes and readable error messages."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

import torch
from torch import nn

from ...core.backends.eager import quiet
from ...core.errors import CaptureError, RetortError
from ...core.faults import raise_if_defect
from ...core.graph_assertions import without_assertions
from ...core.tensors import BATCH, multiple
from ...core.workarounds import free_time, list_operators_once
from ..graph.workarounds import fixed_sizes, free_lengths, unchecked_distributions
from .failures import explain, model_place
from .mixture_of_experts import dense_experts

Bounds = tuple[int | None, int | None]
Axes = Sequence[Mapping[int, str]]
_FIX = re.compile(r"^\s*(\w+) = (.+)$", re.MULTILINE)
_GUARD = re.compile(
    r"Not all values of (\w+) = (.+) in the specified range.* satisfy the generated guard (.+)\.$", re.M
)
_COMPLAINT = re.compile(r"^ *- ", re.MULTILINE)
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Constant, ast.Name, ast.Call),
    *(ast.operator, ast.unaryop, ast.boolop),
)
_PREFIX = re.compile(r"\b(?:math|torch)\.(?=\w+\()")
_KNOWN = {
    "__builtins__": {},
    "max": max,
    "min": min,
    "IntInfinity": lambda: math.inf,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
    "sym_float": float,
    "sym_int": int,
}
_ROUNDS, _SIZES = 4, 512
_UNLIMITED = 1 << 24


def trace(
    module: nn.Module, inputs: Sequence[torch.Tensor], axes: Axes, *, variadic: bool = False
) -> torch.export.ExportedProgram:
    """Export a module with dynamic axes.

    Bounds that the model sets on an axis (a table of 512 positions) and steps (only even heights) are adopted; the
    batch axis must have no bounds.

    Args:
        inputs: example inputs, by position.
        axes: the dynamic axes of each input, ``{axis: name}``; equal names mean equal sizes, ``4*name`` multiples of 4.
        variadic: whether ``forward`` takes ``*values``.

    Raises:
        CaptureError: the model cannot be exported; the message states what it does and where.
    """
    bounds: dict[str, Bounds] = {}
    steps: dict[str, int] = {}
    proven = False
    list_operators_once()
    for _ in range(_ROUNDS):
        shapes = _shapes(axes, bounds, steps)
        try:
            with (
                quiet(),
                torch.enable_grad(),
                free_time(),
                dense_experts(),
                free_lengths(module),
                unchecked_distributions(),
                fixed_sizes(model_place) as places,
            ):
                exported = torch.export.export(
                    module,
                    tuple(inputs),
                    dynamic_shapes=(shapes,) if variadic else shapes,
                    strict=False,
                    prefer_deferred_runtime_asserts_over_guards=proven,
                )
            without_assertions(exported.graph_module)
            return exported
        except RetortError:
            raise
        except Exception as error:  # torch.export raises many unrelated classes, and any error of the model
            if not isinstance(error, TypeError):  # here, `len` in the model's modules is a function of Retort
                raise_if_defect(error)
            if not proven and _always_true(str(error), bounds):
                proven = True
                continue
            found, stepped = _suggested(str(error))
            found = found or _narrowed(str(error), bounds)
            new = found.items() - bounds.items() or stepped.items() - steps.items()
            if not new or _is_bounded(found.get(BATCH)) or BATCH in stepped:
                raise _constraint(str(error), places) or explain(error) from error
            bounds |= found
            steps |= stepped
    raise CaptureError("the model's dynamic axes depend on each other", "make fewer axes dynamic")


def _is_bounded(bounds: Bounds | None) -> bool:
    """Whether a batch is limited; a constant such as 999,999,999 in a slice is no limit."""
    return bounds is not None and ((bounds[0] or 0) > 1 or (bounds[1] or _UNLIMITED) < _UNLIMITED)


def _shapes(axes: Axes, bounds: Mapping[str, Bounds], steps: Mapping[str, int]) -> tuple[dict[int, Any], ...]:
    dims: dict[str, Any] = {}
    for label in {label for entry in axes for label in entry.values()}:
        step, name = multiple(label)
        step = max(step, steps.get(name, 1))
        low, high = bounds.get(f"_{name}" if step > 1 else name, (None, None))
        dims[label] = (
            step * torch.export.Dim(f"_{name}", min=low, max=high)
            if step > 1
            else torch.export.Dim(name, min=low, max=high)
        )
    return tuple({axis: dims[label] for axis, label in entry.items()} for entry in axes)


def _fixes(text: str) -> dict[str, str]:
    """The suggestion of ``torch.export`` for each axis: ``Dim('n', max=512)``, a number, or a formula."""
    _, _, suggested = text.partition("Suggested fixes:")
    return dict(_FIX.findall(suggested.split("\n\n")[0]))


def _suggested(text: str) -> tuple[dict[str, Bounds], dict[str, int]]:
    """The suggested bounds and steps; empty if anything else is suggested."""
    bounds: dict[str, Bounds] = {}
    steps: dict[str, int] = {}
    for name, fix in _fixes(text).items():
        low, high = re.search(r"min=(\d+)", fix), re.search(r"max=(\d+)", fix)
        step = re.fullmatch(rf"(\d+)\*_?{re.escape(name)}", fix)
        if fix.startswith("Dim("):
            bounds[name] = (int(low[1]) if low else None, int(high[1]) if high else None)
        elif step:
            steps[name] = int(step[1])
        else:
            return {}, {}
    return bounds, steps


def _narrowed(text: str, bounds: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """Narrower bounds, if the program rejects only a few sizes at either end (a slice of length 1)."""
    found: dict[str, Bounds] = {}
    for name, held in _guards(text):
        low, high = found.get(name, bounds.get(name, (None, None)))
        first, last = low or 1, _SIZES if high is None else min(high, _SIZES)
        refused = [first - 1, *(size for size in range(first, last + 1) if not held[size]), last + 1]
        runs = [pair for pair in itertools.pairwise(refused) if pair[1] - pair[0] > 1]
        start, stop = max(runs, key=lambda pair: pair[1] - pair[0], default=(first, first))
        if len(runs) != 1 and 2 * (stop - start - 1) < last - first + 1:
            return {}
        found[name] = (start + 1, high if stop > last else stop - 1)
    return found


def _always_true(text: str, bounds: Mapping[str, Bounds]) -> bool:
    """Whether the conditions that PyTorch could not prove are true for every size (`n % (8 * n) != 0`)."""
    guards = _guards(text)
    return len(guards) == len(_COMPLAINT.findall(text)) > 0 and all(
        all(held[low or 1 : None if high is None else high + 1])
        for (low, high), held in ((bounds.get(name, (None, None)), held) for name, held in guards)
    )


def _guards(text: str) -> list[tuple[str, list[bool]]]:
    """Names of axes, and which of the sizes 0, 1, 2 … the program's condition on them allows."""
    found = []
    for name, source, condition in _GUARD.findall(text):
        try:
            tree = ast.parse(_PREFIX.sub("", condition.replace(source, name)), mode="eval")
        except SyntaxError:  # another sentence follows on the same line
            continue
        if all(isinstance(node, (*_ARITHMETIC, ast.cmpop, ast.expr_context)) for node in ast.walk(tree)):
            code = compile(tree, "", "eval")
            found.append((name, [_holds(code, name, size) for size in range(_SIZES + 1)]))
    return found


def _holds(code: CodeType, name: str, size: int) -> bool:
    try:
        return bool(eval(code, dict(_KNOWN), {name: size}))
    except (ArithmeticError, NameError):
        return False


def _constraint(text: str, places: Mapping[int, str]) -> CaptureError | None:
    for name, fix in _fixes(text).items():
        what = _axis(name)
        if fix.isdigit():
            return CaptureError(
                f"the model fixes the {what} to {fix}{places.get(int(fix), '')}: "
                "a size became a constant of the program",
                "take sizes from the input (`x.size(0)`, `x.flatten(1)`), and do not loop over them or branch on them",
                axis=name,
            )
        if not name.startswith("_"):
            bound = re.sub(r"^Dim\('\w+', (.*)\)$", r"\1", fix)
            return CaptureError(
                f"the model does not work for every size of the {what}, only for {_bound_in_words(name, bound)}",
                "do not branch on that size in `forward`, or keep the axis fixed",
                axis=name,
            )
    for name, source, condition in _GUARD.findall(text):
        return CaptureError(
            f"the model does not work for every size of the {_axis(name)}, only if {condition.replace(source, name)}",
            "do not branch on that size in `forward`, or keep the axis fixed",
            axis=name,
        )
    return None


def _axis(name: str) -> str:
    return "batch" if name == BATCH else f"axis '{name}'"


def _bound_in_words(name: str, bound: str) -> str:
    """``sizes up to 100`` for ``max=100``, ``multiples of 2`` for ``2*_batch``."""
    match = re.fullmatch(rf"(\d+)\*_{name}", bound)
    if match:
        return f"multiples of {match[1]}"
    words = {"min": "sizes from", "max": "sizes up to"}
    parts = [f"{words[key]} {value}" for key, value in re.findall(r"(min|max)=(\d+)", bound)]
    return " and ".join(parts) or f"{name} = {bound}"
