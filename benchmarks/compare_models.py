"""Comparison of model files with the first one: accuracy, latency and footprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact
from ..core.console import Console
from ..core.counts import counted, listed
from ..core.data.model_inputs import fit_to
from ..core.data.splits import Splits
from ..core.errors import UserError
from ..core.metrics.tasks.classification import label_indicators
from ..core.options.stage_options import BenchOptions, MetricName
from ..core.session import PROVIDERS, naming_model
from .comparability import Compared, at_fixed_batch, differences
from .sessions import LATENCY_SAMPLES, opener, runtime_name
from .timing_limits import time_limits

if TYPE_CHECKING:
    from ..core.tensors import Feeds
    from .accuracy import Predictions
    from .result import Result
    from .timing.candidates import Opener
    from .timing.latency import LatencyComparison


def compare_files(
    given: list[Artifact] | Mapping[str, Artifact],
    splits: Splits,
    options: BenchOptions,
    metric: MetricName | None,
    console: Console,
    notes: Sequence[str] = (),
) -> Result:
    """Measure model files and compare them with the first one.

    Args:
        given: the files, optionally with names; by default the names are made from the paths.
        notes: remarks about the files for the result.

    Raises:
        UserError: two of them have the same name, the outputs of two do not mean the same, or two were made for
            different batch sizes.
    """
    from .accuracy import measure_accuracy, predict
    from .build_result import new_result, stage_entry
    from .edge.device_timing import require_timable
    from .footprint import measure_memory

    named = given if isinstance(given, Mapping) else by_name(given)
    require_timable(named, options)
    names, models = list(named), list(named.values())
    openers = {name: opener(model, options) for name, model in zip(names, models, strict=True)}
    sessions = [opened() for opened in openers.values()]
    options, timing = at_fixed_batch({name: one.signature for name, one in zip(names, sessions, strict=True)}, options)
    known = next((one.signature.classes for one in sessions if one.signature.classes), ())
    fitted = []
    for name, session in zip(names, sessions, strict=True):
        with naming_model(name):
            fitted.append(fit_to(splits, session.signature.naming(known)))
    data = [each.test for each in fitted]
    found = [predict(*pair, console=console) for pair in zip(sessions, data, strict=True)]
    compared = {
        name: Compared(
            session.signature, predicted.outputs, runtime_name(model.main, options.provider), predicted.prediction
        )
        for name, model, session, predicted in zip(names, models, sessions, found, strict=True)
    }
    notes = [*notes, *differences(compared), *timing, *ran_on(options), *judged_output(names[0], found[0])]
    judged = metric or metric_of(found[0])
    samples = data[0].read(range(min(LATENCY_SAMPLES, len(data[0]))))[0]
    for session in sessions:
        session.close()
    accuracies = []  # before the timing, so that a metric that does not fit is told at once
    for index in range(len(sessions)):
        reference, classes = found[0] if index else None, fitted[index].classes
        accuracies.append(
            measure_accuracy(judged, found[index], reference, confidence=options.confidence, classes=classes)
        )
    timed, machine, more = _timed(named, openers, samples, options, console)
    notes += more
    entries = []
    for name, model, measured in zip(names, models, accuracies, strict=True):
        memory = measure_memory(model.main, threads=options.threads) if measures_memory(options) else None
        entries.append(
            stage_entry(name, model, accuracy=measured, latency=timed, memory=memory, runtime=compared[name].runtime)
        )
    facts = {"fingerprint": splits.fingerprint(), "test_samples": len(splits.test)}
    title = f"{listed(names[1:])} against {names[0]}" if names[1:] else names[0]
    return new_result(title, entries, reference=names[0], latency=timed, data=facts, notes=notes, machine=machine)


def _timed(
    named: Mapping[str, Artifact],
    openers: Mapping[str, Opener],
    samples: Feeds,
    options: BenchOptions,
    console: Console,
) -> tuple[dict[int, LatencyComparison], dict[str, Any] | None, list[str]]:
    """The times on this machine or on the device of the options, the device as a machine, and notes."""
    from .repeatability.first_use import known_floors
    from .repeatability.noise_floor import largest
    from .timing.latency import compare_sessions

    if options.timer is not None:
        from .edge.device_timing import compare_on_device

        return *compare_on_device({name: one.main for name, one in named.items()}, samples, options, console), []
    limits = time_limits({name: model.main for name, model in named.items()}, [options.threads])
    floors = known_floors(named.values(), options, console)
    timed = compare_sessions(openers, samples, options, console, noise_floor=largest(floors))
    return timed, None, [*limits, *(found.text for found in floors)]


def measures_memory(options: BenchOptions) -> bool:
    """Whether the memory of a model is measured: it runs on this machine's CPU in ONNX Runtime."""
    return options.provider == "cpu" and options.timer is None


def ran_on(options: BenchOptions) -> list[str]:
    """The note about models that ONNX Runtime did not run on this machine's CPU, whose memory is not measured."""
    if options.timer is not None:
        where = options.timer.partition(":")[2].partition(",")[0]
        return [f"Models were timed on {where}; accuracy was computed on this machine, and memory is not measured."]
    if options.provider == "cpu":
        return []
    if options.provider == "openvino":
        return ["ONNX files ran in OpenVINO on the CPU; memory is not measured."]
    return [
        f"ONNX files ran on {PROVIDERS[options.provider][0]}, which was verified for every node; memory is not "
        "measured."
    ]


def judged_output(name: str, found: Predictions) -> list[str]:
    """The note about the output by which a model with several outputs is judged."""
    if len(found.outputs) < 2:
        return []
    kind = "floating-point output with classes" if found.scores() else "floating-point output"
    return [f"'{name}' has {counted(found.outputs, 'output')}; it is judged by '{found.prediction}', the first {kind}"]


def metric_of(found: Predictions) -> MetricName:
    """The default metric: accuracy for classes and MSE for values; without targets, agreement with the first model.

    Several labels per sample are judged by their average precision, sequences by their error rate, and boxes by their
    mean average precision, where shapes show what targets are. Outputs that are not scores of classes are compared with
    the first model's by their cosine.
    """
    outputs, targets = found.main(), found.targets
    if targets is None:
        return "agreement" if outputs.ndim == 2 and outputs.shape[1] > 1 else "cosine"
    if targets.ndim == 3 and targets.shape[2] == 5 and targets.dtype.kind == "f":
        return "map"
    if targets.dtype.kind not in "iub":
        return "mse"
    if targets.ndim == 2 and label_indicators(outputs, targets) is not None:
        return "average_precision"
    frames = outputs.ndim == 3 and targets.ndim == 2 and targets.shape[1] not in outputs.shape[1:]
    return "cer" if frames else "accuracy"


def by_name(models: list[Artifact]) -> dict[str, Artifact]:
    """The models by the shortest names that differ, made from their paths.

    Raises:
        UserError: the same model was given twice.
    """
    forms = (
        [model.path.stem if model.path.is_file() else model.path.name for model in models],
        [model.path.resolve().parent.name if model.path.is_file() else model.path.name for model in models],
        [str(model.path) for model in models],
    )
    for names in forms:
        if len(set(names)) == len(names):
            return dict(zip(names, models, strict=True))
    raise UserError(
        "the same model was given twice", "give each model only once, or copy the file for an A/A comparison"
    )
