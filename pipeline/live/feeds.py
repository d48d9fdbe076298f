"""Samples of any make as arrays by the names of a model's inputs: tensors, arrays, tuples, mappings, batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...core.errors import DataError, InputError
from ...core.tensors import Array, Signature

TARGETS = ("labels", "label", "targets", "target")
"""Keys of a batch that are taken for its targets where the model has no such input."""


def as_numpy(value: Any) -> Array:
    """An array of what a tensor, an array, a number or a list of them holds.

    Raises:
        DataError: it holds no numbers.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"a {type(value).__name__} is no array: {error}", "give tensors or arrays of one shape"
        ) from error
    if array.dtype.kind not in "biufc":
        raise DataError(f"a {type(value).__name__} holds no numbers", "give tensors or arrays")
    return array


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def bound(signature: Signature, values: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """What a call gives, by the names of the inputs.

    Raises:
        InputError: too many values, or one that is given twice; what is missing is told by ``signature.validate``.
    """
    names = [spec.name for spec in signature.inputs]
    if len(values) == 1 and isinstance(values[0], Mapping):
        return bound(signature, [], {**values[0], **named})
    if len(values) > len(names):
        raise InputError(
            f"{len(values)} inputs were given, the model takes {len(names)}", f"give {signature.describe_inputs()}"
        )
    twice = sorted(set(names[: len(values)]) & set(named))
    if twice:
        raise InputError(f"input '{twice[0]}' is given by position and by name", "give it once")
    return {**dict(zip(names, values)), **named}


def like_inputs(outputs: dict[str, Any], convert: Callable[[Any], Any] | None) -> Any:
    """A single output bare, several as a mapping; converted where asked."""
    made = {name: value if convert is None else convert(value) for name, value in outputs.items()}
    return next(iter(made.values())) if len(made) == 1 else made


def taken_apart(batch: Any, names: Sequence[str], where: str = "a batch") -> tuple[dict[str, Any], Any]:
    """The inputs of a batch or a sample by name, and its targets or None.

    A mapping is read by name: what the model does not take is left out, and ``labels``, ``label``, ``targets`` or
    ``target`` are the targets. Of a tuple the values beyond the model's inputs are the targets: one at most.

    Args:
        names: of the model's inputs, in order.
        where: what the batch is called in errors.

    Raises:
        DataError: it does not hold the model's inputs.
    """
    if isinstance(batch, Mapping):
        return _from_mapping(batch, names, where)
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if len(parts) in (1, 2) and isinstance(parts[0], Mapping | tuple | list) and not _is_number_list(parts[0]):
        inputs, inner = taken_apart(parts[0], names, where)
        return inputs, parts[-1] if len(parts) == 2 else inner
    if len(parts) not in (len(names), len(names) + 1):
        raise DataError(
            f"{where} has {len(parts)} values; the model takes {len(names)}: {', '.join(names)}",
            "give (inputs …, targets), or a mapping with the names of the inputs",
        )
    return dict(zip(names, parts)), parts[len(names)] if len(parts) > len(names) else None


def _is_number_list(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and isinstance(value[0], int | float)


def _from_mapping(batch: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[dict[str, Any], Any]:
    target = next((key for key in TARGETS if key in batch and key not in names), None)
    others = [key for key in batch if key != target]
    if set(names) <= set(others):
        inputs = {name: batch[name] for name in names}
    elif len(others) == len(names):
        inputs = dict(zip(names, (batch[key] for key in others)))
    else:
        raise DataError(
            f"{where} holds {', '.join(map(str, batch))}; the model takes {', '.join(names)}",
            "name the values as the model's inputs",
        )
    return inputs, None if target is None else batch[target]


def example_feeds(forward: Callable[..., Any], example: Any, is_batch: bool) -> dict[str, Any]:
    """The inputs in an example of a model that is not captured yet, by the names in its forward.

    Args:
        forward: the model's.
        example: a tensor, a tuple or a mapping, or a batch of a loader with its targets.
        is_batch: it comes from a loader: what the forward does not require at the end of a tuple are the targets.

    Raises:
        DataError: it holds more than the forward takes.
    """
    places, variadic = _places(forward)
    if isinstance(example, Mapping):
        required = {name for name, needed in places if needed}
        feeds = {str(key): value for key, value in example.items() if key in required or key not in TARGETS}
        named = {name for name, _ in _parameters(forward)}
        known = {key: value for key, value in feeds.items() if key in named}
        return known if required <= set(known) and known else feeds
    values = list(example) if isinstance(example, tuple | list) else [example]
    if values and isinstance(values[0], Mapping | tuple | list):
        return example_feeds(forward, values[0], False)
    required_count = sum(needed for _, needed in places)
    most = len(values) if variadic else len(places)
    if is_batch and len(values) > max(required_count, 1):
        most = min(most, max(len(values) - 1, required_count))
    if len(values) - most > 1:
        raise DataError(
            f"the example has {len(values)} values; the forward takes {most}: {', '.join(name for name, _ in places)}",
            "give the inputs alone, or (inputs …, targets)",
        )
    names = [name for name, _ in places] + [f"input_{index}" for index in range(len(places), len(values))]
    return dict(zip(names, values[:most]))


def _parameters(forward: Callable[..., Any]) -> list[tuple[str, inspect.Parameter]]:
    return [(name, item) for name, item in inspect.signature(forward).parameters.items() if item.kind in _BY_NAME]


def _places(forward: Callable[..., Any]) -> tuple[list[tuple[str, bool]], bool]:
    """The positional parameters of a forward with whether each is required, and whether it takes any number."""
    found = inspect.signature(forward).parameters.values()
    places = [(item.name, item.default is item.empty) for item in found if item.kind in _BY_PLACE]
    return places, any(item.kind is item.VAR_POSITIONAL for item in found)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
