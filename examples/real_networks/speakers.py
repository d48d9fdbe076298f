"""The speaker encoder of ``resemblyzer``, three LSTM layers, on synthesised voices (``examples/voices.py``).

The metric is one minus the equal error rate of verification over all pairs of utterances of the test split. Its
interval is over speakers, because utterances of one speaker are not independent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .. import voices
from .packages import Floats, Outputs


def model(name: str = "") -> voices.SpeakerEncoder:
    """The encoder with its trained weights."""
    return voices.speaker_encoder()


def splits(name: str = "") -> dict[str, dict[str, NDArray[np.float32]]]:
    """Mel bands ``[N, 160, 40]`` of voices in four splits."""
    return voices.splits()


def weighted(name: str, outputs: Outputs) -> tuple[int, Callable[[Floats], Floats]]:
    """The number of speakers S, and one minus the equal error rate ``[B]`` for weights of the speakers ``[B, S]``."""
    embeddings = next(iter(outputs.values())).astype(np.float64)
    speakers = voices.speakers_of(len(embeddings))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    one, two = np.triu_indices(len(unit), 1)
    order = np.argsort((unit @ unit.T)[one, two], kind="stable")
    one, two = speakers[one][order], speakers[two][order]
    same = one == two

    def _value(weights: Floats) -> float:
        pairs = np.where(same, weights[one], weights[one] * weights[two])
        misses, alarms = np.cumsum(pairs * same), np.cumsum(pairs * ~same)
        missed, alarmed = misses / misses[-1], 1 - alarms / alarms[-1]
        place = int(np.argmin(np.abs(missed - alarmed)))
        return 1 - float(missed[place] + alarmed[place]) / 2

    return int(speakers.max()) + 1, lambda weights: np.array([_value(row) for row in weights])
