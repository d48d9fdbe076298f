"""Data sets for tests of worker processes, which import them by the name of this module."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from retort.core.data.augmentation.views import Views, views_of
from retort.core.data.splits import SequenceSplit
from retort.core.options.stage_options import TrainOptions


@dataclass(frozen=True)
class Ramps:
    """Small images of which one may be unreadable, or end the process that reads it."""

    count: int = 48
    bad: int = -1
    deadly: int = -1
    slow: int = -1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        if number == self.bad:
            raise ValueError("the file is torn")
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.slow:
            time.sleep(600)
        print("a data set may print")  # noqa: T201
        return np.full((1, 6, 6), number / 48, np.float32), number % 3


def views(dataset: Any, *augment: Any) -> Views:
    """Views of a map-style dataset, without reading samples before they are asked for."""
    split = SequenceSplit(dataset, "x", "here")
    if not augment:
        return Views(split)
    return views_of(SequenceSplit(dataset, "x", "here"), TrainOptions(augment=augment).augment)
