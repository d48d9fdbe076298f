"""How the parts of an input hang together, and what takes their place: pictures, sequences, signals, tables, tokens.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError
from ..preprocessing.specs import TextInput
from ..preprocessing.symbols import UNKNOWN
from ..signature import Signature
from ..tensors import BATCH, Array, TensorSpec
from .explanation import Baseline

SIDE_NAMES = ("mask", "type", "segment", "position", "length")
"""Parts of the names of inputs of whole numbers that say how to read another input."""
TABLE_MOST = 256
"""A row of more numbers without names is a signal."""
PAD = 0
Box = tuple[tuple[int, int], ...]
"""Start and stop along each axis of the cells."""


@dataclass(frozen=True)
class Form:
    """One input of a sample.

    Attributes:
        kind: as in :class:`retort.core.explanation.explanation.Heatmap`.
        sample: the array without its batch axis.
        axes: the axes whose cells are explained one by one; along the others (channels) they are taken together.
        used: number of cells along each of ``axes`` that have content; padding after them is not explained.
        words: starts of words in tokens whose symbols are known; empty otherwise.
        pad: the number that pads tokens.
        baseline: what takes the place of cells, an array like ``sample``.
        told: the baseline in words.
    """

    name: str
    kind: str
    sample: Array = field(repr=False)
    axes: tuple[int, ...]
    used: tuple[int, ...]
    words: tuple[int, ...] = ()
    baseline: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    told: str = ""
    pad: int = PAD

    @property
    def cells(self) -> int:
        """Number of cells that are explained."""
        return int(np.prod(self.used, dtype=np.int64))

    @property
    def whole(self) -> Box:
        """The box of all cells."""
        return tuple((0, size) for size in self.used)

    @property
    def empty(self) -> Array:
        """A heatmap of zeros."""
        return np.zeros([self.sample.shape[axis] for axis in self.axes])

    def index(self, box: Box) -> tuple[slice, ...]:
        """Index of a box in the sample."""
        index = [slice(None)] * self.sample.ndim
        for axis, (start, stop) in zip(self.axes, box, strict=True):
            index[axis] = slice(start, stop)
        return tuple(index)


def forms_of(signature: Signature, sample: Mapping[str, Array], names: tuple[str, ...] = ()) -> list[Form]:
    """The inputs that can be explained.

    Args:
        sample: without batch axes.
        names: those that are asked for; empty for all.

    Raises:
        InputError: an input of these names cannot be explained, or none can.
    """
    found = [form for spec in signature.inputs if (form := _form(spec, sample[spec.name], signature)) is not None]
    known = [form.name for form in found]
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        what = f"the input '{unknown[0][:80]}' cannot be explained" if unknown else "no input can be explained"
        remedy = f"give one of {', '.join(known)}" if known else "a model needs an input of numbers or tokens"
        raise InputError(what, remedy)
    return [form for form in found if not names or form.name in names]


def _form(spec: TensorSpec, sample: Array, signature: Signature) -> Form | None:
    if spec.dtype == "bool" or (BATCH not in spec.shape and sample.ndim == 0):
        return None
    if "mask" in spec.name.lower() and len(signature.inputs) > 1:
        return None
    integer = np.dtype(spec.dtype).kind in "iu"
    if integer and sample.ndim < 2:
        if sample.ndim == 0 or any(part in spec.name.lower() for part in SIDE_NAMES):
            return None
        return _tokens(spec, sample, signature)
    kind, axes = _shape_kind(sample.shape, spec == signature.tabulated)
    return Form(spec.name, kind, sample, axes, tuple(sample.shape[axis] for axis in axes))


def _tokens(spec: TensorSpec, sample: Array, signature: Signature) -> Form:
    pad = _pad_of(spec, signature)
    filled = np.flatnonzero(sample != pad)
    used = int(filled[-1]) + 1 if filled.size else len(sample)
    starts: tuple[int, ...] = ()
    if signature.symbols and signature.spelled == spec:
        texts = [signature.symbols[number - 2] if 1 < number < len(signature.symbols) + 2 else "" for number in sample]
        gaps = [text.isspace() for text in texts[:used]]
        starts = tuple(i for i in range(used) if not gaps[i] and (i == 0 or gaps[i - 1]))
    return Form(spec.name, "tokens", sample, (0,), (used,), starts, pad=pad)


def _pad_of(spec: TensorSpec, signature: Signature) -> int:
    """The number that pads an input of tokens: the tokenizer's own where it is known."""
    texts = (text for text in signature.preprocessing if isinstance(text, TextInput))
    return next((text.pad_id for text in texts if dict(text.inputs_of).get("input_ids") == spec.name), PAD)


