"""Conversion of samples to arrays by input name: tensors, arrays, tuples, mappings and batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ....core.counts import counted, with_article
from ....core.data.model_inputs import matched
from ....core.errors import DataError, InputError
from ....core.signature import Signature
from ....core.tensors import Array

TARGETS = ("labels", "label", "targets", "target")
"""Keys of a batch that are its targets if the model has no input with that name."""


def as_numpy(value: Any) -> Array:
    """Convert a tensor, an array, a number or a list of them to an array.

    Raises:
        DataError: the value contains no numbers.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{with_article(type(value).__name__)} is not an array: {error}", "give tensors or arrays of one shape"
        ) from error
    if array.dtype.kind not in "biufc":
        raise DataError(f"{with_article(type(value).__name__)} contains no numbers", "give tensors or arrays")
    return array


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def bound(signature: Signature, values: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a call by the names of the inputs.

    Raises:
        InputError: there are too many values, or one is given twice; ``signature.validate`` reports missing ones.
    """
    names = [spec.name for spec in signature.inputs]
    if len(values) == 1 and isinstance(values[0], Mapping):
        return bound(signature, [], {**values[0], **named})
    if len(values) > len(names):
        raise InputError(
            f"{counted(values, 'input')} were given, but the model takes {len(names)}",
            f"give {signature.describe_inputs()}",
        )
    twice = sorted(set(names[: len(values)]) & set(named))
    if twice:
        raise InputError(f"input '{twice[0]}' is given by position and by name", "give each input once")
    return {**dict(zip(names, values)), **named}


def like_inputs(outputs: dict[str, Any], convert: Callable[[Any], Any] | None) -> Any:
    """Return a single output directly and several as a mapping, converted if requested."""
    made = {name: value if convert is None else convert(value) for name, value in outputs.items()}
    return next(iter(made.values())) if len(made) == 1 else made


def taken_apart(batch: Any, names: Sequence[str], where: str = "a batch") -> tuple[dict[str, Any], Any]:
    """The inputs of a batch or a sample by name, and its targets or None.

    A mapping is read by name (see :func:`retort.core.data.model_inputs.matched`): unknown keys are ignored, and
    ``labels``, ``label``, ``targets`` or ``target`` are the targets. In a tuple, one value after the model's inputs is
    the targets.

    Args:
        names: names of the model's inputs, in order.
        where: name of the batch for error messages.

    Raises:
        DataError: it does not contain the model's inputs.
    """
    if isinstance(batch, Mapping):
        return _from_mapping(batch, names, where)
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if len(parts) in (1, 2) and isinstance(parts[0], Mapping | tuple | list) and not _is_number_list(parts[0]):
        inputs, inner = taken_apart(parts[0], names, where)
        return inputs, parts[-1] if len(parts) == 2 else inner
    if len(parts) not in (len(names), len(names) + 1):
        raise DataError(
            f"{where} has {counted(parts, 'value')}, but the model takes {len(names)}: {', '.join(names)}",
            "give (inputs …, targets), or a mapping with the names of the inputs",
        )
    return dict(zip(names, parts)), parts[len(names)] if len(parts) > len(names) else None


def spread(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs in which lists, tuples and mappings of arrays are inputs of their own, such as a cache of keys and values.

    ``past_key_values`` of pairs becomes ``past_key_values_0_0``, ``past_key_values_0_1`` and so on. A list of arrays
    stays one array of samples, unless each of them has as many rows as another input.
    """
    rows = {len(value) for value in inputs.values() if is_array(value) and value.ndim}
    return {name: part for key, value in inputs.items() for name, part in _leaves(key, value, rows)}


def _leaves(name: str, value: Any, rows: set[int]) -> Iterator[tuple[str, Any]]:
    parts = _parts_of(value)
    nested = any(not is_array(part) for part in parts.values())
    if parts and (nested or all(part.ndim and len(part) in rows for part in parts.values())):
        for key, part in parts.items():
            inner = {len(item) for item in _parts_of(part).values() if is_array(item) and item.ndim}
            yield from _leaves(f"{name}_{key}", part, rows | inner)
    else:
        yield name, value


def _parts_of(value: Any) -> dict[str, Any]:
    """The arrays, or the containers of arrays, in a container; empty if there are others, or none."""
    if isinstance(value, Mapping):
        items = {str(key): part for key, part in value.items()}
    elif isinstance(value, list | tuple):
        items = {str(key): part for key, part in enumerate(value)}
    else:
        return {}
    return items if all(is_array(part) or _parts_of(part) for part in items.values()) else {}


def _is_number_list(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and isinstance(value[0], int | float)


def _from_mapping(batch: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[dict[str, Any], Any]:
    batch = batch if set(names) <= set(batch) else spread(batch)
    target = next((key for key in TARGETS if key in batch and key not in names), None)
    others = [key for key in batch if key != target]
    places = matched(others, names)
    if places is None:
        raise DataError(
            f"{where} contains {', '.join(map(str, batch))}, but the model takes {', '.join(names)}",
            "give the values the names of the model's inputs",
        )
    return {name: batch[key] for name, key in places.items()}, None if target is None else batch[target]


def example_feeds(forward: Callable[..., Any], example: Any, is_batch: bool) -> dict[str, Any]:
    """The inputs in an example for a model before capture, by the names in its forward.

    Args:
        forward: the forward method of the model.
        example: a tensor, a tuple or a mapping, or a batch of a loader with its targets.
        is_batch: it comes from a loader; values at the end of a tuple that the forward does not require are targets.

    Raises:
        DataError: it contains more values than the forward takes.
    """
    places, variadic = _places(forward)
    if isinstance(example, Mapping):
        required = {name for name, needed in places if needed}
        given = {key: value for key, value in example.items() if value is not None or key in required}
        feeds = {str(key): value for key, value in given.items() if key in required or key not in TARGETS}
        named = {name for name, _ in _parameters(forward)}
        known = {key: value for key, value in feeds.items() if key in named}
        return spread(known if required <= set(known) and known else feeds)
    values = list(example) if isinstance(example, tuple | list) else [example]
    if values and isinstance(values[0], Mapping | tuple | list):
        return example_feeds(forward, values[0], False)
    required_count = sum(needed for _, needed in places)
    while len(values) > required_count and values[-1] is None:  # a missing optional input
        values.pop()
    if len(places) == 1 and not variadic and not is_batch and len(values) > len(places) + 1:
        return {f"input_{index}": value for index, value in enumerate(values)}  # one list or tuple of all inputs
    most = len(values) if variadic else len(places)
    if is_batch and len(values) > max(required_count, 1):
        most = min(most, max(len(values) - 1, required_count))
    if len(values) - most > 1:
        raise DataError(
            f"the example has {counted(values, 'value')}, but the forward takes {most}: "
            f"{', '.join(name for name, _ in places)}",
            "give only the inputs, or (inputs …, targets)",
        )
    names = [name for name, _ in places] + [f"input_{index}" for index in range(len(places), len(values))]
    return spread(dict(zip(names, values[:most])))


def _parameters(forward: Callable[..., Any]) -> list[tuple[str, inspect.Parameter]]:
    return [(name, item) for name, item in inspect.signature(forward).parameters.items() if item.kind in _BY_NAME]


def _places(forward: Callable[..., Any]) -> tuple[list[tuple[str, bool]], bool]:
    """The positional parameters of a forward, whether each is required, and whether it takes any number of them."""
    found = inspect.signature(forward).parameters.values()
    places = [(item.name, item.default is item.empty) for item in found if item.kind in _BY_PLACE]
    return places, any(item.kind is item.VAR_POSITIONAL for item in found)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
