"""How a server runs its archives: workers follow from the machine, and TorchServe is told."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from served_models import archive

from retort.core.console import SILENT, Console
from retort.core.errors import StorageError, UserError
from retort.core.system.memory import available_bytes
from retort.serve.settings import Settings
from retort.serve.thread_budget import thread_budget
from retort.serve.torchserve import deployment as deployment_module
from retort.serve.torchserve.archives.archive import Mar, open_mar
from retort.serve.torchserve.archives.contents import CONFIG
from retort.serve.torchserve.archives.mar import STAND_IN
from retort.serve.torchserve.deployment import Deployment, deployments, memory_bytes

GB = 1 << 30


@pytest.fixture(scope="module")
def mar(tmp_path_factory: pytest.TempPathFactory) -> Mar:
    """A small model with one worker of one thread."""
    return open_mar(archive("vector", tmp_path_factory.mktemp("packed")))


def _threads(mar: Mar, threads: int, workers: int = 1) -> Mar:
    return replace(mar, settings=replace(mar.settings, threads=threads, workers=workers))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> object:
    """A function that sets the cores and the free memory of the machine."""
    monkeypatch.setattr(deployment_module, "length_for", lambda mar, p99_ms, console: 8)

    def _set(cores: int, free_bytes: int) -> None:
        monkeypatch.setattr(deployment_module, "usable_cores", lambda: cores)
        monkeypatch.setattr(deployment_module, "available_bytes", lambda: free_bytes)

    return _set


@pytest.mark.parametrize(
    ("cores", "free_bytes", "threads", "own", "wanted"),
    [
        (2, GB, 1, 1, 2),  # cores and memory for two
        (1, GB, 1, 1, 1),  # one core
        (2, 250 << 20, 1, 1, 2),
        (2, 150 << 20, 1, 1, 1),  # memory for one
        (2, GB, 2, 1, 1),  # a second one would halve the threads
        (4, GB, 2, 1, 2),
        (8, GB, 0, 1, 1),  # it takes all cores
        (8, GB, 1, 3, 3),  # the archive says more
    ],
)
def test_a_second_worker_where_the_machine_has_room(
    mar: Mar, machine: object, cores: int, free_bytes: int, threads: int, own: int, wanted: int
) -> None:
    """Without --workers there are two, unless cores, memory or the archive say otherwise; threads are never halved."""
    assert callable(machine)
    machine(cores, free_bytes)
    (one,) = deployments([_threads(mar, threads, own)], None, 500, SILENT)
    assert one.workers == wanted


def test_several_models_share_the_cores(mar: Mar, machine: object) -> None:
    """Two workers of each of two models need four cores."""
    assert callable(machine)
    other = replace(mar, name="other")
    for cores, wanted in ((3, 1), (4, 2)):
        machine(cores, GB)
        assert [one.workers for one in deployments([mar, other], None, 500, SILENT)] == [wanted, wanted]


def test_too_many_workers_are_allowed_and_told(mar: Mar, machine: object, capsys: pytest.CaptureFixture[str]) -> None:
    """--workers is kept to; a warning says if cores or memory do not suffice."""
    assert callable(machine)
    machine(2, 150 << 20)
    (one,) = deployments([mar], 3, 500, Console("text"))
    assert one.workers == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "3 workers share 2 cores, so that requests wait for each other" in told
    assert "but 150 MB are free; give a smaller --workers" in told


def test_workers_of_a_server_share_its_cores() -> None:
    """The threads of a worker are its share of the cores, by all workers of the server if it says how many."""
    settings = Settings(threads=0, workers=1)
    assert thread_budget(settings, cores=8) == 8
    assert thread_budget(settings, cores=8, workers=4) == 2
    assert thread_budget(replace(settings, threads=1), cores=8, workers=4) == 1


def test_the_same_version_twice_is_refused(mar: Mar, tmp_path: Path, machine: object) -> None:
    """Two archives with one name and version are one sentence with both paths; the same file twice as well."""
    assert callable(machine)
    machine(2, GB)
    twin = replace(mar, path=tmp_path / "twin.mar")
    with pytest.raises(UserError, match=r"twin.mar both contain version 1.0 of the model 'vector'") as caught:
        deployments([mar, twin], None, 500, SILENT)
    assert "--version" in caught.value.remedy
    with pytest.raises(UserError, match="both contain"):
        deployments([mar, replace(mar)], None, 500, SILENT)


def test_the_deployed_archive_differs_only_in_its_configuration(mar: Mar, tmp_path: Path) -> None:
    """Workers and queue of this server are in the copy; every other file has the bytes of the archive."""
    deployed = Deployment(_threads(mar, 1, 2), 24)
    deployed.write(tmp_path)
    with zipfile.ZipFile(mar.path) as original, zipfile.ZipFile(tmp_path / "vector~1.0.mar") as copy:
        assert copy.namelist() == original.namelist()
        assert [name for name in copy.namelist() if copy.read(name) != original.read(name)] == [CONFIG]
        lines = copy.read(CONFIG).decode().splitlines()
        assert lines[:3] == ["minWorkers: 2", "maxWorkers: 2", "jobQueueSize: 24"]
        own = original.read(CONFIG).decode().splitlines()
        assert set(lines[3:]) == {line for line in own if "Workers" not in line}
    with pytest.raises(StorageError, match="cannot write"):
        deployed.write(Path("/proc"))


def test_memory_of_a_container_is_its_limit(tmp_path: Path) -> None:
    """What is free is the least of the machine's memory and what the cgroup leaves."""
    everything = available_bytes(tmp_path)
    assert everything > 0
    for name, text in (("memory.max", "3000"), ("memory.current", "1000")):
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max")
    assert available_bytes(tmp_path) == pytest.approx(everything, rel=0.2)


def test_the_estimate_of_memory_grows_with_the_model(mar: Mar) -> None:
    """A worker needs that of Python and ONNX Runtime, and several times the archive; PyTorch needs more."""
    assert memory_bytes(mar) == (100 << 20) + 3 * mar.path.stat().st_size
    with_torch = replace(mar, sums={name: digest for name, digest in mar.sums.items() if name != STAND_IN})
    assert memory_bytes(with_torch) == memory_bytes(mar) + (130 << 20)
