"""The number that is explained: the score of a class, the mean of a mask, a value, or the likeness of a meaning.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from ..errors import InputError
from ..signature import Signature
from ..tensors import Array, TensorSpec
from .explanation import Asked, Kind

MEANINGS = ("embed", "hidden", "pool")
"""Parts of the names of outputs that are vectors of a meaning, whose numbers say nothing one by one."""
_EDGE = 1e-7


@dataclass(frozen=True)
class Explained:
    """The number of each sample that is explained.

    Attributes:
        axis: of the classes, counted without the batch axis; None for a single value and for a similarity.
        index: of the class or value.
        odds: whether scores are log-odds of a class, which come from scores or from probabilities.
        normed: whether the output has probabilities.
    """

    output: str
    kind: Kind
    axis: int | None
    index: int | None
    label: str | None
    odds: bool
    normed: bool
    predicted: bool
    reference: Array | None = field(default=None, repr=False, compare=False)

    @property
    def scale(self) -> str:
        """The unit of scores in words."""
        if self.kind == "similarity":
            return "cosine similarity to the output of the whole sample"
        if self.kind == "mask":
            return "mean over all positions of the probability of the class" if self.odds else "mean of the output"
        return "log-odds of the class" if self.odds else "value of the output"

    def scores(self, outputs: Array) -> Array:
        """The score of each sample.

        Args:
            outputs: of the model, with the batch axis first.

        Returns:
            Float64 ``[N]``.

        Raises:
            InputError: the model gives NaN.
        """
        values = np.asarray(outputs, np.float64)
        if self.kind == "similarity":
            found = self._likeness(values)
        elif self.kind == "mask":
            found = self._of_class(values) if self.odds else self._picked(values)
            found = found.reshape(len(found), -1).mean(axis=1)
        elif self.odds:
            chance = np.clip(self._of_class(values), _EDGE, 1 - _EDGE) if self.normed else None
            found = self._margin(values) if chance is None else np.log(chance) - np.log1p(-chance)
        else:
            found = self._picked(values).reshape(len(values), -1).mean(axis=1)
        if not np.isfinite(found).all():
            raise InputError(
                f"the output '{self.output}' is not finite for a changed sample", "choose another baseline"
            )
        return found

    def probabilities(self, scores: Array) -> Array | None:
        """The probability of the class for scores; None where the score is none of a class."""
        if self.kind == "mask":
            return scores if self.odds else None
        return _chance(scores) if self.odds else None

    def _picked(self, values: Array) -> Array:
        return values if self.axis is None else np.asarray(np.take(values, self.index or 0, axis=self.axis + 1))

    def _margin(self, values: Array) -> Array:
        axis = (self.axis or 0) + 1
        others = np.delete(values, self.index or 0, axis=axis)
        top = others.max(axis=axis, keepdims=True)
        rest = np.log(np.exp(others - top).sum(axis=axis)) + np.squeeze(top, axis)
        return np.asarray(self._picked(values) - rest)

    def _of_class(self, values: Array) -> Array:
        if self.normed:
            return self._picked(values)
        return _chance(self._margin(values))

    def _likeness(self, values: Array) -> Array:
        assert self.reference is not None
        rows, wanted = _pooled(values), _pooled(self.reference[None].astype(np.float64))[0]
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
        return np.asarray(rows @ wanted / np.maximum(lengths, 1e-30))


def choose(signature: Signature, outputs: Mapping[str, Array], asked: Asked) -> Explained:
    """What is explained of a sample.

    Args:
        outputs: of the sample, without the batch axis.

    Raises:
        InputError: the model has no such output or class, or its outputs have no score.
    """
    spec = _output(signature, asked)
    value = np.asarray(outputs[spec.name])
    if not np.isfinite(value).all():
        raise InputError(f"the output '{spec.name}' of the sample is not finite", "give another sample")
    names = signature.classes if _named(signature, spec, value) else ()
    guessed = asked.target == "auto" and asked.label is None and not names and _is_meaning(spec.name, value)
    if value.ndim and (guessed or asked.target == "similarity"):
        return Explained(spec.name, "similarity", None, None, None, False, False, True, value)
    if value.size == 1:
        if asked.label is not None and str(asked.label) != "0":
            raise InputError(f"the output '{spec.name}' is a single value and has no classes", "give no class")
        return Explained(spec.name, "value", None, None, None, False, False, True)
    axis = _class_axis(signature, value, names)
    return _of_class(spec.name, value, axis, names, asked)


def _is_meaning(name: str, value: Array) -> bool:
    """Whether an output is a vector of a meaning: by its name, or because it was brought to length 1."""
    normalized = value.ndim == 1 and value.min() < 0 and abs(float(np.linalg.norm(value)) - 1) < 1e-3
    return normalized or any(part in name.lower() for part in MEANINGS)


def _of_class(output: str, value: Array, axis: int, names: Sequence[str], asked: Asked) -> Explained:
    kind: Kind = "class" if value.ndim == 1 else "mask"
    count = value.shape[axis]
    if count == 1:
        return Explained(output, kind, axis, 0, None, False, False, True)
    found = _predicted(value, axis)
    index = found if asked.label is None else _index(asked.label, names, count, output)
    label = names[index] if names else None
    if asked.target == "value":
        return Explained(output, "value", axis, index, label, False, False, index == found)
    normed = bool(value.min() >= 0 and value.max() <= 1 and np.allclose(value.sum(axis=axis), 1, atol=1e-3))
    return Explained(output, kind, axis, index, label, True, normed, index == found)


def _output(signature: Signature, asked: Asked) -> TensorSpec:
    floats = {spec.name: spec for spec in signature.outputs if np.dtype(spec.dtype).kind == "f"}
    if asked.output is not None:
        if asked.output not in floats:
            remedy = f"give one of {', '.join(floats)}" if floats else "no output of this model has scores"
            raise InputError(f"the model has no output '{asked.output[:80]}' with scores", remedy)
        return floats[asked.output]
    if not floats:
        remedy = "export it with its scores as an output, not only with the class that it chose"
        raise InputError("the model has no output with scores to explain", remedy)
    named = signature.classified
    return named if named is not None and named.name in floats else next(iter(floats.values()))


def _named(signature: Signature, spec: TensorSpec, value: Array) -> bool:
    return len(signature.classes) in value.shape and (value.ndim > 1 or signature.classified == spec)


def _class_axis(signature: Signature, value: Array, names: Sequence[str]) -> int:
    if names:
        return value.shape.index(len(names))
    words = any(np.dtype(spec.dtype).kind in "iu" and len(spec.shape) == 2 for spec in signature.inputs)
    return value.ndim - 1 if words and value.ndim == 2 else 0


def _predicted(value: Array, axis: int) -> int:
    """The class of the highest score; of a mask, the one of most positions, where class 0 counts as background."""
    best = np.asarray(value.argmax(axis=axis)).reshape(-1)
    counts = np.bincount(best, minlength=value.shape[axis])
    return int(1 + counts[1:].argmax()) if value.ndim > 1 and counts[1:].any() else int(counts.argmax())


def _index(label: str | int, names: Sequence[str], count: int, output: str) -> int:
    text = str(label)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text[:9]) < count:
        return int(text[:9])
    near = get_close_matches(text[:80], names, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    remedy = f"give one of {', '.join(names[:20])}" if names else f"give a number from 0 to {count - 1}"
    raise InputError(f"the output '{output}' has no class '{text[:80]}'{hint}", remedy)


def _chance(odds: Array) -> Array:
    """The probability of log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -700, 700))))


def _pooled(values: Array) -> Array:
    """Vectors of a meaning: the mean over the positions where there are several."""
    flat: Array = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
    return flat
