"""Static or dynamic INT8 (`quantize.form: auto`): both are built, exported and timed, and the better one is kept.

For a target that cannot be timed on this machine, their accuracy decides.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...core.artifact import Artifact, load_artifact, new_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.cpu_targets import can_be_timed, why_not_timed
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Split, Splits, Subset
from ...core.facts.quantize_facts import FormChoice, FormTrial, QuantizeFacts
from ...core.metrics.all_outputs import floating, sqnr_of_all_db
from ...core.metrics.ratio import Ratio, mean_of
from ...core.metrics.task_metrics import evaluate
from ...core.options.stage_options import BenchOptions, QuantizeOptions
from ...core.session import Session
from ...core.system.folder_locks import held
from ...core.system.owned_folders import scratch_of
from ...core.tensors import Array
from .fitting_batches import fitting_batches, note_on, rows_fitting
from .timed_files import compared, file_of, opened

if TYPE_CHECKING:
    from ...compress.quantization.int8_program import Gains

Form = Literal["static", "dynamic"]
FORMS: tuple[Form, ...] = ("static", "dynamic")

SAMPLES, ROWS = 256, 64
BLOCKS, BUDGET_S = 16, 20.0
EQUAL_DB = 300.0
"""The ratio that stands for equal outputs: files have no infinite numbers."""
NEAR_DB, GOOD_DB = 3.0, 30.0
"""Without a bound, a form is accurate enough within 3 dB of the other form, or with a centred SQNR of 30 dB."""


@dataclass(frozen=True)
class Sizes:
    """The batch sizes that are timed, none if nothing is timed here, and the most rows of any run."""

    timed: tuple[int, ...]
    most: int
    timer: str | None = None


@dataclass(frozen=True)
class Trial:
    """The results of one form compared with the FP32 file.

    Attributes:
        sqnr_db: centred SQNR over all floating-point outputs, in dB.
        drop: loss of accuracy; None without labels.
        speedup: speedup over FP32 by batch size.
    """

    sqnr_db: float
    drop: float | None
    speedup: Mapping[int, Ratio]

    def facts(self) -> FormTrial:
        """The facts for a manifest; an unbounded end of an interval is None."""
        times = {str(batch): ratio for batch, ratio in self.speedup.items()}
        ratio = round(min(max(self.sqnr_db, -EQUAL_DB), EQUAL_DB), 2)
        return FormTrial(sqnr_db=ratio, accuracy_drop=self.drop, speedup=times)

    def describe(self) -> str:
        """``24.1 dB, 3.12× at batch 1, 2.90× at batch 32``."""
        times = [f"{ratio.value:.2f}× at batch {batch}" for batch, ratio in self.speedup.items()]
        return ", ".join((f"{self.sqnr_db:.1f} dB", *times))


def choose_form(
    options: QuantizeOptions, parent: Artifact, place: Place, context: Context, gains: Gains | None
) -> Artifact:
    """Quantize in both forms for a CPU target and keep the better.

    Args:
        options: with `form: auto`.
        parent: the FP32 program.
        place: place of the result; the candidates are written next to it and deleted afterwards.
        context: its validation split is used to compare, or its calibration split if there is none.
        gains: measures the time that INT8 saves in each layer, for mixed precision.

    Returns:
        The chosen program; its facts have the results of both under ``form``.
    """
    scratch = scratch_of(place.directory, "-forms")
    with held(scratch):
        made = _chosen(options, parent, place, context, gains, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    return made


def _chosen(
    options: QuantizeOptions, parent: Artifact, place: Place, context: Context, gains: Gains | None, scratch: Path
) -> Artifact:
    from ...compress.quantization.stage import quantize

    console = context.console
    made: dict[Form, Artifact] = {}
    for form in FORMS:
        console.stage("quantize", f"{form} form")
        own = replace(context, scratch=scratch / f"{form}-training")
        tried = options.model_copy(update={"form": form, "accept": True})
        made[form] = quantize(tried, parent, Place(scratch / form), own, gains)
    most = rows_fitting(options, parent)
    batches = fitting_batches(options, most) if can_be_timed(context.target, options.timer) else ()
    note = None if options.timed or not batches else note_on(options, batches)  # timing against FP32 prints it
    if note is not None:
        console.say(note)
    trials, against = _tried(parent, made, context, Sizes(batches, most, options.timer))
    kept, why = decide(trials, against, options, why_not_timed(context.target, options.timer))
    differ = "dynamic" in trials
    for form, trial in trials.items() if differ else ():
        console.say(f"            {form:<8} {trial.describe()}")
    console.stage("quantize", f"{kept} form: {why}")
    if not _is_sound(made[kept]) and not options.accept and options.qat is None:
        chosen = options.model_copy(update={"form": kept})
        made[kept] = quantize(chosen, parent, Place(scratch / f"{kept}-mended"), context, gains)
    measured = {form: trial.facts() for form, trial in trials.items()} if differ else {}
    choice = FormChoice(kept=kept, why=why, static=measured.get("static"), dynamic=measured.get("dynamic"))
    with new_artifact(place, "program", "quantize", options=options) as draft:
        facts = made[kept].facts_as(QuantizeFacts)
        floor = facts.floor and facts.floor.model_copy(update={"accepted": options.accept and not facts.floor.met})
        draft.facts = facts.model_copy(update={"form": choice, "floor": floor})
        for name in made[kept].manifest.files:
            shutil.copyfile(made[kept].path / name, draft.folder / name)
    return load_artifact(place.directory)


def decide(
    trials: Mapping[Form, Trial], against: Mapping[int, Ratio], options: QuantizeOptions, untimed: str = ""
) -> tuple[Form, str]:
    """The form to keep, and why.

    Args:
        trials: results of both forms; only of the static form if there is no matrix product.
        against: speedup of the dynamic form over the static form, by batch size.
        untimed: why nothing was timed; empty if it was.
    """
    if "dynamic" not in trials:
        return "static", "the model has no matrix product with a constant weight"
    enough = {form: _accurate(trial, trials, options) for form, trial in trials.items()}
    best: Form = max(trials, key=lambda form: trials[form].sqnr_db)
    other: Form = "dynamic" if best == "static" else "static"
    if not enough[other]:
        short = (
            "neither form is accurate enough, and this one is closer"
            if not enough[best]
            else "the other form loses too much accuracy"
        )
        return best, f"{short} ({trials[other].sqnr_db:.1f} against {trials[best].sqnr_db:.1f} dB)"
    if untimed:
        return "static", f"it is accurate enough, and its rows are independent; {untimed}"
    shown = ", ".join(f"{ratio.text} at batch {batch}" for batch, ratio in against.items())
    if all(ratio.verdict == "cannot tell" for ratio in against.values()):
        doubts = "; ".join(dict.fromkeys(doubt for ratio in against.values() for doubt in ratio.doubts))
        why = f", because the measurement is NOISY ({doubts})" if doubts else ""
        reason = f"no difference in speed can be shown{why}, and its rows are independent"
        return "static", f"{reason} (dynamic against static {shown})"
    return ("dynamic" if mean_of(against.values()) > 1 else "static"), f"it is faster (dynamic against static {shown})"


def _is_sound(made: Artifact) -> bool:
    """Whether a quantized program is above the floor of quality."""
    floor = made.facts_as(QuantizeFacts).floor
    return floor is None or floor.met


def _accurate(trial: Trial, trials: Mapping[Form, Trial], options: QuantizeOptions) -> bool:
    if options.max_drop is not None and trial.drop is not None:
        return trial.drop <= options.max_drop
    if options.min_sqnr is not None:
        return trial.sqnr_db >= options.min_sqnr
    return trial.sqnr_db >= min(GOOD_DB, max(item.sqnr_db for item in trials.values()) - NEAR_DB)


def _tried(
    parent: Artifact, made: Mapping[Form, Artifact], context: Context, sizes: Sizes
) -> tuple[dict[Form, Trial], dict[int, Ratio]]:
    """Measure the exported files of both forms; only the static form is returned if the files have the same kind."""
    programs = {"fp32": parent, **{str(form): item for form, item in made.items()}}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: file_of(item, Path(folder), target=context.target) for name, item in programs.items()}
        return _measured(files, tuple(made), context.data, sizes, context.console)


def _measured(
    files: Mapping[str, Path], forms: Sequence[Form], data: Splits, sizes: Sizes, console: Console
) -> tuple[dict[Form, Trial], dict[int, Ratio]]:
    sessions = {name: opened(file) for name, file in files.items()}
    if sessions["dynamic"].signature.batch_invariant == sessions["static"].signature.batch_invariant:
        for session in sessions.values():
            session.close()
        return {"static": Trial(0.0, None, {})}, {}
    fitted = fit_to(data, sessions["fp32"].signature)
    split: Split = fitted.validation if len(fitted.validation) else fitted.calibration
    judged = Subset(split, np.arange(min(SAMPLES, len(split))))
    outputs = {name: _outputs(session, judged, sizes.most, console) for name, session in sessions.items()}
    for session in sessions.values():
        session.close()
    times, against = _timed(files, judged, sizes, console)
    trials: dict[Form, Trial] = {}
    for form in forms:
        found, _ = outputs[form]
        trials[form] = Trial(sqnr_of_all_db(outputs["fp32"][0], found), _drop(outputs["fp32"], found), times[form])
    return trials, against


def _outputs(session: Session, split: Split, most: int, console: Console) -> tuple[list[Array], Array | None]:
    """The floating-point outputs for all samples, and their labels."""
    from ...benchmarks.accuracy import ROWS as JUDGED_ROWS
    from ...benchmarks.accuracy import predict

    found = predict(session, split, batch_size=min(JUDGED_ROWS, most), console=console)
    return floating(found.outputs), found.targets


def _drop(wanted: tuple[list[Array], Array | None], found: list[Array]) -> float | None:
    outputs, targets = wanted
    classes = targets is not None and targets.dtype.kind in "iu" and targets.ndim == 1 and outputs[0].ndim == 2
    if targets is None or not classes:
        return None
    return float(evaluate("accuracy", outputs[0], targets) - evaluate("accuracy", found[0], targets))


Times = dict[int, Ratio]


def _timed(files: Mapping[str, Path], split: Split, sizes: Sizes, console: Console) -> tuple[dict[Form, Times], Times]:
    """Speedups of each form over FP32, and of the dynamic over the static form, in the same interleaved blocks."""
    batches = sizes.timed
    if not batches:
        return {form: {} for form in FORMS}, {}
    samples = split.read(range(min(ROWS, len(split))))[0]
    options = BenchOptions(batch_sizes=batches, blocks=BLOCKS, budget_s=BUDGET_S, timer=sizes.timer)
    whole = compared(files, samples, options, console)
    times: dict[Form, Times] = {form: {batch: whole[batch].ratio_of(form) for batch in batches} for form in FORMS}
    return times, {batch: whole[batch].between("dynamic", "static", options.seed) for batch in batches}
