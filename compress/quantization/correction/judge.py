"""How good an INT8 program is: its outputs compared with those of the FP32 program on held-out samples."""

from __future__ import annotations

from ....core.data.splits import Split
from ....core.metrics.all_outputs import agreement_of_all, floating, sqnr_of_all_db
from ...program import Program, predict
from ..memory_budget import judged_within


class Judge:
    """Compares the floating-point outputs of a program with those of the FP32 program on held-out samples."""

    def __init__(self, reference: Program, split: Split, batch_size: int, room_bytes: int) -> None:
        self.split, self.batch_size = judged_within(reference, split, room_bytes), batch_size
        self.wanted = floating(predict(reference, self.split, batch_size))

    def score(self, program: Program) -> tuple[float, float | None]:
        """Centred SQNR over all outputs in dB and, if outputs contain classes, the smallest agreement."""
        if not self.wanted:
            return float("inf"), None
        found = floating(predict(program, self.split, self.batch_size))
        return sqnr_of_all_db(self.wanted, found), agreement_of_all(self.wanted, found)
