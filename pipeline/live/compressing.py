"""The functions that improve or compress a program: train, distill, prune, sparsify, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ...core.errors import UserError
from ...core.options.stage_options import (
    DistillOptions,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    Target,
    Task,
    TrainOptions,
)
from . import running
from .documented import checked, with_options
from .objects.model_files import Graph
from .objects.programs import Program
from .running import Request

if TYPE_CHECKING:
    from typing import Unpack

    from torch import nn

    from .arguments import (
        DistillArguments,
        PruneArguments,
        PruneCall,
        QuantizeArguments,
        QuantizeCall,
        SparsifyArguments,
        SparsifyCall,
        TrainArguments,
        TrainCall,
    )


@overload
def train(program: Program, **options: Unpack[TrainCall]) -> Program: ...
@overload
def train(program: Graph, **options: Unpack[TrainCall]) -> Graph: ...
@overload
def train(program: str | Path, **options: Unpack[TrainCall]) -> Any: ...
@with_options(TrainOptions)
def train(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[TrainArguments],
) -> Program | Graph:
    """Train a program on its task. To use your own training loop instead, train ``program.module``.

    Args:
        program: the program to train; it is not changed. For an ONNX file the result is an ONNX file.
        data: labelled samples; see ``retort.prune``.
        task: ``classification`` (cross entropy) or ``regression`` (squared error); by default from the targets.
        seed: random seed of the order of samples, augmentation and dropout.
        folder: folder in which artifacts are stored and reused; by default the program's own, or a temporary folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The trained program, with its best weights by the validation split; ``facts`` has its history.

    Raises:
        DataError: there are no labels, or the samples do not fit.
        UserError: an option is unknown or has a wrong value, or the training diverged.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> trained = retort.train(program, epochs=1)
        >>> trained.facts.epochs
        1
    """
    asked = checked("train", TrainOptions, options)
    return running.run_stage("train", program, asked, Request(data, task, "cpu", seed, folder, progress))


@with_options(DistillOptions, leave_out=("student",))
def distill(
    program: Program | str | Path,
    student: Program | nn.Module | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[DistillArguments],
) -> Program:
    """Train a smaller student on the soft targets of a program (Hinton et al., 2015).

    Args:
        program: the teacher; it is not changed.
        student: the smaller model: a module, a program, a ``.pt2``, or ``package.module:factory``. It is not changed.
        data: samples; see ``retort.prune``. With ``alpha=1.0`` they need no labels.
        task: ``classification`` or ``regression``; by default it follows from the targets.
        seed: random seed.
        folder: folder in which artifacts are stored and reused; by default the program's own folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The trained student.

    Raises:
        ModelError: teacher and student have different inputs or predict different classes.
        DataError: there are no labels, or the samples do not fit.
        UserError: an option is unknown or has a wrong value.

    Example:
        >>> import retort
        >>> from retort.examples.digits import student
        >>> teacher = retort.capture("retort.examples.digits:teacher", data="digits")
        >>> small = retort.distill(teacher, student(width=8), epochs=1)
        >>> small.facts.parameters < teacher.facts.parameters
        True
    """
    request = Request(data, task, "cpu", seed, folder, progress)
    teacher = _program(running.opened(program))
    asked = checked("distill", DistillOptions, {**options, "student": "live"})
    spec = running.student_spec(student, teacher, request)
    return _program(running.run_stage("distill", teacher, asked.model_copy(update={"student": spec}), request))


@overload
def prune(program: Program, **options: Unpack[PruneCall]) -> Program: ...
@overload
def prune(program: Graph, **options: Unpack[PruneCall]) -> Graph: ...
@overload
def prune(program: str | Path, **options: Unpack[PruneCall]) -> Any: ...
@with_options(PruneOptions)
def prune(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[PruneArguments],
) -> Program | Graph:
    """Remove coupled channels, prove that the cut is correct, and recover accuracy by training.

    Give exactly one budget (``macs``, ``parameters``, ``size``, ``size_bytes``, ``latency``, ``latency_ms``), or
    ``layers`` alone.

    Args:
        program: the program to prune; it is not changed. For an ONNX file the result is an ONNX file.
        data: samples to rank channels and to train. It is a DataLoader, a Dataset, arrays, a pair
            ``(x, y)``, a mapping with the names of the inputs and ``labels``, or an iterable of batches: 15 % of one
            set are held out for validation. Or a mapping of splits ``{"train": …, "validation": …}``, a built-in name
            (``digits``), a file, a folder, or ``package.module:function``, or the keys of ``data`` in a recipe,
            ``{"source": "pics", "args": {"size": 16}}``. The default is the data that were last used.
        task: ``classification`` or ``regression``; by default it follows from the targets.
        seed: random seed.
        folder: folder in which artifacts are stored and reused; by default the program's own, or a temporary folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The smaller program. Its ``facts`` have ``macs_before`` and ``macs_after`` (multiply-accumulates for one
        sample), ``parameters_before`` and ``parameters_after``, ``groups``, ``locked`` (layers that cannot be cut, and
        why) and ``proof_relative_error``.

    Raises:
        UserError: an option is unknown or has a wrong value, a pattern matches nothing, or the budget cannot be met.
        DataError: there are no labels, or the samples do not fit.
        VerificationError: the pruned program differs from the original with the removed channels masked.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> small = retort.prune(program, macs=0.5, recover={"epochs": 1})
        >>> small.facts.macs_after <= 0.5 * small.facts.macs_before
        True
    """
    asked = checked("prune", PruneOptions, options)
    return running.run_stage("prune", program, asked, Request(data, task, "cpu", seed, folder, progress))


@overload
def sparsify(program: Program, **options: Unpack[SparsifyCall]) -> Program: ...
@overload
def sparsify(program: Graph, **options: Unpack[SparsifyCall]) -> Graph: ...
@overload
def sparsify(program: str | Path, **options: Unpack[SparsifyCall]) -> Any: ...
@with_options(SparsifyOptions)
def sparsify(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[SparsifyArguments],
) -> Program | Graph:
    """Set weights to zero in the 2:4 pattern of sparse tensor cores, or anywhere, and recover accuracy by training.

    Args:
        program: the program; it is not changed. For an ONNX file the result is an ONNX file.
        data: samples; see ``retort.prune``.
        task: ``classification`` or ``regression``; by default it follows from the targets.
        seed: random seed.
        folder: folder in which artifacts are stored and reused; by default the program's own folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The program with zeros in its weights; ``facts`` has the layers and their shares of zeros.

    Raises:
        UserError: an option is unknown or has a wrong value.
        DataError: there are no labels, or the samples do not fit.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> sparse = retort.sparsify(program, pattern="2:4", recover=None)
        >>> sparse.stage
        'sparsify'
    """
    asked = checked("sparsify", SparsifyOptions, options)
    return running.run_stage("sparsify", program, asked, Request(data, task, "cpu", seed, folder, progress))


@overload
def quantize(program: Program, **options: Unpack[QuantizeCall]) -> Program: ...
@overload
def quantize(program: Graph, **options: Unpack[QuantizeCall]) -> Graph: ...
@overload
def quantize(program: str | Path, **options: Unpack[QuantizeCall]) -> Any: ...
@with_options(QuantizeOptions)
def quantize(
    program: Program | Graph | str | Path,
    *,
    data: Any = None,
    task: Task | None = None,
    target: Target = "cpu",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
    **options: Unpack[QuantizeArguments],
) -> Program | Graph:
    """Quantize a trained program to INT8 and calibrate it on real samples; ``qat`` adds quantization-aware training.

    Args:
        program: the FP32 program; it is not changed. For an ONNX file the result is an ONNX file.
        data: samples, which need labels only if ``qat`` trains on them; see ``retort.prune``.
        task: ``classification`` or ``regression``; by default it follows from the targets.
        target: hardware of the model: ``cpu`` (x86 with VNNI or AMX, timed against FP32) or ``tensorrt``.
        seed: random seed.
        folder: folder in which artifacts are stored and reused; by default the program's own, or a temporary folder.
        progress: show stages and progress bars on stderr.

    Returns:
        The INT8 program. Its ``facts`` have ``integer_macs_percent``, ``against_fp32`` (signal-to-noise ratio in dB and
        share of equal decisions), ``float_nodes`` (what stays in floating point, and why) and, if it was timed,
        ``speed`` (speedup over FP32 by batch size, with intervals).

    Raises:
        UserError: an option is unknown or has a wrong value, or the program is already INT8.
        DataError: there are no samples, or they do not fit.
        VerificationError: INT8 ruins the model, and no remedy helps; ``accept=True`` writes it all the same.

    Example:
        >>> import retort
        >>> program = retort.capture("retort.examples.digits:student", data="digits")
        >>> int8 = retort.quantize(program, timed=False)
        >>> int8.facts.target
        'cpu'
    """
    asked = checked("quantize", QuantizeOptions, options)
    return running.run_stage("quantize", program, asked, Request(data, task, target, seed, folder, progress))


def _program(model: Any) -> Program:
    if not isinstance(model, Program):
        raise UserError(f"{model} is not a program", "capture an ONNX file first: retort.capture(path, data=…)")
    return model
