"""Triton: a repository for its Python backend, which isolates bad requests, and one for its ONNX Runtime backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from ...core.session import backend_of
from ...core.tensors import BATCH
from ..engine import smallest_golden, split_golden
from ..settings import MODEL, PLAN
from . import triton_config as config
from .deployed import Commands, Deployed

PYTHON, ONNX, TENSORRT = "python-backend", "onnx-backend", "tensorrt-backend"


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return f"{PYTHON}/{name}/{config.VERSION}/bundle"


def write(made: Deployed) -> Commands:
    """Write both repositories; only that of the Python backend for OpenVINO, and for a model with a tensor
    without axes.

    Returns:
        How to start Triton on each.

    Raises:
        UserError: an input or output has a type that Triton does not have.
    """
    name, start = made.settings.name, "tritonserver --model-repository={} --disable-auto-complete-config"
    onnx = write_onnx(made)
    made.write(f"{PYTHON}/{name}/config.pbtxt", _python(made, _batching(made)))
    made.write(f"{PYTHON}/{name}/{config.VERSION}/model.py", Path(__file__).with_name("triton_model.py").read_bytes())
    commands = {"with the isolation of bad requests": start.format(PYTHON)}
    if made.settings.engine:
        own = f"with TensorRT's own backend, of a Triton that has {made.settings.engine}"
        return {**commands, own: start.format(TENSORRT)} if onnx else commands
    return {**commands, "with ONNX Runtime's own backend": start.format(ONNX)} if onnx else commands


def write_onnx(made: Deployed) -> bool:
    """Write the repository of Triton's own backend: that of ONNX Runtime, or for a plan that of TensorRT.

    Returns:
        False if there is none: only the Python form can give back the shape of a tensor without axes, and only that
        form computes with OpenVINO or TensorRT-RTX.

    Raises:
        UserError: an input or output has a type that Triton does not have.
    """
    signature, name = made.parts.signature, made.settings.name
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in config.DATA_TYPES:
            message = f"'{spec.name}' is {spec.dtype}, a type that Triton does not have"
            raise UserError(message, f"export the model with another type, such as {', '.join(config.DATA_TYPES)}")
    scalar = any(spec.shape == () for spec in (*signature.inputs, *signature.outputs))
    if scalar or backend_of(made.settings.providers) != "ort":
        return False
    if made.parts.plan is not None and made.parts.plan.runtime == "tensorrt_rtx":  # Triton has the other TensorRT
        return False
    if made.settings.engine:
        made.write(f"{TENSORRT}/{name}/config.pbtxt", _tensorrt(made, _batching(made)))
        made.write(f"{TENSORRT}/{name}/{config.VERSION}/model.plan", (made.bundle / PLAN).read_bytes())
        return True
    made.write(f"{ONNX}/{name}/config.pbtxt", _onnx(made, _batching(made)))
    for file in (MODEL, *made.parts.external):
        target = made.folder / ONNX / name / str(config.VERSION) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.bundle / file, target)
    return True


def _batching(made: Deployed) -> config.Batching:
    rows = config.rows_of_batches(made.parts.signature, made.settings)
    return config.Batching(rows, made.options.max_batch_delay_ms, made.options.p99_ms)


def _common(made: Deployed, batching: config.Batching, profiles: int = 0) -> list[str]:
    signature = made.parts.signature
    return [
        f"name: {config.text(made.settings.name)}",
        f"max_batch_size: {batching.rows}",
        *config.ports("input", signature.inputs, batching),
        *config.ports("output", signature.outputs, batching),
        *config.instances(made.settings.workers, "KIND_GPU" if made.settings.engine else "KIND_CPU", profiles),
        *config.only_version(),
        *config.scheduling(batching),
        *config.parameter("retort_version", made.settings.version),
    ]


def _python(made: Deployed, batching: config.Batching) -> str:
    return "\n".join(['backend: "python"', *_common(made, batching)]) + "\n"


def _tensorrt(made: Deployed, batching: config.Batching) -> str:
    plan = made.parts.plan
    profiles = 0 if plan is None else len(plan.profiles)
    lines = [
        'platform: "tensorrt_plan"',
        'default_model_filename: "model.plan"',
        *_common(made, batching, profiles),
        *_warmup(made, batching, TENSORRT),
    ]
    return "\n".join(lines) + "\n"


def _warmup(made: Deployed, batching: config.Batching, repository: str) -> list[str]:
    signature = made.parts.signature
    inputs, _ = smallest_golden(signature, split_golden(made.parts.golden))
    for name, array in inputs.items():
        made.write(f"{repository}/{made.settings.name}/warmup/{config.warmup_file(signature, name)}", array.tobytes())
    return config.golden_warmup(signature, batching, {name: np.shape(array) for name, array in inputs.items()})


def _onnx(made: Deployed, batching: config.Batching) -> str:
    threads = str(made.settings.threads)
    lines = [
        'backend: "onnxruntime"',
        f"default_model_filename: {config.text(MODEL)}",
        *_common(made, batching),
        *_warmup(made, batching, ONNX),
        *config.parameter("intra_op_thread_count", threads),
        *config.parameter("inter_op_thread_count", "1"),
    ]
    return "\n".join(lines) + "\n"


def combines(made: Deployed) -> bool:
    """Whether Triton combines requests of this model."""
    return config.rows_of_batches(made.parts.signature, made.settings) > 0


def why_single(made: Deployed) -> str:
    """Why Triton runs the requests of this model one by one, in one sentence."""
    specs = (*made.parts.signature.inputs, *made.parts.signature.outputs)
    bare = next((spec.describe() for spec in specs if spec.shape == (BATCH,)), None)
    if bare is not None:
        return f"Triton runs requests of this model one by one, because {bare} has no axis besides the batch"
    return "Triton runs requests of this model one by one, because not every tensor has its batch axis first"
