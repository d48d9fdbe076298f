"""What a stage did, for the report: its options, its proofs, what is INT8, and its training curves."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .spreads import Entry


class Proof(Entry):
    """One claim that a stage checked."""

    claim: str
    found: str = Field(description="what was measured")
    bound: str = Field(default="", description="what was allowed; empty if the claim is exact")


class FloatLayer(Entry):
    """A layer or an operator that is not INT8."""

    layer: str
    operator: str
    reason: str


class OutputNoise(Entry):
    """The difference of one output between two forms of the model."""

    output: str
    compared: str = Field(description="the two forms, such as INT8 program against FP32 program")
    sqnr_db: float | None = Field(description="null if the outputs are equal")
    agreement: float | None = Field(default=None, description="share of samples with the same class")


class Curve(Entry):
    """The epochs of one training."""

    name: str
    epochs: tuple[dict[str, float], ...]


class StageDetails(Entry):
    """What one stage of a run did."""

    stage: str
    key: str = ""
    options: dict[str, Any] = Field(default_factory=dict, description="all options of the stage")
    chosen: dict[str, Any] = Field(default_factory=dict, description="the options that the recipe sets")
    did: tuple[str, ...] = Field(default=(), description="what the stage did, in sentences")
    proofs: tuple[Proof, ...] = ()
    integer: dict[str, int] = Field(default_factory=dict, description="number of INT8 operators by kind")
    integer_macs_percent: float | None = None
    floating: tuple[FloatLayer, ...] = ()
    outputs: tuple[OutputNoise, ...] = ()
    curves: tuple[Curve, ...] = ()
