"""Facts that are read from artifacts of any stage, and from bare files, whose manifests have no facts."""

from __future__ import annotations

from .program_facts import Epoch
from .record import Record


class AnyFacts(Record):
    """Facts that artifacts of several stages have; a field has its default if the stage does not provide it.

    Attributes:
        parameters: number of trainable values.
        macs: multiply-accumulates for one sample.
        batch_invariant: false if the outputs of a sample depend on the other samples in its batch.
        history: the epochs of its training.
        target: the target that it was made for.
    """

    parameters: int | None = None
    macs: int | None = None
    batch_invariant: bool = True
    history: tuple[Epoch, ...] = ()
    target: str | None = None
