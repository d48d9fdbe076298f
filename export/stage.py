"""The export stage: from a program to a checked ONNX file with its signature and golden vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from ..core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ..core.backends.ort_signature import SIGNATURE_KEY
from ..core.console import SILENT, Console
from ..core.context import Context, Place
from ..core.counts import counted
from ..core.cpu_targets import is_for_cpu
from ..core.data.splits import Splits, rows_of
from ..core.dynamic_kernels import DEPENDENT_ROWS
from ..core.errors import DataError, UserError, VerificationError
from ..core.facts.any_facts import AnyFacts
from ..core.facts.export_facts import ExportFacts, HalfPrecision
from ..core.formats.program_file import fit_context
from ..core.options.stage_options import ExportOptions, Target
from ..core.session import Session, SessionOptions, open_session
from ..core.signature import Signature
from ..core.system.atomic_files import write_atomically
from ..core.system.user_paths import require_utf8
from ..core.tensors import BATCH, Array, Feeds
from .files import EXTERNAL_ABOVE_BYTES
from .finalize import with_batch_dependence
from .half_precision.check import ACCEPTED, Widened, computed_in, runnable
from .half_precision.convert import LEAST_OPSET, half_signature, to_half
from .lint import lint
from .ort.kernels import integer_kernels
from .verify.parity import FileForm, Parity, check, rows
from .verify.sparsity import verify_sparsity

if TYPE_CHECKING:
    from torch.export import ExportedProgram

KEY = "retort.key"
TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def export(options: ExportOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that writes a program as ONNX and proves that the file computes the same on calibration samples.

    Raises:
        RetortError: as :func:`write_graph`.
    """
    raise_if_not(parent, "program")
    calibration = fit_context(context, parent.main).data.calibration
    samples = rows_of(calibration, max(*options.batch_sizes, options.golden))
    chosen = options if options.target is not None else options.model_copy(update={"target": context.target})
    return write_graph(chosen, parent, place, samples, context.console, partial(rows_of, calibration), context.data)


def write_graph(
    options: ExportOptions,
    artifact: Artifact,
    place: Place,
    samples: Feeds,
    console: Console = SILENT,
    more: Callable[[int], Feeds] | None = None,
    data: Splits | None = None,
) -> Artifact:
    """Write a program as ONNX and prove that the file computes the same.

    Args:
        options: target (by default `cpu`), opset, tolerance, batch sizes, golden rows.
        artifact: a program, or a bare ``.pt2`` file.
        place: its folder gets ``model.onnx``, ``signature.json`` and ``golden.npz`` with ``in.<name>`` and
            ``out.<name>`` as ONNX Runtime computes them; its key is written into the file.
        samples: real inputs, with at least one row.
        console: shows progress.
        more: reads a number of samples, on which a quantized file is compared again before it is refused.
        data: names the classes, the symbols of texts and the features of a program that has none.

    Raises:
        ArtifactError: the program cannot be read, or the target does not support its quantization.
        CaptureError: an operator has no ONNX form.
        DataError: there are no samples.
        VerificationError: the file does not compute the same as the program; no artifact is written.
        StorageError: the disk is full or not writable, or the name of the folder is not UTF-8.
    """
    from ..core.backends.eager import load_exported
    from .qdq.retarget import is_quantized, retarget
    from .recurrent_kernels import build_accurate, plainer
    from .translate import OPSETS

    raise_if_not(artifact, "program")
    require_utf8(place.directory)
    wanted = options.target or "cpu"
    opset = _opset(options, wanted, OPSETS[wanted])
    exported, signature, stored = load_exported(artifact.main)
    signature = signature if data is None else data.describing(signature)
    _require_samples(samples, signature)
    console.stage("export", f"{artifact.path.name} for {wanted}, opset {opset}")
    program = retarget(exported, wanted)
    model, kept_float = build_accurate(program, signature, options, opset, samples)
    signature = with_batch_dependence(model, signature)
    model, written, half = in_half(model, options, signature, samples)
    origin, quantized = artifact.facts_as(AnyFacts), is_quantized(program)
    _sign(model, options, place)
    with new_artifact(place, "graph", "export", options=options, tools=_tools()) as draft:
        path = verify_file(write_model(model, draft.folder), wanted)
        parity = prove(program, signature, path, samples, options, plainer(program, signature, wanted, opset), more)
        draft.facts = found = ExportFacts(
            target=wanted,
            opset=opset,
            quantized=quantized,
            batch_invariant=written.batch_invariant,
            nodes=model.graph.num_nodes(),
            size_bytes=sum(file.stat().st_size for file in draft.folder.iterdir()),
            parity=tuple(parity.differences),
            parity_unchecked=parity.unchecked,
            hard_inputs=parity.hard or None,
            kernels=integer_kernels(path, wanted == "arm") if quantized and options.precision == "fp32" else None,
            precision=None if options.precision == "fp32" else options.precision,
            half=half,
            recurrent=kept_float or None,
            sparsity=verify_sparsity(onnx.load(str(path)), stored["meta"]),
            parameters=origin.parameters,
            macs=origin.macs,
        )
        write_atomically(draft.folder / "signature.json", written.to_json().encode())
        _write_golden(loadable(path, options.precision), samples, options, draft.folder / "golden.npz")
    _report(found, console)
    return load_artifact(place.directory)


