"""Layers that stay in floating point for speed: candidates from measured layer times, compared as complete files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.artifact import Artifact
from ...core.console import Console
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Splits
from ...core.facts.measurement_facts import PlacementFacts, TriedPlacement
from ...core.metrics.ratio import Ratio, mean_of
from ...core.options.quantize_options import FirstLayer
from ...core.options.stage_options import BenchOptions, QuantizeOptions, Target
from ...core.tensors import Feeds
from .timed_files import compared, exported, opened

if TYPE_CHECKING:
    import onnx
    from torch import fx

    from ...compress.program import Program
    from ...compress.quantization.int8_program import Gains
    from ...compress.quantization.mixed_precision.segments import Segment

CHOICES, BLOCKS, BLOCK_MS, BUDGET_S = 3, 16, 4.0, 6.0
SAMPLES, ROWS = 16, 8
WORTH = 1.01
"""Smallest speedup over FP32, on average over the batch sizes, for which a choice is used."""
TINY_MS = 0.001
"""The profiler counts in microseconds, and its own time is subtracted, so shorter times are not told apart."""
_NEAR = 0.99
_ROUGH: dict[str, Any] = {
    "method": "minmax",
    "correction": ("none",),
    "smooth": False,
    "samples": SAMPLES,
    "batch_size": ROWS,
    "qat": None,
    "mixed": "none",
    "sensitivity": False,
}
"""Options of a quantization that is only timed."""

Speed = Mapping[int, Ratio]
"""Speedup over FP32 by batch size."""


@dataclass(frozen=True)
class Choice:
    """A placement: the layers and operators in floating point, and whether layers that read inputs are integer."""

    floats: tuple[str, ...] = ()
    first_layer: FirstLayer = "auto"

    def applied_to(self, options: QuantizeOptions) -> QuantizeOptions:
        """The options of a quantization with this precision of the first layers."""
        return options if self.first_layer == "auto" else options.model_copy(update={"first_layer": self.first_layer})


def search(
    parent: Artifact, options: QuantizeOptions, data: Splits, console: Console, target: Target = "cpu"
) -> PlacementFacts:
    """Search for a placement that is not slower than FP32 at any batch size, on this machine with one thread.

    ONNX Runtime's profiler times the layers of the FP32 and of the INT8 file. Dynamic programming over the segments
    between single tensors gives the choices that are fastest for several weights of the batch sizes. If a layer that
    reads an input is in floating point, it is also tried in INT8: what follows it, such as a MaxPool, may be what is
    slow. The choices are exported and timed in interleaved blocks together with both files. For timing, ranges are
    approximate and no corrections are applied.

    Args:
        parent: the FP32 program.
        options: options of the planned quantization.
        data: its calibration samples are run.
        console: shows progress.
        target: a CPU target that can be timed on this machine.
    """
    from ...compress.program import load_program
    from ...compress.quantization.mixed_precision.segments import placements, segments, weights_of
    from ...export.ort.layer_times import conversion_ms

    program = load_program(parent.main)
    fitted = fit_to(data, program.signature)
    made = _quick(program, options, fitted, (), target)
    exact, integer = exported(program, target), exported(made, target)
    parts, batches = segments(made), options.timed_batches
    samples = fitted.calibration.read(range(min(max(batches), len(fitted.calibration))))[0]
    feeds = _feeds(exact, samples, batches)
    times = [_times(file, weights_of(parts), feeds) for file in (exact, integer)]
    fixed, each = conversion_ms()
    crossing = {batch: [fixed + each * part.values * batch for part in parts] for batch in batches}
    found = [tuple(names) for names in placements(parts, times[0], times[1], crossing)[:CHOICES]]
    choices = [Choice(names) for names in found]
    if options.first_layer == "auto" and _has_float_first_layer(made):
        choices += [Choice(names, "int8") for names in ((), *found[:1])]
    if not choices:
        return PlacementFacts(float={}, tried=(), doubts=())
    files = {"fp32": exact, "int8": integer}
    for index, choice in enumerate(console.track(choices, "placements")):
        quick = _quick(program, choice.applied_to(options), fitted, choice.floats, target)
        files[str(index)] = exported(quick, target)
    speeds = _compared(files, samples, batches, console, options.timer)
    kept = decide(speeds)
    chosen = choices[int(kept)] if kept != "int8" else Choice()
    tried = [_tried(choices[int(name)] if name != "int8" else Choice(), speed) for name, speed in speeds.items()]
    doubts = sorted({doubt for speed in speeds.values() for ratio in speed.values() for doubt in ratio.doubts})
    slow = {name: _reason(name, parts, times) for name in chosen.floats}
    return PlacementFacts(float=slow, tried=tuple(tried), doubts=tuple(doubts), first_layer=chosen.first_layer)


def gains_of(parent: Artifact, options: QuantizeOptions, data: Splits, target: Target = "cpu") -> Gains:
    """A function that measures the time that INT8 saves per layer: shares of the total, summed over batch sizes."""

    def _gains(quantized: Program) -> dict[str, float]:
        from ...compress.program import load_program
        from ...compress.quantization.mixed_precision.segments import segments, weights_of

        exact, integer = exported(load_program(parent.main), target), exported(quantized, target)
        split = fit_to(data, quantized.signature).calibration
        samples = split.read(range(min(ROWS, len(split))))[0]
        feeds = _feeds(exact, samples, options.timed_batches)
        layers = weights_of(segments(quantized))
        floating, fewer = (_times(file, layers, feeds) for file in (exact, integer))
        whole = {batch: max(sum(found.values()), 1e-9) for batch, found in floating.items()}
        return {
            layer: sum(
                (floating[batch].get(layer, 0.0) - fewer[batch].get(layer, 0.0)) / whole[batch] for batch in feeds
            )
            for layer in layers
        }

    return _gains


def decide(speeds: Mapping[str, Speed]) -> str:
    """The choice that is fastest on average among those that are not certainly slower than FP32 at a batch size.

    A choice with a NOISY measurement is not used.

    Args:
        speeds: speedups of ``int8``, in which everything is integer, and of the other choices.

    Returns:
        Its name; ``int8`` if no choice is fast enough.
    """
    fair = [
        name
        for name, speed in speeds.items()
        if all(
            not ratio.doubts and (ratio.value >= _NEAR or (ratio.high is not None and ratio.high >= 1))
            for ratio in speed.values()
        )
    ]
    best = max(fair, key=lambda name: mean_of(speeds[name].values()), default="int8")
    return best if mean_of(speeds[best].values()) > WORTH else "int8"


def _quick(
    program: Program, options: QuantizeOptions, data: Splits, floats: Sequence[str], target: Target = "cpu"
) -> Program:
    """Quantize with approximate ranges and no corrections, which is sufficient for timing."""
    from ...compress.quantization import quantize_program

    rough = {**_ROUGH, "form": "static" if options.form == "auto" else options.form}
    return quantize_program(program, options.model_copy(update=rough), data.calibration, target, floats=tuple(floats))


def _feeds(model: onnx.ModelProto, samples: Feeds, batches: Sequence[int]) -> dict[int, Feeds]:
    from ...benchmarks.timing.candidates import repeat_rows

    session = opened(model.SerializeToString())
    return {batch: repeat_rows(samples, session, batch) for batch in batches}


def _times(
    model: onnx.ModelProto, layers: Mapping[str, str], feeds: Mapping[int, Feeds]
) -> dict[int, dict[str, float]]:
    from ...export.ort.layer_times import layer_times

    return {batch: layer_times(model, layers, given) for batch, given in feeds.items()}


def _compared(
    files: Mapping[str, onnx.ModelProto],
    samples: Feeds,
    batches: Sequence[int],
    console: Console,
    timer: str | None = None,
) -> dict[str, dict[int, Ratio]]:
    """Ratios to FP32 of all other files, from the same interleaved blocks."""
    texts = {name: model.SerializeToString() for name, model in files.items()}
    options = BenchOptions(batch_sizes=tuple(batches), blocks=BLOCKS, block_ms=BLOCK_MS, budget_s=BUDGET_S, timer=timer)
    runs = compared(texts, samples, options, console)
    return {name: {batch: runs[batch].ratio_of(name) for batch in batches} for name in files if name != "fp32"}


def _has_float_first_layer(made: Program) -> bool:
    """Whether a layer that reads an input stays in floating point, because it is usually slower in INT8."""
    nodes = {node.name: node for node in made.module.graph.nodes}
    left = [nodes.get(item["node"]) for item in made.meta["quantization"]["float_nodes"]]
    return any(node is not None and any(_reads_input(item) for item in node.all_input_nodes) for node in left)


def _reads_input(value: fx.Node) -> bool:
    from ...compress.quantization.points import source_of

    return source_of(value).op == "placeholder"


def _tried(choice: Choice, speed: Speed) -> TriedPlacement:
    ratios = {str(batch): ratio for batch, ratio in speed.items()}
    return TriedPlacement(float=choice.floats, speed=ratios, first_layer=choice.first_layer)


def _reason(unit: str, parts: Sequence[Segment], times: Sequence[Mapping[int, Mapping[str, float]]]) -> str:
    """The times of a unit's segment in both forms, at the batch size at which FP32 saves most, in a sentence."""
    part = next(part for part in parts if unit in part.units)
    pairs = {batch: (_sum(part, times[0][batch]), _sum(part, times[1][batch])) for batch in times[0]}
    known = {batch: (one, other) for batch, (one, other) in pairs.items() if one is not None and other is not None}
    if not known:
        return "for speed: the model is faster with its segment in FP32, which could not be timed alone"
    batch = max(known, key=lambda size: known[size][1] / max(known[size][0], TINY_MS))
    exact, integer = known[batch]
    return f"for speed: its segment takes {_ms(integer)} in INT8 and {_ms(exact)} in FP32 at batch {batch}"


def _sum(part: Segment, found: Mapping[str, float]) -> float | None:
    """Milliseconds of a segment; None if one of its layers was not timed, such as one that is fused with another."""
    layers = {*part.layers}
    return sum(found[layer] for layer in layers) if layers <= found.keys() else None


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value >= TINY_MS else f"less than {TINY_MS:g} ms"
