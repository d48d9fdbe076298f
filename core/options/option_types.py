"""What all options are made of: their frozen base, numbers with bounds, and words with few values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

Importance = Literal["auto", "random", "l1", "l2", "group_norm", "bn_scale", "taylor", "obd", "activation"]
Normalization = Literal["auto", "none", "mean", "max", "sum", "standard", "root_cost", "cost"]


def from_string(value: Any) -> Any:
    """A bare source such as ``digits`` as the mapping ``{source: digits}``."""
    return {"source": value} if isinstance(value, str) else value


class Options(BaseModel):
    """Base of all options: frozen, unknown keys refused, defaults documented in the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
