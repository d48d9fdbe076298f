"""One call per stage, whoever asks for it: the pipeline, a single command or a user's script."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.artifact import Artifact, raise_if_not
from .core.context import Context as Context
from .core.context import Place as Place
from .core.errors import ArtifactError, UserError
from .core.options import (
    CaptureOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    ModelSpec,
    Options,
    PackOptions,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    TrainOptions,
)
from .core.references import source_identity
from .core.sources import fit_to
from .core.tensors import Signature

if TYPE_CHECKING:
    from .export.explain import Explanation

ROOT = Path(__file__).parent
COMPRESS = ("core/backends", "core/data.py", "core/sources.py", "core/images.py", "compress", "compress/imported")
QUANTIZE = ("core/backends", "core/data.py", "core/dynamic.py", "choosing.py", "placing.py", "export/layer_times.py")
CODE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("capture", "train", "distill"), COMPRESS),
    "prune": (*COMPRESS, "compress/pruning", "export", "timing.py"),
    "sparsify": (*COMPRESS, "compress/pruning"),
    "quantize": (*QUANTIZE, "compress", "compress/quantization"),
    "export": ("core/backends", "core/tensors.py", "core/dynamic.py", "export", "export/lint"),
    "engine": ("core/backends", "core/tensors.py", "export", "export/lint"),
    "pack": ("core", "core/backends", "serve", "handlers"),
    "outputs": ("core/backends", "core/session.py"),
    "serve": ("serve", "core/session.py"),
    "gate": ("core/metrics.py", "core/intervals.py", "benchmarks"),
    "bench": ("core/metrics.py", "core/intervals.py", "benchmarks"),
    "report": ("benchmarks",),
}
Slow = Mapping[str, str] | None
TOOLS = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime", "accelerate", "torchserve")


def _placed(place: Place | Path) -> Place:
    return Place(place) if isinstance(place, Path) else place


def capture(model: ModelSpec, place: Place | Path, context: Context, options: CaptureOptions | None = None) -> Artifact:
    """Capture the user's model as a program artifact."""
    from .compress.source import capture_stage

    place, options = _placed(place), options or CaptureOptions()
    return capture_stage(
        options,
        model,
        place.directory,
        base=context.base,
        data=context.data,
        seed=context.seed,
        console=context.console,
        key=place.key,
        parents=place.parents,
    )


