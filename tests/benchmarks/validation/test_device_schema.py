"""What a device wrote follows its schema, and every file beside it has its checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from edge_devices import bundle, dense, run_here

from retort.benchmarks.validation.device_schema import DevicePart, device_json_schema
from retort.benchmarks.validation.validation import validate_file


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run here, as on a device."""
    folder = tmp_path_factory.mktemp("device")
    models = {name: dense(folder / f"{name}.onnx", width) for name, width in (("wide", 256), ("narrow", 16))}
    made = bundle(folder / "bundle", models, energy="on", energy_seconds=0.1)
    done = run_here(made)
    assert done.returncode == 0, done.stderr
    return made.path / "out"


def test_a_run_follows_the_published_schema(results: Path) -> None:
    """A real run is valid, all of its checksums are compared, and no field is missing in the schema of parts."""
    found = validate_file(results / "result.json")
    listed = json.loads((results / "result.json").read_text())
    assert found.faults == ()
    assert found.files == len(listed["files"])
    known = set(DevicePart.model_fields)
    told = {key for name in listed["parts"] for key in json.loads((results / f"{name}.json").read_text())}
    assert told - known <= {"block_ms", "seconds", "precision", "needed", "every_slot", "cpus", "drop_cache",
                            "start_s", "opening_s", "parts"}  # fmt: skip


def test_changed_and_missing_files_are_named(results: Path, tmp_path: Path) -> None:
    """Each file that was changed or is gone is a fault with its key path; so is a part that is not as it should be."""
    listed: dict[str, Any] = json.loads((results / "result.json").read_text())
    for name in listed["files"]:
        (tmp_path / name).write_bytes((results / name).read_bytes())
    part = listed["parts"][-1]
    (tmp_path / "device.json").write_bytes(b"{}")
    (tmp_path / "sensors.jsonl").unlink()
    (tmp_path / f"{part}.json").write_text('{"kind": "magic"}')
    listed["files"][f"{part}.json"] = hashlib.sha256(b'{"kind": "magic"}').hexdigest()
    listed["files"]["../outside"] = "0" * 64
    (tmp_path / "result.json").write_text(json.dumps(listed))
    faults = validate_file(tmp_path / "result.json").faults
    for told in ("files.device.json: ", "sensors.jsonl is missing", f"{part}.json: kind: ", "files.../outside: "):
        assert any(told in fault for fault in faults), told
    del listed["state"], listed["parts"]
    (tmp_path / "result.json").write_text(json.dumps(listed))
    assert {fault.partition(":")[0] for fault in validate_file(tmp_path / "result.json").faults} == {"state", "parts"}


def test_every_field_is_described() -> None:
    """Each key of the published schema says what it holds."""
    schema = device_json_schema()
    for model in (schema, *schema["$defs"].values()):
        assert all(field.get("description") for field in model["properties"].values())
