"""The speech embedding of ``openwakeword`` from the ONNX file of its package, on synthesised sequences of vowels.

A query is an utterance with noise and the document is the same utterance without; a query is right if its own document
is nearest. The package's file of mel bands prepares the samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import voices
from .packages import Array, Outputs, Scores, draws, each, package_folder

BANDS, WINDOW, LENGTH = 32, 76, 12640
COUNTS = {"train": 8, "validation": 32, "calibration": 96, "test": 200}
"""Utterances; every one is two samples, with noise and without."""


def model(name: str = "") -> Path:
    """The package's ONNX file of the embedding.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("openwakeword", "openwakeword") / "resources/models/embedding_model.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Mel bands ``[N, 76, 32, 1]`` in four splits: first all queries, then all documents."""
    import onnxruntime

    path = str(model().with_name("melspectrogram.onnx"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    made = {}
    for split in COUNTS:
        sounds: tuple[list[Array], list[Array]] = ([], [])
        for draw in draws(COUNTS, split):
            voice = voices.utterance(draw, draw.uniform(85, 255), draw.uniform(0.85, 1.2), 1.2, 0.01)[:LENGTH]
            noise = draw.normal(size=LENGTH) * voice.std() * 10 ** (draw.uniform(-15, 0) / 20)
            for place, sound in zip(sounds, (voice + noise, voice), strict=True):
                place.append((32767 * sound / np.abs(sound).max() / 2).astype(np.float32))
        bands = [
            session.run(None, {"input": sound[None]})[0].reshape(-1, BANDS)[:WINDOW]
            for part in sounds
            for sound in part
        ]
        made[split] = {"input_1": (np.stack(bands)[..., None] / 10 + 2).astype(np.float32)}
    return made


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether each query finds its document."""
    found = decisions(name, outputs)
    return each(found == np.arange(len(found)))


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The nearest document of each query, by the cosine of embeddings without their mean."""
    values = next(iter(outputs.values()))
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    half = len(flat) // 2
    nearest: NDArray[np.int64] = (flat[:half] @ flat[half:].T).argmax(1)
    return nearest
