"""Fingerprint of this machine for measurements: processor, limits, memory, GPU, packages and load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ..core.system.installation import DISTRIBUTION

ROOT = Path("/")
PACKAGES = (
    DISTRIBUTION, "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt-rtx", "torchserve",
)  # fmt: skip
X86_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_tile")
ARM_FEATURES = {"asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve", "sve2": "sve2"}
GPU_QUERY = ("name", "driver_version", "memory.total", "compute_cap")


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """All facts about the machine that belong to a measurement, as JSON-ready values.

    Args:
        root: folder that contains ``proc`` and ``sys``; another folder in tests.
    """
    quota, memory_limit = cgroup_limits(root)
    return {
        "os": _os_name(root),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": {
            "model": cpu_model(root),
            "features": list(cpu_features(root)),
            "logical": os.cpu_count() or 1,
            "usable": usable_cores(root),
            "governor": governor(root),
            "max_mhz": _max_mhz(root),
        },
        "memory_bytes": psutil.virtual_memory().total,
        "cgroup": {"cpus": quota, "memory_bytes": memory_limit},
        "container": (root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        "pressure_percent": pressure_now(root),
        "gpu": gpus(),
        "packages": package_versions(),
    }


def describe(machine: dict[str, Any]) -> str:
    """Format a fingerprint as one line."""
    cpu = machine["cpu"]
    gpu = "".join(f" · {card['name']}" for card in machine["gpu"])
    features = ", ".join(cpu["features"]) or "no INT8 features known"
    memory = machine["memory_bytes"] / 2**30
    return f"{cpu['model']} · {cpu['usable']:g} usable of {cpu['logical']} cores · {memory:.1f} GiB · {features}{gpu}"


def identity(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a fingerprint that must be equal for times to be comparable."""
    cpu = machine.get("cpu") or {}
    return {
        "processor": cpu.get("model"),
        "cores": cpu.get("logical"),
        "usable cores": cpu.get("usable"),
        "architecture": machine.get("machine"),
        "memory": machine.get("memory_bytes"),
        "kernel": machine.get("kernel"),
        "GPU": [card.get("name") for card in machine.get("gpu") or []],
    }


RUNTIME_PACKAGES = {
    "ONNX Runtime": ("onnxruntime", "onnxruntime-gpu"),
    "OpenVINO": ("openvino",),
    "PyTorch": ("torch",),
    "TensorRT": ("tensorrt", "tensorrt-rtx"),
}


def runtime_version(machine: Mapping[str, Any], runtime: str) -> str:
    """The version of a runtime in a fingerprint; empty if it is not known.

    Args:
        runtime: such as ``ONNX Runtime on the CPU``.
    """
    packages = machine.get("packages") or {}
    names = next((found for name, found in RUNTIME_PACKAGES.items() if runtime.startswith(name)), ())
    return next((str(packages[name]) for name in names if name in packages), "")


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name."""
    fields = _cpuinfo(root)
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if fields.get(key):
            return fields[key]
    if "CPU implementer" in fields:
        return f"ARM implementer {fields['CPU implementer']} part {fields.get('CPU part', '?')}"
    return platform.processor() or platform.machine()


def cpu_features(root: Path = ROOT, flags: Sequence[str] = ()) -> tuple[str, ...]:
    """Instruction sets that determine the speed of INT8, from slow to fast.

    Args:
        flags: what the kernel of another machine calls them, instead of those of this one.
    """
    fields = {} if flags else _cpuinfo(root)
    known = set(flags) or set((fields.get("flags", "") + " " + fields.get("Features", "")).split())
    x86 = [name for name in X86_FEATURES if name in known]
    return (*x86, *(name for flag, name in ARM_FEATURES.items() if flag in known))


def int8_outlook(features: Sequence[str]) -> tuple[bool, str]:
    """Whether INT8 can be expected to beat FP32 on this processor, and why."""
    known = set(features)
    for name in ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dotprod"):
        if name in known:
            signs = "" if name in ARM_FEATURES.values() else "; UINT8 activations run fastest"
            return True, f"{name}: integer dot products in hardware{signs}"
    if "avx2" in known:
        return False, "avx2 without VNNI: exact INT8 needs wider multiplications and is hardly faster than FP32"
    if "neon" in known:
        return False, "NEON without dotprod: INT8 is hardly faster than FP32"
    return False, "no instruction set that speeds up INT8"


def usable_cores(root: Path = ROOT) -> float:
    """Number of cores that this process may use: its affinity, or the quota of its cgroup if that is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_limits(root)[0]
    return float(allowed) if quota is None else min(float(allowed), quota)


def cgroup_limits(root: Path = ROOT) -> tuple[float | None, int | None]:
    """CPUs and bytes of memory that the cgroup allows; None if it has no limit."""
    base = root / "sys/fs/cgroup"
    for folder in (base / _own_cgroup(root), base):
        cpus, memory = _read(folder / "cpu.max").split(), _read(folder / "memory.max").strip()
        if cpus or memory:
            quota = int(cpus[0]) / int(cpus[1]) if len(cpus) == 2 and cpus[0].isdigit() else None
            return quota, int(memory) if memory.isdigit() else None
    quota_us, period_us = (_read(base / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    limit = _read(base / "memory/memory.limit_in_bytes").strip()
    # cgroup v1 writes "no limit" as a number near 2^63.
    memory_limit = int(limit) if limit.isdigit() and int(limit) < 1 << 60 else None
    return int(quota_us) / int(period_us) if quota_us.isdigit() and period_us.isdigit() else None, memory_limit


def governor(root: Path = ROOT) -> str | None:
    """The frequency governor of the first core; None if the machine does not report it."""
    return _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def pressure_now(root: Path = ROOT) -> float | None:
    """Share of the last ten seconds in which some process waited for a CPU, in percent."""
    for word in _read(root / "proc/pressure/cpu").split():
        if word.startswith("avg10="):
            return float(word.removeprefix("avg10="))
    return None


def gpus() -> list[dict[str, str]]:
    """NVIDIA GPUs that ``nvidia-smi`` reports; empty without a driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    keys = ("name", "driver", "memory", "compute_capability")
    return [dict(zip(keys, map(str.strip, line.split(",")), strict=False)) for line in shown.splitlines() if line]


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that create or run models."""
    versions = {name: package_version(name) for name in names}
    return {name: version for name, version in versions.items() if version}


def package_version(name: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the first processor, and of the board below it."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _max_mhz(root: Path) -> int | None:
    text = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    return int(text) // 1000 if text.isdigit() else None


def _own_cgroup(root: Path) -> str:
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:].strip().lstrip("/")
    return ""


def _os_name(root: Path) -> str:
    for line in _read(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return platform.platform(terse=True)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
