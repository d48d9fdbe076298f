"""The figures of a result computed again from what it keeps: raw times, rounds, sizes and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import RetortError
from ...core.metrics.task_metrics import higher_is_better
from ..build_result import latency_entry
from ..result import LatencyEntry, LatencyRun, Result, StageEntry
from ..timing.latency import summary
from ..timing.method import method
from .recomputed import Recomputed, equal, leaves, shown
from .stored_rounds import StoredRounds

CLOSE = 1e-5
"""Relative difference of two figures that are the same: times of rounds have seven digits."""
LOOSE = {"p_value": (0.0, 2e-3), "p_holm": (0.0, 4e-3), "drift": (1e-2, 1e-2)}
"""Relative and absolute differences of figures that small changes move: ties that are broken the other way, slopes."""
FROM_RAW = (
    "median_ms",
    "wall_ms",
    "percentiles",
    "mean_ms",
    "rows_per_second",
    "ratio",
    "p_value",
    "blocks_ms",
    "drift",
    "spikes",
)
FROM_ROUNDS = ("median_ms", "percentiles", "mean_ms", "rows_per_second", "ratio", "p_value", "spikes")
LASTING = ("percentiles", "mean_ms")
"""Figures whose meaning does not change with the statistics."""
RATIO_KEYS = ("value", "low", "high", "confidence", "rounds", "wall", "p_holm")
PLAIN = {
    "median_ms.value": "the median", "wall_ms.value": "the wall-clock time", "mean_ms": "the mean",
    "ratio.value": "the ratio", "rows_per_second": "the throughput", "p_value": "the p value",
    "median_ms.low": "the lower end of the median", "median_ms.high": "the upper end of the median",
    "ratio.low": "the lower end of the ratio", "ratio.high": "the upper end of the ratio",
}  # fmt: skip


class Recomputation(Recomputed):
    """The figures of a result, computed again from its raw times, rounds, sizes and metrics."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        for run in result.runs:
            self._times(result, run)
        for index, stage in enumerate(result.stages):
            self._accuracy(result, index, stage)
        self._gates(result)

    def _times(self, result: Result, run: LatencyRun) -> None:
        """The figures of one batch size."""
        places = {stage.stage: index for index, stage in enumerate(result.stages) if run.batch in stage.latency}
        entries = {name: result.stages[index].latency[run.batch] for name, index in places.items()}
        for name, entry in entries.items():
            self._by_itself(f"stages.{places[name]}.latency.{run.batch}", f"'{name}' at batch {run.batch}", entry)
        lacking = [name for name, entry in entries.items() if entry.raw is None]
        if lacking or run.reference not in entries:
            self.notes.append(
                f"the times at batch {run.batch} have no raw times, so percentiles and intervals are believed"
            )
            self._from_blocks(run, entries, places)
            return
        try:
            stored = StoredRounds(run, entries)
            found = summary(stored, run.batch, stored.options)
        except (RetortError, ValueError) as error:
            told = error.message if isinstance(error, RetortError) else str(error)
            self.faults.append(f"stages: the raw times at batch {run.batch} do not fit together: {told}")
            return
        methods = {entry.raw.method for entry in entries.values() if entry.raw is not None}
        keys: tuple[str, ...] = FROM_RAW if stored.in_time else FROM_ROUNDS
        if methods != {method()}:
            told = "were computed by another version of the statistics, so medians, ratios and intervals are believed"
            self.notes.append(f"the figures at batch {run.batch} {told}")
            self._from_blocks(run, entries, places)
            keys = LASTING
        elif not stored.in_time:
            told = "are in order of size, so the rounds are believed"
            self.notes.append(f"the raw times at batch {run.batch} {told}")
        for name, index in places.items():
            again, said = latency_entry(found.candidates[name]).model_dump(), entries[name].model_dump()
            for values in (again, said):
                if values["ratio"]:
                    values["ratio"] = {key: values["ratio"][key] for key in RATIO_KEYS}
                    values["ratio"].update({} if stored.in_time else {"wall": None})
            where = f"stages.{index}.latency.{run.batch}"
            for key in keys:
                for path, one, other in leaves(key, said[key], again[key]):
                    if path.startswith("percentiles") and keys == LASTING and not _lasts(path, one, other):
                        continue
                    self._same(f"{where}.{path}", PLAIN.get(path, path), f"'{name}' at batch {run.batch}", one, other)

    def _same(self, where: str, what: str, whose: str, said: Any, found: Any, source: str = "raw times") -> None:
        self.figures += 1
        relative, absolute = next((LOOSE[part] for part in where.split(".") if part in LOOSE), (CLOSE, 1e-9))
        if not equal(said, found, relative, absolute):
            unit = " ms" if "_ms" in where else ""
            told, gives = (f"{shown(value)}{'' if value is None else unit}" for value in (said, found))
            self.faults.append(f"{where}: {what} of {whose} says {told}; its {source} give {gives}")

    def _by_itself(self, where: str, whose: str, entry: LatencyEntry) -> None:
        """The verdict follows from the ratio, and the ratio from nothing for the reference."""
        self.figures += 1
        follows = "reference" if entry.ratio is None else entry.ratio.ratio().verdict
        if entry.verdict != follows:
            self.faults.append(f"{where}.verdict: {whose} says {entry.verdict}; its ratio gives {follows}")

    def _from_blocks(self, run: LatencyRun, entries: Mapping[str, LatencyEntry], places: Mapping[str, int]) -> None:
        """Without raw times: a time lies within its rounds, and a ratio within the ratios that the rounds allow."""
        theirs = entries[run.reference].blocks_ms if run.reference in entries else ()
        for name, entry in entries.items():
            where, ours = f"stages.{places[name]}.latency.{run.batch}", entry.blocks_ms
            if not ours:
                continue
            whose = f"'{name}' at batch {run.batch}"
            self._within(
                f"{where}.median_ms.value", f"the median of {whose}", entry.median_ms.value, min(ours), max(ours)
            )
            if entry.ratio is not None and theirs:
                low, high = min(theirs) / max(ours), max(theirs) / min(ours)
                self._within(f"{where}.ratio.value", f"the ratio of {whose}", entry.ratio.value, low, high)

    def _within(self, where: str, what: str, said: float | None, low: float, high: float) -> None:
        self.figures += 1
        if said is not None and not low * (1 - CLOSE) <= said <= high * (1 + CLOSE):
            span = f"{shown(low)} to {shown(high)}"
            self.faults.append(f"{where}: {what} says {shown(said)}; its rounds allow {span}")

    def _accuracy(self, result: Result, index: int, stage: StageEntry) -> None:
        """A loss is the difference of two metrics, and the accuracy is that of the classes together."""
        reference, metric = result.stage(result.reference), stage.metric
        if metric is None:
            return
        where, whose = f"stages.{index}", f"'{stage.stage}'"
        comparable = reference.metric is not None and reference.metric.name == metric.name
        same_samples = comparable and reference.metric is not None and reference.metric.n == metric.n
        if same_samples and stage.drop is not None and None not in (stage.drop.value, metric.value):
            assert reference.metric is not None
            sign = 1 if higher_is_better(metric.name) else -1
            lost = sign * ((reference.metric.value or 0.0) - (metric.value or 0.0))
            self._same(f"{where}.drop.value", "the loss", whose, stage.drop.value, lost, "metrics")
        samples = sum(one.n for one in stage.classes)
        several = not stage.confusion and any(one.f1 is not None for one in stage.classes)  # labels per sample
        if metric.name == "accuracy" and stage.classes and samples == metric.n and not several:
            right = sum(one.n * (one.share.value or 0.0) for one in stage.classes) / samples
            self._same(f"{where}.metric.value", "the accuracy", whose, metric.value, right, "classes")

    def _gates(self, result: Result) -> None:
        """A gate passed if its verdict says so."""
        for index, gate in enumerate(result.gates):
            self.figures += 1
            if gate.passed != (gate.verdict == "passed"):
                told = "passed" if gate.passed else "not passed"
                self.faults.append(f"gates.{index}.passed: says {told}; its verdict is {gate.verdict}")


def _lasts(path: str, said: Any, found: Any) -> bool:
    """Whether a figure of a percentile depends on nothing but the readings: its interval depends on the statistics."""
    return None not in (said, found) and not path.endswith(("low_ms", "high_ms", "needed", "dependence"))
