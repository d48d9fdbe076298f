"""Descriptions of the fields of a result for its published schema, where the classes do not give them themselves."""

from __future__ import annotations

from typing import Any

DESCRIPTIONS: dict[str, dict[str, str]] = {
    "Result": {
        "schema": "name and version of the form",
        "id": "random identification of the result",
        "seconds": "duration of the whole measurement",
        "title": "what was measured, in words",
        "command": "the command that measured it",
        "tool": "name, version and commit of Retort",
        "env": "the machine or the device: system, processor, memory, packages",
        "stages": "what was measured: a stage of a run, or a model file",
        "runs": "facts of the timing of each batch size",
        "gates": "bounds of the recipe and their verdicts",
        "ship": "the file that a run recommends",
        "notes": "what limits the measurement, in sentences",
    },
    "StageEntry": {
        "stage": "name of the stage or of the model",
        "kind": "kind of the artifact, such as graph",
        "file": "name of the measured file",
        "size_bytes": "size of the file",
        "gzip_bytes": "size of the deflated file",
        "parameters": "number of parameters",
        "metric": "the task metric on the test samples",
        "agreement": "share of samples on which it decides as the reference does",
        "sqnr_db": "signal-to-noise ratio of its outputs against the reference, in dB",
        "memory": "memory of a new process",
        "energy": "energy of a sample, where the device or a meter measures it",
        "notes": "remarks of the stage",
    },
    "Spread": {"value": "the measured value", "low": "lower end of its interval", "high": "upper end of its interval",
               "confidence": "two-sided confidence of the interval"},
    "MetricEntry": {"name": "name of the metric", "n": "number of samples"},
    "ClassEntry": {"name": "name of the class"},
    "MemoryEntry": {
        "peak_bytes": "largest resident memory of the process",
        "baseline_bytes": "resident memory of a process without the model",
        "model_bytes": "the difference of both",
        "batch": "rows per call",
    },
    "EnergyEntry": {
        "gross_mj": "with what the device uses anyway",
        "watts": "power of the device while it computed",
        "idle_watts": "power of the device while nothing was computed",
        "turns": "number of measurements",
        "remark": "why it is not steady; empty if it is",
    },
    "PercentileEntry": {
        "percentile": "such as 99",
        "value_ms": "the percentile of the wall-clock time of a call; null with too few samples",
        "low_ms": "lower end of its distribution-free interval of 99 %",
        "high_ms": "upper end of that interval",
        "n": "number of samples",
        "needed": "number of samples that it needs",
    },
    "SpikesEntry": {
        "count": "number of spikes",
        "calls": "number of calls",
        "share_percent": "share of the calls that are spikes",
        "longest_ms": "longest call",
        "median_ms": "median of all calls",
    },
    "LatencyEntry": {
        "percentiles": "percentiles of the wall-clock time of a call",
        "mean_ms": "mean of the wall-clock time of a call",
        "rows_per_second": "throughput at the time of a call",
        "p_value": "p value of the hypothesis that it is as fast as the reference, by sign flips over rounds",
        "verdict": "faster, slower or cannot tell, by the interval of the ratio and the state of the machine",
        "calls_per_sample": "calls in each slot",
        "samples_per_block": "slots in each block",
        "warmup_ms": "times of the warm-up blocks",
        "spikes": "calls that took more than twice the median",
    },
    "RatioEntry": {
        "rounds": "number of rounds",
        "clock": "the clock of the ratio: CPU time of a thread, or wall-clock time",
        "doubts": "why no decision may be based on it; empty if it is valid",
    },
    "NoiseEntry": {
        "status": "VALID, or NOISY: no decision may be based on the times",
        "reasons": "why it is NOISY",
        "pressure_percent": "share of the time in which some process waited for a CPU",
        "steal_percent": "share of the CPU time that the hypervisor took",
        "spread_percent": "robust variation of the rounds, of the worst model",
        "drift_percent": "change of the rounds from the first to the last third, of the worst model",
        "remarks": "remarks on a valid measurement",
        "attempts": "number of measurements, of which all but the last were NOISY",
    },
    "LatencyRun": {
        "batch": "rows per call",
        "reference": "name of the reference of the ratios",
        "threads": "threads of the runtime; 0 is all",
        "rounds": "number of rounds",
        "stopped": "why it was enough: precise, or budget",
        "resolution_ns": "smallest step of the clock",
        "seconds": "duration of the timing",
        "noise": "disturbances of the machine, and the verdict on the timing",
    },
    "GateEntry": {
        "stage": "the stage after which the gate stands",
        "kind": "what is bounded",
        "bound": "the bound",
        "value": "the measured value",
        "low": "lower end of its interval",
        "high": "upper end of its interval",
        "confidence": "confidence with which the gate must hold",
        "against": "the reference",
        "verdict": "the verdict",
        "passed": "whether the verdict is passed",
        "sentence": "the verdict in words",
    },
    "ShipEntry": {"stage": "the recommended stage", "sentence": "the recommendation in words"},
    "StageDetails": {
        "stage": "name of the stage",
        "key": "key of its artifact",
        "proofs": "claims that the stage checked",
        "integer_macs_percent": "share of the multiply-accumulates in INT8",
        "floating": "layers and operators that are not INT8",
        "outputs": "differences of outputs between two forms of the model",
        "curves": "its trainings",
    },
    "Proof": {"claim": "what was checked"},
    "FloatLayer": {"layer": "name of the layer", "operator": "its operator", "reason": "why it is not INT8"},
    "OutputNoise": {"output": "name of the output"},
    "Curve": {"name": "name of the training", "epochs": "one entry per epoch"},
}  # fmt: skip
"""By class and field."""


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema of pydantic with a description of every field, without titles that repeat the names."""
    classes = {"Result": schema, **schema.get("$defs", {})}
    for name, model in classes.items():
        known = DESCRIPTIONS.get(name, {})
        inherited = DESCRIPTIONS["Spread"] if "confidence" in model.get("properties", {}) else {}
        for key, field in model.get("properties", {}).items():
            field.pop("title", None)
            if "description" not in field and (text := known.get(key) or inherited.get(key)):
                field["description"] = text
    return schema
