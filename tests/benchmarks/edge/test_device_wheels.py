"""Wheels that go along in a bundle: for which devices there are any, and how a device without pip uses them."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from edge_devices import bundle, dense

from retort.benchmarks.edge.device_bundle import PROGRAM
from retort.benchmarks.edge.device_wheels import WheelTarget, misfits, target_of, wheel_target
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.runner.unpacked_wheels import site_of
from retort.core.errors import UserError

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
BOARD: dict[str, Any] = {
    "machine": "aarch64",
    "bits": "64bit",
    "libc": "glibc 2.36",
    "system": "Linux",
    "python": "3.11.2",
    "numpy": "",
    "onnxruntime": "",
}
"""What a Raspberry Pi with Debian 12 answers."""


@pytest.mark.parametrize("machine", ["armv7l", "armhf", "i686", "riscv64", "auto", ""])
def test_processors_without_wheels_are_refused(machine: str) -> None:
    """ONNX Runtime has none for 32 bits and for other processors; the message says what to do."""
    with pytest.raises(UserError) as refused:
        wheel_target(machine, "3.11")
    assert "--wheels" in str(refused.value.remedy)


@pytest.mark.parametrize("python", ["3.8", "2.7", "three", "3.11.2"])
def test_versions_of_python_are_read(python: str) -> None:
    """A version without wheels is refused by its own option."""
    with pytest.raises(UserError, match="version of Python") as refused:
        wheel_target("aarch64", python)
    assert "--wheels-python" in str(refused.value.remedy)


def test_the_device_says_what_it_needs() -> None:
    """Processor, Python and C library come from the device; one that has the packages needs nothing."""
    assert target_of(BOARD) == WheelTarget("aarch64", "3.11", 36)
    assert target_of({**BOARD, "numpy": "2.0", "onnxruntime": "1.30"}) is None
    with pytest.raises(UserError, match="32 bits"):  # a 64-bit kernel below a 32-bit system
        target_of({**BOARD, "bits": "32bit"})
    with pytest.raises(UserError, match="musl"):
        target_of({**BOARD, "libc": ""})


def test_wheels_for_another_device_are_refused_before_they_are_sent() -> None:
    """The message names both devices and the options that fit."""
    wheels = {"machine": "aarch64", "python": "3.11"}
    assert misfits(wheels, BOARD) == []
    (told,) = misfits(wheels, {**BOARD, "machine": "x86_64", "python": "3.12.1"})
    assert "for aarch64, and the device is x86_64" in told
    assert "--wheels x86_64 --wheels-python 3.12" in told


def _wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    path = folder / "wheels" / f"{name}-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(entry, text)
    return f"wheels/{path.name}"


def test_wheels_are_unpacked_once(tmp_path: Path) -> None:
    """Packages lie beside the bundle, scripts do not; a changed list is unpacked again, an equal one is not."""
    first = _wheel(
        tmp_path,
        "a",
        {"a/__init__.py": "x = 1", "a-1.0.data/purelib/b.py": "y = 2", "a-1.0.data/scripts/run": "#!", "../out.py": ""},
    )
    machine = platform.machine().lower()
    wheels: dict[str, Any] = {"machine": machine, "python": HERE, "files": [first]}
    site = site_of(tmp_path, wheels)
    assert {path.name for path in site.rglob("*.py")} == {"__init__.py", "b.py"}
    assert not (tmp_path / "out.py").exists()
    assert not list(site.rglob("run"))
    (site / "kept").touch()
    assert (site_of(tmp_path, wheels) / "kept").exists()
    wheels["files"] = [first, _wheel(tmp_path, "c", {"c.py": ""})]
    assert not (site_of(tmp_path, wheels) / "kept").exists()
    assert (site / "c.py").exists()
    with pytest.raises(ValueError, match=r"for vax and Python 3\.11"):
        site_of(tmp_path, {"machine": "vax", "python": "3.11", "files": []})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Packages can be downloaded here; only where nothing can, the tests that need it are skipped."""
    folder = tmp_path_factory.mktemp("index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "packaging"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no package can be downloaded here")


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_a_device_without_packages_measures(tmp_path: Path) -> None:
    """A Python without numpy, ONNX Runtime and pip runs a bundle that has the wheels."""
    models = {"wide": dense(tmp_path / "wide.onnx", 64)}
    made = bundle(tmp_path / "bundle", models, wheels=platform.machine(), wheels_python=HERE, accuracy=False)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    assert subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode
    done = subprocess.run([python, "-m", PROGRAM], cwd=made.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    assert pulled.state == "finished"
    versions = json.loads((made.path / "out" / "device.json").read_bytes())["packages"]
    assert {"numpy", "onnxruntime"} <= versions.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_bundle_with_wheels_is_small(machine: str, tmp_path: Path) -> None:
    """At most 45 MB with the wheels for Arm (B6), and hardly more with those for x86."""
    made = bundle(tmp_path / "bundle", {"wide": dense(tmp_path / "wide.onnx", 64)}, wheels=machine)
    assert sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file()) < (
        45e6 if machine == "aarch64" else 50e6
    )
    names = " ".join(path.name for path in (made.path / "wheels").iterdir())
    assert f"_{machine}.whl" in names
