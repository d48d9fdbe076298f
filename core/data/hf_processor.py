"""The processor files of a Hugging Face folder, as descriptions of how raw samples become inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..preprocessing.specs import ImageInput, Preprocessing, Resample, SoundInput
from .hf_tokenizer import LONGEST, TokenizerEncoder
from .input_parts import readable

PROCESSOR = "preprocessor_config.json"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
_RESAMPLES: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""The filters by Pillow's numbers."""
_KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
_SHORT_EDGE = 384
"""Edge from which processors with `crop_pct` stretch an image instead of cutting its middle out."""


@dataclass(frozen=True)
class Processor:
    """What a folder says.

    Attributes:
        preprocessing: the descriptions; empty if the folder has none that Retort can follow.
        tokenizer: the file of its tokenizer, empty without one.
    """

    preprocessing: tuple[Preprocessing, ...] = ()
    tokenizer: bytes = b""


def read_processor(path: Path) -> Processor:
    """The processor of a folder, or of a ``tokenizer.json``.

    Raises:
        DataError: a file cannot be read.
        MachineError: transformers, which reads tokenizers, is not installed.
        UserError: the file is no tokenizer.
    """
    if path.is_file() and path.suffix == ".json" and path.name != PROCESSOR:
        return _tokenizer(path)
    config = _config(path if path.is_file() else path / PROCESSOR)
    media = _image(config) or _sound(config)
    if media is not None:
        return Processor((media,))
    if path.is_dir() and any((path / name).is_file() for name in TOKENIZERS):
        return _tokenizer(path)
    return Processor()


def _tokenizer(path: Path) -> Processor:
    encoder = TokenizerEncoder(path)
    places = _config(path / "config.json").get("max_position_embeddings") if path.is_dir() else None
    most = places if isinstance(places, int) and places > 0 else LONGEST
    spec = encoder.describe(min(encoder.limit, LONGEST, most), False, False)
    return Processor(() if spec is None else (spec,), encoder.tokenizer)


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    with readable(path):
        content = path.read_bytes()
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {str(error)[:80]}", "save the processor again") from error
    return found if isinstance(found, dict) else {}


def _image(config: Mapping[str, Any]) -> ImageInput | None:
    """The steps of an image processor; None if it has other ones, such as a size that depends on the image."""
    if "image_mean" not in config and "size" not in config:
        return None
    steps = {name for name, value in config.items() if name.startswith("do_") and value}
    if not steps <= _KNOWN_STEPS or not config.get("do_resize", True):
        return None
    size, cut = _edges(config.get("size")), _edges(config.get("crop_size"))
    if not isinstance(config.get("do_center_crop", False), bool) or size is None:
        return None
    resize = 0
    if isinstance(size, int):
        if cut is not None and config.get("do_center_crop"):
            resize, size = size, cut
        elif config.get("crop_pct") and size < _SHORT_EDGE:
            resize = int(size / float(config["crop_pct"]))
    elif config.get("do_center_crop") and cut is not None and cut != size:
        return None  # a stretched image whose middle is cut out
    shape = (size, size) if isinstance(size, int) else size
    scaled = config.get("do_rescale", True)
    normal = config.get("do_normalize", True)
    return ImageInput(
        input="pixel_values",
        size=shape,
        resize=resize,
        mean=_numbers(config.get("image_mean"), 0.0) if normal else (0.0,),
        std=_numbers(config.get("image_std"), 1.0) if normal else (1.0,),
        scale=round(1 / float(config.get("rescale_factor", 1 / 255)), 6) if scaled else 1.0,
        resample=_RESAMPLES.get(config.get("resample", 2), "bilinear"),
        floor=True,
    )


def _edges(size: object) -> int | tuple[int, int] | None:
    """Height and width, or the shorter edge alone; None for sizes that depend on the image."""
    if isinstance(size, int):
        return (size, size)
    if not isinstance(size, Mapping):
        return None
    found = {name: value for name, value in size.items() if value is not None}
    if set(found) == {"height", "width"}:
        return (int(found["height"]), int(found["width"]))
    return int(found["shortest_edge"]) if set(found) == {"shortest_edge"} else None


def _numbers(values: object, default: float) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, list) else (default,)


def _sound(config: Mapping[str, Any]) -> SoundInput | None:
    """The steps of a processor that gives the wave itself; None for those that give spectrograms."""
    if config.get("feature_size") != 1 or "sampling_rate" not in config or "num_mel_bins" in config:
        return None
    return SoundInput("input_values", int(config["sampling_rate"]), normalize=bool(config.get("do_normalize", False)))
