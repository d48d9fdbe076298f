"""Java's archive of classes: written when a server ends, read when it is whole, and no reason not to start."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from served_models import VECTOR, archive, require_torchserve

from retort.core.options.stage_options import ServeOptions
from retort.core.system.java import Java, find_java
from retort.serve.torchserve import java_archive as archives
from retort.serve.torchserve.java_archive import JavaArchive, java_archive
from retort.serve.torchserve.server import serve

FLAGS = ["-Xms64m", "-Xmx300m", "-XX:+UseSerialGC"]


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Java:
    """A Java of OpenJDK, an empty cache and a jar."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(archives.VARIABLE, raising=False)
    for name in ("java", "one.jar"):
        (tmp_path / name).write_text(name)
    return Java(tmp_path / "java", 17, "PATH", hotspot=True)


def _asked(java: Java, flags: list[str] = FLAGS) -> JavaArchive:
    return java_archive(java, [java.path.with_name("one.jar")], flags)


def _written(java: Java, content: bytes = b"classes") -> Path:
    """The file after a first server."""
    first = _asked(java)
    assert first.part is not None
    assert first.path is not None
    first.part.write_bytes(content)
    first.settle(complete=True)
    return first.path


def test_the_first_server_writes_and_later_ones_read(java: Java) -> None:
    """The option that writes names another file than the one that is read, which appears only when it is whole."""
    first = _asked(java)
    assert first.flags[0] == f"-XX:ArchiveClassesAtExit={first.part}"
    assert not first.discard()
    path = _written(java)
    again = _asked(java)
    assert (again.flags[0], again.part) == (f"-XX:SharedArchiveFile={path}", None)
    again.settle(complete=False)
    assert path.is_file()
    assert not list(path.parent.glob("*.part*"))


def test_since_java_25_it_is_an_aot_cache(java: Java) -> None:
    """Its options have other names, and the file another one."""
    new = replace(java, version=25)
    first = _asked(new)
    assert first.flags[0] == f"-XX:AOTCacheOutput={first.part}"
    path = _written(new)
    assert path.suffix == ".aot"
    assert _asked(new).flags[0] == f"-XX:AOTCache={path}"


@pytest.mark.parametrize("complete", [True, False])
def test_what_a_killed_java_wrote_is_deleted(java: Java, complete: bool) -> None:
    """A part of a file, or an empty one, is not kept."""
    first = _asked(java)
    assert first.part is not None
    assert first.path is not None
    first.part.write_bytes(b"" if complete else b"half of it")
    first.settle(complete)
    assert not first.part.exists()
    assert not first.path.exists()


def _flip(path: Path) -> None:
    path.write_bytes(b"klasses")


def _age(path: Path) -> None:
    jar = path.parents[2] / "one.jar"
    os.utime(jar, (0, 0))


def _unsum(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def _spoil_sum(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\x00")


@pytest.mark.parametrize("change", [_flip, _age, _unsum, _spoil_sum])
def test_another_file_than_was_written_is_not_read(java: Java, change: Callable[[Path], None]) -> None:
    """A changed bit, another jar and a missing checksum lead to a new file."""
    change(_written(java))
    assert _asked(java).part is not None


def test_a_folder_to_which_others_write_is_not_used(java: Java, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java would run classes that another user wrote there; a folder that it makes is of this user alone."""
    folder = _written(java).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert _asked(java) == JavaArchive()
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert _asked(java) == JavaArchive()


def test_the_files_that_were_read_last_are_kept(java: Java) -> None:
    """A file for other options is written, and the one that was not read for longest is deleted with its checksum."""
    made = []
    for number in range(archives.MOST):
        first = _asked(java, [f"-XX:Option{number}"])
        assert first.part is not None
        assert first.path is not None
        first.part.write_bytes(b"classes")
        first.settle(complete=True)
        os.utime(first.path, (number, number))
        made.append(first.path)
    assert _asked(java, ["-XX:Option0"]).part is None  # it is read, and so the newest
    assert _asked(java, ["-XX:Another"]).part is not None
    assert [path.exists() for path in made] == [True, False, True, True]
    assert len(list(made[0].parent.glob("*.sha256"))) == archives.MOST - 1


def test_the_size_of_the_heap_does_not_matter(java: Java) -> None:
    """Servers with larger requests read the same file; other options of Java need another."""
    _written(java)
    assert _asked(java, ["-Xms64m", "-Xmx999m", "-XX:+UseSerialGC"]).part is None
    assert _asked(java, ["-Xms64m", "-Xmx300m", "-XX:+UseG1GC"]).part is not None


def test_without_it_java_starts_as_always(java: Java, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A virtual machine of somebody else, a cache that is a file, and the variable turn it off."""
    assert java_archive(replace(java, hotspot=False), [], FLAGS) == JavaArchive()
    assert java_archive(java, [tmp_path / "gone.jar"], FLAGS) == JavaArchive()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "file"))
    assert _asked(java) == JavaArchive()
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(archives.VARIABLE, "off")
    assert _asked(java) == JavaArchive()


@pytest.mark.slow
@pytest.mark.torchserve
def test_a_real_java_starts_with_less_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second server reads what the first wrote and takes less CPU time; one that is cut off delays nothing else."""
    require_torchserve()
    if not find_java().hotspot:
        pytest.skip("this Java has no such archives")
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(archives.VARIABLE, raising=False)
    packed = archive("vector", tmp_path / "made")

    def cpu_s() -> float:
        with serve(ServeOptions(), packed, logs=tmp_path / "logs") as server:
            assert server.client().predict(VECTOR)
            family = psutil.Process(server.process.pid).children(recursive=True)
            times = next(one.cpu_times() for one in family if "java" in one.name())
        return float(times.user + times.system)

    first = cpu_s()
    folder = tmp_path / "cache" / "java"
    (kept,) = (path for path in folder.iterdir() if path.suffix in (".jsa", ".aot"))
    assert cpu_s() < 0.8 * first
    content = kept.read_bytes()
    kept.chmod(0o644)
    kept.write_bytes(content[: len(content) // 2])
    kept.with_name(f"{kept.name}.sha256").write_text(archives._sha256(kept))
    assert cpu_s() > 0
