"""Checkpoints as people have them: the state dict of a model is found in a file, below its wrappers and prefixes.

What ``model.load_state_dict(state, strict=True)`` takes is taken, with the load hooks of the modules: renamed keys of
``weight_norm``, BatchNorm without ``num_batches_tracked``. Trainers put a state dict under a key (``state_dict``,
``model``, ``params_ema``) and prefixes before its names (``module.``, ``_orig_mod.``, ``model.``).
"""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ...core.data.references import KEY_SEPARATOR, file_and_key
from ...core.errors import ArtifactError, MissingFileError, ModelError
from ...core.options.recipe import nearest
from .matching_weights import fitting, load_matching, renamed

PREFERRED = ("state_dict", "model_state_dict", "model", "net", "module", "params")
"""Keys under which a trainer stores the trained model itself, not an average of it or another network."""
DEPTH, SHOWN, PREFIXES = 8, 12, 6
_DAMAGED = ("PytorchStreamReader", "zip archive", "central directory", "miniz", "Ran out of input", "unexpected EOF")
"""Parts of messages of PyTorch about files that end early or were changed."""

OTHERS = "the file has other weights that fit: "
"""Beginning of the note on a choice that may not be the user's."""

State = dict[str, Any]
_SCALARS = {
    type(np.dtype(name))
    for name in (
        "bool",
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    )
}
_SAFE: list[Any] = [
    *_SCALARS, np.dtype, np.ndarray, type(np.float64(0)), np.float64(0).__reduce__()[0],
    np.empty(0).__reduce__()[0], Namespace, PosixPath, PurePosixPath,
]  # fmt: skip
"""What trainers store beside tensors: numbers and arrays of NumPy, arguments, paths. Reading them runs no code."""


@dataclass(frozen=True)
class Found:
    """A state dict in a checkpoint.

    Attributes:
        where: keys that lead to it, joined by dots; empty for the file itself.
        prefix: what stands before every name of the model, such as ``module.``.
        state: tensors by the names of the model; with the metadata of PyTorch if nothing was removed.
        unused: names of the file that do not begin with the prefix.
    """

    where: str
    prefix: str
    state: State
    unused: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The keys and the prefix, which choose it behind ``#``."""
        return ".".join(part for part in (self.where, self.prefix.removesuffix(".")) if part)


