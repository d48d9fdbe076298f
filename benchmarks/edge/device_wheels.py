"""Wheels of numpy and ONNX Runtime that go along in a bundle, for a device that has neither them nor a network."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.console import Console
from ...core.counts import counted, listed
from ...core.errors import MachineError, UserError

WHEELS = "wheels"
"""Folder of the wheels in a bundle."""
AUTO = "auto"
"""Stands for the processor of the device, which is asked."""
PACKAGES = ("numpy", "onnxruntime")
MACHINES = {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64", "amd64": "x86_64"}
"""Processors for which ONNX Runtime publishes wheels for Linux, by the names that people and kernels give them."""
NO_WHEELS = ("armv7l", "armv6l", "armv7", "armhf", "i686", "i386")
"""Processors of 32 bits, for which it publishes none."""
_OLDEST_GLIBC, _BASE_GLIBC = 17, 28
_PYTHON = re.compile(r"3\.(\d+)")


@dataclass(frozen=True)
class WheelTarget:
    """The device for which wheels are made.

    Attributes:
        machine: ``aarch64`` or ``x86_64``.
        python: version of CPython, such as ``3.11``; wheels fit only this one.
        glibc: minor version of the C library 2.x, the newest that wheels may need.
    """

    machine: str
    python: str
    glibc: int = _BASE_GLIBC


def wheel_target(machine: str, python: str, glibc: int = _BASE_GLIBC) -> WheelTarget:
    """The device that a user named.

    Raises:
        UserError: there are no wheels for it.
    """
    known = MACHINES.get(machine.lower())
    if machine == AUTO:
        raise UserError("--wheels auto asks a device, and none is named", "give --wheels aarch64 or x86_64")
    if machine.lower() in NO_WHEELS:
        raise UserError(
            f"ONNX Runtime has no wheels for {machine}, a system of 32 bits",
            "install a 64-bit system on the board, such as Raspberry Pi OS (64-bit), and give --wheels aarch64",
        )
    if known is None:
        raise UserError(f"'{machine}' is no processor that wheels are made for", "give --wheels aarch64 or x86_64")
    found = _PYTHON.fullmatch(python)
    if found is None or int(found[1]) < 9:
        raise UserError(f"'{python}' is no version of Python from 3.9 on", "give --wheels-python 3.11")
    return WheelTarget(known, python, glibc)


def target_of(answers: Mapping[str, Any], packages: Sequence[str] = PACKAGES) -> WheelTarget | None:
    """What a device needs that answered :mod:`.questions.readiness`; None if it has the packages.

    Raises:
        UserError: there are no wheels for it.
    """
    if all(answers[name] for name in packages):
        return None
    name, _, version = str(answers["libc"]).partition(" ")
    if name != "glibc" or answers["system"] != "Linux":
        raise UserError(
            f"ONNX Runtime has no wheels for {answers['system']} with the C library {name or 'musl'}",
            "use a system with glibc, such as Debian or Raspberry Pi OS",
        )
    machine = "armv7l" if answers["bits"] == "32bit" and answers["machine"] == "aarch64" else str(answers["machine"])
    python = ".".join(str(answers["python"]).split(".")[:2])
    return wheel_target(machine, python, int(version.partition(".")[2] or _BASE_GLIBC))


def fetch_wheels(target: WheelTarget, packages: Sequence[str], folder: Path, console: Console) -> dict[str, Any]:
    """Download the wheels with pip, and what they need, into a new folder; the entry of the manifest.

    Args:
        packages: such as ``numpy`` and ``onnxruntime``.
        folder: the bundle.

    Raises:
        MachineError: pip cannot find or download them.
    """
    home = folder / WHEELS
    home.mkdir()
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(target.glibc, _OLDEST_GLIBC - 1, -1)]
    asked = [word for one in (*platforms, f"manylinux2014_{target.machine}") for word in ("--platform", one)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python, *asked]
    with console.working("wheels"):
        done = subprocess.run(
            [*command, "--dest", str(home), *packages], capture_output=True, text=True, errors="replace", check=False
        )
    files = sorted(home.glob("*.whl"))
    if done.returncode or not {*packages} <= {path.name.partition("-")[0] for path in files}:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        told = errors[-1] if errors else "pip said nothing"
        raise MachineError(
            f"the wheels for {target.machine} and Python {target.python} cannot be downloaded: {told[:200]}",
            "check the network and --wheels-python, or install the packages on the device",
        )
    console.stage("edge", f"{counted(len(files), 'wheel')} for {target.machine} and Python {target.python}")
    return {**asdict(target), "files": [f"{WHEELS}/{path.name}" for path in files], "bytes": _unpacked_bytes(files)}


def _unpacked_bytes(files: Sequence[Path]) -> int:
    """Space that the unpacked wheels need on the device."""
    total = 0
    for path in files:
        with zipfile.ZipFile(path) as archive:
            total += sum(entry.file_size for entry in archive.infolist())
    return total


def misfits(wheels: Mapping[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """Why the wheels of a bundle are for another device than the one that answered; empty if they fit."""
    python = ".".join(str(answers["python"]).split(".")[:2])
    machine = MACHINES.get(str(answers["machine"]).lower(), str(answers["machine"]))
    told = []
    if machine != wheels["machine"]:
        told.append(f"for {wheels['machine']}, and the device is {machine}")
    if python != wheels["python"]:
        told.append(f"for Python {wheels['python']}, and the device has {python}")
    if str(answers.get("bits", "64bit")) == "32bit":
        told.append("for 64 bits, and the device's Python has 32")
    name, _, version = str(answers.get("libc", "")).partition(" ")
    minor = version.partition(".")[2]
    if name != "glibc" or (minor.isdigit() and int(minor) < int(wheels.get("glibc", 0))):
        told.append(
            f"for glibc 2.{wheels.get('glibc')}, and the device has {answers.get('libc') or 'another C library'}"
        )
    if not told:
        return []
    remedy = f"write the bundle with --wheels {machine} --wheels-python {python}"
    return [f"the wheels in the bundle are {listed(told)}: {remedy}"]
