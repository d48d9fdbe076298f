"""What a device is: its board, processor, cores of each kind, limits, memory, and versions of what runs the models."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

ALIKE = 0.8
"""Share of the largest capacity that cores of its kind have; the best of them are up to 15 % faster."""
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


def described(root: Path = Path("/"), folder: Path = Path()) -> dict[str, Any]:
    """All facts of the device that belong to a measurement; ``root`` contains ``proc`` and ``sys``."""
    fields = _fields(root / "proc/cpuinfo")
    return {
        "host": socket.gethostname(),
        "board": text_of(root / "proc/device-tree/model") or text_of(root / "sys/class/dmi/id/product_name"),
        "os": _os_name(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "cpu": {
            "model": fields.get("model name") or fields.get("Model") or fields.get("Hardware") or "",
            "part": " ".join(fields.get(key, "") for key in ("CPU implementer", "CPU part")).strip(),
            "flags": sorted((fields.get("flags") or fields.get("Features") or "").split()),
            "logical": os.cpu_count() or 1,
            "usable": len(usable()),
            "clusters": clusters(root),
            "governor": text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        },
        "memory_bytes": memory_bytes(root, "MemTotal"),
        "available_bytes": available_bytes(root),
        "cgroup": {name: text_of(root / "sys/fs/cgroup" / name) for name in ("cpu.max", "memory.max")},
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the installed packages that run models."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def usable() -> list[int]:
    """Numbers of the processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def clusters(root: Path = Path("/")) -> dict[str, list[int]]:
    """The usable processors by kind: ``big`` and ``little`` where their capacity differs, otherwise ``all`` alone."""
    cores = usable()
    capacity = [_capacity(root, core) for core in cores]
    small = {core for core, value in zip(cores, capacity) if min(capacity) and value < ALIKE * max(capacity)}
    if atoms := text_of(root / "sys/devices/cpu_atom/cpus"):  # such as 4-7,10
        ends = [part.split("-") for part in atoms.split(",")]
        small = {core for end in ends for core in range(int(end[0]), int(end[-1]) + 1)}
    kinds = {"big": [core for core in cores if core not in small], "little": sorted(small & {*cores})}
    return {"all": cores, **(kinds if all(kinds.values()) else {})}


def _capacity(root: Path, core: int) -> int:
    folder = root / f"sys/devices/system/cpu/cpu{core}"
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        if (text := text_of(folder / name)).isdigit():
            return int(text)
    return 0


def memory_bytes(root: Path, field: str) -> int | None:
    """A field of ``/proc/meminfo`` in bytes, such as ``MemAvailable``."""
    value = _fields(root / "proc/meminfo").get(field, "").split()
    return int(value[0]) * 1024 if value else None


def available_bytes(root: Path) -> int | None:
    """Memory that this process may still use: what is available, or less where its control group has a limit."""
    found = [memory_bytes(root, "MemAvailable")]
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, kinds, own = line.split(":", 2)
        if number == "0" or "memory" in kinds.split(","):
            base = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
            found += [_headroom(folder) for folder in {base, base / own.lstrip("/")}]
    return min((value for value in found if value is not None), default=None)


def _headroom(group: Path) -> int | None:
    """What a control group may use beyond what it uses, apart from files that can be dropped; None without a limit."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, now = text_of(group / limit), text_of(group / used)
        if most.isdigit() and now.isdigit():
            stat = dict(line.split()[:2] for line in text_of(group / "memory.stat").splitlines())
            return max(0, int(most) - int(now) + int(stat.get("inactive_file", 0)))
    return None


def _fields(path: Path) -> dict[str, str]:
    """The first value of each field: of the first processor, and of the board below it."""
    fields: dict[str, str] = {}
    for line in text_of(path).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _os_name(root: Path) -> str:
    for line in text_of(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.platform(terse=True)


def text_of(path: Path) -> str:
    """What a file says; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
