"""Folders of images and of recordings as splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...options.data_options import AudioOptions, ImageOptions
from ...options.stage_options import Task
from ...preprocessing.decode_images import read_image
from ...preprocessing.decode_sounds import read_sound
from ...preprocessing.specs import ImageInput, SoundInput
from ...tensors import Array
from ..input_parts import LoadedPart, SourceSplits, file_state
from .images import IMAGES, LOOKED_AT, image_input, own_shape
from .listed_files import file_splits
from .sounds import SOUNDS, common_rate, sound_input


def image_splits(folder: Path, options: ImageOptions, task: Task | None = None) -> SourceSplits:
    """Images as ``float32[N, C, H, W]``, with labels from folders or from a table.

    Raises:
        DataError: there are no images, or files of the table are missing.
    """

    seen: list[Path] = []

    def _make(paths: Sequence[Path]) -> LoadedPart:
        seen.extend(paths[:LOOKED_AT])
        return LoadedPart(options.name, paths, partial(_image, spec), str(spec), file_state, spec, Path.read_bytes)

    spec = image_input(options.name, options)
    found = replace(file_splits(folder, IMAGES, "images", options, _make, task), preprocessing=(spec,))
    remark = own_shape(seen, options)
    return replace(found, notes=(*found.notes, remark)) if remark else found


def _image(spec: ImageInput, path: Path) -> Array:
    return read_image(path, str(path), spec)


def audio_splits(folder: Path, options: AudioOptions, task: Task | None = None) -> SourceSplits:
    """Recordings as ``float32[N, samples]``, with labels from folders or from a table.

    Raises:
        DataError: there are no recordings, or they differ in rate or length and no option makes them equal.
        MachineError: soundfile is not installed.
    """
    checked: list[Path] = []

    def _make(paths: Sequence[Path]) -> LoadedPart:
        checked.extend(paths)
        return LoadedPart(options.name, paths, partial(_sound, spec), str(spec), file_state, spec, Path.read_bytes)

    spec = sound_input(options.name, options)
    found = file_splits(folder, SOUNDS, "recordings", options, _make, task)
    rate = common_rate(dict.fromkeys(checked), options)
    return replace(found, preprocessing=(sound_input(options.name, options, rate),))


def _sound(spec: SoundInput, path: Path) -> Array:
    return read_sound(path, str(path), spec)
