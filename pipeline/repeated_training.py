"""The same training many times from the same start, for measurements of the training loop."""

from __future__ import annotations

import time
from typing import Any

from ..compress.capture.capture_program import capture
from ..compress.program import clone
from ..compress.training.train import fit
from ..core.context import Context
from ..core.options.stage_options import TrainOptions


class RepeatedTraining:
    """A captured module, of which a fresh copy is trained each time.

    Args:
        module: an ``nn.Module``.
        example: tensors by input name, with a batch of at least 2.
    """

    def __init__(self, module: Any, example: dict[str, Any]) -> None:
        self._start = capture(module, example)

    def cpu_seconds(self, options: TrainOptions, context: Context) -> float:
        """Train a copy; the CPU time of the training, without that of copying."""
        program = clone(self._start)
        began = time.process_time()
        fit(program, options, context)
        return time.process_time() - began
