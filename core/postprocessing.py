"""What the outputs of a model say: labels with scores, the labels of tokens, masks, boxes.

Part of the runtime half: standard library and numpy only; Pillow, which writes masks, is imported in use.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .preprocessing.decode_images import pillow
from .preprocessing.sample_reader import Samples
from .preprocessing.specs import ImageInput
from .signature import Signature
from .tensors import BATCH, Array, TensorSpec

Scores = Literal["raw", "softmax", "sigmoid"]
"""How the numbers of an output become scores from 0 to 1."""
BOXES, LOGITS = "pred_boxes", "logits"
"""The outputs of the detectors of transformers: centre, width and height as shares of the picture, and class scores."""
LEAST_SCORE = 0.5
"""Score from which a box is in the answer."""
MOST_CLASSES = 256
"""Largest number of classes of a mask, which has one byte per pixel."""


@dataclass(frozen=True)
class Reading:
    """How outputs are read.

    Attributes:
        scores: how the numbers become scores.
        top_k: number of labels of each sample.
    """

    scores: Scores = "raw"
    top_k: int = 5


def scores_of(values: Array, scores: Scores, axis: int = -1) -> Array:
    """The numbers of an output as scores."""
    if scores == "raw":
        return values
    wide = values.astype(np.float64)
    if scores == "sigmoid":
        return (1 / (1 + np.exp(-np.clip(wide, -700, 700)))).astype(np.float32)
    raised = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return np.asarray((raised / raised.sum(axis=axis, keepdims=True)).astype(np.float32))


def guessed_scores(values: Array, axis: int = -1) -> Scores:
    """How outputs of known samples become scores: probabilities stay, other numbers are taken for logits."""
    sums = values.sum(axis=axis, dtype=np.float64)
    shares = values.size and values.min() >= 0 and values.max() <= 1 and bool(np.allclose(sums, 1, atol=1e-2))
    return "raw" if shares else "softmax"


def guessed_reading(signature: Signature, outputs: Mapping[str, Array]) -> Scores:
    """How the outputs of known samples become scores, by the first output whose classes have names."""
    axes = ((spec.name, named_axis(signature, spec)) for spec in signature.outputs)
    return next((guessed_scores(outputs[name], axis) for name, axis in axes if axis is not None), "raw")


def named_axis(signature: Signature, spec: TensorSpec) -> int | None:
    """The axis of an output along which the classes lie, for labels, labels of tokens and masks; else None."""
    count = len(signature.classes)
    if not count or not spec.dtype.startswith("float") or spec.shape[:1] != (BATCH,):
        return None
    if len(spec.shape) in (2, 3) and spec.shape[-1] == count:
        return len(spec.shape) - 1
    return 1 if len(spec.shape) == 4 and spec.shape[1] == count else None


def read_outputs(
    outputs: Mapping[str, Array], signature: Signature, samples: Samples, reading: Reading
) -> list[dict[str, Any]]:
    """What the outputs say about each sample, as JSON-ready values and arrays.

    A classifier gives ``label``, ``score`` and ``labels``; a model of tokens ``tokens``; one of pixels ``mask``; a
    detector of transformers ``boxes``; every other output stays an array under its name.
    """
    specs = {spec.name: spec for spec in signature.outputs}
    outputs = {name: _rows_first(array, specs[name]) for name, array in outputs.items()}
    rows = next((len(array) for name, array in outputs.items() if BATCH in specs[name].shape), 1)
    found: list[dict[str, Any]] = [{} for _ in range(rows)]
    boxes = _boxes(outputs, signature, samples, reading)
    for name, array in outputs.items():
        if boxes is not None and name in (BOXES, LOGITS):
            continue
        axis = named_axis(signature, specs[name])
        for row, said in enumerate(found):
            own = array[row] if BATCH in specs[name].shape else array
            said.update(_said(name, own, axis, signature, samples, reading, row))
    for said, boxed in zip(found, boxes or (), strict=False):
        said["boxes"] = boxed
    return found


def _rows_first(array: Array, spec: TensorSpec) -> Array:
    """An output with its samples along the first axis; one that all samples share stays as it is."""
    return np.moveaxis(array, spec.shape.index(BATCH), 0) if BATCH in spec.shape else array


def _said(
    name: str, values: Array, axis: int | None, signature: Signature, samples: Samples, reading: Reading, row: int
) -> dict[str, Any]:
    if axis is None:
        return {name: values}
    if axis == 1 and values.ndim == 1:
        return best_labels(values, signature.classes, reading)
    if axis == 2 and samples.offsets is not None and len(samples.texts) > row:
        return {"tokens": _token_labels(values, signature.classes, samples.texts[row], samples.offsets[row], reading)}
    if axis == 1 and values.ndim == 3 and len(signature.classes) <= MOST_CLASSES and _has_pictures(signature):
        return {"mask": _mask(values, signature.classes)}
    return {name: values}


def _has_pictures(signature: Signature) -> bool:
    return any(isinstance(spec, ImageInput) for spec in signature.preprocessing)


def best_labels(values: Array, classes: Sequence[str], reading: Reading) -> dict[str, Any]:
    """The best labels of one sample with their scores; no label for scores of NaN.

    Args:
        values: ``float[C]``.
    """
    if np.isnan(values).any():
        return {"label": None, "score": None, "labels": []}
    scores = scores_of(values, reading.scores)
    order = np.argsort(-scores, kind="stable")[: reading.top_k].tolist()
    labels = [{"label": classes[index], "score": scores[index]} for index in order]
    return {**labels[0], "labels": labels}


def _token_labels(
    values: Array, classes: Sequence[str], text: str, offsets: Array, reading: Reading
) -> list[dict[str, Any]]:
    """The label of every token that stands in the text, with its place."""
    scores = scores_of(values, reading.scores)
    best = scores.argmax(axis=-1)
    found = []
    for index, (start, end) in enumerate(offsets.tolist()[: len(values)]):
        if end > start:
            token = {"text": text[start:end], "start": start, "end": end}
            found.append({**token, "label": classes[best[index]], "score": scores[index, best[index]]})
    return found


def _mask(values: Array, classes: Sequence[str]) -> dict[str, Any]:
    """The class of every pixel as a PNG in base64, and the share of the pixels that each class has."""
    best = values.argmax(axis=0).astype(np.uint8)
    content = io.BytesIO()
    pillow().fromarray(best).save(content, "PNG")
    counts = np.bincount(best.ravel(), minlength=len(classes)) / best.size
    shares = {name: round(float(share), 6) for name, share in zip(classes, counts, strict=True) if share}
    return {"size": list(best.shape), "shares": shares, "png": base64.b64encode(content.getvalue()).decode()}


def _boxes(
    outputs: Mapping[str, Array], signature: Signature, samples: Samples, reading: Reading
) -> list[list[dict[str, Any]]] | None:
    """The boxes of a detector in pixels of the pictures as they were sent; None for other models.

    The last of the class scores of such a detector may be that of no object.
    """
    if not {BOXES, LOGITS} <= set(outputs) or outputs[BOXES].ndim != 3 or len(samples.pictures) != len(outputs[BOXES]):
        return None
    spec = next((spec for spec in signature.preprocessing if isinstance(spec, ImageInput)), None)
    logits = outputs[LOGITS]
    if spec is None or logits.ndim != 3 or spec.resize:
        return None
    count = len(signature.classes) or logits.shape[-1]
    softmax = logits.shape[-1] == count + 1 or reading.scores == "softmax"
    scores = scores_of(logits, "softmax" if softmax else "sigmoid")[..., :count]
    return [
        _boxes_of(boxes, own, signature.classes, size)
        for boxes, own, size in zip(outputs[BOXES], scores, samples.pictures, strict=True)
    ]


def _boxes_of(boxes: Array, scores: Array, classes: Sequence[str], size: tuple[int, int]) -> list[dict[str, Any]]:
    best = scores.argmax(axis=-1)
    own = scores[np.arange(len(scores)), best]
    found = []
    for index in np.argsort(-own, kind="stable").tolist():
        if not own[index] >= LEAST_SCORE:
            break
        x, y, width, height = boxes[index].astype(np.float64)
        corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * np.array([*size, *size])
        label = classes[best[index]] if classes else str(best[index])
        found.append({"label": label, "score": own[index], "box": [round(float(corner), 1) for corner in corners]})
    return found
