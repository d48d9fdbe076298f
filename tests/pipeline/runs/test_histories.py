"""Random histories of two recipes in one folder: `clean` loses nothing that a run would reuse, and no file of a user.

The stages here write small files. Reuse, records and locks are those of a run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.core.artifact import Artifact, is_finished, load_artifact, new_artifact, stable_hash
from retort.core.console import SILENT
from retort.core.context import Place
from retort.core.errors import ArtifactError, UserError
from retort.core.options.recipe import Recipe
from retort.core.system.owned_folders import SCRATCH
from retort.pipeline.line import Line
from retort.pipeline.reuse import find_finished
from retort.pipeline.runs.cleaning import cleaning, remove
from retort.pipeline.runs.run_lock import exclusive
from retort.pipeline.runs.run_record import record_file, recorded

STAGES = ("capture", "train", "quantize", "export")
FOLDER = "own"


class Tree:
    """A folder of runs with two recipes of one name, and what a user put there."""

    def __init__(self, root: Path, draw: np.random.Generator) -> None:
        self.draw = draw
        self.runs = root / "runs"
        self.recipes = [root / "a" / "own.yaml", root / "b" / "own.yaml"]
        for path in self.recipes:
            path.parent.mkdir(parents=True)
            path.touch()
        self.versions = {path: (0,) * len(STAGES) for path in self.recipes}
        self.ran: dict[Path, tuple[int, ...]] = {}
        self.foreign: dict[Path, bytes] = {}

    @property
    def folder(self) -> Path:
        """The folder that both recipes share."""
        return self.runs / FOLDER

    def places(self, versions: tuple[int, ...]) -> list[tuple[str, Place]]:
        """Where a run makes its artifacts: each from the one before, and beside a quantized one its speed."""
        found, parents = [], tuple[str, ...]()
        for number, (stage, version) in enumerate(zip(STAGES, versions, strict=True)):
            key = stable_hash([stage, version, parents])
            directory = self.folder / f"{number:02d}-{stage}-{key[:12]}"
            found.append((stage, Place(directory, key, parents)))
            if stage == "quantize":
                beside = Place(directory.with_name(f"{directory.name}-speed"), stable_hash(["speed", key]))
                found.append(("speed", beside))
            if stage != "capture":
                measured = stable_hash(["outputs", key])
                name = f"{number:02d}-{stage}-outputs-{measured[:12]}"
                found.append(("outputs", Place(self.folder / name, measured, (key,))))
            parents = (key,)
        return found

    def edit(self) -> None:
        """Change an option of one recipe, also back to an earlier one."""
        path = self.recipes[self.draw.integers(2)]
        values = list(self.versions[path])
        values[self.draw.integers(len(STAGES))] = int(self.draw.integers(3))
        self.versions[path] = tuple(values)

    def run(self) -> None:
        """Run one recipe to its end, or until it is stopped or killed in some stage."""
        path = self.recipes[self.draw.integers(2)]
        recipe = Recipe.model_validate(
            {"name": FOLDER, "model": "m:f", "data": "digits", "stages": ["train", {"quantize": {}}, "export"]}
        )
        line = Line(recipe, path.parent, self.folder, SILENT)
        places = self.places(self.versions[path])
        stops = int(self.draw.integers(2 * len(places)))
        killed = self.draw.integers(3) == 0
        self.ran[path] = self.versions[path]
        killed, begun = self.draw.integers(3) == 0, b""
        try:
            with exclusive(self.folder), recorded(line, path, None):
                begun = record_file(self.folder, path).read_bytes()
                self._make(line, places, stops)
        except (UserError, ArtifactError):
            if killed:  # nothing was written at its end
                record_file(self.folder, path).write_bytes(begun)

    def _make(self, line: Line, places: list[tuple[str, Place]], stops: int) -> None:
        for index, (stage, place) in enumerate(places):
            if index == stops:
                self.leave_unfinished(place)
                raise UserError("a fault of this stage", "none")
            made = find_finished(place) or self._written(stage, place)
            if stage != "speed":
                line.seen[place.directory] = made

    def _written(self, stage: str, place: Place) -> Artifact:
        with new_artifact(place, "graph", stage) as draft:
            (draft.folder / "model.onnx").write_bytes(self.draw.bytes(20))
        return load_artifact(place.directory)

    def leave_unfinished(self, place: Place) -> None:
        """What a stage that is killed leaves."""
        if self.draw.integers(2):
            left = place.directory.with_name(f".{place.directory.name}.0123abcd.tmp")
            left.mkdir(exist_ok=True)
            (left / "half").touch()
        if self.draw.integers(2):
            (self.folder / SCRATCH / place.directory.name).mkdir(parents=True, exist_ok=True)

    def interfere(self) -> None:
        """A user adds a file or a folder somewhere, changes an artifact, copies one, or links one."""
        made = sorted(path for path in self.folder.glob("[0-9]*") if is_finished(path))
        somewhere = [self.runs, self.folder, *made]
        place = somewhere[self.draw.integers(len(somewhere))]
        place.mkdir(parents=True, exist_ok=True)
        tag = f"{self.draw.integers(1 << 30):08x}"
        what = self.draw.integers(4)
        if what == 0:
            self._own(place / f"notes-{tag}.txt")
        elif what == 1:
            forms = (f".notes.{tag}.tmp", f".{tag}.20240101.old", f"02-train-{tag}", f"results {tag}")
            self._own(self.folder / forms[self.draw.integers(len(forms))] / "mine.txt")
        elif what == 2 and made:
            self._own(made[self.draw.integers(len(made))] / "model.onnx")
        elif made:
            chosen = made[self.draw.integers(len(made))]
            for name in ("model.onnx", "manifest.json"):
                self._own(chosen.with_name(f"{chosen.name}-copy-{tag}") / name, (chosen / name).read_bytes())

    def _own(self, path: Path, content: bytes | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.draw.bytes(9) if content is None else content)
        self.foreign[path] = path.read_bytes()

    def reusable(self) -> dict[Path, bytes]:
        """The files that a later run of the recipes, as they were when they ran last, would reuse."""
        found = {}
        for versions in self.ran.values():
            for _, place in self.places(versions):
                try:
                    artifact = find_finished(place)
                except ArtifactError:  # changed by hand
                    continue
                if artifact is not None:
                    found[artifact.main] = artifact.main.read_bytes()
        return found


@pytest.mark.parametrize("group", range(4))
def test_clean_loses_nothing(tmp_path: Path, group: int) -> None:
    """After any history, cleaning keeps what either recipe would reuse and every file that Retort did not write."""
    freed = 0
    for seed in range(6 * group, 6 * group + 6):
        tree = Tree(tmp_path / str(seed), np.random.default_rng(seed))
        for _ in range(40):
            (tree.edit, tree.run, tree.run, tree.run, tree.interfere)[tree.draw.integers(5)]()
            if tree.draw.integers(4) == 0 and tree.folder.is_dir():
                before = {**tree.reusable(), **tree.foreign}
                freed += remove(cleaning(tree.runs).items)
                lost = [path for path, content in before.items() if not path.is_file() or path.read_bytes() != content]
                assert not lost, f"seed {seed}"
    assert freed
