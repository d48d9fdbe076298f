"""Structured pruning by coupled labels: which channels go together, which of them go, and the proof of every cut."""

from __future__ import annotations

from .coupling.explain import Row, explain
from .coupling.propagate import Coupling, couple
from .proof.prove import Proof, prove
from .sparsity.stage import sparsify
from .stage import prune
from .step import Pruned, prune_program
from .surgery.slice_parameters import cut

__all__ = [
    "Coupling",
    "Proof",
    "Pruned",
    "Row",
    "couple",
    "cut",
    "explain",
    "prove",
    "prune",
    "prune_program",
    "sparsify",
]
