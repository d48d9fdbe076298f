"""How similar outputs are to those of a reference model: cosine, signal-to-noise ratio, the same class."""

from __future__ import annotations

import numpy as np

from ...tensors import Array
from ..intervals import Floats, Score
from ..relative_error import decibels
from .definition import Evidence, rows_of


def cosines(outputs: Array, targets: Array) -> Evidence:
    """The cosine of the outputs of each sample and those of the reference; 1 where both are zero."""
    reference, given = rows_of(targets), rows_of(outputs)
    dot = np.sum(reference * given, axis=1)
    length = np.linalg.norm(reference, axis=1) * np.linalg.norm(given, axis=1)
    both_zero = ~reference.any(axis=1) & ~given.any(axis=1)
    return (np.where(both_zero, 1.0, np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)),)


def signal_to_noise(evidence: Evidence) -> Score:
    """The centred ratio in dB as a function of sample weights."""
    signal, noise = energies(evidence[1], evidence[0], centred=True)
    return lambda weights: np.asarray(decibels(weights @ signal, weights @ noise), np.float64)


def energies(reference: Array, outputs: Array, centred: bool) -> tuple[Floats, Floats]:
    """Energy of the signal and of the noise of each sample, ``[N]`` each."""
    truth, found = rows_of(reference), rows_of(outputs)
    signal = truth - truth.mean(axis=0) if centred else truth
    return np.sum(signal**2, axis=1), np.sum((found - truth) ** 2, axis=1)