def prove(
    program: ExportedProgram,
    signature: Signature,
    path: Path,
    samples: Feeds,
    options: ExportOptions,
    plainer: bytes | None = None,
    more: Callable[[int], Feeds] | None = None,
) -> Parity:
    """Compare a file with the program from which it was made.

    Args:
        plainer: for a file whose recurrent layers quantize at run time, the form with FP32 kernels. It must meet the
            usual bounds; the file itself may add the rounding of activations, which the program does not have.
        more: see :func:`write_graph`.

    Raises:
        VerificationError: the difference is too large.
    """
    from ..core.backends.eager import EagerSession
    from .qdq.retarget import is_quantized, without_quantization

    quantized = is_quantized(program)
    references = [program, without_quantization(program)] if quantized else [program]
    eager = [EagerSession(item.module(check_guards=False), signature, "cpu", 0) for item in references]
    if plainer is not None and options.precision == "fp32":
        plain = open_session(plainer, _settings(options))
        check(eager[0], plain, samples, options.batch_sizes, options.tolerance, eager[1] if quantized else None)
        plain.close()
    candidate: Session = open_session(loadable(path, options.precision), _settings(options))
    candidate = Widened(candidate) if options.half_io else candidate
    floating = eager[1] if quantized else None
    precision = computed_in(program, options.precision)
    tolerance = max(options.tolerance, ACCEPTED.get(precision, 0.0))
    form: FileForm = "dynamic" if plainer is not None else "half" if precision != "fp32" else "static"
    parity = check(eager[0], candidate, samples, options.batch_sizes, tolerance, floating, form, more)
    candidate.close()
    return parity


def in_half(
    model: ir.Model, options: ExportOptions, signature: Signature, samples: Feeds
) -> tuple[ir.Model, Signature, HalfPrecision | None]:
    """The model in half precision where the options request it and the samples show that it is safe.

    Returns:
        The model, its signature (with FP16 inputs and outputs if requested), and what was converted; None in FP32.
    """
    if options.precision == "fp32":
        return model, signature, None
    made, report = to_half(
        ir.to_proto(model),
        options.precision,
        signature,
        {name: np.asarray(value) for name, value in samples.items()},
        exclude=options.half_exclude,
        keep_io=not options.half_io,
    )
    written = half_signature(signature, made)
    done = ir.from_proto(made)
    done.metadata_props[SIGNATURE_KEY] = written.to_json()
    return done, written, report.facts()


def loadable(path: Path, precision: str) -> Path | bytes:
    """The model that ONNX Runtime's CPU kernels run for a file: the file in FP32, else an equivalent model."""
    if precision == "fp32":
        return path
    model = onnx.load(str(path))
    made = runnable(model)
    return path if made is model else made.SerializeToString()


def _sign(model: ir.Model, options: ExportOptions, place: Place) -> None:
    """Write the origin of the file into its metadata; equal inputs give equal metadata."""
    if place.key:
        model.metadata_props[KEY] = place.key
    model.metadata_props["retort.parents"] = json.dumps(place.parents)
    model.metadata_props["retort.options"] = json.dumps(options.model_dump(mode="json"), sort_keys=True)


def _opset(options: ExportOptions, target: Target, default: int) -> int:
    if options.precision == "bf16" and is_for_cpu(target):
        raise UserError("ONNX Runtime has no BF16 kernels on a CPU", "export with --target tensorrt, or in fp16")
    return options.opset or max(default, LEAST_OPSET.get(options.precision, 0))


