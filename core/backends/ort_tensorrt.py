"""Options of ONNX Runtime's TensorRT provider: the shapes of its profile and the folder of its engines.

Part of the runtime half: standard library only. Unless it knows all three shapes of every input, the provider builds a
new engine, which takes minutes, for every new shape. Without a cache it builds an engine in every process.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, StorageError, UserError
from ..session import Ranges, SessionOptions
from ..signature import Signature
from ..system.cache import cache_folder
from ..tensors import BATCH, Feeds, TensorSpec, multiple

PROVIDER = "TensorrtExecutionProvider"
BATCHES = (1, 8, 64)
"""Default of the smallest, usual and largest batch size."""
OFF = "off"
_KEYS = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


def tensorrt_options(
    model: Path | bytes, signature: Signature, options: SessionOptions
) -> tuple[dict[str, str], Ranges | None]:
    """Options of the provider for this model; those in ``options.provider_options`` take precedence.

    Returns:
        The options, and the allowed ranges of the axes; None if the user's options contain the profile.

    Raises:
        UserError: a dynamic axis has no range, or a range is invalid.
        StorageError: the folder of the engines cannot be written.
    """
    given = dict(options.provider_options.get(PROVIDER, {}))
    found: dict[str, str] = {}
    ranges: Ranges | None = None
    if not any(key in given for key in _KEYS):
        ranges = ranges_of(signature, options.ranges)
        found |= _profile(signature, ranges)
    if "trt_engine_cache_path" not in given and options.engine_cache != OFF:
        found |= _cache(model, options.engine_cache)
    if _holds(model, b"QuantizeLinear"):
        found["trt_int8_enable"] = "1"  # TensorRT 10 rejects Q/DQ nodes without this flag; nothing is calibrated
    return found | given, ranges


def ranges_of(signature: Signature, given: Ranges) -> dict[str, tuple[int, int, int]]:
    """The range of every dynamic axis, by name.

    Raises:
        UserError: an axis does not exist, has no range, or its range does not fit.
    """
    axes = [size for spec in signature.inputs for size in spec.shape if isinstance(size, str)]
    shown = ", ".join(dict.fromkeys(axes)) or "none: every axis is fixed"
    unknown = [name for name in given if name not in axes and name != BATCH]
    if unknown:
        raise UserError(
            f"the model has no dynamic axis '{unknown[0]}'; its dynamic axes are {shown}", "name one of them"
        )
    found = {name: given[name] for name in axes if name in given} | ({} if BATCH in given else {BATCH: BATCHES})
    for name in axes:
        if name not in found:
            raise UserError(
                f"TensorRT needs a range for the dynamic axis '{name}'",
                f"give one with --axis {name}=8:64:256 (smallest:usual:largest)",
            )
        _require_order(name, found[name])
    return found


def require_inside(signature: Signature, feeds: Feeds, ranges: Ranges) -> None:
    """Reject a batch for which the provider would silently build another engine.

    Raises:
        InputError: an axis is outside its range.
    """
    for spec in signature.inputs:
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            low, _, high = ranges[axis] if isinstance(axis, str) else (size, size, size)
            if not low <= size <= high:
                raise InputError(
                    f"axis '{axis}' of input '{spec.name}' is {size}, outside the engine's {low} to {high}",
                    f"open the model with a wider range: --axis {axis}={min(low, size)}:{size}:{max(high, size)}",
                    input=spec.name,
                )


def _require_order(name: str, wanted: tuple[int, int, int]) -> None:
    low, usual, high = wanted
    step, _ = multiple(name)
    if not 1 <= low <= usual <= high:
        raise UserError(
            f"axis '{name}': {low}:{usual}:{high} is not smallest:usual:largest",
            "give the three sizes in ascending order",
        )
    odd = [size for size in wanted if size % step]
    if odd:
        raise UserError(f"axis '{name}' takes multiples of {step}, not {odd[0]}", f"give it multiples of {step}")


def _profile(signature: Signature, ranges: Ranges) -> dict[str, str]:
    specs = [spec for spec in signature.inputs if any(isinstance(size, str) for size in spec.shape)]
    shapes = [",".join(_shape(spec, ranges, which) for spec in specs) for which in range(len(_KEYS))]
    return dict(zip(_KEYS, shapes, strict=True)) if specs else {}


def _shape(spec: TensorSpec, ranges: Ranges, which: int) -> str:
    sizes = [ranges[size][which] if isinstance(size, str) else size for size in spec.shape]
    return f"{spec.name}:{'x'.join(map(str, sizes))}"


def _cache(model: Path | bytes, wanted: str) -> dict[str, str]:
    """Store engines and timings under the hash of the model, so that an engine of another model is never used."""
    folder = Path(wanted).expanduser() if wanted else cache_folder("engines")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"the folder of engines {folder} cannot be written: {error.strerror}",
            f"name another folder with --engine-cache, or none with --engine-cache {OFF}",
        ) from error
    place = str(folder.resolve())
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": place,
        "trt_engine_cache_prefix": f"retort-{_digest(model)[:16]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": place,
    }


@contextmanager
def _content(model: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a model, memory-mapped if they are in a file."""
    if isinstance(model, bytes):
        yield model
        return
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _digest(model: Path | bytes) -> str:
    """Hash of a model and of its files of external weights."""
    with _content(model) as content:
        found = hashlib.sha256(content)
        files = sorted(model.parent.iterdir()) if isinstance(model, Path) else []
        named = [file for file in files if file.is_file() and file != model and content.find(file.name.encode()) >= 0]
    for file in named:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _holds(model: Path | bytes, word: bytes) -> bool:
    with _content(model) as content:
        return content.find(word) >= 0
