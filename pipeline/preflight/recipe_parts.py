"""Faults of the parts of a recipe that can be checked although other parts have faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ...core.data.data_sources import load_data
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import BenchOptions, DataSpec, ModelSpec
from .named_things import data_faults, model_faults
from .recipe_rules import batch_size_faults
from .subject import fault_of


def part_faults(raw: Any, base: Path) -> Iterator[Fault]:
    """Faults of what the model and the data name, and of gates at batch sizes that `bench` does not measure.

    Args:
        raw: the recipe as YAML gives it; parts that are faulty themselves are left out.
        base: folder in which relative paths and modules are looked up.
    """
    if not isinstance(raw, dict):
        return
    model = _part(ModelSpec, raw.get("model"))
    if isinstance(model, ModelSpec):
        yield from model_faults(model, "model", base)
    data = _part(DataSpec, raw.get("data"))
    if isinstance(data, DataSpec):
        yield from _data_faults(data, base, raw)
    yield from _gate_faults(raw)


def _part(kind: type[BaseModel], value: Any) -> BaseModel | None:
    try:
        return kind.model_validate({"source": value} if isinstance(value, str) else value)
    except ValidationError:
        return None


def _data_faults(spec: DataSpec, base: Path, raw: dict[Any, Any]) -> Iterator[Fault]:
    found = list(data_faults(spec, base))
    yield from found
    if found:
        return
    task = raw.get("task", "classification")
    if task not in ("classification", "regression"):
        return
    try:
        load_data(spec, base, 0, task)
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        yield fault_of("data.source", error)


def _gate_faults(raw: dict[Any, Any]) -> Iterator[Fault]:
    stages, gates = raw.get("stages"), raw.get("gates")
    if not isinstance(stages, list) or not isinstance(gates, list):
        return
    given = next((stage["bench"] for stage in stages if isinstance(stage, dict) and "bench" in stage), None)
    sizes = given.get("batch_sizes", BenchOptions().batch_sizes) if isinstance(given, dict) else None
    if not isinstance(sizes, list | tuple):
        return
    for index, gate in enumerate(gates):
        size = gate.get("batch_size") if isinstance(gate, dict) and "speedup" in gate else None
        if size is not None:
            yield from batch_size_faults(f"gates.{index}", size, sizes)