def load_weights(
    model: nn.Module, path: Path, *, matching: bool = False, names: Mapping[str, str] | None = None
) -> list[str]:
    """Load a ``.safetensors`` file, or a checkpoint read with ``weights_only=True``, into a model.

    Args:
        model: gets the weights; it stays as it is if they do not fit.
        path: the file; behind ``#`` may stand the keys that lead to the state dict, and the prefix of its names:
            ``last.ckpt#ema.state_dict``, ``last.ckpt#state_dict.teacher``, ``last.ckpt#teacher``.
        matching: load only the weights whose names and shapes are those of the model; the others stay as they are.
        names: other names of the file's weights by pattern, as in :func:`renamed`.

    Returns:
        Notes for the user: where in the file the weights were found, and what was not used.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is truncated, contains pickled objects, or has no state dict.
        ModelError: keys are missing or unknown, or have another shape; or several state dicts fit.
    """
    file, wanted = file_and_key(path)
    if not file.is_file():
        raise MissingFileError(f"no such weights: {file}", "check the path of `weights`")
    content = _read(file)
    states = ((where, renamed(state, names or {})) for where, state in _state_dicts(content))
    found = [option for where, state in states for option in _options(model, where, state)]
    tries = [item for item in found if wanted in ("", item.where, item.label, item.prefix.removesuffix("."))]
    if not tries:
        raise _nothing(file, wanted, content, found)
    fits = [option for option in tries if _fits(model, option.state)]
    if matching and not fits:
        best = max(tries, key=lambda option: len(fitting(model, option.state)))
        return [*_notes(best, []), *load_matching(model, best.state, file)]
    chosen = _chosen(fits, file) if fits else None
    if chosen is None:
        raise _misfit(model, file, tries)
    model.load_state_dict(chosen.state)
    return _notes(chosen, fits)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(
                f"{path} is not a complete safetensors file: {error}", "save or copy the file again"
            ) from error
    if _is_torchscript(path):
        raise ArtifactError(
            f"{path} is a TorchScript program, not a state dict",
            "save its weights: torch.save(torch.jit.load(path).state_dict(), 'weights.pt')",
        )
    try:
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises zipfile, pickle and runtime errors alike
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    remedy = "save it with torch.save(model.state_dict(), path) or as safetensors"
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+\.\w+)|[Uu]nsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", text)
    if named:
        return ArtifactError(
            f"{path} contains pickled Python objects besides tensors ({named[1] or named[2]}), which can run code and "
            "are never loaded",
            remedy,
        )
    if isinstance(error, EOFError) or any(sign in text for sign in _DAMAGED):
        return ArtifactError(f"{path} is truncated or damaged", "copy or download the file again")
    reason = text.splitlines()[0] if text and "eights only" not in text else "it is no file of torch.save"
    return ArtifactError(f"{path} cannot be read as a state dict: {reason}", remedy)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _state_dicts(content: Any, where: str = "", depth: int = DEPTH) -> Iterator[tuple[str, State]]:
    """Every mapping from names to tensors in a checkpoint, the outermost first, with the keys that lead to it."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        tensors = {
            name: torch.from_numpy(value.copy())
            for name, value in content.items()
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        }
    if tensors:
        whole = all(isinstance(value, torch.Tensor) for value in content.values())
        yield where, content if whole else tensors  # type: ignore[misc]
    if depth:
        for key, value in content.items():
            yield from _state_dicts(value, f"{where}.{key}" if where else key, depth - 1)


def _options(model: nn.Module, where: str, state: State) -> Iterator[Found]:
    """The state dict as it is, and without the prefix under which most names of the model stand in it."""
    yield Found(where, "", state)
    own, counts = set(model.state_dict()), Counter[str]()
    for name in state:
        parts = name.split(".")
        for index in range(1, len(parts)):
            if ".".join(parts[index:]) in own:
                counts[".".join(parts[:index]) + "."] += 1
    for prefix, _ in counts.most_common(PREFIXES):
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        yield Found(where, prefix, inside, tuple(name for name in state if not name.startswith(prefix)))


def _fits(model: nn.Module, state: State) -> bool:
    """Whether PyTorch takes the state dict strictly; the model is as before."""
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    try:
        model.load_state_dict(state)
    except Exception:  # PyTorch raises RuntimeError; hooks of the user's modules may raise anything
        return False
    finally:
        model.load_state_dict(before, strict=False)
    return True


def _chosen(fits: list[Found], file: Path) -> Found:
    """The one that fits, or the trained model among several; an error if that is not clear."""
    places = _labels(fits)
    if len(places) == 1:
        return fits[0]
    preferred = [item for place, item in places.items() if place.rpartition(".")[2] in ("", *PREFERRED)]
    if len(preferred) == 1:
        return preferred[0]
    raise ModelError(
        f"{file} has several sets of weights that fit the model: {', '.join(places)}",
        f"choose one: `weights: {file.name}{KEY_SEPARATOR}{next(iter(places))}`",
    )


def _labels(fits: list[Found]) -> dict[str, Found]:
    """What fits, by its keys; with its prefix where only prefixes distinguish several sets under the same keys."""
    counts = Counter(item.where for item in fits)
    labels: dict[str, Found] = {}
    for item in fits:
        if item.where not in labels:  # as it is, without a prefix, it is the whole of what stands there
            labels[item.where if counts[item.where] == 1 or not item.prefix else item.label] = item
    return labels


def _notes(chosen: Found, fits: list[Found]) -> list[str]:
    notes = []
    if chosen.where or chosen.prefix:
        under = f"under '{chosen.where}'" if chosen.where else "in the file"
        without = f", without the prefix '{chosen.prefix}'" if chosen.prefix else ""
        notes.append(f"the weights were found {under}{without}")
    others = [label for label, item in _labels(fits).items() if item is not chosen]
    if others:
        notes.append(f"{OTHERS}{', '.join(others)} (choose with `{KEY_SEPARATOR}{others[0]}`)")
    if chosen.unused:
        more = f" and {len(chosen.unused) - 3} more" if len(chosen.unused) > 3 else ""
        notes.append(f"not used of the file: {', '.join(chosen.unused[:3])}{more}")
    return notes


def _nothing(file: Path, wanted: str, content: Any, found: list[Found]) -> ArtifactError:
    places = dict.fromkeys(item.label or "the file itself" for item in found)
    if wanted and places:
        return ArtifactError(f"{file} has no state dict under '{wanted}'", f"it has: {', '.join(places)}")
    keys = ", ".join(map(str, list(content)[:SHOWN])) if isinstance(content, Mapping) else type(content).__name__
    return ArtifactError(
        f"{file} contains no state dict (names with tensors); it holds: {keys or 'nothing'}",
        "save it with torch.save(model.state_dict(), path)",
    )


def _misfit(model: nn.Module, file: Path, tries: list[Found]) -> ModelError:
    """The faults of the state dict that fits best: shapes, missing and unknown keys."""
    own = model.state_dict()
    best = max(tries, key=lambda item: len(own.keys() & item.state.keys()))
    given = best.state
    faults = [
        f"{key} has shape {list(given[key].shape)} in the file and {list(own[key].shape)} in the model"
        for key in own
        if key in given and own[key].shape != given[key].shape
    ]
    faults += [f"missing: {key}{nearest(key, sorted(set(given) - set(own)))}" for key in own if key not in given]
    faults += [f"not in the model: {key}" for key in given if key not in own]
    shown = "".join(f"\n  {fault}" for fault in faults[:SHOWN])
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    under = f" (under '{best.where}')" if best.where else ""
    return ModelError(
        f"the weights in {file}{under} do not fit the model:{shown}{more}", "give the weights of this architecture"
    )
