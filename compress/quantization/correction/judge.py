"""How good an INT8 program is: its outputs compared with those of the FP32 program on held-out samples."""

from __future__ import annotations

from ....core.data.splits import Split
from ....core.metrics.all_outputs import agreement_of_all, floating, sqnr_of_all_db
from ...graph.decisions import comparable, with_scores
from ...program import Program, predict
from ..memory_budget import judged_within


class Judge:
    """Compares the floating-point outputs of a program with those of the FP32 program on held-out samples."""

    def __init__(self, reference: Program, split: Split, batch_size: int, room_bytes: int) -> None:
        self.split, self.batch_size = judged_within(reference, split, room_bytes), batch_size
        self.wanted = predict(with_scores(reference), self.split, batch_size)

    def score(self, program: Program) -> tuple[float, float | None]:
        """Centred SQNR over all outputs in dB and, if outputs contain classes, the smallest agreement."""
        given = comparable(self.wanted, predict(with_scores(program), self.split, self.batch_size))
        wanted, found = floating({name: self.wanted[name] for name in given}), floating(given)
        return sqnr_of_all_db(wanted, found), agreement_of_all(wanted, found)
