"""Possible causes of a broken form: data, training mode, order of channels, weights, scales and layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.context import Context
from ...core.counts import counted
from ...core.data.splits import Split, Splits
from ...core.metrics.all_outputs import floating, sqnr_of_all_db
from ...core.metrics.relative_error import error_by_largest
from ...core.session import Session
from ...core.tensors import Array
from .tensor_symptoms import Finding, blatant, faults, saturated, weaknesses

if TYPE_CHECKING:
    from .forms import Form

FLOAT_DB = 60.0
"""Centred SQNR in dB below which a floating-point form differs from the first form."""
BATCH_TOLERANCE = 1e-3
_SAMPLES, _INNER_SAMPLES, _MOST_CHANNELS = 128, 64, 4


def outputs_of(session: Session, feeds: dict[str, Array]) -> list[Array]:
    """The floating-point outputs; all outputs if there is none."""
    names = [spec.name for spec in session.signature.inputs]
    given = feeds if set(names) <= set(feeds) else dict(zip(names, feeds.values()))
    outputs = session.run(given)
    return floating(outputs) or list(outputs.values())


def common(forms: Sequence[Form], sessions: dict[str, Session], data: Splits, split: Split) -> list[Finding]:
    """Faults of the data and of forms in training mode."""
    found = []
    for form in forms:
        if form.name in sessions and not form.quantized and (detail := _depends_on_batch(sessions[form.name], split)):
            found.append(Finding("batch dependence", form.name, detail))
            break
    labels = [_classes(part) for part in (data.calibration, split)]
    if labels[0] and len(labels[0]) < 0.5 * len(labels[1]):
        detail = f"{len(labels[0])} of {counted(labels[1], 'class')} in it"
        found.append(Finding("calibration set", "the calibration split", detail))
    return found + _scale_of_inputs(forms[0], split)


def _classes(split: Split) -> set[int]:
    targets = split.read(range(min(len(split), 2048)))[1] if len(split) else None
    return set() if targets is None or targets.dtype.kind not in "iu" else set(np.unique(targets).tolist())


def _depends_on_batch(session: Session, split: Split) -> str:
    """How much the outputs of samples change with other samples in the batch; empty if they do not change."""
    if len(split) < 6:
        return ""
    one, other = (outputs_of(session, split.read(rows)[0]) for rows in ([0, 1, 2, 3], [0, 1, 4, 5]))
    changes = (error_by_largest(a[:2], b[:2], least=1e-12, equal_nan=True) for a, b in zip(one, other, strict=True))
    change = max(changes, default=0.0)
    return f"outputs change by {change:.1%} with the other samples of the batch" if change > BATCH_TOLERANCE else ""


def _scale_of_inputs(form: Form, split: Split) -> list[Finding]:
    """Whether samples have the same magnitude as those at capture."""
    if form.kind != "torch" or form.quantized:
        return []
    from ...compress.program import load_program

    program, found = load_program(form.path), []
    feeds = split.read(range(min(len(split), _SAMPLES)))[0]
    for name, tensor in program.example.items():
        values = feeds.get(name)
        if values is None or values.dtype.kind != "f" or not bool(tensor.abs().max() > 0):
            continue
        ratio = float(np.abs(values).max()) / float(tensor.abs().max())
        if not 0.15 < ratio < 8:
            detail = (
                "the magnitude of the samples differs from capture by a factor of "
                f"{max(ratio, 1 / max(ratio, 1e-12)):.3g}"
            )
            found.append(Finding("preprocessing scale", name, detail))
    return found


def explain(
    form: Form, first: Form, sessions: dict[str, Session], split: Split, wanted: list[Array] | None, context: Context
) -> list[Finding]:
    """Causes of the difference between a form and the first form."""
    found = _swapped_inputs(sessions[form.name], split, wanted) if form is not first and not form.quantized else []
    feeds = {**split.read(range(min(len(split), _INNER_SAMPLES)))[0]}
    if form.kind == "onnx":
        from .onnx_probe import structure_faults, tensors_of, weight_faults

        if not form.quantized:
            return found + (weight_faults(form.path, _parameters(first)) if first.kind == "torch" else [])
        found += structure_faults(form.path)
        tensors = tensors_of(form.path, feeds)
        return found + (
            faults(tensors) or weaknesses(tensors) if form.broken else blatant(tensors) + saturated(tensors)
        )
    if not form.quantized:
        return found
    from ...compress.program import load_program
    from .program_probe import axis_faults, stale_weights, weak_layers
    from .program_probe import tensors_of as inner

    program = load_program(form.path)
    tensors = inner(program, split)
    found += axis_faults(program)
    found += stale_weights(program) or (faults(tensors) if form.broken else blatant(tensors) + saturated(tensors))
    return found or (weak_layers(program, program, split, context.console) if form.broken else [])


def _parameters(form: Form) -> dict[str, Array]:
    from ...compress.program import load_program

    return {name: value.numpy() for name, value in load_program(form.path).module.state_dict().items()}


def _swapped_inputs(session: Session, split: Split, wanted: list[Array] | None) -> list[Finding]:
    """Whether another order of an input's channels reproduces the outputs of the first form."""
    feeds = split.read(range(len(split)))[0]
    for name, values in feeds.items():
        if wanted is None or values.ndim < 3 or not 2 <= values.shape[1] <= _MOST_CHANNELS:
            continue
        for order in itertools.permutations(range(values.shape[1])):
            if list(order) == sorted(order):
                continue
            found = outputs_of(session, {**feeds, name: np.ascontiguousarray(values[:, list(order)])})
            if sqnr_of_all_db(wanted, found) > FLOAT_DB:
                return [
                    Finding(
                        "swapped channels", name, f"with channels in the order {list(order)} the outputs are correct"
                    )
                ]
    return []
