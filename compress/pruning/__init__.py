"""Structured pruning by coupled labels: which channels go together, which of them go, and the proof of every cut."""

from __future__ import annotations

from .coupling import Coupling, couple
from .explain import Row, explain
from .proof import Proof, prove
from .sparsify import sparsify
from .stage import prune
from .step import Pruned, prune_program
from .surgery import cut

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
