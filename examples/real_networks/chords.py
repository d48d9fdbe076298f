"""Basic Pitch, a transcriber of polyphonic music, from the ONNX file of its package, on synthesised chords.

Bittner et al., "A lightweight instrument-agnostic model for polyphonic note transcription and multipitch estimation",
ICASSP 2022. The metric is the F1 score of notes without offsets: a note is right if its pitch is right and its onset
differs by at most 50 ms.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .packages import Array, Floats, Outputs, Scores, draws, package_folder

RATE_HZ, COUNT, HOP, FRAMES, LOWEST_KEY = 22050, 43844, 256, 172, 21
ONSET, FRAME, SHORTEST, NEAR_S = 0.5, 0.3, 6, 0.05
COUNTS = {"train": 4, "validation": 24, "calibration": 48, "test": 64}
Note = tuple[float, int]
"""Onset in seconds, and key of a piano from 0 to 87."""


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("basic_pitch", "basic-pitch") / "saved_models/icassp_2022/nmp.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Sound ``[N, 43844, 1]``, two seconds each, in four splits."""
    return {split: {"sound": music(split)[0]} for split in COUNTS}


@cache
def music(split: str) -> tuple[Array, list[list[Note]]]:
    """Sound ``[N, 43844, 1]`` of three to five chords of one to four notes each, and the notes."""
    sounds, notes = [], []
    for draw in draws(COUNTS, split):
        sound, played = np.zeros(COUNT), []
        onsets = np.linspace(0.1, 1.9, draw.integers(4, 7))
        for start, end in pairwise(onsets):
            for key in draw.choice(np.arange(18, 64), draw.integers(1, 5), replace=False):
                sound += _tone(draw, int(key), start, 0.9 * (end - start))
                played.append((float(start), int(key)))
        sound += draw.normal(size=COUNT) * 10 ** (draw.uniform(-60, -35) / 20)
        sounds.append(0.7 * sound / np.abs(sound).max())
        notes.append(played)
    return np.array(sounds, np.float32)[..., None], notes


def _tone(draw: np.random.Generator, key: int, start_s: float, length_s: float) -> Floats:
    """A plucked tone of up to twelve harmonics ``[43844]``."""
    pitch = 440 * 2 ** ((key + LOWEST_KEY - 69) / 12)
    inside = slice(int(start_s * RATE_HZ), int((start_s + length_s) * RATE_HZ))
    time = np.arange(inside.stop - inside.start) / RATE_HZ
    order = np.arange(1, min(12, int(9000 / pitch)) + 1)
    gains = order ** -draw.uniform(0.8, 1.8)
    shape = np.clip(time / 0.008, 0, 1) * np.clip((length_s - time) / 0.02, 0, 1)
    shape *= np.exp(-draw.uniform(0.5, 3) * time)
    phases = draw.uniform(0, 2 * np.pi, len(order))[:, None]
    sound = np.zeros(COUNT)
    sound[inside] = draw.uniform(0.4, 1) * shape * (gains @ np.sin(2 * np.pi * np.outer(order, pitch * time) + phases))
    return sound


def scores(name: str, outputs: Outputs) -> Scores:
    """Twice the number of right notes, and the number of notes found and played, of each test sample."""
    notes, onsets = _note_outputs(outputs)
    wanted = music("test")[1]
    right, total = [], []
    for note, onset, truth in zip(notes, onsets, wanted, strict=True):
        found = transcribed(note, onset)
        right.append(2.0 * _matches(found, truth))
        total.append(float(len(found) + len(truth)))
    return np.array(right), np.array(total)


def decisions(name: str, outputs: Outputs) -> NDArray[np.bool_]:
    """Which keys sound in which frames ``[N, 172, 88]``."""
    return _note_outputs(outputs)[0] > FRAME


def _note_outputs(outputs: Outputs) -> tuple[Array, Array]:
    """Activations of notes and of onsets, both ``[N, 172, 88]``; the file lists onsets first."""
    onsets, notes = (value for value in outputs.values() if value.shape[-1] == 88)
    return notes, onsets


def transcribed(notes: Array, onsets: Array) -> list[Note]:
    """Notes from activations ``[172, 88]``: peaks of onsets whose key sounds for six frames, as the package does."""
    before, after = np.zeros_like(onsets), np.zeros_like(onsets)
    before[1:], after[:-1] = onsets[:-1], onsets[1:]
    found = []
    for frame, key in zip(*np.nonzero((onsets >= ONSET) & (onsets > before) & (onsets >= after)), strict=True):
        quiet = np.nonzero(notes[frame:, key] < FRAME)[0]
        if (quiet[0] if len(quiet) else FRAMES - frame) >= SHORTEST:
            found.append((frame * HOP / RATE_HZ, int(key)))
    return found


def _matches(found: list[Note], wanted: list[Note]) -> int:
    left = list(wanted)
    for onset, key in found:
        match = next((note for note in left if note[1] == key and abs(note[0] - onset) <= NEAR_S), None)
        if match is not None:
            left.remove(match)
    return len(wanted) - len(left)
