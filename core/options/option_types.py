"""Building blocks of all options: the frozen base class, bounded numbers and enumerated values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

SEED_MAX = 2**32 - 1
"""The largest seed that every generator of random numbers takes."""
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]

Importance = Literal[
    "auto", "random", "l1", "l2", "group_norm", "bn_scale", "taylor", "obd", "activation", "reconstruction"
]
Normalization = Literal["auto", "none", "mean", "max", "sum", "standard", "root_cost", "cost"]


def from_string(value: Any) -> Any:
    """Turn a plain source such as ``digits`` into the mapping ``{source: digits}``."""
    return {"source": value} if isinstance(value, str) else value


class Options(BaseModel):
    """Base of all options: it is frozen, rejects unknown keys, and documents defaults in the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
