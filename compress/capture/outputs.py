"""The outputs of any model as a flat list of named tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ...core.counts import counted, with_article
from ...core.errors import CaptureError, UserError
from ..graph.workarounds import pytree

SINGLE = "output"


def flatten(value: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors in a model's return value, each with a readable path; values that are not tensors are dropped.

    Args:
        value: a tensor, or any nesting of mappings, dataclasses, sequences and pytrees of PyTorch.

    Raises:
        CaptureError: an object has an unknown structure, or there is no tensor.
    """
    found = list(_walk(value, ()))
    if not found:
        raise CaptureError(
            "the model returns no tensor", "return a tensor, or a tuple or dict of tensors, from its forward"
        )
    if len(found) == 1 and not any(isinstance(part, str) for part in found[0][0]):
        return [(SINGLE, found[0][1])]
    return [("_".join(map(str, _rooted(path))), tensor) for path, tensor in found]


def unique_names(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Names of letters, digits and ``_ . -`` that differ from each other and from ``taken``."""
    inputs = set(taken)
    used, names = set(inputs), []
    for raw in wanted:
        base = re.sub(r"[^\w.\-]", "_", raw) or SINGLE
        stem = f"{base}_out" if base in inputs else base
        name, count = stem, 1
        while name in used:
            count += 1
            name = f"{stem}_{count}"
        used.add(name)
        names.append(name)
    return names


def choose_names(given: Iterable[str] | None, found: list[str], inputs: Iterable[str]) -> list[str]:
    """The caller's output names, or readable ones.

    Raises:
        UserError: the number of names is wrong, or two names are equal.
    """
    if given is None:
        return unique_names(found, inputs)
    names = list(given)
    if len(names) != len(found) or len({*names, *inputs}) != len(names) + len(set(inputs)):
        raise UserError(
            f"output_names gives {', '.join(names) or 'nothing'}, but the model has {counted(found, 'output')}: "
            f"{', '.join(found)}",
            "give one name per output; names must differ from each other and from the names of the inputs",
        )
    return names


def _walk(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    for key, item in _children(value):
        yield from _walk(item, (*path, key))


def _children(value: Any) -> list[tuple[str | int, Any]]:
    if value is None or isinstance(value, int | float | complex | str | bytes | torch.SymInt | torch.SymFloat):
        return []
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    leaves, _ = pytree.tree_flatten(value)
    if len(leaves) == 1 and leaves[0] is value:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise CaptureError(
            f"the model returns {with_article(name)}, which contains no tensors that can be named",
            "return tensors in a tuple, a dict or a dataclass (a Hugging Face model: set `use_cache=False`)",
        )
    return list(enumerate(leaves))


def _rooted(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return path if isinstance(path[0], str) else (SINGLE, *path)
