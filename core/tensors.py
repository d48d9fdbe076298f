"""Inputs and outputs of a model: names, dtypes, and shapes with named dynamic axes.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Array = NDArray[Any]
Feeds = Mapping[str, Array]
BATCH = "batch"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the name in the ONNX graph, in requests and in ``Session.run``.
        dtype: a numpy dtype name such as ``float32`` or ``int64``.
        shape: one entry per axis; an ``int`` is fixed, a ``str`` names a dynamic axis (``"batch"``); the size of
            ``"4*height"`` is a multiple of 4.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def describe(self) -> str:
        """``image: float32[batch, 1, 8, 8]``."""
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check rank, fixed sizes and multiples of a shape; sizes of other inputs are not known here.

        Raises:
            InputError: the shape does not fit.
        """
        check_shape(self, shape, {}, cached=True)

    def cast(self, value: Array) -> Array:
        """Convert ``value`` to a contiguous array of this dtype.

        Raises:
            InputError: the cast would lose information (floats to integers that are not whole,
                values out of range, or text).
        """
        wanted = np.dtype(self.dtype)
        array = np.asarray(value)
        if array.dtype == wanted:
            return np.asarray(array, order="C")  # `ascontiguousarray` would give a scalar an axis
        if array.dtype.kind not in "biuf":
            raise InputError(f"input '{self.name}' has dtype {array.dtype}, expected {self.dtype}", input=self.name)
        with np.errstate(invalid="ignore", over="ignore"):
            result = array.astype(wanted)
        if wanted.kind == "f":
            if np.isinf(result).any() and np.isinf(result).sum() != np.isinf(array).sum():
                message = f"input '{self.name}' has values that {self.dtype} cannot represent"
                raise InputError(message, "send values within its range", input=self.name)
        elif not np.array_equal(result, array) or _beyond_64_bits(array):
            raise InputError(
                f"input '{self.name}' has {array.dtype} values that {self.dtype} cannot represent exactly",
                f"send {self.dtype}",
                input=self.name,
            )
        return np.asarray(result, order="C")


def _beyond_64_bits(array: Array) -> bool:
    """Whether floats are so large that a whole number that was rounded to them may have been another one."""
    return array.dtype.kind == "f" and bool((np.abs(array) >= 2.0**63).any())


def raise_if_nan(name: str, array: Array) -> None:
    """Refuse NaN in an input, served or not: INT8 codes have no NaN, so their outputs would look like real answers.

    Raises:
        InputError: there is one.
    """
    if array.dtype.kind == "f" and array.size and np.isnan(array.min()):
        remedy = "replace them before you ask the model, whose answer would mean nothing"
        raise InputError(f"input '{name}' has NaN values", remedy, input=name)


def listed(names: Collection[str], most: int = 8, longest: int = 40) -> str:
    """The first names in alphabetical order, shortened, and how many there are besides."""
    first = [name if len(name) <= longest else f"{name[:longest]}…" for name in nsmallest(most, names)]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


def to_array(value: Any) -> Array:
    """A numpy array of a value; BF16 tensors, which numpy does not have, become FP32."""
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.detach().float()
    return np.asarray(value)


def multiple(axis: str) -> tuple[int, str]:
    """The step and the name of a dynamic axis: ``(4, "height")`` of ``4*height``, ``(1, "batch")`` of ``batch``."""
    step, star, name = axis.partition("*")
    return (int(step), name) if star and step.isdigit() else (1, axis)


def check_shape(
    spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]], cached: bool = False
) -> None:
    """Check one shape.

    Args:
        spec: what it must fit.
        shape: the shape of an array.
        sizes: the size of each dynamic axis that is known, and the input that has it; new ones are noted here.
        cached: another input has values, so this one may be a cache that is still empty.

    Raises:
        InputError: the shape does not fit.
    """
    got = f"got [{', '.join(map(str, shape))}]"
    if len(shape) != len(spec.shape):
        raise InputError(
            f"input '{spec.name}' has {len(shape)} {'axis' if len(shape) == 1 else 'axes'}, {got}",
            f"expected {spec.describe()}",
            input=spec.name,
        )
    for axis, (wanted, found) in enumerate(zip(spec.shape, shape, strict=True)):
        if found == 0 and wanted != 0 and (wanted == BATCH or isinstance(wanted, int) or not cached):
            raise InputError(f"input '{spec.name}' is empty along axis {axis}", f"expected {spec.describe()}")
        if isinstance(wanted, int):
            if wanted != found:
                message = f"input '{spec.name}' has size {found} on axis {axis}, {got}"
                raise InputError(message, f"expected {spec.describe()}", input=spec.name)
            continue
        step, _ = multiple(wanted)
        if found % step:
            message = f"input '{spec.name}' has size {found} on axis {axis}, which must be a multiple of {step}"
            raise InputError(message, f"expected {spec.describe()}", input=spec.name)
        known, owner = sizes.setdefault(wanted, (found, spec.name))
        if known != found:
            message = f"axis '{wanted}' is {known} in input '{owner}' and {found} in input '{spec.name}'"
            raise InputError(message, "give both the same size", input=spec.name)
