"""The engine stage: from ONNX to a TensorRT plan, with a manifest that states where the plan can run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not, sha256_file
from ...core.backends.trt_buffers import DTYPES
from ...core.console import SILENT, Console
from ...core.context import Context, Place
from ...core.counts import counted
from ...core.errors import ArtifactError, UserError, VerificationError
from ...core.facts.engine_facts import (
    BuildDevice,
    BuildTiming,
    EngineFacts,
    GraphOrigin,
    PlanFacts,
    PlanSource,
    TimingCache,
)
from ...core.facts.export_facts import HalfPrecision
from ...core.options.stage_options import EngineOptions
from ...core.signature import Signature
from ...core.system.atomic_files import write_atomically
from ...core.system.cache import cache_folder
from ...core.tensors import TensorSpec
from ..files import graph_signature, load_graph, read_graph, save_graph, shape_inputs
from ..half_precision.check import CODED_ACCEPTED, half_errors, require_close
from ..half_precision.convert import to_half
from ..lint import lint
from ..lint.change import random_feeds
from .build_process import BuildRequest, Shapes, run_build
from .engine_layers import histogram
from .explain import Explanation, explain_inspector, explain_network
from .optimization_profiles import Profile, plan_profiles
from .timing_cache import prepare_folder

_GOLDEN = "golden.npz"
INSPECTOR = "inspector.json"
EXPLAIN_GRAPH = "explain the graph from which it was built: retort engine model.onnx --explain"


def engine(options: EngineOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that builds the TensorRT plan of a graph.

    Raises:
        RetortError: as :func:`build_engine`.
    """
    return build_engine(options, parent, place, context.console)


