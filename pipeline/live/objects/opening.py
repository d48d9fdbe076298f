"""Opens a path that Retort wrote as a live object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ....core.counts import with_article
from ....core.errors import ArtifactError, MissingFileError, UserError
from ...runs.run_record import read_records
from ..workspace import Workspace
from .comparison import Result
from .facts import Facts
from .model_files import Archive, Bundle, Deployment, Engine, Graph, ModelFile, Report
from .notebook import table
from .programs import Program

FILES: dict[str, type[ModelFile]] = {
    "graph": Graph,
    "engine": Engine,
    "bundle": Bundle,
    "deployment": Deployment,
    "archive": Archive,
    "report": Report,
}


def load(path: str | Path) -> Any:
    """Open anything that Retort wrote; see :func:`retort.load`."""
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist", "check the path")
    if path.is_dir() and not is_finished(path):
        return _folder(path)
    if path.suffix == ".json" and path.name != MANIFEST:
        return _json(path)
    return of_artifact(load_artifact(path))


def of_artifact(artifact: Artifact) -> Any:
    """The live object of an artifact or of a plain model file."""
    workspace = Workspace(artifact.path.parent) if artifact.path.is_dir() else Workspace()
    if artifact.kind == "program":
        if artifact.path.is_dir():
            return Program(workspace, artifact)
        from ....compress.program import load_program

        return Program(workspace, captured=load_program(artifact.main))
    if artifact.kind in FILES:
        return FILES[artifact.kind](workspace, artifact)
    if artifact.kind == "measurement":
        return _json(artifact.main)
    raise UserError(f"{artifact.path} is {with_article(artifact.kind)}", f"open {artifact.main} itself")


def _json(path: Path) -> Result | Facts:
    from ....benchmarks.result import SCHEMA, load_result

    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}", "measure again with `retort.compare`") from error
    if isinstance(raw, dict) and raw.get("schema") != SCHEMA and (path.parent / MANIFEST).is_file():
        return Facts(raw)
    return Result.of(load_result(path))


class Run(Mapping[str, Any]):
    """A folder of artifacts, such as a run of a recipe: its live objects by the name of their stage, in order.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, folders: Mapping[str, Path]) -> None:
        self.path = path
        self._folders = dict(folders)

    def __getitem__(self, stage: str) -> Any:
        return load(self._folders[stage])

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __repr__(self) -> str:
        return f"Run of {', '.join(self)}\n  in {self.path}"

    def _repr_html_(self) -> str:
        return table([(stage, folder.name) for stage, folder in self._folders.items()], f"Run in {self.path}")


def _folder(path: Path) -> Run:
    """The artifact of every stage that the latest run in a folder used, or else the newest one."""
    if (path / "config.json").is_file():
        raise UserError(f"{path} is a folder of a pretrained model", f"retort.capture('{path}')")
    found = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and is_finished(folder)]
    if not found:
        raise ArtifactError(f"{path} contains no finished artifact", "give an artifact folder, a run folder or a file")
    latest = read_records(path).latest[:1]
    used = {name for record in latest for name in record.folders}
    found.sort(key=lambda folder: (folder.name in used, (folder / MANIFEST).stat().st_mtime))
    newest = {_label(folder.name): folder for folder in found}
    return Run(path, dict(sorted(newest.items(), key=lambda item: item[1].name)))


def _label(name: str) -> str:
    """``prune`` of ``03-prune-0123456789ab``."""
    stem, _, key = name.rpartition("-")
    number, _, rest = stem.partition("-")
    return (rest if number.isdigit() and rest else stem) if len(key) == 12 and stem else name