def _shape_kind(shape: tuple[int, ...], table: bool) -> tuple[str, tuple[int, ...]]:
    """Kind and axes of the cells of numbers."""
    if len(shape) <= 1:
        return ("table" if table or sum(shape) <= TABLE_MOST else "signal"), tuple(range(len(shape)))
    if len(shape) == 2:
        return ("signal", (1,)) if shape[0] == 1 else ("sequence", (0, 1))
    if len(shape) == 3:
        last = shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
        return "image", (0, 1) if last else (1, 2)
    return "volume", tuple(range(1, len(shape)))


def with_baseline(form: Form, choice: Baseline, reference: Array | None = None, spelled: bool = False) -> Form:
    """The form with what takes the place of its cells.

    Args:
        reference: mean of other samples of this input, which is the baseline of a table by default.
        spelled: whether the numbers of the tokens are those of :mod:`retort.core.preprocessing.symbols`.

    Raises:
        InputError: the baseline does not fit the input.
    """
    allowed = ("auto", "pad", "unknown", "zero") if form.kind == "tokens" else ("auto", "zero", "mean", "blur")
    if choice not in allowed:
        message = f"the baseline '{choice}' does not fit the input '{form.name}' ({form.kind})"
        raise InputError(message, f"give one of {', '.join(allowed)}")
    if form.kind == "tokens":
        number = UNKNOWN if choice == "unknown" or (choice == "auto" and spelled) else form.pad
        number = 0 if choice == "zero" else number
        does = "stands for an unknown one" if number == UNKNOWN else "was asked for"
        told = f"number {number}, which {'pads' if number == form.pad else does}"
        return _set(form, np.full_like(form.sample, number), told)
    if form.kind == "table":
        if reference is not None and choice in ("auto", "mean"):
            return _set(form, reference, "mean of each feature over other samples")
        choice = "zero" if choice == "auto" else choice
    if choice == "zero":
        return _set(form, np.zeros_like(form.sample), "zero")
    if choice == "blur":
        return _set(form, blurred(form.sample, form.axes), "a blurred copy of the sample")
    ordered = form.axes[:1] if form.kind == "sequence" else form.axes
    mean = form.sample.mean(axis=ordered, keepdims=True, dtype=np.float64)
    words = {"image": "mean of each channel of the picture", "sequence": "mean of each feature over the sequence"}
    told = words.get(form.kind, "mean of the sample")
    return _set(form, np.broadcast_to(mean, form.sample.shape), told)


def _set(form: Form, baseline: Array, told: str) -> Form:
    values = np.rint(baseline) if form.sample.dtype.kind in "iu" else baseline
    made = np.ascontiguousarray(values.astype(form.sample.dtype))
    return replace(form, baseline=made, told=told)


def blurred(sample: Array, axes: tuple[int, ...]) -> Array:
    """Three means over a quarter of the length of each axis, one after the other, which is nearly a Gaussian."""
    values = sample.astype(np.float64)
    for axis in axes:
        size = values.shape[axis]
        width = max(1, size // 4) | 1
        for _ in range(3 if size > 1 else 0):
            padding = [(width // 2 + 1, width // 2) if index == axis else (0, 0) for index in range(values.ndim)]
            sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis)
            upper, lower = (np.take(sums, range(start, start + size), axis=axis) for start in (width, 0))
            values = (upper - lower) / width
    return values
