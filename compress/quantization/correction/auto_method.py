"""`method: auto` chooses `minmax` or `mse`, whichever makes the held-out outputs more similar to FP32.

Neither is best for all models: `mse` is 0.6 dB better on a trained residual network; `minmax` is 3 dB better on a
network with squeeze-and-excite and 2 dB better on a MiniLM encoder, where rare large values matter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....core.data.splits import Split, Subset
from ....core.options.stage_options import QuantizeOptions
from ...program import Program
from ..copy_on_write import fork
from ..memory_budget import budget_of
from .correct import FEWEST, divide
from .judge import Judge

CANDIDATES = ("minmax", "mse")
MOST = 96

Build = Callable[[Program, QuantizeOptions, Split], Program]
"""Makes an INT8 program from a folded FP32 program, options with a method, and samples."""


def choose_method(
    program: Program, folded: Program, build: Build, calibration: Split, options: QuantizeOptions
) -> tuple[QuantizeOptions, dict[str, float]]:
    """The options with `auto` replaced by the better method.

    Args:
        program: the FP32 program that outputs are compared with.
        folded: the program with BatchNorm folded, from which INT8 programs are made; it is not changed.
        build: makes an INT8 program.
        calibration: at most 96 samples are used, a quarter of which are held out to compare the methods; with fewer
            than 16 samples, ``minmax`` is chosen.
        options: of the stage.

    Returns:
        The options, and the centred SQNR of each method in dB, which is empty if none was measured.
    """
    if options.method != "auto":
        return options, {}
    plain = {name: options.model_copy(update={"method": name}) for name in CANDIDATES}
    count = min(len(calibration), options.samples, MOST)
    if count < FEWEST:
        return plain["minmax"], {}
    fitted, held_out = divide(Subset(calibration, np.arange(count)), count)
    judge = Judge(program, held_out, options.batch_size, budget_of(program, options).room_bytes)
    scores = {name: judge.score(build(fork(folded), chosen, fitted))[0] for name, chosen in plain.items()}
    best = max(scores, key=scores.__getitem__)
    return plain[best], {name: round(score, 2) for name, score in scores.items() if abs(score) != float("inf")}
