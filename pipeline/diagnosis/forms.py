"""Results of the doctor: the forms of a model, the first broken form, and the faults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .tensor_symptoms import Finding


@dataclass
class Form:
    """One form of the model and its results.

    Attributes:
        kind: ``torch`` or ``onnx``.
        sqnr_db: centred SQNR against the first form, in dB; None if equal, and for the first form.
    """

    name: str
    path: Path
    kind: str
    quantized: bool
    accuracy: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    broken: bool = False
    error: str = ""

    def facts(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass
class Diagnosis:
    """All forms, the first broken form, and the faults, the most likely first."""

    forms: list[Form]
    findings: list[Finding] = field(default_factory=list)

    @property
    def first(self) -> Form | None:
        """The first broken form."""
        return next((form for form in self.forms if form.broken), None)

    def facts(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready values."""
        first = self.first
        return {
            "forms": [form.facts() for form in self.forms],
            "first_broken": None if first is None else first.name,
            "findings": [{**asdict(item), "remedy": item.remedy} for item in self.findings],
        }
