"""Whether models can be compared: outputs of other shapes are refused, and other differences become notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.counts import counted
from ..core.errors import UserError
from ..core.options.stage_options import BenchOptions
from ..core.signature import Signature
from ..core.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Compared:
    """What is known about one model of a comparison.

    Attributes:
        signature: its inputs and outputs.
        outputs: its outputs on the test samples, in order.
        runtime: what runs it, such as ``ONNX Runtime on the CPU``.
        judged: the output that is its prediction; by default the first.
    """

    signature: Signature
    outputs: Mapping[str, Array]
    runtime: str
    judged: str = ""

    @property
    def prediction(self) -> str:
        """The name of the output that is compared."""
        return self.judged or next(iter(self.outputs))


def differences(models: Mapping[str, Compared]) -> list[str]:
    """Notes about what differs between the models and the first one, apart from their values.

    Raises:
        UserError: a model gives other shapes for the same samples, so that its outputs mean something else.
    """
    names = list(models)
    first = models[names[0]]
    notes: list[str] = []
    for name in names[1:]:
        _raise_if_other_outputs(names[0], first, name, models[name])
        notes += _outputs_note(names[0], first, name, models[name])
        notes += _inputs_notes(names[0], first.signature, name, models[name].signature)
        if models[name].runtime != first.runtime:
            notes.append(
                f"'{names[0]}' ran in {first.runtime} and '{name}' in {models[name].runtime}, so the ratio of their "
                "times includes the change of the runtime"
            )
    return notes


def at_fixed_batch(models: Mapping[str, Signature], options: BenchOptions) -> tuple[BenchOptions, list[str]]:
    """Options that time models at the batch size that one of them was made for, and the note that says so.

    Raises:
        UserError: two models were made for different batch sizes, so that no size fits both.
    """
    sizes = {name: found.fixed_batch for name, found in models.items() if found.fixed_batch is not None}
    if not sizes:
        return options, []
    (first, size), *others = sizes.items()
    for name, other in others:
        if other != size:
            raise UserError(
                f"'{first}' was made for a batch size of {size} and '{name}' for {other}, so no batch size fits both",
                "export both with a dynamic batch axis, or for the same batch size",
            )
    if options.batch_sizes == (size,):
        return options, []
    note = f"latency was measured only at batch size {size}, for which '{first}' was made"
    return options.model_copy(update={"batch_sizes": (size,)}), [note]


def _raise_if_other_outputs(one: str, first: Compared, other: str, second: Compared) -> None:
    ours, theirs = (model.outputs[model.prediction].shape[1:] for model in (first, second))
    if ours != theirs:
        raise UserError(
            f"'{one}' and '{other}' cannot be compared: for one sample '{one}' gives {_values(ours)}, "
            f"and '{other}' gives {_values(theirs)}",
            "compare models that answer the same question, with the same classes in the same order",
        )


def _values(shape: Sequence[int]) -> str:
    if not shape:
        return "one value"
    return f"{shape[0]} values" if len(shape) == 1 else f"values of the shape {list(shape)}"


def _outputs_note(one: str, first: Compared, other: str, second: Compared) -> list[str]:
    ours, theirs = list(first.outputs), list(second.outputs)
    if len(ours) == len(theirs):
        return []
    return [
        f"'{one}' has {counted(ours, 'output')} and '{other}' has {counted(theirs, 'output')}; only "
        f"'{first.prediction}' and '{second.prediction}' are compared"
    ]


def _inputs_notes(one: str, first: Signature, other: str, second: Signature) -> list[str]:
    """Other types, and axes that are free in one model only, of inputs with the same name or place."""
    notes = []
    for ours, theirs in _pairs(first.inputs, second.inputs):
        if ours.dtype != theirs.dtype:
            notes.append(f"'{one}' reads {ours.name} as {ours.dtype}, and '{other}' reads it as {theirs.dtype}")
        for place, (size, else_size) in enumerate(zip(ours.shape, theirs.shape, strict=False)):
            if isinstance(size, str) != isinstance(else_size, str):
                free, fixed, number = (one, other, else_size) if isinstance(size, str) else (other, one, size)
                notes.append(
                    f"axis {place} of {ours.name} is free in '{free}', but '{fixed}' was made for a size of {number}"
                )
    return notes


def _pairs(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> list[tuple[TensorSpec, TensorSpec]]:
    named = {spec.name: spec for spec in theirs}
    if {spec.name for spec in ours} == set(named):
        return [(spec, named[spec.name]) for spec in ours]
    return list(zip(ours, theirs, strict=False))
