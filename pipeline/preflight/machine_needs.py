"""Faults of the machine: packages, Java, ports, providers and processors that a recipe needs, and its run's folder."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ...core.cpu_targets import why_not_timed
from ...core.data.references import file_and_key
from ...core.errors import RetortError
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import BenchOptions, EngineOptions, ServeOptions
from ...core.options.stage_table import PROGRAM_STAGES
from ...core.session import PROVIDERS
from ...core.system.installation import EXTRA_OF, install_command
from ...core.system.java import find_java
from ...core.system.user_paths import require_utf8, require_writable
from .subject import Subject, fault_of

PACKAGES = {
    **dict.fromkeys(PROGRAM_STAGES, ("torch",)),
    **dict.fromkeys(("train", "distill", "prune", "sparsify"), ("torch", "accelerate")),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "serve": ("ts",),
    "bench": ("onnxruntime",),
}
"""Packages that each stage imports and that not every installation has."""
_LEAST_BYTES = 50_000_000
"""What a run of a small model takes: each stage writes the weights, checkpoints also two moments of each, and a report
has its charts. A factory without weights does not tell its size before it is called."""
ENGINES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx",), "auto": ("tensorrt", "tensorrt_rtx")}


def machine_faults(subject: Subject) -> Iterator[Fault]:
    """Everything that this machine lacks for the stages that have to be made."""
    yield from _package_faults(subject)
    yield from _server_faults(subject)
    yield from _provider_faults(subject)
    yield from _timing_faults(subject)
    yield from _folder_faults(subject)


def _package_faults(subject: Subject) -> Iterator[Fault]:
    told: set[str] = set()
    for stage, key, modules in _needed(subject):
        for module in modules:
            if module not in told and find_spec(module) is None:
                told.add(module)
                yield Fault(key, f"`{module}` is not installed, which {stage} needs", _remedy(module))
    engine = subject.options("engine")
    if isinstance(engine, EngineOptions) and not any(find_spec(name) for name in ENGINES[engine.runtime]):
        names = " or ".join(f"`{name}`" for name in ENGINES[engine.runtime])
        yield Fault(subject.key("engine"), f"{names} is not installed, which `engine` needs", _remedy("tensorrt"))


def _remedy(module: str) -> str:
    if module == "tensorrt":
        return f"{install_command('gpu')}, or `pip install tensorrt-rtx`, which needs no GPU"
    return install_command(EXTRA_OF[module])


def _needed(subject: Subject) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What needs packages, its key path, and the packages."""
    source, weights = subject.recipe.model.source, subject.recipe.model.weights or ""
    if "capture" in subject.made:
        if source.endswith(".onnx"):
            yield "an .onnx file", "model.source", ("onnx", "onnxruntime")
        elif (subject.base / source / "config.json").is_file():
            yield "a `save_pretrained` directory", "model.source", ("transformers",)
        if weights.endswith(".safetensors"):
            yield "a file of weights", "model.weights", ("safetensors",)
    for stage, modules in PACKAGES.items():
        if stage in subject.made:
            yield f"`{stage}`", subject.key(stage), modules
    for index, gate in enumerate(subject.recipe.gates):
        if gate.after in subject.made:
            yield "a gate", f"gates.{index}", ("torch", "onnx", "onnxscript", "onnxruntime")


def _server_faults(subject: Subject) -> Iterator[Fault]:
    options = subject.options("serve")
    if not isinstance(options, ServeOptions):
        return
    try:
        find_java(options.java)
    except RetortError as error:
        yield fault_of(subject.key("serve", "java"), error)
    if options.port:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, options.port))
            except OSError as error:
                text = f"port {options.port} cannot be used: {error.strerror or error}"
                yield Fault(subject.key("serve", "port"), text, "choose another one, or 0 for a free one")


def _provider_faults(subject: Subject) -> Iterator[Fault]:
    for stage in ("bundle", "pack", "bench"):
        asked = getattr(subject.options(stage), "provider", "cpu")
        if asked == "openvino" and find_spec("openvino") is None:
            yield Fault(subject.key(stage, "provider"), "openvino is not installed", install_command("openvino"))
    options = subject.options("bench")
    if not isinstance(options, BenchOptions) or options.provider in ("cpu", "openvino"):
        return
    if find_spec("onnxruntime") is None:
        return
    wanted = PROVIDERS[options.provider]
    present = import_module("onnxruntime").get_available_providers()
    lacking = [name for name in wanted[:1] if name not in present]
    if lacking:
        yield Fault(
            subject.key("bench", "provider"),
            f"ONNX Runtime has no {lacking[0]} here; it has {', '.join(present)}",
            f"{install_command('gpu')}, or `provider: cpu`",
        )


def _timing_faults(subject: Subject) -> Iterator[Fault]:
    """What needs times of the target's processor, which this machine does not have."""
    recipe = subject.recipe
    bench = next((stage.options for stage in recipe.stages if isinstance(stage.options, BenchOptions)), None)
    elsewhere = bench is not None and bench.timer is not None
    if not why_not_timed(recipe.target):
        return
    what = f"needs times of an Arm processor for `target: {recipe.target}`, which this machine does not have"
    for index, gate in enumerate(recipe.gates):
        if gate.speedup is not None and not elsewhere:
            remedy = "give `bench` the device as `timer: edge:HOST`, or remove the gate and use `retort edge run`"
            yield Fault(f"gates.{index}.speedup", f"this gate {what}", remedy)
    quantized = subject.options("quantize")
    if recipe.prefer == "fastest" and quantized is not None and getattr(quantized, "timer", None) is None:
        remedy = "give `quantize` the device as `timer: edge:HOST`, or set `prefer: asked` and use `retort edge run`"
        yield Fault("prefer", f"`fastest` {what}", remedy)


def _folder_faults(subject: Subject) -> Iterator[Fault]:
    try:
        require_writable(subject.folder)
        if any(stage.name == "export" for stage in subject.recipe.stages):
            require_utf8(subject.folder)
    except RetortError as error:
        yield fault_of("", error)
        return
    place = subject.folder.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, max(_bytes_needed(subject), _LEAST_BYTES if subject.made else 0)
    if free < needed:
        text = f"{free / 1e6:.0f} MB are free for {subject.folder}, and the stages need about {needed / 1e6:.0f} MB"
        yield Fault("", text, "free some space, or choose another folder with --runs")


def _bytes_needed(subject: Subject) -> int:
    """The size of the model's files, once for each stage that writes a model; 0 if it is not known."""
    spec = subject.recipe.model
    paths = [file_and_key(subject.base / spec.weights)[0]] if spec.weights else [subject.base / spec.source]
    return sum(_bytes_of(path) for path in paths) * len(subject.made - {"serve", "bench", "report"})


def _bytes_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
