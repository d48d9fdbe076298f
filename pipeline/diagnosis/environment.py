"""Check of this machine: what each part of the pipeline needs, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from ...benchmarks import machine
from ...core.counts import counted
from ...core.errors import MachineError
from ...core.system.installation import install_command
from ...core.system.java import find_java

Status = Literal["ok", "warn", "missing"]
DISK_LEAST_BYTES = 2 << 30
PRESSURE_LIMIT_PERCENT = 10.0


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        detail: what was found.
        remedy: the command or step that fixes it; empty if there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def doctor(folder: Path = Path(), root: Path = machine.ROOT) -> list[Check]:
    """Check packages, runtimes, Java, GPU, processor, disk and threads, without any change.

    Args:
        folder: folder in which runs are written; its disk is checked.
        root: folder that contains ``proc`` and ``sys``; another folder in tests.
    """
    cards = machine.gpus()
    return [
        _package("torch", "torch", install_command("cpu"), "captures, trains, prunes and quantizes"),
        _torch_build(cards),
        _package("onnx", "onnx", install_command("cpu"), "export"),
        _package("onnxscript", "onnxscript", install_command("cpu"), "export"),
        _runtime(cards),
        _package("openvino", "openvino", install_command("openvino"), "`--provider openvino` on CPUs"),
        _tensorrt(cards),
        _package("tensorrt-rtx", "tensorrt_rtx", "pip install tensorrt-rtx", "NVIDIA's engine builder without a GPU"),
        _package("torchserve", "ts", install_command("serve"), "serving", distribution="torchserve"),
        _java(),
        _gpu(cards),
        _int8(root),
        _threads(root),
        _quiet(root),
        _disk(folder),
    ]


def _package(name: str, module: str, remedy: str, use: str, distribution: str = "") -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(name, "missing", f"not installed; needed for: {use}", remedy)
    return Check(name, "ok", machine.package_version(distribution or name) or "version unknown")


def _torch_build(cards: list[dict[str, str]]) -> Check:
    version = machine.package_version("torch")
    if version is None:
        return Check("torch build", "missing", "torch is not installed", install_command("cpu"))
    if cards and version.endswith("+cpu"):
        return Check("torch build", "warn", f"{version} cannot use the {cards[0]['name']}", "pip install torch")
    return Check("torch build", "ok", "CPU only" if version.endswith("+cpu") else "with CUDA")


def _runtime(cards: list[dict[str, str]]) -> Check:
    """Check ONNX Runtime, which reports its providers only after its import."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Check("onnxruntime", "missing", "not installed; needed to run models", "pip install onnxruntime")
    if machine.package_version("onnxruntime") and machine.package_version("onnxruntime-gpu"):
        detail = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other"
        return Check("onnxruntime", "warn", detail, "pip uninstall onnxruntime onnxruntime-gpu, then install one")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        return Check(
            "onnxruntime", "missing", f"cannot be imported: {error}", "pip install --force-reinstall onnxruntime"
        )
    providers = [name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers()]
    detail = f"{runtime.__version__} with {', '.join(providers)}"
    if cards and "CUDA" not in providers:
        return Check(
            "onnxruntime", "warn", f"{detail}: no CUDA", "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        )
    return Check("onnxruntime", "ok", detail)


def _tensorrt(cards: list[dict[str, str]]) -> Check:
    check = _package("tensorrt", "tensorrt", install_command("gpu"), "engines on NVIDIA GPUs")
    if check.status == "missing" and not cards:
        return Check("tensorrt", "missing", "not installed, and there is no NVIDIA GPU to use it", "")
    return check


def _java() -> Check:
    """Check Java in the same way as `retort serve` before its start."""
    try:
        java = find_java()
    except MachineError as error:
        return Check("java", "missing", error.message, error.remedy)
    return Check("java", "ok", f"Java {java.version} at {java.path} ({java.source})")


def _gpu(cards: list[dict[str, str]]) -> Check:
    if cards:
        shown = ", ".join(f"{card['name']} ({card['memory']}, driver {card['driver']})" for card in cards)
        return Check("gpu", "ok", shown)
    if list(Path("/proc/driver/nvidia").glob("gpus/*")):
        return Check("gpu", "warn", "an NVIDIA GPU whose nvidia-smi does not answer", "reinstall the NVIDIA driver")
    return Check("gpu", "missing", "no NVIDIA GPU or driver; only CUDA and TensorRT need one")


def _int8(root: Path) -> Check:
    good, why = machine.int8_outlook(machine.cpu_features(root))
    remedy = "" if good else "measure INT8 before you ship it: `retort bench` compares it with FP32 on this machine"
    return Check("int8 on cpu", "ok" if good else "warn", why, remedy)


def _threads(root: Path) -> Check:
    usable = machine.usable_cores(root)
    set_by = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)}
    shown = ", ".join(f"{name}={value}" for name, value in set_by.items()) or "OMP_NUM_THREADS unset"
    detail = f"{usable:g} of {counted(os.cpu_count() or 1, 'core')} usable; {shown}"
    over = [name for name, value in set_by.items() if value.isdigit() and int(value) > usable]
    if over:
        return Check("threads", "warn", f"{detail}: more threads than cores", f"export {over[0]}={max(1, int(usable))}")
    return Check("threads", "ok", detail)


def _quiet(root: Path) -> Check:
    pressure, governor = machine.pressure_now(root), machine.governor(root)
    found = [f"processes waited for a CPU in {pressure:.0f} % of the last 10 s"] if pressure is not None else []
    found += [f"governor {governor}"] if governor else []
    if pressure is not None and pressure > PRESSURE_LIMIT_PERCENT:
        return Check("quiet", "warn", "; ".join(found), "stop other work before measuring latency")
    if governor in {"powersave", "ondemand", "conservative"}:
        return Check("quiet", "warn", "; ".join(found), "sudo cpupower frequency-set -g performance")
    return Check("quiet", "ok", "; ".join(found) or "this system does not report its load")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_existing(folder)).free
    detail = f"{free / 1e9:.1f} GB free at {folder.resolve()}"
    if free < DISK_LEAST_BYTES:
        return Check("disk", "warn", detail, "free some space, or choose another folder with --runs")
    return Check("disk", "ok", detail)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def table(checks: Iterable[Check]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for a terminal; without the column of remedies if none is needed."""
    rows = [[check.name, check.status, check.detail, check.remedy] for check in checks]
    columns = ["what", "status", "found", "remedy"]
    shown = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    return columns[:shown], [row[:shown] for row in rows]
