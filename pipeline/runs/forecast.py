"""What a run would do: which stages are reused, which are made and why, and how long they took last time.

Nothing is run, and no runtime is loaded. The keys are those of a run, because the same code asks for the artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...core.artifact import Artifact, Manifest, is_finished, load_artifact
from ...core.console import SILENT
from ...core.context import Place
from ...core.counts import counted, listed
from ...core.errors import ArtifactError
from ...core.facts.measurement_facts import RatioFacts
from ...core.options.recipe import Recipe
from ...core.options.stage_options import Gate, Options, QuantizeOptions
from ...core.options.stage_table import STAGES
from ..cache_key import identity_of_measurement
from .durations import seconds_of
from ..line import Line
from ..measure import check_gate
from ..reuse import find_finished
from ..steps import artifact_of
from ..tuning.int8_speed import is_faster, stored_speed

Action = Literal["reused", "made", "not reached"]
_CHANGED = {
    "named": "a file or function that its options name changed",
    "data": "the data changed",
    "code": "the code of Retort, or the version of a package that it uses, changed",
    "seed": "the seed changed",
    "task": "the task changed",
    "metric": "the metric changed",
    "target": "the target changed",
    "tensorrt": "TensorRT or the GPU changed",
}


@dataclass(frozen=True)
class Step:
    """What a run would do about one stage.

    Attributes:
        reasons: why it is made, or why it is not reached; empty if it is reused.
        seconds: how long it took last time, with the measurements for it; None if that is not known.
        folder: where its artifact is or will be; None if that depends on what an earlier stage makes.
    """

    stage: str
    action: Action
    reasons: tuple[str, ...] = ()
    seconds: float | None = None
    folder: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}


class Forecast(Line):
    """A run that makes nothing: an artifact that is not finished has a key, but no files.

    Attributes:
        places: the place of every artifact that is asked for and is not finished, by its label.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path, text: str) -> None:
        super().__init__(recipe, base, folder, SILENT, text)
        self.places: dict[str, Place] = {}

    def produce(self, label: str, place: Place, make: Callable[[Place], Artifact]) -> Artifact:
        """An artifact without files, which has only its key."""
        self.places[label] = place
        kind = STAGES["export" if label.endswith("-graph") else label].makes
        return Artifact(place.directory, Manifest(kind, label, place.key, place.parents))

    def measure(
        self,
        name: str,
        options: Options,
        parents: Sequence[Artifact],
        make: Callable[[Place], Artifact],
        extra: Mapping[str, object] | None = None,
        label: str | None = None,
    ) -> Artifact:
        """A measurement that is stored and can decide.

        Raises:
            ArtifactError: it has to be measured.
        """
        label = label or name
        identity = identity_of_measurement(name, options, parents, self.context, make, extra)
        place = self.place_of(label, identity, parents)
        found = find_finished(place)
        noisy = (
            found is not None and name == "gate" and any(r.doubts for r in found.facts_as(RatioFacts).ratios.values())
        )
        if found is None or noisy:
            self.places[label] = place
            raise ArtifactError(f"{place.directory} is not measured yet", "run the recipe")
        self.seen[place.directory] = found
        return found

    @property
    def unfinished(self) -> bool:
        """Whether something would be made."""
        return bool(self.places)


def forecast(line: Forecast, until: str | None = None) -> list[Step]:
    """What a run would do, stage by stage.

    Args:
        line: afterwards ``line.seen`` has the artifacts that would be reused.
        until: the last stage to run.

    Raises:
        ArtifactError: an artifact that would be reused is damaged.
        RetortError: the data cannot be read.
    """
    steps: list[Step] = []
    stopped = ""
    for name, options in line.plan:
        step = Step(name, "not reached", (stopped,)) if stopped else _step(line, name, options)
        steps.append(step)
        if not stopped:
            stopped = _missed_gate(line, name)
        if name == until:
            break
    return steps


def _step(line: Forecast, name: str, options: Options) -> Step:
    before, needs = len(line.places), STAGES[name].after
    if needs is not None and needs not in line.outcome.artifacts:
        return _made(line, name, options, None)
    try:
        artifact = artifact_of(line, name, options)
    except ArtifactError:
        if not line.unfinished:
            raise
        return _made(line, name, options, line.places.get(name))
    line.outcome.artifacts[name] = artifact
    if isinstance(options, QuantizeOptions):
        _leave_out(line, options, artifact)
    if name in line.places and len(line.places) > before:
        return _made(line, name, options, line.places[name])
    return Step(name, "reused", (), seconds_of(artifact), artifact.path)


def _leave_out(line: Forecast, options: QuantizeOptions, artifact: Artifact) -> None:
    """With `prefer: fastest`, leave INT8 out where the stored measurement shows that it is not faster."""
    if line.recipe.prefer == "fastest" and "quantize" not in line.places:
        ratios = stored_speed(artifact, line.context.target)
        line.left_out = None if ratios is None or is_faster(ratios) else "quantize"


