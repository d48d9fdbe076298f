"""A pretrained speaker encoder, and synthesised voices for it: harmonic sounds that formants shape.

Install the package ``resemblyzer`` for the weights (``pip install --no-deps resemblyzer``); nothing is downloaded when
the example runs. Every speaker has a pitch and a vocal tract; every utterance is another sequence of vowels.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PACKAGE = "resemblyzer"
RATE_HZ, WINDOW, HOP, BANDS, FRAMES = 16000, 400, 160, 40, 160
UTTERANCES = 8
VOWELS_HZ = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
    (490, 1350, 1690),
)
"""The first three formants of vowels (Peterson and Barney, 1952)."""

Values = NDArray[np.float64]


class SpeakerEncoder(nn.Module):
    """Three LSTM layers of 256 over mel bands ``[N, 160, 40]``; gives embeddings ``[N, 256]`` of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(BANDS, 256, 3, batch_first=True), nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings."""
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        result: Tensor = raw / torch.norm(raw, dim=1, keepdim=True)
        return result


def speaker_encoder() -> SpeakerEncoder:
    """The encoder with the weights of the package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError("speaker_encoder needs the weights in the package: pip install --no-deps resemblyzer")
    state = torch.load(Path(found.origin).with_name("pretrained.pt"), "cpu", weights_only=True)
    model = SpeakerEncoder()
    model.load_state_dict({name: value for name, value in state["model_state"].items() if "similarity" not in name})
    return model.eval()


def splits() -> dict[str, dict[str, NDArray[np.float32]]]:
    """Voices in four splits without a common speaker; there are no targets, because the embeddings have no classes."""
    counts = {"train": 8, "validation": 12, "calibration": 32, "test": 24}
    return {name: {"mels": voices(count, 1000 * place)} for place, (name, count) in enumerate(counts.items())}


def speakers_of(samples: int) -> NDArray[np.int64]:
    """The number of the speaker of every sample of a split."""
    return np.arange(samples) // UTTERANCES


def voices(speakers: int, first: int) -> NDArray[np.float32]:
    """Mel bands ``[8 * speakers, 160, 40]``: eight utterances of every speaker, from speaker number ``first`` on."""
    samples = []
    for speaker in range(first, first + speakers):
        draw = np.random.default_rng(speaker)
        pitch_hz, tract = draw.uniform(85, 255), draw.uniform(0.85, 1.2)
        tilt, breath = draw.uniform(0.8, 1.6), draw.uniform(0.002, 0.03)
        samples += [mel_bands(utterance(draw, pitch_hz, tract, tilt, breath)) for _ in range(UTTERANCES)]
    return np.stack(samples).astype(np.float32)


def utterance(draw: np.random.Generator, pitch_hz: float, tract: float, tilt: float, breath: float) -> Values:
    """A sound of 1.6 seconds: vowels that change about every 0.2 seconds, with a moving pitch."""
    count = WINDOW + HOP * (FRAMES - 1)
    time = np.arange(count) / RATE_HZ
    bend = 1 + 0.08 * np.sin(2 * np.pi * draw.uniform(0.4, 1.5) * time + draw.uniform(0, 6)) + draw.normal(0, 0.03)
    phase = 2 * np.pi * np.cumsum(pitch_hz * bend) / RATE_HZ
    marks = np.linspace(0, count, 9)
    path = np.asarray(VOWELS_HZ, float)[draw.integers(0, len(VOWELS_HZ), 9)] * tract
    formants = np.stack([np.interp(np.arange(count), marks, path[:, index]) for index in range(3)])
    sound = breath * draw.normal(size=count)
    for harmonic in range(1, int(3800 / pitch_hz) + 1):
        tone_hz = harmonic * pitch_hz * bend
        gain = sum(1 / (1 + ((tone_hz - formants[index]) / (70 + 40 * index)) ** 2) for index in range(3))
        sound += gain * harmonic**-tilt * np.sin(harmonic * phase)
    level = np.interp(np.arange(count), marks, draw.uniform(0.3, 1.0, 9))
    sound = sound * level
    result: Values = sound * 0.03 / np.sqrt(np.mean(sound**2))
    return result


def mel_bands(sound: Values) -> Values:
    """The power of 40 mel bands, ``[160, 40]``."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1], axis=1)) ** 2
    result: Values = power @ _filters().T
    return result


def _filters() -> Values:
    """Triangles of equal area on Slaney's mel scale, ``[40, 201]``."""
    high = 15 + 27 * np.log(RATE_HZ / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, high, BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(np.log(6.4) * (mels - 15) / 27))
    tones = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    rising = (tones - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - tones) / np.diff(edges)[1:, None]
    result: Values = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return result


def equal_error_rate(embeddings: NDArray[np.float32], speakers: NDArray[np.int64]) -> float:
    """The error rate at the threshold of the cosine at which misses and false alarms are equally frequent."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    one, two = np.triu_indices(len(unit), 1)
    cosine, same = (unit @ unit.T)[one, two], speakers[one] == speakers[two]
    order = np.argsort(cosine)
    misses = np.cumsum(same[order]) / same.sum()
    alarms = 1 - np.cumsum(~same[order]) / (~same).sum()
    place = int(np.argmin(np.abs(misses - alarms)))
    return float((misses[place] + alarms[place]) / 2)
