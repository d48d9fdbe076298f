"""Validation of a file: its form, its figures computed again, and the checksums of the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.counts import counted
from ...core.errors import ArtifactError, MissingFileError
from ...core.system.owned_folders import sha256_file
from ..edge.runner import SCHEMA as DEVICE_SCHEMA
from ..peers.peer_result import PEER_SCHEMA, peer_faults
from ..result import SCHEMA, Result, validate
from ..scenarios.load_result import LOAD_SCHEMA, LoadResult, load_faults
from ..schema_versions import raise_if_newer
from .device_schema import device_faults
from .load_recomputation import LoadRecomputation
from .recomputation import Recomputation

_GIVE = "give the .json file that `retort bench` or `retort edge` wrote"


@dataclass(frozen=True)
class Validation:
    """What was found in a file.

    Attributes:
        schema: the schema that the file names.
        faults: what is wrong, each with its key path; empty if it is valid.
        figures: number of figures that were computed again.
        files: number of files beside it whose checksums were compared.
        notes: what could not be checked, and why.
    """

    path: str
    schema: str
    faults: tuple[str, ...]
    figures: int = 0
    files: int = 0
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.faults:
            return f"{self.path} is not valid: {counted(len(self.faults), 'fault')}"
        again = f"{counted(self.figures, 'figure')} computed again, {counted(self.files, 'checksum')} compared"
        return f"{self.path} is a valid {self.schema}: {again}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "valid": not self.faults}


def validate_file(path: Path) -> Validation:
    """Validate a result of Retort, of a load, of a device or of another tool.

    Raises:
        MissingFileError: there is no such file.
        ArtifactError: it is no JSON, no result, or one of a later version.
    """
    if not path.is_file():
        raise MissingFileError(f"no such result: {path}", _GIVE)
    try:
        raw: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}", _GIVE) from error
    schema = str(raw.get("schema", "")) if isinstance(raw, dict) else ""
    for known in (SCHEMA, DEVICE_SCHEMA, LOAD_SCHEMA, PEER_SCHEMA):
        raise_if_newer(raw, str(path), known)
    if schema == DEVICE_SCHEMA:
        faults, files = device_faults(raw, path)
        return Validation(str(path), schema, tuple(faults), files=files)
    if schema == LOAD_SCHEMA:
        return _validated_load(raw, path)
    if schema == PEER_SCHEMA:
        return Validation(str(path), schema, tuple(peer_faults(raw)))
    if not schema.startswith(SCHEMA.partition("/")[0] + "/"):
        raise ArtifactError(f"{path} is JSON, but no result of Retort", _GIVE)
    if faults := validate(raw):
        return Validation(str(path), schema, tuple(faults))
    return _validated(Result.model_validate(raw), path, schema)


def _validated(result: Result, path: Path, schema: str) -> Validation:
    found = Recomputation(result)
    wrong, compared = _beside({stage.file: stage.sha256 for stage in result.stages}, path.parent)
    return Validation(str(path), schema, (*found.faults, *wrong), found.figures, compared, tuple(found.notes))


def _validated_load(raw: Any, path: Path) -> Validation:
    if faults := load_faults(raw):
        return Validation(str(path), LOAD_SCHEMA, tuple(faults))
    found = LoadRecomputation(LoadResult.model_validate(raw))
    return Validation(str(path), LOAD_SCHEMA, tuple(found.faults), found.figures, notes=tuple(found.notes))


def _beside(files: Mapping[str, str], folder: Path) -> tuple[list[str], int]:
    """Faults of the measured files that lie beside a result, and their number."""
    faults, compared = [], 0
    for name, wanted in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            continue
        compared += 1
        if (found := sha256_file(path)) != wanted:
            faults.append(f"stages: {path} has SHA-256 {found[:12]}…, and was measured as {wanted[:12]}…")
    return faults, compared
