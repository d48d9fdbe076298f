"""`method: auto`: extremes or least squared error, whichever leaves the held-out outputs nearer to FP32.

Neither is best everywhere: on a trained residual network least squared error wins 0.6 dB over extremes, on one with
squeeze-and-excite and on a MiniLM encoder, whose rare large values matter, extremes win 3 dB and 2 dB.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....core.data.splits import Split, Subset
from ....core.options.stage_options import QuantizeOptions
from ...program import Program, clone
from .correct import FEWEST, Judge, divide

CANDIDATES = ("minmax", "mse")
MOST = 96

Build = Callable[[Program, QuantizeOptions, Split], Program]
"""From a folded FP32 program, options with a method, and samples to its INT8 form."""


def choose_method(
    program: Program, folded: Program, build: Build, calibration: Split, options: QuantizeOptions
) -> tuple[QuantizeOptions, dict[str, float]]:
    """The options with `auto` replaced by the better method.

    Args:
        program: the FP32 program that outputs are compared with.
        folded: what INT8 forms are made of; left untouched.
        build: makes one.
        calibration: of at most 96 samples a quarter is held out to judge by; with fewer than 16, extremes it is.
        options: of the stage.

    Returns:
        The options, and the centred SQNR of each method in decibels; empty where none was measured.
    """
    if options.method != "auto":
        return options, {}
    plain = {name: options.model_copy(update={"method": name}) for name in CANDIDATES}
    count = min(len(calibration), options.samples, MOST)
    if count < FEWEST:
        return plain["minmax"], {}
    fitted, held_out = divide(Subset(calibration, np.arange(count)), count)
    judge = Judge(program, held_out, options.batch_size)
    scores = {name: judge.score(build(clone(folded), chosen, fitted))[0] for name, chosen in plain.items()}
    best = max(scores, key=scores.__getitem__)
    return plain[best], {name: round(score, 2) for name, score in scores.items() if abs(score) != float("inf")}
