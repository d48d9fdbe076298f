"""Folders of images and of recordings as splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...options.data_options import AudioOptions, ImageOptions
from ...options.stage_options import Task
from ...tensors import Array
from ..input_parts import LoadedPart, SourceSplits, file_state
from .images import IMAGES, LOOKED_AT, decode, own_shape, pixel_settings
from .listed_files import file_splits
from .sounds import SOUNDS, read_sound, require_equal, sound_settings


def image_splits(folder: Path, options: ImageOptions, task: Task | None = None) -> SourceSplits:
    """Images as ``float32[N, C, H, W]``, with labels from folders or from a table.

    Raises:
        DataError: there are no images, or files of the table are missing.
    """

    seen: list[Path] = []

    def _make(paths: Sequence[Path]) -> LoadedPart:
        seen.extend(paths[:LOOKED_AT])
        return LoadedPart(options.name, paths, partial(_image, options), pixel_settings(options), file_state)

    found = file_splits(folder, IMAGES, "images", options, _make, task)
    remark = own_shape(seen, options)
    return replace(found, notes=(*found.notes, remark)) if remark else found


def _image(options: ImageOptions, path: Path) -> Array:
    return decode(path, str(path), options)


def audio_splits(folder: Path, options: AudioOptions, task: Task | None = None) -> SourceSplits:
    """Recordings as ``float32[N, samples]``, with labels from folders or from a table.

    Raises:
        DataError: there are no recordings, or they differ in rate or length and no option makes them equal.
        MachineError: soundfile is not installed.
    """
    checked: list[Path] = []

    def _make(paths: Sequence[Path]) -> LoadedPart:
        checked.extend(paths)
        return LoadedPart(options.name, paths, partial(_sound, options), sound_settings(options), file_state)

    found = file_splits(folder, SOUNDS, "recordings", options, _make, task)
    require_equal(dict.fromkeys(checked), options)
    return found


def _sound(options: AudioOptions, path: Path) -> Array:
    return read_sound(path, str(path), options)
