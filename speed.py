"""Never slower: INT8 is timed against the program it was made of, and what keeps it slow is named."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from . import measuring
from .core.artifact import Artifact, load_artifact, new_artifact
from .core.options import BenchOptions
from .core.recipe import PROGRAM_STAGES
from .stages import Place

if TYPE_CHECKING:
    from .pipeline import Line

BLOCKS, BUDGET_S, BATCHES = 12, 3.0, 2
_SHOWN = 3


def int8_is_faster(line: Line) -> bool:
    """Time the quantized program and the one before it in interleaved blocks, both as exported, and say what came out.

    Returns:
        Whether INT8 is faster on average over the batch sizes of the bench stage (the first two).
    """
    ratios = _measured(line)
    parts = [
        f"{item['value']:.2f} at batch {batch} ({item['low']:.2f} to {item['high']:.2f})"
        for batch, item in ratios.items()
    ]
    line.console.stage("quantize", f"times as fast as FP32: {', '.join(parts)}")
    faster = sum(math.log(item["value"]) for item in ratios.values()) > 0
    slow = [batch for batch, item in ratios.items() if item["low"] <= 1]
    if slow:
        line.console.warn(f"INT8 is not surely faster than FP32 at batch {' and '.join(slow)}: {_reasons(line)}")
    if not faster and line.recipe.prefer == "fastest":
        line.console.warn("the FP32 program is shipped, as `prefer: fastest` asks")
    return faster


def _measured(line: Line) -> dict[str, dict[str, float]]:
    before = [name for name in line.outcome.artifacts if name in PROGRAM_STAGES][-2]
    own = next((options for _, options in line.plan if isinstance(options, BenchOptions)), BenchOptions())
    wanted = {"batch_sizes": own.batch_sizes[:BATCHES], "blocks": BLOCKS, "budget_s": BUDGET_S}
    options = own.model_copy(update=wanted)
    pair = {name: line.graph(name) for name in (before, "quantize")}

    def _make(place: Place) -> Artifact:
        facts: dict[str, Any] = {}
        for batch, compared in measuring.compare(line, pair, options).items():
            ratio = compared.candidates["quantize"].ratio
            assert ratio is not None
            facts[str(batch)] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        with new_artifact(place.directory, "measurement", "gate", key=place.key, facts=facts) as folder:
            (folder / "measurement.json").write_text(json.dumps(facts))
        return load_artifact(place.directory)

    facts = line.make("gate", options, list(pair.values()), _make, {"speed": "int8"}, "quantize-gate").facts
    return {batch: facts[batch] for batch in map(str, options.batch_sizes)}


def _reasons(line: Line) -> str:
    """The layers in floating point, with why; or what else takes the time."""
    nodes = line.outcome.artifacts["quantize"].facts["float_nodes"]
    if not nodes:
        return "all layers are integer, and so small that conversions and calls take the time"
    shown = [f"{node['layer']} stays in floating point ({node['reason']})" for node in nodes[:_SHOWN]]
    rest = len(nodes) - _SHOWN
    return "; ".join(shown) + (f"; and {rest} more layers" if rest > 0 else "")