def write_model(model: ir.Model, folder: Path, external_above_bytes: int = EXTERNAL_ABOVE_BYTES) -> Path:
    """Write ``model.onnx`` as one file, or with a separate file of weights if protobuf cannot store them.

    Args:
        model: the model.
        folder: where to write.
        external_above_bytes: size of all weights, in bytes, above which they get their own file.
    """
    path = folder / "model.onnx"
    weights = [value.const_value for value in model.graph.initializers.values()]
    total = sum(tensor.nbytes for tensor in weights if tensor is not None)
    if total > external_above_bytes:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    return path


def verify_file(path: Path, target: Target) -> Path:
    """Run ONNX's checker with shape inference, and the rules for TensorRT; return the path.

    Raises:
        VerificationError: the file breaks a rule; the message names the first, and its facts have all.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        text = f"the ONNX checker rejects the file: {str(error).splitlines()[0][:300]}"
        raise VerificationError(text, "please report this model") from error
    findings = [item for item in lint(onnx.load(str(path))) if item.verdict != "advice"] if target == "tensorrt" else []
    if findings:
        raise VerificationError(
            f"{counted(findings, 'fault')} for TensorRT, the first: {findings[0]}",
            "quantize the program for the target tensorrt" if findings[0].rule.startswith("Q0") else findings[0].remedy,
            findings=[str(item) for item in findings],
        )
    return path


def _require_samples(samples: Feeds, signature: Signature) -> None:
    """Refuse inputs without rows; a cache may be empty along its own axis, as at the first step.

    Raises:
        DataError: an input has no rows.
    """
    lacking = [
        spec.name
        for spec in signature.inputs
        if spec.name not in samples
        or not all(_has(axis, size) for axis, size in zip(spec.shape, np.shape(samples[spec.name]), strict=False))
    ]
    if lacking:
        raise DataError(f"no sample for input '{lacking[0]}'", "give at least one real sample to check the file with")


def _has(axis: int | str, size: int) -> bool:
    """Whether an axis of samples may have this size: 0 only if it is neither the batch nor a size above 0."""
    return size > 0 or axis == 0 or (isinstance(axis, str) and axis != BATCH)


def _settings(options: ExportOptions) -> SessionOptions:
    return SessionOptions(threads=1, signed=options.target == "arm")


def _write_golden(model: Path | bytes, samples: Feeds, options: ExportOptions, path: Path) -> None:
    session = open_session(model, _settings(options))
    feeds = session.signature.validate(rows(session.signature, samples, options.golden))
    arrays: dict[str, Array] = {f"in.{name}": value for name, value in feeds.items()}
    arrays |= {f"out.{name}": value for name, value in session.run(feeds).items()}
    session.close()
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _tools() -> dict[str, str]:
    return {name: version(name) for name in TOOLS}


def _report(facts: ExportFacts, console: Console) -> None:
    console.stage("export", _summary(facts))
    if facts.recurrent:
        console.say(f"            {facts.recurrent}")
    if not facts.batch_invariant:
        remedy = "`export.recurrent: weights` and `quantize.form: static` avoid it"
        console.warn(f"{DEPENDENT_ROWS}; requests are served one at a time ({remedy})")
    if facts.parity_unchecked:
        console.warn(f"the file was not compared at a shorter length: {facts.parity_unchecked}")
    undefined = [item.inputs for item in facts.hard_inputs or () if item.undefined]
    if undefined:
        more = "; codes have no NaN, so that the INT8 file may give numbers there" if facts.quantized else ""
        console.warn(f"the model has undefined outputs on {', '.join(undefined)}{more}")
    names = facts.kernels.unfused_names if facts.kernels is not None and is_for_cpu(facts.target) else ()
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        run, layers = ("runs", "its layer") if len(names) == 1 else ("run", "their layers")
        console.warn(
            f"{counted(names, 'quantized node')} {run} in floating point, slower than FP32: {shown}; "
            f"leave {layers} in FP32 with `exclude` of `quantize`"
        )


def _summary(facts: ExportFacts) -> str:
    worst = max((item.error for item in facts.parity), default=0.0)
    text = f"{facts.size_bytes / 1e6:.2f} MB, {counted(facts.nodes, 'node')}, parity {worst:.1e}"
    if facts.half is not None:
        text += f", {counted(facts.half.half_nodes, 'node')} in {facts.precision}, {len(facts.half.kept_fp32)} in FP32"
    if facts.kernels is None:
        return text
    heavy = facts.kernels.integer_heavy, facts.kernels.floating_heavy
    return f"{text}, {heavy[0]} of {sum(heavy)} heavy nodes in integer kernels"
