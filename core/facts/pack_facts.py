"""Facts of the bundle and pack stages: their size, and how the packed model answers on this machine."""

from __future__ import annotations

from .record import Record


class PackTiming(Record):
    """Durations of a packing.

    Attributes:
        load_s: time to open the packed model, in seconds; None for a plan that could not be tried on this machine.
    """

    load_s: float | None


class BundleFacts(Record):
    """Facts of the bundle stage.

    Attributes:
        size_bytes: bytes of the result.
        model_bytes: bytes of the model in it.
        golden_error: largest error of the golden outputs on this machine, relative to their range; None as above.
        timing: durations.
        exact_batch_sizes: batch sizes at which every row equals its result alone, bit for bit.
        batch_invariant: false if the outputs of a sample depend on the other samples in its batch.
        key_id: id of the key that signed it; None if it is not signed.
    """

    size_bytes: int
    model_bytes: int
    golden_error: float | None
    timing: PackTiming
    exact_batch_sizes: tuple[int, ...]
    batch_invariant: bool
    key_id: str | None = None


class PackFacts(BundleFacts):
    """Facts of the pack stage."""