def build_engine(options: EngineOptions, artifact: Artifact, place: Place, console: Console = SILENT) -> Artifact:
    """Build the TensorRT plan of an ONNX graph.

    Args:
        options: profiles, memory, optimisation level, caches.
        artifact: a graph, or a bare ``.onnx`` file.
        place: its folder gets ``model.plan``, ``signature.json`` and, where the graph has them, its
            golden vectors. The ``engine`` facts of its manifest have the version and the device of the plan.
        console: shows progress.

    Raises:
        UserError: a profile does not fit the model.
        ArtifactError: TensorRT rejects the model; the message lists the nodes.
        VerificationError: TensorRT would not compute the same as the model (rules Q02, Q03, Q05, Q06).
        MachineError: TensorRT is not installed, needs a GPU, or crashed.
        StorageError: the plan or the timing cache cannot be written.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    raise_if_not(artifact, "graph")
    path = artifact.main
    model = read_graph(path)
    signature = graph_signature(model, path)
    profiles = engine_profiles(options, path)
    _refuse_silent_faults(model, path, options, console)
    cache = None if options.timing_cache == "off" else prepare_folder(_folder(options))
    console.stage("engine", f"{path.name}, {_shown(profiles)}")
    with new_artifact(place, "engine", "engine", options=options) as draft:
        folder = draft.folder
        source, half = _in_precision(options, artifact, signature, folder, console)
        made = run_build(_request(source, folder / "model.plan", profiles, options, cache), console)
        if (folder / "model.plan").stat().st_size != made["plan_bytes"]:
            raise VerificationError("the plan on disk differs from the plan that was built", "build it again")
        if made["inspector"]:
            write_atomically(folder / INSPECTOR, made["inspector"].encode())
        signature = engine_signature(signature, made)
        write_atomically(folder / "signature.json", signature.to_json().encode())
        if (artifact.path / _GOLDEN).is_file():
            (folder / _GOLDEN).write_bytes((artifact.path / _GOLDEN).read_bytes())
        draft.facts = found = _facts(made, profiles, options, artifact, half)
    console.stage("engine", _summary(found))
    return load_artifact(place.directory)


def _in_precision(
    options: EngineOptions, artifact: Artifact, signature: Signature, folder: Path, console: Console
) -> tuple[Path, HalfPrecision | None]:
    """The file from which to build: the given file, or one in half precision next to the plan, and what was converted.

    Raises:
        VerificationError: half precision changes the outputs too much.
    """
    if options.precision == "file":
        return artifact.main, None
    golden = artifact.path / _GOLDEN
    if golden.is_file():
        stored = np.load(golden)
        feeds = {spec.name: stored[f"in.{spec.name}"] for spec in signature.inputs}
    else:
        console.warn("the model has no golden inputs, so random inputs decide what is safe in half precision")
        feeds = random_feeds(signature)
    model = load_graph(artifact.main)
    made, report = to_half(model, options.precision, signature, feeds)
    errors = half_errors(model, made, feeds)
    coded = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    require_close(errors, options.precision, CODED_ACCEPTED if coded else None)
    path = folder / "model.onnx"
    save_graph(made, path)
    return path, report.facts(errors)


def explain(options: EngineOptions, artifact: Artifact, console: Console = SILENT) -> Explanation:
    """Explain in which type each layer computes, why, and what to change, for a graph or a built engine.

    Args:
        artifact: a graph, which is only parsed, or an engine that was built on a GPU.

    Raises:
        ArtifactError: TensorRT rejects the graph, or the engine was built without a GPU.
    """
    raise_if_not(artifact, "graph", "engine")
    if artifact.kind == "graph":
        made = run_build(BuildRequest(str(artifact.main.resolve()), None, runtime=options.runtime), console)
        return explain_network(made["layers"], lint(load_graph(artifact.main)))
    inspected = artifact.path / INSPECTOR
    if not inspected.is_file():
        raise ArtifactError(f"{artifact.path} was built without a GPU, so its layers are not known", EXPLAIN_GRAPH)
    return explain_inspector(inspected.read_text())


def engine_profiles(options: EngineOptions, path: Path) -> tuple[Profile, ...]:
    """The profiles of an engine of this file."""
    model = read_graph(path)
    inputs = graph_signature(model, path).inputs
    return plan_profiles(inputs, options.batch_sizes, options.axis, options.profile, values=shape_inputs(model))


def engine_signature(signature: Signature, made: dict[str, Any]) -> Signature:
    """The signature with the actual types of the network.

    Raises:
        VerificationError: the network has other inputs or outputs than the graph.
    """

    def _typed(specs: tuple[TensorSpec, ...], tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        found = {tensor["name"]: tensor["dtype"] for tensor in tensors}
        lacking = [spec.name for spec in specs if spec.name not in found]
        if lacking:
            raise VerificationError(
                f"the network has no '{lacking[0]}'; it has {', '.join(found)}", "export the model again"
            )
        unsupported = [spec.name for spec in specs if found[spec.name] not in DTYPES]
        if unsupported:
            message = f"'{unsupported[0]}' is {found[unsupported[0]]}, which numpy does not support"
            raise UserError(message, "export with FP32 inputs and outputs")
        return tuple(TensorSpec(spec.name, DTYPES[found[spec.name]], spec.shape) for spec in specs)

    inputs, outputs = _typed(signature.inputs, made["inputs"]), _typed(signature.outputs, made["outputs"])
    return replace(signature, inputs=inputs, outputs=outputs)


def _refuse_silent_faults(model: onnx.ModelProto, path: Path, options: EngineOptions, console: Console) -> None:
    """Check for faults that the parser does not report, because it would compute something else."""
    silent = [finding for finding in lint(model) if finding.verdict == "silent"]
    if not silent:
        return
    if options.lint == "warn":
        console.warn(f"{counted(silent, 'fault')} that TensorRT does not report, the first: {silent[0]}")
        return
    raise VerificationError(
        f"TensorRT would compute something else than {path.name}: {silent[0]}"
        + (f" (and {len(silent) - 1} more)" if len(silent) > 1 else ""),
        f"`retort lint {path} --fix fixed.onnx` fixes what can be fixed; with --lint warn the engine is built anyway",
        findings=[finding.to_dict() for finding in silent],
    )


def _folder(options: EngineOptions) -> Path:
    return Path(options.timing_cache).expanduser() if options.timing_cache else cache_folder("timing")


def _request(
    path: Path, plan: Path, profiles: tuple[Profile, ...], options: EngineOptions, cache: Path | None
) -> BuildRequest:
    shapes: tuple[Shapes, ...] = tuple(
        {name: (found.min, found.opt, found.max) for name, found in profile.items()} for profile in profiles if profile
    )
    return BuildRequest(
        str(path.resolve()),
        str(plan.resolve()),
        shapes,
        options.runtime,
        options.workspace_mib,
        options.level,
        options.tf32,
        None if cache is None else str(cache.resolve()),
        options.version_compatible,
        options.hardware,
    )


def _facts(
    made: dict[str, Any],
    profiles: tuple[Profile, ...],
    options: EngineOptions,
    graph: Artifact,
    half: HalfPrecision | None,
) -> EngineFacts:
    path, origin = graph.main, graph.facts_as(GraphOrigin)
    where = PlanFacts(
        runtime=made["runtime"],
        version=made["version"],
        device=BuildDevice(**made["device"]),
        hardware=options.hardware,
        version_compatible=options.version_compatible,
        profiles=tuple({name: str(found) for name, found in profile.items()} for profile in profiles),
        shape_inputs=tuple(made["shape_inputs"]),
        source=PlanSource(file=path.name, sha256=sha256_file(path)),
        rebuild=rebuild_command(path, options),
    )
    return EngineFacts(
        engine=where,
        layers=histogram(made["layers"]),
        plan_bytes=made["plan_bytes"],
        weights_bytes=made["weights_bytes"],
        peak_bytes=made["peak_bytes"],
        timing_cache=TimingCache(**made["timing_cache"]),
        timing=BuildTiming(seconds=round(made["seconds"], 3), parse_s=round(made["parse_s"], 3)),
        half=half,
        parameters=origin.parameters,
        macs=origin.macs,
        target=origin.target,
    )


def rebuild_command(path: Path, options: EngineOptions) -> str:
    """The command line that builds the same plan again."""
    changed = options.model_dump(exclude_defaults=True)
    words = ["retort", "engine", str(path)]
    for name, value in changed.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name.replace('_', '-')}")
            continue
        for item in value if isinstance(value, tuple) else (value,):
            words += [flag, str(item)]
    return shlex.join(words)


def _shown(profiles: tuple[Profile, ...]) -> str:
    parts = ["; ".join(f"{name} {found}" for name, found in profile.items()) for profile in profiles]
    return " | ".join(parts) if any(parts) else "fixed shapes"


def _summary(facts: EngineFacts) -> str:
    where, weights = facts.engine, facts.weights_bytes
    device = where.device.name or "no GPU: built in advance"
    shown = f", weights {weights / 1e6:.2f} MB" if weights is not None else ""
    return (
        f"{facts.plan_bytes / 1e6:.2f} MB{shown}, {where.runtime} {where.version} ({device}), "
        f"{facts.timing.seconds:.1f} s, peak {facts.peak_bytes / 1e6:.0f} MB"
    )
