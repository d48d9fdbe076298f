"""The floor of quality: below it the outputs of an INT8 model have little in common with those of the FP32 model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tensors import Array
from .all_outputs import Outputs, agreement_of_all, sqnr_of_all_db, undefined_alike, worst_column
from .task_metrics import paired_difference


@dataclass(frozen=True)
class QualityFloor:
    """The lowest similarity to FP32 on held-out samples with which an INT8 model is still the same model.

    Every floating-point output counts by itself, so that a ruined output cannot hide among many sound ones. Classes
    count where labels prove that outputs are classes, and only if the accuracy is certainly lower: an embedding has no
    classes, and a model without training has no accuracy to lose.

    Attributes:
        sqnr_db: smallest centred signal-to-noise ratio of each output, in dB.
        column_db: smallest ratio of each column of an output, in dB. A column that is constant has 0 dB at best.
        agreement: smallest share of labelled samples with the same class.
    """

    sqnr_db: float = 10.0
    column_db: float = 3.0
    agreement: float = 0.9

    def describe(self) -> str:
        """The floor in words."""
        levels = f"{self.sqnr_db:g} dB of centred SQNR in every output, {self.column_db:g} dB in each column"
        return f"{levels}, and {self.agreement:.0%} equal classes"

    def passes(self, wanted: Outputs, found: Outputs, targets: Array | None) -> bool:
        """Whether the outputs ``found`` are above the floor, compared with the FP32 outputs ``wanted``."""
        return not self.shortfall(wanted, found, targets)

    def shortfall(
        self, wanted: Outputs, found: Outputs, targets: Array | None, names: Sequence[str] = (), noisy: bool = False
    ) -> str:
        """What is below the floor, in words; empty if nothing is.

        Args:
            wanted: floating-point outputs of the FP32 model, ``[N, …]`` each.
            found: the same outputs of the INT8 model.
            targets: labels ``[N]``; anything else is ignored.
            names: names of the outputs, for the sentence.
            noisy: ignore the signal-to-noise ratio of the first output, which a training or a bound on its accuracy may
                change on purpose.
        """
        if not undefined_alike(wanted, found):
            return "NaN or infinite values are not in the same places as in FP32"
        judged = range(1 if noisy else 0, len(wanted))
        ratios = {index: sqnr_of_all_db([wanted[index]], [found[index]]) for index in judged}
        labels = {index: f" of output '{names[index]}'" if len(wanted) > 1 and names else "" for index in judged}
        worst = min(ratios, key=ratios.__getitem__, default=None)
        if worst is not None and ratios[worst] < self.sqnr_db:
            return f"the centred SQNR{labels[worst]} is {ratios[worst]:.1f} dB, below {self.sqnr_db:g} dB"
        for index in judged:
            column = worst_column(wanted[index], found[index])
            if column is not None and column.db < self.column_db:
                return (
                    f"the centred SQNR of index {column.index} on axis {column.axis}"
                    f"{labels[index] or ' of the output'} is {column.db:.1f} dB, below {self.column_db:g} dB"
                )
        same = _agreement(wanted, found, targets)
        if same is not None and same < self.agreement:
            return f"{same:.0%} of the samples keep their class, less than {self.agreement:.0%}, and accuracy is lower"
        return ""


def _agreement(wanted: Outputs, found: Outputs, targets: Array | None) -> float | None:
    """The agreement if the first output is classes by its labels and their accuracy is certainly lower."""
    if not wanted or targets is None or targets.dtype.kind not in "iu" or targets.shape != (len(wanted[0]),):
        return None
    same = agreement_of_all(wanted[:1], found[:1])
    if same is None or int(targets.max(initial=0)) >= wanted[0].shape[1] or int(targets.min(initial=0)) < 0:
        return None
    lost = paired_difference("accuracy", wanted[0], found[0], targets)
    return same if lost.low is not None and lost.low > 0 else None