def train(options: TrainOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Train a program on the train split."""
    from .compress.train import train as stage

    return stage(options, parent, _placed(place).directory, **_training(parent, place, context))


def distill(options: DistillOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Train the student that ``options`` name on the soft targets of ``parent``."""
    from .compress.distill import distill as stage
    from .compress.source import capture_source

    raise_if_not(parent, "program")
    shared = _training(parent, place, context)
    student = capture_source(options.student, context.base, shared["data"], context.seed, CaptureOptions())
    return stage(options, parent, _placed(place).directory, student=student, **shared)


def prune(options: PruneOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Remove coupled channels, prove every cut in PyTorch and in ONNX Runtime, recover."""
    from .compress.pruning import prune as stage
    from .export.agreement import check_outputs
    from .timing import timer_for

    shared = _training(parent, place, context)
    samples = shared["data"].calibration
    rows = range(min(options.batch, len(samples)))
    timer = timer_for(options, samples.read(rows)[0], context.base) if options.timed else None
    return stage(options, parent, _placed(place).directory, check_file=check_outputs, timer=timer, **shared)


def sparsify(options: SparsifyOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Zero weights, unstructured or N:M, and recover."""
    from .compress.pruning import sparsify as stage

    return stage(options, parent, _placed(place).directory, **_training(parent, place, context))


def quantize(
    options: QuantizeOptions, parent: Artifact, place: Place | Path, context: Context, slow: Slow = None
) -> Artifact:
    """Place and calibrate INT8 fake-quantize nodes; what is ``slow`` in INT8 stays in floating point, with reasons."""
    from .choosing import choose_form
    from .compress.quantization import quantize as stage
    from .placing import gains_of

    if options.plan is not None:
        options = options.model_copy(update={"plan": str(context.base / options.plan)})
    make = partial(choose_form, stage) if options.form == "auto" and context.target == "cpu" else stage
    # a training is resumed on the very same program, so nothing that is measured anew may decide on it
    measured = options.timed and context.target == "cpu" and options.qat is None
    gains = gains_of(parent, options, context.data) if measured else None
    shared = {**_training(parent, place, context), "slow": slow, "gains": gains}
    return make(options, parent, _placed(place).directory, target=context.target, **shared)


def read_files(options: Options, base: Path) -> list[str]:
    """Hashes of the files and functions that options name: an edited one is another input."""
    plan, timer = getattr(options, "plan", None), getattr(options, "timer", None)
    path = base / plan if plan else None
    found = [hashlib.sha256(path.read_bytes()).hexdigest()] if path is not None and path.is_file() else []
    return found + ([source_identity(timer, base)] if timer else [])


def export(options: ExportOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Write a program as ONNX for the target and check its parity."""
    from .export.stage import export as stage

    raise_if_not(parent, "program")
    place = _placed(place)
    data = fit_to(context.data, read_signature(parent.main))
    rows = min(max(*options.batch_sizes, options.golden), len(data.calibration))
    samples, target = data.calibration.read(range(rows))[0], options.target or context.target
    told: dict[str, Any] = {"console": context.console, "key": place.key, "parents": place.parents}
    return stage(options, parent, place.directory, target=target, samples=samples, **told)


def engine(options: EngineOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Build the TensorRT plan of a graph."""
    from .export.engine import engine as stage

    raise_if_not(parent, "graph")
    place = _placed(place)
    return stage(options, parent, place.directory, console=context.console, key=place.key, parents=place.parents)


def explain(options: EngineOptions, parent: Artifact, context: Context) -> Explanation:
    """Which layers of a graph or an engine compute in what, by the TensorRT that is here."""
    from .export.engine import explain as parse

    return parse(options, parent, context.console)


def pack(options: PackOptions, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Write the TorchServe archive of a graph."""
    from .serve.archive import pack as stage

    raise_if_not(parent, "graph")
    place = _placed(place)
    return stage(options, parent, place.directory, console=context.console, key=place.key, parents=place.parents)


def engine_identity() -> dict[str, Any]:
    """What a plan depends on besides its graph: the TensorRT that builds and the GPU that it is for."""
    from .core.backends.cuda import find_device
    from .core.backends.trt_versions import installed

    device = find_device()
    return {"tensorrt": installed(), "device": device and [device.name, device.compute_capability, device.driver]}


def _training(parent: Artifact, place: Place | Path, context: Context) -> dict[str, Any]:
    raise_if_not(parent, "program")
    place = _placed(place)
    return {
        "data": fit_to(context.data, read_signature(parent.main)),
        "task": context.task,
        "seed": context.seed,
        "scratch": context.scratch,
        "console": context.console,
        "key": place.key,
        "parents": place.parents,
    }


ON_ARTIFACT: dict[str, Callable[[Any, Artifact, Place | Path, Context], Artifact]] = {
    "train": train, "distill": distill, "prune": prune, "sparsify": sparsify,
    "quantize": quantize, "export": export, "engine": engine, "pack": pack,
}  # fmt: skip


def run_stage(name: str, options: Options, parent: Artifact, place: Place | Path, context: Context) -> Artifact:
    """Run one of the stages that take one artifact; its scratch folder goes when it is done.

    Raises:
        UserError: there is no such stage, or an INT8 program was placed for another target and cannot be placed anew.
    """
    from .replacing import for_target

    stage = ON_ARTIFACT.get(name)
    if stage is None:
        raise UserError(f"'{name}' is not a stage on an artifact", f"one of {', '.join(ON_ARTIFACT)}")
    place = _placed(place)
    origin = for_target(name, options, parent, place, context)
    place = place if origin is parent else replace(place, parents=(origin.key,))
    artifact = stage(options, origin, place, context)
    shutil.rmtree(context.scratch, ignore_errors=True)
    return artifact


def read_signature(path: Path) -> Signature:
    """The signature inside a ``.pt2``, read without torch.

    Raises:
        ArtifactError: truncated, or not written by Retort.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("retort.signature")]
            if names:
                return Signature.from_json(archive.read(names[0]))
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ArtifactError(f"{path} is truncated or not a program: {error}", "run its stage again") from error
    raise ArtifactError(f"{path} carries no Retort signature", "capture the model with `retort capture`")


@cache
def code_version(stage: str) -> str:
    """Hash of the source files that a stage runs and of the versions of the packages under it."""
    digest = hashlib.sha256()
    for entry in CODE[stage]:
        path = ROOT / entry
        files = [path] if path.suffix == ".py" else sorted([*path.glob("*.py"), *path.glob("*.jinja")])
        for file in files:
            digest.update(file.name.encode() + file.read_bytes())
    digest.update(repr(sorted(tools().items())).encode())
    return digest.hexdigest()


@cache
def tools() -> dict[str, str]:
    """Versions of the packages that decide what a stage makes."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
