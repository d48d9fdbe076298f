"""Diagnosis of a model: its forms are compared on the same samples, and the first broken form is explained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact, load_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Subset
from ...core.errors import RetortError, UserError
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.metrics.all_outputs import agreement_of_all, sqnr_of_all_db, undefined_alike, worst_column
from ...core.metrics.quality_floor import QualityFloor
from ...core.metrics.task_metrics import evaluate
from ...core.options.stage_options import CaptureOptions, ExportOptions, ModelSpec, QuantizeOptions
from ...core.session import SessionOptions, open_session
from ...core.tensors import Array
from .. import stages
from .causes import FLOAT_DB, common, explain, outputs_of
from .forms import Diagnosis, Form

SAMPLES = 128
INT8_DB, VERY_POOR_DB = 25.0, 12.0
AGREEMENT, SAFE_AGREEMENT = 0.97, 0.99


def diagnose(models: Sequence[Path], context: Context) -> Diagnosis:
    """Compare forms of a model and explain the first broken one.

    Args:
        models: ``.pt2`` or ``.onnx`` files or artifacts; the first is the reference. From a single FP32 program the
            other forms are made: its ONNX file, its INT8 program, and the Q/DQ file; an FP32 ONNX file is imported as a
            program first.
        context: data, task and target. Outputs are compared on the validation split, or on the calibration split if
            there is none.

    Raises:
        UserError: there is no model.
        RetortError: a file cannot be read, or the data do not fit it.
    """
    if not models:
        raise UserError("no model was given", "give a .pt2, an .onnx or an artifact")
    with tempfile.TemporaryDirectory() as folder:
        forms = [_form(load_artifact(path)) for path in models]
        errors: list[Form] = []
        if len(forms) == 1 and not forms[0].quantized:
            errors = _make_line(forms, load_artifact(models[0]), context, Path(folder))
        return _examine([*forms, *errors], context)


def _form(artifact: Artifact, name: str = "") -> Form:
    path = artifact.main
    if path.suffix == ".onnx":
        from .onnx_probe import is_quantized

        quantized = is_quantized(path)
        return Form(name or ("Q/DQ file" if quantized else "ONNX file"), path, "onnx", quantized)
    from ...compress.program import load_program
    from ...compress.quantization import is_quantized as is_int8

    quantized = is_int8(load_program(path))
    return Form(name or ("INT8 program" if quantized else "program"), path, "torch", quantized)


def _make_line(forms: list[Form], program: Artifact, context: Context, folder: Path) -> list[Form]:
    """Make the other forms of an FP32 program or file; return the forms that could not be made."""
    if forms[0].kind == "onnx":
        try:
            program = _imported(program, folder / "program", context)
        except RetortError as error:
            return [Form("program", folder, "torch", False, broken=True, error=str(error))]
        forms.append(_form(program))
    options = QuantizeOptions(correction=("none",), timed=False, accept=True)
    steps: tuple[tuple[str, Callable[[], Artifact]], ...] = (
        ("ONNX file", lambda: stages.export(ExportOptions(), program, Place(folder / "onnx"), context)),
        ("INT8 program", lambda: stages.quantize(options, program, Place(folder / "int8"), context)),
        (
            "Q/DQ file",
            lambda: stages.export(ExportOptions(), load_artifact(folder / "int8"), Place(folder / "qdq"), context),
        ),
    )
    failed = []
    for name, make in steps if forms[0].kind == "torch" else steps[1:]:
        try:
            forms.append(_form(make(), name))
        except RetortError as error:
            failed.append(Form(name, folder, "onnx", False, broken=True, error=str(error)))
            if name != "ONNX file":
                break
    return failed


def _imported(artifact: Artifact, folder: Path, context: Context) -> Artifact:
    return stages.capture(CaptureOptions(), ModelSpec(source=str(artifact.main.resolve())), Place(folder), context)


def _examine(forms: list[Form], context: Context) -> Diagnosis:
    sessions = {form.name: open_session(form.path, SessionOptions(threads=0)) for form in forms if not form.error}
    first = sessions[forms[0].name]
    data = fit_to(context.data, first.signature)
    source = data.validation if len(data.validation) else data.calibration
    split = Subset(source, np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLES)).astype(np.int64)))
    feeds, targets = split.read(range(len(split)))
    wanted: list[Array] | None = None
    for form in forms:
        if form.name in sessions:
            found = outputs_of(sessions[form.name], feeds)
            wanted = found if wanted is None else wanted
            _judge(form, found, wanted, targets, forms[0])
    diagnosis = Diagnosis(forms)
    sound = [form for form in forms if form.name in sessions]
    suspects = [form for form in sound if form.broken] or [form for form in sound if form.quantized]
    diagnosis.findings = common(forms, sessions, data, split) + [
        finding for form in suspects[:1] for finding in explain(form, forms[0], sessions, split, wanted, context)
    ]
    for session in sessions.values():
        session.close()
    return diagnosis


def _judge(form: Form, found: list[Array], wanted: list[Array], targets: Array | None, first: Form) -> None:
    """Accuracy, noise and agreement of a form, and whether it is broken."""
    if not undefined_alike(wanted, found) or any(np.isnan(one).any() for one in found):
        shapes = ", ".join(str(list(one.shape)) for one in found)
        form.broken, form.error = True, f"its outputs have the shapes {shapes}, or NaN, or infinities in other places"
        return
    classes = found[0].ndim == 2 and found[0].shape[1] > 1
    if classes and targets is not None and targets.dtype.kind in "iu":
        form.accuracy = float(evaluate("accuracy", found[0], targets))
    if form is first:
        return
    noise = sqnr_of_all_db(wanted, found)
    form.sqnr_db = round(noise, 2) if np.isfinite(noise) else None
    form.agreement = agreement_of_all(wanted, found)
    columns = [worst_column(one, two) for one, two in zip(wanted, found, strict=True)]
    lost = any(column is not None and column.db < QualityFloor().column_db for column in columns)
    form.broken = lost or _is_broken(noise, form.agreement, form.quantized)


def _is_broken(noise_db: float, agreement: float | None, quantized: bool) -> bool:
    """Whether a form is broken; outputs that are class scores may be noisy as long as the classes stay the same."""
    if not quantized:
        return noise_db < FLOAT_DB
    if agreement is None:
        return noise_db < INT8_DB
    return agreement < AGREEMENT or noise_db < VERY_POOR_DB or (noise_db < INT8_DB and agreement < SAFE_AGREEMENT)


def fix(artifact: Artifact, directory: Path, context: Context) -> dict[str, Any]:
    """Quantize a program or an ONNX file with all corrections and, if needed, with some layers in floating point.

    Returns:
        The difference between the result and FP32.
    """
    options = QuantizeOptions(correction=("full",), mixed="auto", min_sqnr=INT8_DB)
    with tempfile.TemporaryDirectory() as folder:
        program = _imported(artifact, Path(folder) / "program", context) if artifact.kind == "graph" else artifact
        facts = stages.quantize(options, program, Place(directory), context).facts_as(QuantizeFacts)
    return {**facts.against_fp32.to_json(), "float": list(facts.mixed.float) if facts.mixed else []}


def show(diagnosis: Diagnosis, screen: Console) -> None:
    """Print the forms and the findings."""
    rows = [
        (
            form.name,
            _number(form.accuracy, ".4f"),
            "reference" if form is diagnosis.forms[0] else _number(form.sqnr_db, ".1f"),
            _number(form.agreement, ".3f"),
            form.error or ("broken" if form.broken else "sound"),
        )
        for form in diagnosis.forms
    ]
    screen.table("retort doctor", ["form", "accuracy", "SQNR dB", "agreement", "verdict"], rows, words=True)
    for finding in diagnosis.findings:
        screen.result({}, f"{finding.cause}: {finding.where}: {finding.detail}\n    -> {finding.remedy}")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
