"""The signature of a model: its inputs and outputs, the texts of its classes, and how raw samples become inputs.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .errors import ArtifactError, InputError
from .preprocessing.specs import Preprocessing, spec_from_json, spec_to_json
from .tensors import BATCH, Array, Feeds, TensorSpec, check_shape, listed

_TEXTS = ("classes", "symbols", "features")


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in order.

    Attributes:
        batch_invariant: whether a sample's outputs are independent of the other samples in the batch; false for
            dynamically quantized graphs (serve.md H17).
        classes: names of the classes in the order of the scores; empty if they are not known.
        symbols: characters of a text input in the order of their numbers, from 2 (0 pads, 1 is any other character);
            empty for other models. :mod:`retort.core.preprocessing.symbols` makes numbers of texts with them.
        features: names of the columns of a table that the model takes, in its order; empty for other models.
        preprocessing: how pictures, texts and recordings become inputs; empty if it takes only arrays.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_invariant: bool = True
    classes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    preprocessing: tuple[Preprocessing, ...] = ()

    def naming(self, classes: Sequence[str]) -> Signature:
        """The signature with names of classes; those that it has stay, and names that fit no output are left out."""
        return self._with("classes", classes, "labelled")

    def spelling(self, symbols: Sequence[str]) -> Signature:
        """The signature with the characters of a text input; those that it has stay, and without such an input none."""
        return self._with("symbols", symbols, "spelled")

    def tabulating(self, features: Sequence[str]) -> Signature:
        """The signature with names of features; those that it has stay, and names that fit no input are left out."""
        return self._with("features", features, "tabulated")

    def _with(self, texts: str, values: Sequence[str], fitting: str) -> Signature:
        """The signature with texts that it does not have yet, if one of its tensors fits them."""
        if getattr(self, texts) or not values:
            return self
        changes: dict[str, Any] = {texts: tuple(map(str, values))}
        told = replace(self, **changes)
        return told if getattr(told, fitting) is not None else self

    @property
    def spelled(self) -> TensorSpec | None:
        """The input that :attr:`symbols` spells: the first with a row of whole numbers per sample."""
        rows = [spec for spec in self.inputs if spec.dtype in ("int32", "int64") and len(spec.shape) == 2]
        return next(iter(rows), None) if self.symbols else None

    @property
    def tabulated(self) -> TensorSpec | None:
        """The input that :attr:`features` names: the first with a number for each of them."""
        shape = (BATCH, len(self.features))
        return next((s for s in self.inputs if s.dtype.startswith("float") and s.shape == shape), None)

    @property
    def classified(self) -> TensorSpec | None:
        """The output that :attr:`classes` names: the first with a score for each class, or with class indices."""
        if not self.classes:
            return None
        count = len(self.classes)
        scores = [spec for spec in self.outputs if spec.dtype.startswith("float") and spec.shape == (BATCH, count)]
        indices = [spec for spec in self.outputs if spec.dtype in ("int32", "int64") and spec.shape == (BATCH,)]
        return next(iter([*scores, *indices]), None)

    @property
    def labelled(self) -> TensorSpec | None:
        """The output that :attr:`classes` say something about: as `classified`, else of tokens, pixels or boxes."""
        count = len(self.classes)
        tokens = [spec for spec in self.outputs if len(spec.shape) == 3 and spec.shape[2] in (count, count + 1)]
        pixels = [spec for spec in self.outputs if len(spec.shape) == 4 and spec.shape[1] == count]
        return self.classified or next(iter([*tokens, *pixels] if count else []), None)

    def class_names(self, outputs: Feeds) -> list[str | None] | None:
        """The name of the class of each row: the one with the highest score, or of the index; None for scores of NaN.

        Args:
            outputs: outputs of the model by name.

        Returns:
            None if no names are known, or the output that they name is not among ``outputs``.
        """
        spec = self.classified
        if spec is None or spec.name not in outputs:
            return None
        values = np.asarray(outputs[spec.name])
        chosen = values.argmax(axis=1) if values.ndim == 2 else values
        names = [self.classes[index] if 0 <= index < len(self.classes) else str(index) for index in chosen.tolist()]
        if values.dtype.kind != "f":
            return list(names)
        return [
            None if undefined else name for name, undefined in zip(names, np.isnan(values).any(axis=1), strict=True)
        ]

    def validate(self, feeds: Feeds) -> dict[str, Array]:
        """Check names, dtypes, ranks, fixed sizes and the agreement of dynamic axes.

        Returns:
            The feeds in signature order, contiguous and cast where the cast is exact.

        Raises:
            InputError: an input does not fit; the message names it, what was expected and what was given.
        """
        self.check_names(feeds)
        sizes: dict[str, tuple[int, str]] = {}
        checked: dict[str, Array] = {}
        arrays = {spec.name: np.asarray(feeds[spec.name]) for spec in self.inputs}
        cached = any(array.size for array in arrays.values())
        for spec in self.inputs:
            array = arrays[spec.name]
            check_shape(spec, array.shape, sizes, cached)
            checked[spec.name] = spec.cast(array)
        return checked

    def check_names(self, names: Iterable[str]) -> None:
        """Check that ``names`` are those of the inputs; only a few names of many are said.

        Raises:
            InputError: a name is missing or unknown.
        """
        given, expected = set(names), {spec.name for spec in self.inputs}
        if given == expected:
            return
        faults = {"missing": expected - given, "unknown": given - expected}
        told = "; ".join(f"{fault} {listed(found)}" for fault, found in faults.items() if found)
        raise InputError(f"inputs do not match: {told}", f"expected {self.describe_inputs()}")

    def batch_size(self, feeds: Feeds) -> int:
        """Number of rows of the first input that has a batch axis; 1 if no input has one."""
        for spec in self.inputs:
            if BATCH in spec.shape:
                return int(np.shape(feeds[spec.name])[spec.shape.index(BATCH)])
        return 1

    @property
    def fixed_batch(self) -> int | None:
        """The batch size of a model without a dynamic batch axis: the size of the first axis of its first input."""
        if not self.inputs or any(BATCH in spec.shape for spec in self.inputs):
            return None
        axis = next(iter(self.inputs[0].shape), None)
        return axis if isinstance(axis, int) else None

    def whole_batch(self, feeds: Feeds) -> dict[str, Array]:
        """The rows of ``feeds``, repeated to the batch size that the model was made for, if it is fixed."""
        size = self.fixed_batch
        if size is None:
            return dict(feeds)
        rows = {spec.name for spec in self.inputs if spec.shape and spec.shape[0] == size}
        return {
            name: np.resize(array, (size, *np.shape(array)[1:])) if name in rows and np.ndim(array) else array
            for name, array in feeds.items()
        }

    def describe_inputs(self) -> str:
        """Describe all inputs in one line."""
        return ", ".join(spec.describe() for spec in self.inputs)

    def to_json(self) -> str:
        """Convert to compact JSON; equal signatures give the same bytes."""
        value = asdict(self) | {"preprocessing": [spec_to_json(spec) for spec in self.preprocessing]}
        value = {name: item for name, item in value.items() if item or name not in (*_TEXTS, "preprocessing")}
        return json.dumps(value, separators=(",", ":"), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> Signature:
        """Inverse of :meth:`to_json`.

        Raises:
            ArtifactError: the text is not a signature.
        """
        try:
            raw = json.loads(text)
            tensors = {key: tuple(_spec(item) for item in raw[key]) for key in ("inputs", "outputs")}
            classes, symbols, features = (tuple(map(str, list(raw.get(name, ())))) for name in _TEXTS)
            made = Signature(tensors["inputs"], tensors["outputs"], bool(raw.get("batch_invariant", True)), classes)
            prepared = tuple(map(spec_from_json, raw.get("preprocessing", ())))
            return replace(made, symbols=symbols, features=features, preprocessing=prepared)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"not a Retort signature: {error}", "export the model again") from error


def _spec(raw: Mapping[str, object]) -> TensorSpec:
    shape = raw["shape"]
    if not isinstance(shape, list) or not all(isinstance(axis, int | str) for axis in shape):
        raise ValueError(f"bad shape {shape!r}")
    return TensorSpec(str(raw["name"]), np.dtype(str(raw["dtype"])).name, tuple(shape))
