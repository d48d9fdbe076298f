"""What a run on a device wrote, read at home: nothing is believed that does not have its checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ArtifactError, MissingFileError, UserError
from ...core.system.atomic_files import storage_errors
from ...core.system.owned_folders import sha256_file
from ...core.tensors import Array
from .device_bundle import DESCRIPTION
from .runner import SCHEMA

RESULT, DEVICE, SENSORS = "result.json", "device.json", "sensors.jsonl"
_FACTS = {"cpu", "machine", "os", "kernel", "python", "memory_bytes", "packages"}
"""What a description of a device has at least."""
MARK = ".retort-edge"
"""File in a folder of results that says to which bundle they belong."""
_AGAIN = "run it on the device again, and pull the results"


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes:
        said: how it was done and what it found, as the device wrote it.
        raw: the file with its raw numbers; None if it has none.
    """

    name: str
    said: Mapping[str, Any]
    raw: Path | None = None

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not."""
        return str(self.said.get("error") or "")

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The raw numbers by name."""
        if self.raw is None:
            return {}
        with np.load(self.raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


@dataclass(frozen=True)
class Pulled:
    """A run of a bundle on a device.

    Attributes:
        described: what was to be measured, from the bundle.
        device: what the device is.
        state: ``finished``, ``failed`` (a part of it) or ``ended``.
        why: why it was ended; empty if it was not.
        readings: of the sensors, in order, each with ``t``; marks have ``what``.
    """

    bundle: Path
    described: Mapping[str, Any]
    device: Mapping[str, Any]
    state: str
    why: str
    parts: Mapping[str, Part]
    readings: list[dict[str, Any]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Part]:
        """The parts of a kind: ``latency``, ``accuracy`` or ``cold``."""
        return [part for part in self.parts.values() if part.said.get("kind") == kind]

    def during(self, part: str) -> list[dict[str, Any]]:
        """The readings of the sensors while a part ran."""
        marks = [one for one in self.readings if "what" in one]
        begun = next((one for one in reversed(marks) if one["what"] == part), None)
        if begun is None:
            return []
        start, same = begun["t"], [one for one in self.readings if one.get("run") == begun.get("run")]
        ended = min((one["t"] for one in same if "what" in one and one["t"] > start), default=float("inf"))
        return [one for one in same if "what" not in one and start <= one["t"] <= ended]


def claim_results(out: Path, manifest: str) -> None:
    """Make a folder the place of the results of a bundle; it is new or empty, or was that before.

    Args:
        manifest: SHA-256 of the description of the bundle.

    Raises:
        UserError: it is a file, or contains something else, which stays.
        StorageError: it cannot be written.
    """
    elsewhere = "choose another folder with --results"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", elsewhere)
    mark = out / MARK
    if out.is_dir() and (others := sorted(path.name for path in out.iterdir())):
        known = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
        if not known and (out / RESULT).is_file():
            known = str(_json(out / RESULT).get("manifest") or "")
        if not known:
            raise UserError(f"{out} contains {others[0]}, which is no result of a device", elsewhere)
        if known != manifest:
            raise UserError(f"{out} contains the results of another bundle", elsewhere)
    with storage_errors(str(out)):
        out.mkdir(parents=True, exist_ok=True)
        mark.write_text(manifest, encoding="utf-8")


def read_results(bundle: Path, out: Path) -> Pulled:
    """Read the results of a bundle.

    Args:
        bundle: the folder that was sent.
        out: the folder that came back.

    Raises:
        MissingFileError: there are no results.
        ArtifactError: they belong to another bundle, or a file is missing or altered.
    """
    if not (out / RESULT).is_file():
        raise MissingFileError(f"{out} contains no {RESULT}", "wait until the run has ended, and pull the results")
    result, described = _json(out / RESULT), _json(bundle / DESCRIPTION)
    if result.get("schema") != SCHEMA:
        raise ArtifactError(f"{out / RESULT} is no result of {SCHEMA}", _AGAIN)
    if result.get("manifest") != sha256_file(bundle / DESCRIPTION):
        raise ArtifactError(f"the results in {out} belong to another bundle than {bundle}", "give the bundle that ran")
    files = result.get("files")
    if not isinstance(files, dict) or not {DEVICE, SENSORS} <= files.keys():
        raise ArtifactError(f"{out / RESULT} lists no files", _AGAIN)
    for name, wanted in files.items():
        if Path(name).name != name:
            raise ArtifactError(f"{out / RESULT} names {name!r:.80}, which is no file beside it", _AGAIN)
        if not (out / name).is_file():
            raise ArtifactError(f"{out / name} is missing", _AGAIN)
        if sha256_file(out / name) != wanted:
            raise ArtifactError(f"{out / name} was changed after the run, or arrived damaged", _AGAIN)
    device = _json(out / DEVICE)
    if not device.keys() >= _FACTS or not isinstance(device["cpu"], dict):
        raise ArtifactError(f"{out / DEVICE} does not describe a device", _AGAIN)
    try:
        parts = {name: _part(out, name, files) for name in result["parts"] if f"{name}.json" in files}
        readings = [dict(json.loads(line)) for line in (out / SENSORS).read_text().splitlines() if line]
        return Pulled(bundle, described, device, str(result["state"]), str(result["why"]), parts, readings)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the results in {out} are not as the device wrote them: {error}", _AGAIN) from error


def _part(out: Path, name: str, files: Mapping[str, str]) -> Part:
    raw = out / f"{name}.npz"
    return Part(name, _json(out / f"{name}.json"), raw if raw.name in files else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist", _AGAIN) from error
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read: {error}", _AGAIN) from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} contains no object", _AGAIN)
    return found
