"""Quantization-aware training of weights and calibrated scales in the shared training loop."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.context import Context
from ...core.data.references import importable
from ...core.data.splits import Splits
from ...core.errors import DataError
from ...core.facts.quantize_facts import QatFacts
from ...core.options.stage_options import MetricName, QatOptions, Task
from ..distillation.distill import learned_from
from ..graph.module_edit import fetch
from ..program import Program, clone, evaluating
from ..training.checkpoint import discard
from ..training.losses import Loss
from ..training.score import Score
from ..training.targets import as_targets
from ..training.task_losses import task_loss
from ..training.train import FitResult, fit
from .correction.layer_matrices import quantized_layers
from .correction.learned_scales import learnable, refresh_ranges
from .mixed_precision.partial_quantization import quantizer_of
from .operator_classes import is_qdq

LABEL = "qat"
_BIAS_CODES = 2.0**30


def train_quantized(
    program: Program, teacher: Program, options: QatOptions, context: Context
) -> tuple[FitResult, QatFacts]:
    """Train a quantized program, in place, through its fake-quantize nodes (Jacob et al., 2018).

    Weights get the straight-through gradient; all scales except those of gates get the gradient of LSQ (Esser et al.,
    2020). BatchNorm has been folded before. The FP32 program provides the soft targets. If the best epoch is worse on
    the validation split than the program before training, the training is undone. An interrupted training resumes at
    its last checkpoint.

    Args:
        program: calibrated, preferably after the corrections.
        teacher: the FP32 program; it is not changed.
        options: epochs, learning rate and so on.
        context: its train split is used for training, its validation split to select the best epoch.

    Returns:
        The result of the training, and facts about it.

    Raises:
        DataError: there are no training samples, or they have no labels and the loss needs labels.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    if len(context.data.train) == 0:
        raise DataError("quantization-aware training needs training samples", "give a train split, or remove `qat`")
    with importable(context.base):  # the metric may be the user's
        return _trained(program, teacher, options, context)


def _trained(program: Program, teacher: Program, options: QatOptions, context: Context) -> tuple[FitResult, QatFacts]:
    data, task = context.data, context.task
    before = {name: value.detach().clone() for name, value in program.module.state_dict().items()}
    start = _score(program, data, task, options.keep)
    loss = _loss(program, teacher, options, context)
    with learnable(program, weights=True):
        result = fit(program, options, context, loss, LABEL)
    _keep_biases(program)
    end = _score(program, data, task, options.keep)
    kept = start.value is None or end.value is None or not _worse(end, start)
    if not kept:
        program.module.load_state_dict(before)
        context.console.warn(
            f"qat: {end.name} is {end.value:.4f} after training and was {start.value:.4f} before, so the training is "
            "undone"
        )
    refresh_ranges(program)
    program.meta["quantization"]["trained"] = kept
    return result, QatFacts(
        metric=start.name,
        before=start.value,
        after=end.value,
        kept=kept,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        history=result.history,
    )


def discard_checkpoint(scratch: Path | None) -> None:
    """Delete the checkpoint after the program is stored."""
    discard(scratch, LABEL)


def _loss(program: Program, teacher: Program, options: QatOptions, context: Context) -> Loss | None:
    if not options.distill:
        return None
    hard = task_loss(options, context.data, context.task, program) if options.target_weight > 0 else None
    return learned_from(options, program, clone(teacher), context, hard)


def _worse(end: Score, start: Score) -> bool:
    assert end.value is not None
    assert start.value is not None
    return end.value < start.value if start.higher_is_better else end.value > start.value


def _score(
    program: Program, data: Splits, task: Task, metric: MetricName | None = None, batch_size: int = 256
) -> Score:
    """The validation metric; its value is None without labelled samples."""
    score, split = Score(task, metric), data.validation
    with evaluating(program), torch.no_grad():
        for start in range(0, len(split), batch_size):
            inputs, values = split.read(range(start, min(start + batch_size, len(split))))
            if values is None:
                return Score(task, metric)
            feeds = program.signature.validate(inputs)
            outputs = program.module(*(torch.as_tensor(value) for value in feeds.values()))
            named = {spec.name: value for spec, value in zip(program.signature.outputs, outputs)}
            score.add(named, as_targets(values, program, task, "the validation split"), None)
    return score


def _keep_biases(program: Program) -> None:
    """Raise weight scales so that no bias overflows as INT32 in steps of input scale times weight scale."""
    for layer in quantized_layers(program.module):
        source = quantizer_of(layer.data)
        if layer.bias is None or source is None or not is_qdq(source):
            continue
        scale, bias = fetch(program.module, layer.scale), fetch(program.module, layer.bias).detach().abs().reshape(-1)
        if bias.numel() == scale.numel():
            step = fetch(program.module, str(source.args[1].target))  # type: ignore[union-attr]
            scale.copy_(torch.maximum(scale, bias / (step.reshape(()) * _BIAS_CODES)))
