"""The types that a file declares for its values: they are optional, but where they are wrong, the file does not run."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .graph_view import Finding, View, type_name


def t04_declared_types(view: View) -> Iterator[Finding]:
    """T04: values have the types that the file declares for them; ONNX Runtime rejects a file where they differ."""
    for name, declared, real in _stale(view):
        message = f"is declared as {type_name(declared)}, but is {type_name(real)}"
        yield Finding("T04", name, message, "run `retort lint --fix`, or export the model again")


def drop_stale(model: onnx.ModelProto) -> int:
    """Remove declarations of another type than a value has, and those of values that are gone.

    Returns:
        The number of wrong types.
    """
    view, declared = View(model), model.graph.value_info
    stale = {name for name, *_ in _stale(view)}
    if stale:
        known = {*view.stored, *view.producer} - stale
        kept = [value for value in declared if value.name in known]
        del declared[:]
        declared.extend(kept)
    return len(stale)


def _stale(view: View) -> list[tuple[str, int, int]]:
    """Values that are declared with another type than they have: name, declared type, real type."""
    inferred = {name: int(known.tensor_type.elem_type) for name, known in view.inferred[0].items()}
    real = inferred | {name: int(tensor.data_type) for name, tensor in view.stored.items()}
    declared = {value.name: int(value.type.tensor_type.elem_type) for value in view.graph.value_info}
    return [(name, kind, real[name]) for name, kind in declared.items() if kind and real.get(name, 0) not in (0, kind)]
