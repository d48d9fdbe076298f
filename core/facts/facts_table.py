"""The class of each stage's facts. It is not in the table of stages, so that a key covers only its own stage."""

from __future__ import annotations

from .engine_facts import EngineFacts
from .export_facts import ExportFacts
from .measurement_facts import ServeFacts
from .pack_facts import BundleFacts, PackFacts
from .program_facts import CaptureFacts, DistillFacts, TrainFacts
from .prune_facts import PruneFacts, SparsifyFacts
from .quantize_facts import QuantizeFacts
from .record import Record

FACTS: dict[str, type[Record]] = {
    "capture": CaptureFacts,
    "train": TrainFacts,
    "distill": DistillFacts,
    "prune": PruneFacts,
    "sparsify": SparsifyFacts,
    "quantize": QuantizeFacts,
    "export": ExportFacts,
    "engine": EngineFacts,
    "bundle": BundleFacts,
    "pack": PackFacts,
    "serve": ServeFacts,
    "bench": Record,
    "report": Record,
}
"""By name of the stage, in the order of a run; the base class for a stage without facts."""
