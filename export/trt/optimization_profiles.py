"""Optimization profiles: the shapes that an engine supports, from the signature, per axis, or given by the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...core.counts import counted
from ...core.errors import UserError
from ...core.options.axis_ranges import Dims, parse_axis, parse_shapes
from ...core.options.recipe import nearest
from ...core.tensors import BATCH, TensorSpec


@dataclass(frozen=True)
class Range:
    """Smallest, usual and largest shape of one input; for a shape tensor, of its values."""

    min: Dims
    opt: Dims
    max: Dims

    def __str__(self) -> str:
        return ":".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))

    def holds(self, shape: Dims) -> bool:
        """Whether the profile contains a shape."""
        bounds = zip(self.min, shape, self.max, strict=False)
        return len(shape) == len(self.min) and all(low <= size <= high for low, size, high in bounds)


Profile = dict[str, Range]


def plan_profiles(
    inputs: Sequence[TensorSpec],
    batch_sizes: Sequence[int],
    axes: Sequence[str] = (),
    given: Sequence[str] = (),
    values: Sequence[str] = (),
) -> tuple[Profile, ...]:
    """The profiles of an engine.

    Args:
        inputs: the model's inputs.
        batch_sizes: the smallest, the middle and the largest become minimum, optimum and maximum of the batch axis.
        axes: ``name=min:opt:max`` for axes by name, such as ``sequence=8:128:512``; they override ``batch_sizes``.
        given: ``input=1x3x64x64:8x3x64x64:32x3x64x64`` per input; they override everything else. Naming an input again
            starts the next profile.
        values: names of inputs that are shape tensors; for them the profile has values instead of sizes.

    Returns:
        At least one profile with every input that has dynamic axes.

    Raises:
        UserError: a name does not exist in the model, a range is not in order, a size differs from a fixed size of the
            model, or a dynamic axis has no range.
    """
    ranges = {BATCH: _batch_range(batch_sizes), **_named_axes(axes, inputs)}
    profiles: list[Profile] = [{}]
    for item in given:
        name, found = _parse_given(item, inputs, values)
        if name in profiles[-1]:
            profiles.append({})
        profiles[-1][name] = found
    for spec in inputs:
        for profile in profiles:
            if spec.name not in profile and not all(isinstance(size, int) for size in spec.shape):
                profile[spec.name] = _derived(spec, ranges)
    return tuple(profiles)


def _batch_range(sizes: Sequence[int]) -> tuple[int, int, int]:
    ordered = sorted(set(sizes))
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _named_axes(axes: Sequence[str], inputs: Sequence[TensorSpec]) -> dict[str, tuple[int, int, int]]:
    known = sorted({axis for spec in inputs for axis in spec.shape if isinstance(axis, str)})
    found = {}
    for item in axes:
        name = item.partition("=")[0]
        if name not in known:
            fixed = f"; its dynamic axes are {', '.join(known)}" if known else ": every axis is fixed"
            raise UserError(
                f"--axis {item}: the model has no dynamic axis '{name}'{fixed}{nearest(name, known)}",
                "if the axis should be dynamic, capture the model again and name the axis",
            )
        found[name] = parse_axis(item)[1]
    return found


def _parse_given(item: str, inputs: Sequence[TensorSpec], values: Sequence[str]) -> tuple[str, Range]:
    name, separator, text = item.rpartition("=")
    known = [spec.name for spec in inputs]
    if not separator:
        raise UserError(f"--profile {item} has no '='", f"write --profile {known[0]}=1x…:8x…:32x…")
    spec = next((one for one in inputs if one.name == name), None)
    if spec is None:
        remedy = f"its inputs are {', '.join(known)}{nearest(name, known)}"
        raise UserError(f"--profile {item}: the model has no input '{name}'", remedy)
    found = Range(*parse_shapes(f"--profile {item}", text))
    if name not in values:
        _require_fit(item, spec, found)
    return name, found


def _require_fit(item: str, spec: TensorSpec, found: Range) -> None:
    if len(found.opt) != len(spec.shape):
        message = f"--profile {item}: '{spec.name}' has {counted(spec.shape, 'axis')}, not {len(found.opt)}"
        raise UserError(message, f"the model expects {spec.describe()}")
    for axis, size in enumerate(spec.shape):
        sizes = {shape[axis] for shape in (found.min, found.opt, found.max)}
        if isinstance(size, str):
            _require_steps(size, sizes)
        if isinstance(size, int) and sizes != {size}:
            raise UserError(
                f"--profile {item}: axis {axis} of '{spec.name}' is fixed at {size} in the model, "
                f"the profile asks for {sorted(sizes)}",
                f"give {size} there; to make the axis dynamic, capture the model again with that axis dynamic and "
                "export it",
            )


def _require_steps(axis: str, sizes: Iterable[int]) -> None:
    """Check the step of an axis: one called ``2*height`` takes only even sizes."""
    step, star, _ = axis.partition("*")
    odd = [size for size in sizes if star and step.isdigit() and size % int(step)]
    if odd:
        raise UserError(
            f"axis '{axis}' takes multiples of {step}, not {odd[0]}", f"give multiples of {step} for --axis {axis}"
        )


def _derived(spec: TensorSpec, ranges: Mapping[str, tuple[int, int, int]]) -> Range:
    lacking = [axis for axis in spec.shape if isinstance(axis, str) and axis not in ranges]
    if lacking:
        raise UserError(
            f"axis '{lacking[0]}' of input '{spec.name}' is dynamic and has no range",
            f"give one with --axis {lacking[0]}=8:64:256 (smallest:usual:largest)",
        )
    for axis in spec.shape:
        if isinstance(axis, str):
            _require_steps(axis, ranges[axis])
    shapes = [tuple(ranges[axis][i] if isinstance(axis, str) else axis for axis in spec.shape) for i in range(3)]
    return Range(*shapes)
