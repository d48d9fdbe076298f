"""Inputs of a split from several places: arrays, encoded texts, files; they are read together by index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..preprocessing.specs import ImageInput, Preprocessing, SoundInput
from ..system.user_paths import PIPE, what_is_at
from ..tensors import Array
from .splits import ArraySplit, Batch, Named, Split

Indices = Sequence[int] | NDArray[np.integer[Any]]


class InputPart(Protocol):
    """Some inputs of all samples of a split."""

    def read(self, indices: Indices) -> dict[str, Array]:
        """One array per input with a leading batch axis."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the samples change."""
        ...


@dataclass(frozen=True)
class ArraysPart:
    """Inputs in memory, or in a file that is mapped into memory.

    Attributes:
        identity: text that represents the content; without it, the bytes are hashed.
    """

    arrays: dict[str, Array]
    identity: str = ""

    def read(self, indices: Indices) -> dict[str, Array]:
        """See :meth:`InputPart.read`."""
        chosen = np.asarray(indices)
        return {name: standard(np.asarray(array[chosen]), name) for name, array in self.arrays.items()}

    def fingerprint(self) -> str:
        """See :meth:`InputPart.fingerprint`."""
        return self.identity or ArraySplit(self.arrays).fingerprint()


@dataclass(frozen=True)
class LoadedPart:
    """One input that is loaded sample by sample when it is read, such as images in files.

    Attributes:
        name: of the input.
        items: what identifies each sample, such as its file.
        load: makes the array of a sample of one of ``items``.
        settings: text that represents how samples are loaded.
        state: text that represents the content of an item.
        spec: how a file becomes the array.
        content: reads the bytes of the file of an item.
    """

    name: str
    items: Sequence[Any]
    load: Callable[[Any], Array]
    settings: str
    state: Callable[[Any], str]
    spec: ImageInput | SoundInput | None = None
    content: Callable[[Any], bytes] | None = None

    def read(self, indices: Indices) -> dict[str, Array]:
        """See :meth:`InputPart.read`."""
        return {self.name: np.stack([self.load(self.items[int(index)]) for index in indices])}

    def fingerprint(self) -> str:
        """See :meth:`InputPart.fingerprint`."""
        digest = hashlib.sha256(f"{self.name}|{self.settings}".encode())
        for item in self.items:
            digest.update(self.state(item).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class JoinedSplit:
    """A split whose inputs come from several parts.

    Attributes:
        parts: each with the same number of samples.
        count: number of samples.
        targets: class indices or values, or None.
    """

    parts: tuple[InputPart, ...]
    count: int
    targets: Array | None = None

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Indices) -> Batch:
        """See :meth:`retort.core.data.splits.Split.read`."""
        inputs = {name: array for part in self.parts for name, array in part.read(indices).items()}
        return inputs, None if self.targets is None else self.targets[np.asarray(indices)]

    def fingerprint(self) -> str:
        """Hash of the parts and the targets."""
        digest = hashlib.sha256("|".join(part.fingerprint() for part in self.parts).encode())
        if self.targets is not None:
            digest.update(f"{self.targets.dtype}".encode() + np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class SourceSplits:
    """What a source has: its splits, the names of its classes, remarks about how it was read, and what describes it.

    Attributes:
        symbols: the characters of its texts in the order of their numbers, if they are numbered.
        features: the names of the columns of a table that are features, if they have names.
        preprocessing: how its pictures, texts and recordings become inputs.
        tokenizer: the file of the tokenizer of its texts, empty without one.
    """

    splits: Named
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    symbols: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    preprocessing: tuple[Preprocessing, ...] = ()
    tokenizer: bytes = b""


def joined(parts: Sequence[InputPart], count: int, targets: Array | None) -> Split:
    """A split of parts; in memory if they are."""
    if all(isinstance(part, ArraysPart) and not part.identity for part in parts):
        arrays = {name: array for part in parts if isinstance(part, ArraysPart) for name, array in part.arrays.items()}
        return ArraySplit(arrays, targets)
    return JoinedSplit(tuple(parts), count, targets)


def standard(array: Array, where: str) -> Array:
    """An array in the type that stages use: float32 for float64, int64 for whole numbers, uint8 and others as they are.

    Raises:
        DataError: it contains no numbers.
    """
    if array.dtype.kind == "c":
        raise DataError(
            f"{where} contains complex numbers, which no model takes",
            "give their real and imaginary parts as numbers: np.stack([x.real, x.imag], axis=1)",
        )
    if array.dtype.kind not in "biuf":
        kind = "text" if array.dtype.kind in "US" else "Python objects"
        raise DataError(f"{where} contains {kind} instead of numbers", "convert it to a numeric array")
    if array.dtype == np.float64:
        return as_float32(array)
    return array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array


def as_float32(array: Array) -> Array:
    """As float32; numbers beyond its range become infinite, which is refused later with their place."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def file_state(path: Path) -> str:
    """Name, size and time of the last change of a file: they change with its content and cost no reading."""
    state = path.stat()
    return f"{path.parent.name}/{path.name}|{state.st_size}|{state.st_mtime_ns}"


@contextmanager
def readable(path: Path, remedy: str = "check the file and the disk") -> Iterator[None]:
    """Turn an error of the system while a path is read into one sentence about the path.

    Raises:
        DataError: the path may not be read, is a pipe or a device, or the disk fails.
    """
    if what_is_at(path) == PIPE:
        raise DataError(f"{path} {PIPE}", "save the data to a file first")
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read", f"allow it: chmod u+r{'x' * path.is_dir()} {path}") from error
    except OSError as error:
        text = error.strerror or str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read: {text}", remedy) from error
