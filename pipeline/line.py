"""A recipe in its run folder: the planned stages, the finished artifacts, and their reuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact
from ..core.console import Console
from ..core.context import Context, Place
from ..core.data.data_sources import load_data
from ..core.data.model_inputs import fit_to
from ..core.data.splits import Splits
from ..core.formats.program_file import read_signature
from ..core.options.recipe import Recipe
from ..core.options.stage_options import CaptureOptions, ExportOptions, ModelSpec, Options
from ..core.options.stage_table import PROGRAM_STAGES
from ..core.system.owned_folders import scratch_of
from .cache_key import Identity, identity_of, identity_of_measurement
from .dispatch import run_stage
from .gates import GateResult
from .reuse import find_finished
from .runs.durations import KEY_LENGTH, last_seconds

if TYPE_CHECKING:
    from ..benchmarks.result import Result, ShipEntry


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        folder: the run's folder.
        artifacts: finished artifacts by stage name, in order.
        gates: the verdicts of the gates, in the order in which they were checked.
        result: the measurement of the bench stage, or None without that stage.
        report: the HTML report, or None without that stage.
        reused: names of the stages whose artifact existed already.
        ship: the file that the run recommends, or None if nothing was exported.
    """

    folder: Path
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    gates: list[GateResult] = field(default_factory=list)
    result: Result | None = None
    report: Path | None = None
    reused: list[str] = field(default_factory=list)
    ship: ShipEntry | None = None


class Line:
    """One run of one recipe in one folder.

    Args:
        base: folder of the recipe.
        text: the recipe's own text, for the report.

    Attributes:
        seen: the artifacts of this run, by folder.
        noted: called after each artifact that this run reused or made.
        verified: artifacts whose hashes were compared just now, by folder; they are not compared again.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path, console: Console, text: str = "") -> None:
        self.recipe = recipe
        self.text = text
        self.base = base
        self.folder = folder
        self.console = console
        self.outcome = Outcome(folder)
        self.seen: dict[Path, Artifact] = {}
        self.noted: Callable[[], None] = lambda: None
        self.verified: dict[Path, Artifact] = {}
        self.plan: list[tuple[str, Options]] = [(stage.name, stage.options) for stage in recipe.stages]
        if self.plan[0][0] != "capture":
            self.plan.insert(0, ("capture", CaptureOptions()))
        self.numbers = {name: index for index, (name, _) in enumerate(self.plan)}
        self.left_out: str | None = None

    @cached_property
    def raw_data(self) -> Splits:
        """The data with the input names of their source."""
        recipe = self.recipe
        return load_data(recipe.data, self.base, recipe.seed, recipe.task, self.console)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the data."""
        return self.raw_data.fingerprint()

    @property
    def context(self) -> Context:
        """The context that all stages share."""
        recipe = self.recipe
        return Context(
            self.raw_data,
            self.base,
            recipe.task,
            recipe.target,
            recipe.seed,
            self.console,
            metric=recipe.metric,
        )

    @cached_property
    def data(self) -> Splits:
        """The data with the names of the model's inputs."""
        return fit_to(self.raw_data, read_signature(self.outcome.artifacts["capture"].main))

    def program(self, name: str, options: Options) -> Artifact:
        """The artifact that a stage on programs makes from the newest program."""
        return self.make(name, options, [self.outcome.artifacts[self.last_program()]], partial(run_stage, name))

    def last_program(self) -> str:
        """Name of the last finished program stage."""
        return [name for name in self.outcome.artifacts if name in PROGRAM_STAGES][-1]

    def shipped(self) -> str:
        """Name of the program stage that is exported: the last one, except for a stage that proved to be slower."""
        return [name for name in self.outcome.artifacts if name in PROGRAM_STAGES and name != self.left_out][-1]

    def graph(self, name: str) -> Artifact:
        """The ONNX graph of a program stage, which is measured; the graph of the last program is also shipped."""
        options = next((o for _, o in self.plan if isinstance(o, ExportOptions)), ExportOptions())
        shipped = "export" in self.numbers and name == self._last_planned()
        if not shipped:  # the files with which the shipped file is compared stay in FP32
            options = options.model_copy(update={"precision": "fp32", "half_io": False})
        label = "export" if shipped else f"{name}-graph"
        return self.make("export", options, [self.outcome.artifacts[name]], partial(run_stage, "export"), label)

    def _last_planned(self) -> str:
        return [name for name, _ in self.plan if name in PROGRAM_STAGES and name != self.left_out][-1]

    def make(
        self,
        stage: str,
        options: Options,
        parents: Sequence[Artifact | ModelSpec],
        run: Callable[[Any, Any, Place, Context], Artifact],
        label: str | None = None,
    ) -> Artifact:
        """Reuse the artifact of a stage for equal inputs, or run the stage.

        Args:
            parents: one artifact, or the model that the recipe names.
            run: the stage's function.
            label: label of the folder; by default the name of the stage.
        """
        identity = identity_of(stage, options, parents, self.context)

        def _make(place: Place) -> Artifact:
            context = replace(self.context, scratch=scratch_of(place.directory))
            return run(options, parents[0], place, context)

        return self._kept(label or stage, identity, parents, _make)

    def measure(
        self,
        name: str,
        options: Options,
        parents: Sequence[Artifact],
        make: Callable[[Place], Artifact],
        extra: Mapping[str, object] | None = None,
        label: str | None = None,
    ) -> Artifact:
        """Reuse the measurement of equal artifacts, or measure with ``make``."""
        identity = identity_of_measurement(name, options, parents, self.context, make, extra)
        return self._kept(label or name, identity, parents, make)

    def _kept(
        self, label: str, identity: Identity, parents: Sequence[Artifact | ModelSpec], make: Callable[[Place], Artifact]
    ) -> Artifact:
        place = self.place_of(label, identity, parents)
        if place.directory not in self.seen:
            self.seen[place.directory] = self._found(label, place) or self.produce(label, place, make)
            self.noted()
        return self.seen[place.directory]

    def place_of(self, label: str, identity: Identity, parents: Sequence[Artifact | ModelSpec]) -> Place:
        """The place of an artifact in the folder of the run: numbered by its stage, and named by its label and key."""
        name = label.removesuffix("-graph").removesuffix("-outputs").removesuffix("-gate")
        number = self.numbers.get(name, len(self.plan))
        keys = tuple(parent.key for parent in parents if isinstance(parent, Artifact))
        directory = self.folder / f"{number:02d}-{label}-{identity.key[:KEY_LENGTH]}"
        return Place(directory, identity.key, keys, identity.inputs)

    def _found(self, label: str, place: Place) -> Artifact | None:
        artifact = self.verified.pop(place.directory, None) or find_finished(place)
        if artifact is None:
            return None
        self.outcome.reused.append(label)
        if label in self.numbers:
            self.console.stage(label, f"reused {place.directory}")
        return artifact

    def produce(self, label: str, place: Place, make: Callable[[Place], Artifact]) -> Artifact:
        """Make an artifact that is not finished yet."""
        started = time.perf_counter()
        with self.console.working(label, last_seconds(self.folder, label)):
            artifact = make(place)
        if label in self.numbers:
            self.console.stage(label, f"{time.perf_counter() - started:.1f} s  {place.directory}")
        return artifact
