"""What is said of times that mean less than they seem to: too many threads, and files made for another processor."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from retort.benchmarks import timing_limits
from retort.benchmarks.small_networks import make_nets
from retort.benchmarks.timing_limits import target_limits, thread_limits, time_limits
from retort.core.artifact import Artifact, FileEntry, Manifest, load_artifact
from retort.core.system.owned_folders import sha256_file


@pytest.fixture
def arm(tmp_path: Path) -> Artifact:
    """An artifact folder with a file that was made for the target arm."""
    path, other = make_nets(tmp_path)
    other.unlink()
    path = path.rename(tmp_path / "model.onnx")
    entry = FileEntry(sha256_file(path), path.stat().st_size)
    manifest = Manifest("graph", "export", "k" * 12, files={path.name: entry}, facts={"target": "arm"})
    (tmp_path / "manifest.json").write_text(json.dumps(asdict(manifest)))
    return load_artifact(tmp_path)


def test_more_threads_than_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 threads on two processors run as asked, and a note says so; two do not need one."""
    monkeypatch.setattr(timing_limits, "usable_cores", lambda: 2.0)
    (told,) = thread_limits([1, 64])
    assert told.startswith("64 threads ran on 2 usable processors, as asked: they wait for each other")
    assert thread_limits([1, 2]) == []


def test_files_for_arm_are_told_on_another_processor(arm: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact's file was made for arm; a copy elsewhere does not say so, and on Arm it is right."""
    monkeypatch.setattr(timing_limits, "has_arm_processor", lambda: False)
    (told,) = target_limits({"fp32": arm.main, "int8": arm.main})
    assert told.startswith("'fp32' and 'int8' were made for the target arm: times on this processor say nothing")
    copy = arm.path / "copy" / "wide.onnx"
    copy.parent.mkdir()
    copy.write_bytes(arm.main.read_bytes())
    assert time_limits({"copy": copy}, [1]) == []
    monkeypatch.setattr(timing_limits, "has_arm_processor", lambda: True)
    assert target_limits({"int8": arm.main}) == []
