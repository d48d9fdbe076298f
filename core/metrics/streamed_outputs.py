"""The measures of :mod:`.all_outputs` computed batch by batch, so that no set of outputs has to fit into memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..tensors import Array
from .all_outputs import CONSTANT, Outputs, defined, undefined_alike
from .relative_error import decibels


@dataclass
class Signal:
    """Sums over the outputs of a reference.

    Attributes:
        rows: number of samples.
        energy: sum of the squares of each output.
        total: sum over the samples of every value of each output.
        classes: the largest column of each sample, for the outputs that contain classes; empty for the others.
    """

    rows: int = 0
    energy: list[float] = field(default_factory=list)
    total: list[Array] = field(default_factory=list)
    classes: list[list[Array]] = field(default_factory=list)

    def add(self, outputs: Outputs) -> None:
        """Add the outputs of a batch."""
        values = [_rows(np.where(np.isfinite(output), output, 0.0)) for output in outputs]
        if not self.total:
            self.energy, self.total = [0.0] * len(values), [np.zeros(value.shape[1:]) for value in values]
            self.classes = [[] for _ in values]
        for index, value in enumerate(values):
            self.energy[index] += float(np.sum(value**2))
            self.total[index] += value.sum(axis=0)
            self.classes[index] += _classes(outputs[index])
        self.rows += len(values[0]) if values else 0

    def of(self, index: int) -> float:
        """The energy of an output that differs between samples, or its whole energy if it is constant."""
        energy = self.energy[index]
        signal = energy - float(np.sum(self.total[index] ** 2)) / max(1, self.rows)
        return signal if signal > CONSTANT * energy else energy


@dataclass
class Noise:
    """Sums over the differences of a model's outputs from those of its reference."""

    energy: list[float] = field(default_factory=list)
    classes: list[list[Array]] = field(default_factory=list)
    alike: bool = True
    finite: bool = True

    def add(self, wanted: Outputs, found: Outputs) -> None:
        """Add the outputs of a batch of both."""
        self.alike = self.alike and undefined_alike(wanted, found)
        if not self.alike:
            return
        if not self.energy:
            self.energy, self.classes = [0.0] * len(wanted), [[] for _ in wanted]
        self.finite = self.finite and (not found or bool(np.isfinite(found[0]).all()))
        for index, (one, two) in enumerate(zip(wanted, found, strict=True)):
            usable = np.isfinite(one)
            difference = np.where(usable, two, 0.0).astype(np.float64) - np.where(usable, one, 0.0)
            self.energy[index] += float(np.sum(difference**2))
            self.classes[index] += _classes(two)

    def sqnr_db(self, signal: Signal) -> float:
        """As :func:`.all_outputs.sqnr_of_all_db`, centred."""
        if not self.alike:
            return float("-inf")
        shares = [_share(noise, signal.of(index)) for index, noise in enumerate(self.energy)]
        return float(decibels(1.0, float(np.mean(shares)))) if shares else float("inf")

    def agreement(self, signal: Signal) -> float | None:
        """As :func:`.all_outputs.agreement_of_all`."""
        pairs = [(one, two) for one, two in zip(signal.classes, self.classes) if one]
        if not pairs or not self.alike:
            return None
        return min(float(np.mean(np.concatenate(one) == np.concatenate(two))) for one, two in pairs)


def _share(noise: float, signal: float) -> float:
    return 0.0 if noise == 0 else noise / signal if signal > 0 else float("inf")


def _classes(output: Array) -> list[Array]:
    return [defined(output).argmax(axis=1)] if output.ndim == 2 and output.shape[1] > 1 and output.size else []


def _rows(values: Array) -> Array:
    return values.reshape(len(values), -1).astype(np.float64) if values.ndim else values.reshape(1, 1).astype(float)
