"""Silero VAD, a streaming detector of speech, from the ONNX file of its package, on synthesised voices.

The network reads 512 samples at 16 kHz after the last 64 of the step before, and a state that it returns. Streams
consist of vowels with syllables (``examples/voices.py``) and of pauses with noise. The metric is the share of steps
whose decision is right when each file reads its own states; calibration uses states of the file in FP32.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import voices
from .packages import Array, Outputs, Scores, draws, package_folder

STEP, CONTEXT, STEPS, PAUSE_STEPS, SPEECH_STEPS = 512, 64, 180, 24, 48
SPEECH = 0.5
COUNTS = {"train": 2, "validation": 8, "calibration": 24, "test": 24}
"""Streams of each split; of all but the test split, a sixth of the steps are samples."""
EVERY = 6


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("silero_vad", "silero-vad") / "data/silero_vad_16k_op15.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Sound ``[N, 576]`` and the states before it ``[N, 2, 128]`` in four splits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model(name)), providers=["CPUExecutionProvider"])
    rate = np.array(voices.RATE_HZ)

    def _step(sound: Array, state: Array) -> Any:
        return session.run(None, {"input": sound, "state": state, "sr": rate})

    made = {}
    for split in COUNTS:
        sound, state, samples = streams(split)[0], np.zeros((2, COUNTS[split], 128), np.float32), []
        for index in range(STEPS):
            samples.append((sound[:, index], state.transpose(1, 0, 2)))
            _, state = _step(sound[:, index], state)
        chosen = samples[:: EVERY if split != "test" else 3 * EVERY]
        made[split] = {
            "input": np.concatenate([pair[0] for pair in chosen]),
            "state": np.concatenate([pair[1] for pair in chosen]),
        }
    return made


@cache
def streams(split: str) -> tuple[Array, NDArray[np.bool_]]:
    """Sound ``[N, 180, 576]`` with its context, and whether each step is speech ``[N, 180]``."""
    sounds, truths = [], []
    for draw in draws(COUNTS, split):
        pitch, tract, tilt = draw.uniform(85, 255), draw.uniform(0.85, 1.2), draw.uniform(0.8, 1.6)
        parts: list[Any] = [np.zeros(CONTEXT)]
        speech: list[bool] = []
        while len(speech) < STEPS:
            pause = int(draw.integers(PAUSE_STEPS // 2, PAUSE_STEPS))
            voice = voices.utterance(draw, pitch, tract, tilt, draw.uniform(0.002, 0.03))[: SPEECH_STEPS * STEP]
            time = np.arange(len(voice)) / voices.RATE_HZ
            syllables = np.clip(0.6 + np.sin(2 * np.pi * draw.uniform(2, 4) * time + draw.uniform(0, 6)), 0, 1)
            parts += [np.zeros(pause * STEP), voice * syllables * draw.uniform(0.5, 3)]
            speech += [False] * pause + [True] * SPEECH_STEPS
        sound = np.concatenate(parts)[: CONTEXT + STEPS * STEP]
        sound = sound + draw.normal(size=len(sound)) * 10 ** (draw.uniform(-70, -45) / 20)
        sounds.append(np.lib.stride_tricks.sliding_window_view(sound, CONTEXT + STEP)[::STEP])
        truths.append(speech[:STEPS])
    return np.array(sounds, np.float32), np.array(truths)


def stream(name: str, session: Any) -> Outputs:
    """The probability of speech ``[N, 180]`` of a file that reads its own states."""
    sound = streams("test")[0]
    state = np.zeros((2, len(sound), 128), np.float32)
    found = []
    for index in range(STEPS):
        speech, state = session.run({"input": sound[:, index], "state": state}).values()
        found.append(speech[:, 0])
    return {"speech": np.stack(found, 1)}


def scores(name: str, outputs: Outputs) -> Scores:
    """The right steps of each stream, and all its steps."""
    found = outputs["speech"] > SPEECH
    return (found == streams("test")[1]).sum(1).astype(np.float64), np.full(len(found), float(STEPS))


def decisions(name: str, outputs: Outputs) -> NDArray[np.bool_]:
    """Whether each step is speech."""
    result: NDArray[np.bool_] = next(iter(outputs.values())) > SPEECH
    return result
