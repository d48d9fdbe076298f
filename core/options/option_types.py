"""Building blocks of all options: the frozen base class, bounded numbers and enumerated values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

SEED_MAX = 2**32 - 1
"""The largest seed that every generator of random numbers takes."""
Seed = Annotated[int, Field(ge=0, le=SEED_MAX)]

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Importance = Literal[
    "auto", "random", "l1", "l2", "group_norm", "bn_scale", "taylor", "obd", "activation", "reconstruction"
]
Normalization = Literal["auto", "none", "mean", "max", "sum", "standard", "root_cost", "cost"]


def from_string(value: Any) -> Any:
    """Turn a plain source such as ``digits`` into ``{source: digits}``, and ``{hub: X}`` into ``{source: hub:X}``."""
    if isinstance(value, Mapping) and isinstance(value.get("hub"), str) and "source" not in value:
        return {**{key: item for key, item in value.items() if key != "hub"}, "source": f"hub:{value['hub']}"}
    return {"source": value} if isinstance(value, str) else value


class Options(BaseModel):
    """Base of all options: it is frozen, rejects unknown keys, and documents defaults in the JSON Schema.

    ``true`` and ``false`` are no numbers here; Python would take them for 1 and 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _take_no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        told = next((item for item in _single_values(value) if isinstance(item, bool)), None)
        kinds = [] if told is None else [*_kinds(cls.model_fields[info.field_name or ""].annotation)]
        if not any(kind in (bool, Any) or isinstance(kind, bool) for kind in kinds):
            if float in kinds:
                raise ValueError(f"must be a number, not {told}")
            if any(kind is int or isinstance(kind, int) for kind in kinds):
                raise ValueError(f"must be a whole number, not {told}")
        return value


def _single_values(value: Any) -> Iterator[Any]:
    """A value, or the values in a list or under the keys of a mapping."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _single_values(item)
    else:
        yield value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types and the literal values of which an annotation consists."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)
