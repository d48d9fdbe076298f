"""The neutral bundle: model, signature, golden vectors, settings and checksums. Every target is made from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact, raise_if_not, sha256_file
from ...core.backends.ort_tensorrt import ranges_of
from ...core.console import Console
from ...core.dynamic_kernels import OPERATORS
from ...core.errors import ArtifactError, MachineError, UserError
from ...core.formats.onnx_graphs import all_nodes
from ...core.formats.onnx_side_files import is_side_file, side_files
from ...core.options.axis_ranges import parse_axis
from ...core.options.execution_provider import given_options
from ...core.options.serving_options import BundleOptions
from ...core.postprocessing import guessed_reading
from ...core.session import PROVIDERS, Ranges, SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import BATCH, Array
from ..engine import GOLDEN, SETTINGS, SIGNATURE, TOKENIZER, Engine, golden_error, smallest_golden, split_golden
from ..integrity import SUMS, format_sums
from ..requests.allowance import allowance
from ..requests.hook import HOOK
from ..requests.request import Incoming
from ..requests.wire import NPZ, read_npz, write_npz
from ..settings import TRUSTED, Batching, Limits, Settings
from ..worker_session import MODEL, session_options
from .made_up_inputs import made_up

_LARGEST_RATIO = 4
_ON_GPU = 1e-2
"""Least golden tolerance on a GPU, whose products have the 10 bits of mantissa of TF32."""


@dataclass(frozen=True)
class Parts:
    """The parts of a graph artifact that serving needs.

    Attributes:
        model: path of the ONNX file.
        external: names of its files of external weights.
        golden: content of ``golden.npz``.
        tokenizer: the file of the tokenizer, empty without one.
        handler: name of the handler file, without its ending.
        hook: source of the user's functions around the model, empty without any.
    """

    model: Path
    external: tuple[str, ...]
    signature: Signature
    golden: dict[str, Array]
    tokenizer: bytes = b""
    handler: str = "tensor"
    hook: bytes = b""


def read_graph(artifact: Artifact) -> Parts:
    """Read the parts for serving from a graph artifact, a bundle, or a plain ONNX file.

    A plain file has no golden vectors: inputs are generated from its signature, and the outputs of its own session
    become the expected outputs.

    Raises:
        ArtifactError: the artifact is neither a graph nor a bundle, or its files contradict each other.
        UserError: the model has no inputs, or one that is no tensor of numbers.
    """
    raise_if_not(artifact, "graph", "bundle")
    model = artifact.main
    external, dynamic = inspect_graph(model)
    session = open_session(model)
    try:
        _require_tensors(session.signature, model.name)
        tokenizer, hook = b"", b""
        if artifact.path.is_file():
            signature, golden = session.signature, made_up(session)
        else:
            signature = Signature.from_json(artifact.file(SIGNATURE).read_bytes())
            golden = read_npz(artifact.file(GOLDEN).read_bytes(), TRUSTED)
            tokenizer, hook = _carried(artifact, TOKENIZER), _carried(artifact, HOOK)
        _check_golden(signature, golden)
    finally:
        session.close()
    invariant = signature.batch_invariant and not dynamic
    return Parts(model, external, replace(signature, batch_invariant=invariant), golden, tokenizer, hook=hook)


def _carried(artifact: Artifact, name: str) -> bytes:
    """A file that a bundle has and a graph has not; empty without it."""
    return artifact.file(name).read_bytes() if (artifact.path / name).is_file() else b""


def _require_tensors(signature: Signature, model: str) -> None:
    """Refuse a model that no request fits.

    Raises:
        UserError: it has no inputs, or an input or output has no numbers, such as texts or a list of mappings.
    """
    if not signature.inputs:
        raise UserError(f"{model} has no inputs, so there is nothing to ask it", "pack a model that has inputs")
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        odd = next((spec for spec in specs if "(" in spec.dtype), None)
        if odd is not None:
            raise UserError(
                f"the {kind} '{odd.name}' of {model} is a {odd.dtype}, and only tensors of numbers can be served",
                f"export the model without the part that {'reads' if kind == 'input' else 'writes'} this type",
            )


def inspect_graph(path: Path) -> tuple[tuple[str, ...], bool]:
    """Files with external weights, and whether a node quantizes over the whole batch (serve.md H17).

    Raises:
        ArtifactError: the file is not ONNX.
    """
    try:
        onnx: Any = import_module("onnx")
    except ImportError as error:
        raise MachineError(f"onnx cannot be imported: {error}", "pip install onnx") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ArtifactError(
            f"{path} is not an ONNX file", "the file is truncated or damaged; export the model again"
        ) from error
    graphs = [model.graph, *model.functions]
    dynamic = any(node.op_type in OPERATORS for graph in graphs for node in all_nodes(graph))
    files = side_files(path.read_bytes())
    if odd := sorted(name for name in files if not is_side_file(name) or not (path.parent / name).is_file()):
        message = f"{path.name} stores weights in '{odd[0]}', which is not a file of weights in the same folder"
        raise ArtifactError(message, "copy that file into the folder of the model, or export the model again")
    return tuple(sorted(files)), dynamic


def _check_golden(signature: Signature, golden: dict[str, Array]) -> None:
    inputs, outputs = split_golden(golden)
    wanted = {spec.name for spec in signature.inputs}, {spec.name for spec in signature.outputs}
    if (set(inputs), set(outputs)) != wanted:
        raise ArtifactError(f"{GOLDEN} does not contain the model's inputs and outputs", "export the model again")
    if not all(np.array_equal(inputs[name], array) for name, array in signature.validate(inputs).items()):
        raise ArtifactError(f"{GOLDEN} does not fit the signature", "export the model again")


def write_bundle(folder: Path, parts: Parts, settings: Settings) -> Settings:
    """Write the bundle's files and their checksums.

    Args:
        folder: the folder to write; it is created if it does not exist.

    Returns:
        The written settings, with the golden tolerance that fits the model on this machine.

    Raises:
        ArtifactError: the golden outputs do not belong to this model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in parts.external:
        shutil.copyfile(parts.model.parent / name, folder / name)
    shutil.copyfile(parts.model, folder / MODEL)
    tolerance = max(_tolerance(folder / MODEL, parts, settings), _ON_GPU if settings.needs_gpu else 0.0)
    settings = replace(settings, external=parts.external, golden_tolerance=tolerance)
    (folder / SIGNATURE).write_bytes(parts.signature.to_json().encode())
    (folder / GOLDEN).write_bytes(write_npz(parts.golden))
    (folder / SETTINGS).write_bytes(settings.to_json())
    for name, content in ((TOKENIZER, parts.tokenizer), (HOOK, parts.hook)):
        if content:
            (folder / name).write_bytes(content)
    (folder / SUMS).write_bytes(format_sums({path.name: sha256_file(path) for path in folder.iterdir()}))
    return settings


