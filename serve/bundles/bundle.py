"""The neutral bundle: model, signature, golden vectors, settings and checksums. Every target is made from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact, raise_if_not, sha256_file
from ...core.backends.trt_plan import Plan
from ...core.console import Console
from ...core.dynamic_kernels import OPERATORS
from ...core.errors import ArtifactError, InputError, MachineError, UserError
from ...core.formats.onnx_graphs import all_nodes
from ...core.formats.onnx_side_files import is_side_file, side_files
from ...core.session import Session, SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import Array
from ..engine import GOLDEN, SETTINGS, SIGNATURE, TOKENIZER, Engine, golden_error, smallest_golden, split_golden
from ..integrity import SUMS, format_sums
from ..requests.hook import HOOK
from ..requests.request import Incoming, decode
from ..requests.wire import NPZ, read_npz, write_npz
from ..settings import TRUSTED, Settings
from ..worker_session import session_options
from .made_up_inputs import made_up

_ON_GPU = 1e-2
"""Least golden tolerance on a GPU, whose products have the 10 bits of mantissa of TF32."""
_FULL = frozenset(("FP32", "INT64", "INT32", "BOOL"))
_NOT_TRIED = 0.1
"""Golden tolerance of a plan of fewer bits that cannot be tried on this machine."""


@dataclass(frozen=True)
class Parts:
    """The parts of a graph or an engine that serving needs.

    Attributes:
        model: path of the ONNX file or of the plan.
        external: names of its files of external weights.
        golden: content of ``golden.npz``.
        tokenizer: the file of the tokenizer, empty without one.
        handler: name of the handler file, without its ending.
        hook: source of the user's functions around the model, empty without any.
        plan: the plan with what its manifest says; None for an ONNX file.
    """

    model: Path
    external: tuple[str, ...]
    signature: Signature
    golden: dict[str, Array]
    tokenizer: bytes = b""
    handler: str = "tensor"
    hook: bytes = b""
    plan: Plan | None = None


def read_graph(artifact: Artifact, given: Mapping[str, Array] | None = None) -> Parts:
    """Read the parts for serving from a graph artifact, a bundle, or a plain ONNX file.

    A plain file has no golden vectors: inputs are generated from its signature, and the outputs of its own session
    become the expected outputs.

    Args:
        given: golden samples instead of the stored or generated ones.

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
            signature = session.signature
            golden = made_up(session) if given is None else computed(session, given)
        else:
            signature = Signature.from_json(artifact.file(SIGNATURE).read_bytes())
            stored = read_npz(artifact.file(GOLDEN).read_bytes(), TRUSTED)
            golden = stored if given is None else computed(session, given)
            tokenizer, hook = carried_file(artifact, TOKENIZER), carried_file(artifact, HOOK)
        check_golden(signature, golden)
    finally:
        session.close()
    invariant = signature.batch_invariant and not dynamic
    return Parts(model, external, replace(signature, batch_invariant=invariant), golden, tokenizer, hook=hook)


def computed(session: Session, golden: Mapping[str, Array]) -> dict[str, Array]:
    """Golden samples with outputs: their own, or those of a session where they have only inputs.

    Raises:
        InputError: the inputs do not fit the model.
    """
    inputs, outputs = split_golden(golden)
    found = outputs or session.run(inputs)
    return {f"in.{name}": array for name, array in inputs.items()} | {f"out.{n}": array for n, array in found.items()}


def carried_file(artifact: Artifact, name: str) -> bytes:
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


def check_golden(signature: Signature, golden: Mapping[str, Array]) -> None:
    """Refuse golden samples of another model.

    Raises:
        ArtifactError: they have other names, types or shapes.
    """
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
    for name in settings.model_files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(parts.model.parent / Path(name).name if settings.engine else parts.model, folder / name)
    tolerance = max(_tolerance(folder, parts, settings), _ON_GPU if settings.needs_gpu else 0.0)
    settings = replace(settings, external=parts.external, golden_tolerance=tolerance)
    (folder / SIGNATURE).write_bytes(parts.signature.to_json().encode())
    (folder / GOLDEN).write_bytes(write_npz(parts.golden))
    (folder / SETTINGS).write_bytes(settings.to_json())
    for name, content in ((TOKENIZER, parts.tokenizer), (HOOK, parts.hook)):
        if content:
            (folder / name).write_bytes(content)
    (folder / SUMS).write_bytes(format_sums(sums_of(folder)))
    return settings


def sums_of(folder: Path) -> dict[str, str]:
    """The checksums of all files of a bundle but those of the checksums."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SUMS]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _tolerance(folder: Path, parts: Parts, settings: Settings) -> float:
    trial = SessionOptions() if settings.needs_gpu and parts.plan is None else session_options(settings)
    try:
        session = open_session(folder / settings.model, trial, parts.signature)
    except MachineError:
        if parts.plan is None:
            raise
        return _ON_GPU if parts.plan.types <= _FULL else _NOT_TRIED
    inputs, expected = split_golden(parts.golden)
    error = golden_error(session.run(inputs), expected)
    session.close()
    if not error <= 0.25:
        message = f"the golden outputs differ by {error:.3g} of their range, so they belong to another model"
        raise ArtifactError(message, "export the model again")
    # a power of ten, so that a different last bit does not change the archive
    return max(1e-3, float(10.0 ** np.ceil(np.log10(max(4 * error, 1e-9)))))


def try_here(folder: Path, parts: Parts, console: Console) -> Engine | None:
    """Open a bundle that was just written, ask it its golden request, and close it.

    An ONNX file is tried on the CPU where this machine has not the GPU that its workers need.

    Returns:
        What was measured; None for a plan that this machine cannot run.

    Raises:
        RetortError: the bundle cannot be served on this machine.
    """
    engine = _opened(folder, parts, console)
    if engine is None:
        decode_golden(parts, Settings.from_json((folder / SETTINGS).read_bytes()))
        return None
    try:
        answer_golden(engine)
    finally:
        engine.close()
    return engine


def _opened(folder: Path, parts: Parts, console: Console) -> Engine | None:
    settings = Settings.from_json((folder / SETTINGS).read_bytes())
    try:
        return Engine.load(folder)
    except MachineError as error:
        if not settings.needs_gpu:
            raise
        if parts.plan is not None:
            console.warn(f"{error.message}; the plan was not tried, and its workers start only where it runs")
            return None
        console.warn(f"{error.message}; the model was tried on the CPU, and its workers start only where that works")
        return Engine.load(folder, providers=())


def answer_golden(engine: Engine) -> None:
    """Ask the golden request as a client would.

    Raises:
        UserError: the settings refuse it.
    """
    answer = engine.answer([_golden_request(engine.signature, engine.golden)])[0]
    if answer.status != 200:
        raise _rejected(str(json.loads(answer.body)["message"]))


def decode_golden(parts: Parts, settings: Settings) -> None:
    """Check that the settings take the golden request, where the model cannot be run.

    Raises:
        UserError: they refuse it.
    """
    try:
        decode(_golden_request(parts.signature, split_golden(parts.golden)), parts.signature, settings)
    except InputError as error:
        raise _rejected(error.message) from error


def _golden_request(signature: Signature, golden: tuple[dict[str, Array], dict[str, Array]]) -> Incoming:
    return Incoming({"body": write_npz(smallest_golden(signature, golden)[0])}, {"body": NPZ})


def _rejected(message: str) -> UserError:
    return UserError(
        f"the endpoint would reject even the golden request: {message}",
        "increase max_request_bytes or max_rows, or allow the values of the model's data",
    )
