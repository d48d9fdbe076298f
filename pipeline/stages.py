"""The stages, each with the same four arguments; functions that a stage needs from other packages are passed here."""

from __future__ import annotations

from ..core.artifact import Artifact, raise_if_not
from ..core.context import Context, Place
from ..core.cpu_targets import can_be_timed, is_for_cpu
from ..core.data.model_inputs import fit_to
from ..core.data.splits import rows_of
from ..core.formats.program_file import fit_context, read_signature
from ..core.options.serving_options import BundleOptions, PackOptions
from ..core.options.stage_options import (
    CaptureOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    ModelSpec,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    TrainOptions,
)
from ..core.options.student_form import student_form
from .student_axes import captured_like


def capture(options: CaptureOptions, parent: ModelSpec, place: Place, context: Context) -> Artifact:
    """Capture the user's model as a program artifact."""
    from ..compress.sources.user_model import capture as stage

    with context.console.working("capture"):
        return stage(options, parent, place, context)


def train(options: TrainOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Train a program on the train split."""
    from ..compress.training.train import train as stage

    return stage(options, parent, place, context)


def cross_validate(options: TrainOptions, parent: Artifact, place: Place, context: Context, folds: int) -> Artifact:
    """Train a program once per fold of the train split, and judge it on the fold that it did not see."""
    from ..compress.training.folds import cross_validate as measurement

    return measurement(options, parent, place, context, folds)


def distill(options: DistillOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Train the student that ``options`` name, or make from ``parent``, on the soft targets of ``parent``."""
    from ..compress.distillation.distill import distill as stage
    from ..compress.distillation.students.derive import derive
    from ..compress.program import load_program
    from ..compress.sources.user_model import capture_source

    raise_if_not(parent, "program")
    form = student_form(options.student.source)
    if form is not None:
        teacher = load_program(parent.main, context.data)
        return stage(options, parent, place, context, derive(teacher, form, fit_context(context, parent.main)))
    student = captured_like(
        read_signature(parent.main),
        lambda axes: capture_source(options.student, context, CaptureOptions(dynamic=axes)),
        lambda made: made.signature,
        context.console,
    )
    return stage(options, parent, place, context, student)


def prune(options: PruneOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Remove coupled channels, prove every cut in PyTorch and in ONNX Runtime, and train to recover."""
    from ..compress.pruning.stage import prune as stage
    from ..export.verify.pruned_file import check_outputs
    from .tuning.program_timer import timer_for

    raise_if_not(parent, "program")
    samples = {}
    if options.timed:
        samples = rows_of(fit_to(context.data, read_signature(parent.main)).calibration, options.batch)
    timer = timer_for(options, samples, context.base, context.console) if options.timed else None
    return stage(options, parent, place, context, check_file=check_outputs, timer=timer)


def sparsify(options: SparsifyOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Set weights to zero, unstructured or N:M, and train to recover."""
    from ..compress.pruning.sparsity.stage import sparsify as stage

    return stage(options, parent, place, context)


def quantize(options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Insert and calibrate INT8 fake-quantize nodes; layers that are measured to be faster in FP32 stay there."""
    from .tuning.int8_speed import never_slower

    raise_if_not(parent, "program")
    if options.timer is not None and options.timed and is_for_cpu(context.target):
        from ..benchmarks.edge.device_timing import description_of, device_named

        description_of(device_named(options.timer))  # a device that is away is told before the work, and not after it
    if options.plan is not None:
        options = options.model_copy(update={"plan": str(context.base / options.plan)})
    return never_slower(_quantize_once, options, parent, place, context)


def _quantize_once(options: QuantizeOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Quantize once; `float_layers` of the options stay in floating point."""
    from ..compress.quantization.stage import quantize as stage
    from .tuning.mixed_precision import gains_of
    from .tuning.quantization_form import choose_form

    # a training must resume on the same program, so no new measurement may influence it
    measured = options.timed and can_be_timed(context.target) and options.qat is None
    gains = gains_of(parent, options, context.data, context.target) if measured else None
    make = choose_form if options.form == "auto" and is_for_cpu(context.target) else stage
    return make(options, parent, place, context, gains)


def export(options: ExportOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Write a program as ONNX for the target and check its parity."""
    from ..export.stage import export as stage

    return stage(options, parent, place, context)


def engine(options: EngineOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Build the TensorRT plan of a graph."""
    from ..export.trt.stage import engine as stage

    return stage(options, parent, place, context)


def bundle(options: BundleOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Write the bundle of a graph."""
    from ..serve.bundles.stage import bundle as stage

    return stage(options, parent, place, context)


def pack(options: PackOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Write the TorchServe archive of a graph or a bundle, or its deployment for another server."""
    from ..serve.targets.stage import deploy
    from ..serve.torchserve.archives.archive import pack as archive

    stage = archive if options.target == "torchserve" else deploy
    return stage(options, parent, place, context)