def _tolerance(model: Path, parts: Parts, settings: Settings) -> float:
    options = SessionOptions() if settings.needs_gpu else session_options(settings)
    session = open_session(model, options, parts.signature)
    inputs, expected = split_golden(parts.golden)
    error = golden_error(session.run(inputs), expected)
    session.close()
    if not error <= 0.25:
        message = f"the golden outputs differ by {error:.3g} of their range, so they belong to another model"
        raise ArtifactError(message, "export the model again")
    # a power of ten, so that a different last bit does not change the archive
    return max(1e-3, float(10.0 ** np.ceil(np.log10(max(4 * error, 1e-9)))))


@dataclass(frozen=True)
class Policy:
    """How requests are treated; see :class:`retort.serve.settings.Settings` for each field."""

    batching: Batching = "exact"
    buckets: tuple[int, ...] = ()
    allow_nan: bool = False
    spinning: bool = False


def try_here(folder: Path, console: Console) -> Engine:
    """Open a bundle that was just written; on the CPU where this machine has not the GPU that its workers need.

    Raises:
        RetortError: the bundle cannot be served on this machine.
    """
    settings = Settings.from_json((folder / SETTINGS).read_bytes())
    try:
        return Engine.load(folder)
    except MachineError as error:
        if not settings.needs_gpu:
            raise
        console.warn(f"{error.message}; the model was tried on the CPU, and its workers start only where that works")
        return Engine.load(folder, providers=())


def answer_golden(engine: Engine) -> None:
    """Ask the golden request as a client would.

    Raises:
        UserError: the settings refuse it.
    """
    inputs, _ = smallest_golden(engine.signature, engine.golden)
    answer = engine.answer([Incoming({"body": write_npz(inputs)}, {"body": NPZ})])[0]
    if answer.status != 200:
        problem = json.loads(answer.body)
        message = f"the endpoint would reject even the golden request: {problem['message']}"
        raise UserError(message, "increase max_request_bytes or max_rows, or allow the values of the model's data")


def settings_of(options: BundleOptions, policy: Policy, parts: Parts) -> Settings:
    """The settings that follow from the options, the policy and the largest legal request of the model.

    The front end takes twice that request, so that what is slightly too large is refused by the worker, in words.
    """
    expanded = max(Limits.expanded_bytes, _LARGEST_RATIO * options.max_request_bytes)
    limits = Limits(request_bytes=options.max_request_bytes, expanded_bytes=expanded, rows=options.max_rows)
    largest = 2 * allowance(parts.signature, limits).body_bytes
    limits = replace(limits, request_bytes=min(limits.request_bytes, largest))
    return Settings(
        name=options.name,
        version=options.version,
        batching=policy.batching,
        batch_size=options.batch_size,
        buckets=policy.buckets,
        workers=options.workers,
        threads=options.threads,
        spinning=policy.spinning,
        providers=PROVIDERS[options.provider][:1],
        provider_options=given_options(options.provider_option, options.provider),
        ranges=_ranges(options, parts.signature),
        allow_nan=policy.allow_nan,
        scores=options.scores
        if options.scores != "auto"
        else guessed_reading(parts.signature, split_golden(parts.golden)[1]),
        top_k=options.top_k,
        hook=bool(parts.hook),
        limits=limits,
    )


def _ranges(options: BundleOptions, signature: Signature) -> Ranges:
    """The range of every dynamic axis for the provider of TensorRT, which builds an engine for them.

    Raises:
        UserError: an axis does not exist, has no range, or has one that does not fit.
    """
    if options.provider != "tensorrt":
        if options.axis:
            raise UserError(f"--axis {options.axis[0]} is only for the provider tensorrt", "leave it out")
        return {}
    batch = (1, min(options.batch_size, options.max_rows), options.max_rows)
    return ranges_of(signature, {BATCH: batch, **dict(parse_axis(item) for item in options.axis)})
