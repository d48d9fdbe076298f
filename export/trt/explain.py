"""Explanation of an engine: which layers are INT8, FP16 and FP32 and why, its reformats, and what to change."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.errors import ArtifactError
from ..lint.graph_view import Finding
from .engine_layers import HEAVY, layer_precisions

_PRECISIONS = (("FP8", "FP8"), ("INT8", "Int8"), ("FP16", "Half"), ("FP16", "FP16"), ("BF16", "BF16"), ("FP32", "FP32"))
_ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Row:
    """One heavy layer.

    Attributes:
        layer: its name.
        kind: its type.
        precision: type in which its multiplications compute.
        reason: why it does not use a narrower type; empty if it does.
        change: what to change, so that it can.
    """

    layer: str
    kind: str
    precision: str
    reason: str = ""
    change: str = ""


@dataclass(frozen=True)
class Explanation:
    """The types in which an engine computes.

    Attributes:
        source: ``network`` after parsing, or ``inspector`` of the engine that was built.
        heavy: convolutions and products, those in the widest type first.
        counts: layers per type and precision.
        reformats: layers that only change a tensor's type or layout: their name, from what, to what.
        notes: what the source does not contain.
    """

    source: str
    heavy: tuple[Row, ...]
    counts: dict[str, int]
    reformats: tuple[dict[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


def explain_network(layers: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> Explanation:
    """Explain a network as TensorRT's parser reads the file, before any fusion.

    Args:
        layers: result of :func:`retort.export.trt.engine_layers.describe_layers`.
        findings: results of the lint, whose advice explains single nodes.
    """
    precisions = layer_precisions(layers)
    producers = {tensor["name"]: layer for layer in layers for tensor in layer["outputs"]}
    advice = {item.node: item for item in findings}
    rows = [_row(layer, precisions[layer["name"]], producers, advice) for layer in layers if layer["type"] in HEAVY]
    counts = Counter(f"{layer['type']} {precisions[layer['name']]}" for layer in layers)
    changed = [_cast(layer) for layer in layers if layer["type"] in ("CAST", "QUANTIZE", "DEQUANTIZE")]
    casts = tuple(item for item in changed if item["kind"] == "CAST")
    note = "the reformats of TensorRT are known only after the engine is built on a GPU"
    return Explanation("network", tuple(_sorted(rows)), dict(sorted(counts.items())), casts, (note,))


def explain_inspector(text: str) -> Explanation:
    """Explain an engine from the JSON of TensorRT's engine inspector (10.x and 11.x).

    Raises:
        ArtifactError: the text is not the inspector's output with detailed verbosity.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the text is not the JSON of the engine inspector: {error!r}", "use --exportLayerInfo of trtexec"
        ) from error
    if any(isinstance(layer, str) for layer in layers):
        message = "the engine was built without detailed profiling verbosity, so only the names of its layers are known"
        raise ArtifactError(message, "build it with `retort engine`, or with trtexec --profilingVerbosity=detailed")
    rows, counts, reformats = [], Counter[str](), []
    for layer in layers:
        kind, name = str(layer.get("LayerType", "?")), str(layer.get("Name", "?"))
        precision = _inspected_precision(layer)
        counts[f"{kind} {precision}"] += 1
        if kind.lower() in ("reformat", "noop") or name.startswith("Reformatting CopyNode"):
            reformats.append(
                {"layer": name, "kind": kind, "from": _formats(layer, "Inputs"), "to": _formats(layer, "Outputs")}
            )
        elif _is_heavy(kind, layer):
            rows.append(Row(_onnx_names(layer) or name, kind, precision, *_inspected_reason(precision)))
    return Explanation("inspector", tuple(_sorted(rows)), dict(sorted(counts.items())), tuple(reformats))


def _row(
    layer: Mapping[str, Any],
    precision: str,
    producers: Mapping[str, Mapping[str, Any]],
    advice: Mapping[str, Finding],
) -> Row:
    name, kind = str(layer["name"]), str(layer["type"])
    found = advice.get(name)
    if found is not None and found.verdict != "reject":
        return Row(name, kind, precision, found.message, found.remedy)
    if precision not in ("FP32", "FP16", "BF16"):
        return Row(name, kind, precision)
    bare = [t["name"] for t in layer["inputs"][:2] if _producer_type(t["name"], producers) != "DEQUANTIZE"]
    change = "quantize the program"
    if precision == "FP32":
        change += ", or export with --precision fp16"
    return Row(
        name,
        kind,
        precision,
        f"input '{bare[0]}' has no Q/DQ" if bare else "layers of this kind do not change",
        change,
    )


def _producer_type(name: str, producers: Mapping[str, Mapping[str, Any]]) -> str:
    producer = producers.get(name)
    return str(producer["type"]) if producer is not None else ""


def _cast(layer: Mapping[str, Any]) -> dict[str, str]:
    kinds = [str(layer[side][0]["dtype"]) if layer[side] else "?" for side in ("inputs", "outputs")]
    return {"layer": str(layer["name"]), "kind": str(layer["type"]), "from": kinds[0], "to": kinds[1]}


def _sorted(rows: Sequence[Row]) -> list[Row]:
    widths = {"FP32": 0, "FP16": 1, "BF16": 1}
    return sorted(rows, key=lambda row: widths.get(row.precision, 2))


def _is_heavy(kind: str, layer: Mapping[str, Any]) -> bool:
    words = (kind + str(layer.get("ParameterType", ""))).lower()
    return any(word in words for word in ("conv", "gemm", "matrix", "kgen", "myelin", "fused"))


def _inspected_precision(layer: Mapping[str, Any]) -> str:
    """The type of the first input: the format of 10.x is a sentence, 11.x gives the type by itself."""
    for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ())):
        text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format") or "")
        for name, word in _PRECISIONS:
            if word.lower() in text.lower():
                return name
        if text:
            return "FP32" if text.lower() in ("float", "float32") else text
    return "?"


def _inspected_reason(precision: str) -> tuple[str, str]:
    if precision != "FP32":
        return "", ""
    return "its inputs are FP32", "quantize the program, or export with --precision fp16"


def _formats(layer: Mapping[str, Any], side: str) -> str:
    tensors = layer.get(side, ())
    return ", ".join(str(t.get("Format/Datatype") or f"{t.get('Datatype', '')} {t.get('Format', '')}") for t in tensors)


def _onnx_names(layer: Mapping[str, Any]) -> str:
    return " + ".join(_ONNX_NAME.findall(str(layer.get("Metadata", ""))))