def _missed_gate(line: Forecast, name: str) -> str:
    """The sentence of a gate that is known to be missed after a stage; empty if the run goes on, as far as is known."""
    for gate in line.recipe.gates:
        if gate.after == name and not line.unfinished:
            sentence = _verdict(line, gate)
            if sentence:
                return sentence
    return ""


def _verdict(line: Forecast, gate: Gate) -> str:
    try:
        result = check_gate(line, gate)
    except ArtifactError:
        if not line.unfinished:
            raise
        return ""
    line.outcome.gates.append(result)
    return "" if result.passed else f"the run stops at a gate: {result.sentence}"


def _made(line: Forecast, name: str, options: Options, place: Place | None) -> Step:
    last = _last(line, name)
    reasons = tuple(_reasons(line, name, options, place, last))
    known = place is not None and not _is_open(line, name)
    return Step(name, "made", reasons, seconds_of(last) if last else None, place.directory if place and known else None)


def _is_open(line: Forecast, name: str) -> bool:
    """Whether the key of a stage depends on something that a stage before it has yet to show.

    Measurements depend on the verdicts of gates. With ``prefer: fastest`` it is open which program is exported.
    """
    number = line.numbers[name]
    before = [label for label in line.places if line.numbers.get(label, number) < number]
    if STAGES[name].takes is None:
        return bool(before)
    return STAGES[name].makes != "program" and line.recipe.prefer == "fastest" and "quantize" in before


def _last(line: Forecast, name: str) -> Artifact | None:
    """The newest artifact of a stage in the run's folder."""
    number = line.numbers[name]
    folders = [path for path in line.folder.glob(f"{number:02d}-{name}-*") if is_finished(path)]
    folders = [path for path in folders if path.name.count("-") == name.count("-") + 2]
    newest = max(folders, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else load_artifact(newest, verify=False)


def _reasons(line: Forecast, name: str, options: Options, place: Place | None, last: Artifact | None) -> Iterator[str]:
    if last is None:
        yield "it was not made before"
        return
    number = line.numbers[name]
    before = [label for label in line.places if label in line.numbers and line.numbers[label] < number]
    made = before if STAGES[name].takes in (None, "model") else before[-1:]
    if made:
        yield f"{listed(made)} {'is' if len(made) == 1 else 'are'} made"
    if place is None:
        return
    if not last.manifest.inputs:
        yield "the last one was written by an earlier version of Retort"
        return
    changed = [key for key, value in place.inputs.items() if last.manifest.inputs.get(key) != value]
    if "options" in changed:
        yield from _changed_options(last.manifest.options, options)
    if "parents" in changed and not made:
        yield "the model or its weights changed" if name == "capture" else "a stage before it is another one"
    judged = STAGES[name].takes is None  # its code includes the verdicts of gates
    for key, text in _CHANGED.items():
        if key in changed and not (key == "code" and judged):
            yield text
    if "code" in changed and judged and not made:
        yield "the text of the recipe, a verdict of a gate, or the code of Retort changed"
    if not changed:
        yield "its folder was removed" if last.key != place.key else "it is not finished"


def _changed_options(before: Mapping[str, Any], options: Options) -> Iterator[str]:
    """The options that differ from those of the last artifact."""
    now = options.model_dump(mode="json")
    for key, value in now.items():
        if key in before and before[key] != value:
            yield from _differences(key, before[key], value)


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in sorted({*old, *new}):
            if old.get(inner) != new.get(inner):
                yield from _differences(f"{key}.{inner}", old.get(inner), new.get(inner))
    else:
        yield f"{key}: {_word(old)} → {_word(new)}"


def _word(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(steps: Sequence[Step]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for a terminal."""
    rows = []
    for step in steps:
        took = "" if step.seconds is None else f"{step.seconds:.1f} s"
        unknown = "not known yet" if step.action == "made" else ""
        folder = step.folder.name if step.folder else unknown
        rows.append([step.stage, step.action, "; ".join(step.reasons), took, folder])
    return ["stage", "what", "why", "last time", "folder"], rows


def summary(steps: Sequence[Step]) -> str:
    """One line: how many stages are made, and how long they took last time."""
    made = [step for step in steps if step.action == "made"]
    if not made:
        return "every stage is reused" if all(step.action == "reused" for step in steps) else "nothing is made"
    known = [step.seconds for step in made if step.seconds is not None]
    took = f"; they took {sum(known):.0f} s last time" if known else ""
    unknown = len(made) - len(known)
    took += f" ({unknown} of them not known)" if known and unknown else ""
    return f"{len(made)} of {counted(steps, 'stage')} would be made{took}"
