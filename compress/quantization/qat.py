"""Quantization-aware training of weights and calibrated scales in the shared training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...core.context import Context
from ...core.data.splits import Splits
from ...core.errors import DataError
from ...core.options.stage_options import QatOptions, Task
from ..distillation.distill import soft_target_loss
from ..program import Program, clone, evaluating
from ..training.checkpoint import discard
from ..training.losses import Loss, Score, as_targets, task_loss
from ..training.train import FitResult, fit
from .correction.layer_matrices import coded_layers
from .correction.learned_scales import learnable, refresh_ranges
from .mixed_precision.partial_quantization import quantizer_of
from .module_edit import fetch
from .operator_classes import is_qdq

LABEL = "qat"
_BIAS_CODES = 2.0**30


def train_quantized(
    program: Program, teacher: Program, options: QatOptions, context: Context
) -> tuple[FitResult, dict[str, Any]]:
    """Train a quantized program, in place, through its fake-quantize nodes (Jacob et al., 2018).

    Weights get the straight-through gradient and all scales but those of gates LSQ's (Esser et al., 2020); BatchNorm
    has been folded before.
    The soft targets are the FP32 program's. When the best epoch is worse on the validation split than the program was
    before, the training is undone. A killed training resumes like any other.

    Args:
        program: calibrated, best after the correction ladder.
        teacher: the FP32 program; stays as it is.
        options: epochs, learning rate and so on.
        context: its train split is trained on, its validation split decides.

    Returns:
        What the training came to, and facts about it.

    Raises:
        DataError: no training samples, or none with labels where the loss needs them.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    data, task = context.data, context.task
    if len(data.train) == 0:
        raise DataError("quantization-aware training needs training samples", "give a train split, or remove `qat`")
    before = {name: value.detach().clone() for name, value in program.module.state_dict().items()}
    start = _score(program, data, task)
    loss = _loss(program, teacher, data, options, task)
    with learnable(program, weights=True):
        result = fit(program, options, context, loss, LABEL)
    _keep_biases(program)
    end = _score(program, data, task)
    kept = start.value is None or end.value is None or not _worse(end, start)
    if not kept:
        program.module.load_state_dict(before)
        context.console.warn(
            f"qat: {end.name} is {end.value:.4f} after training and was {start.value:.4f} before, so the training is "
            "undone"
        )
    refresh_ranges(program)
    program.meta["quantization"]["trained"] = kept
    return result, {
        "metric": start.name,
        "before": start.value,
        "after": end.value,
        "kept": kept,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "history": list(result.history),
    }


def forget(scratch: Path | None) -> None:
    """Delete the checkpoint, once the program is stored."""
    discard(scratch, LABEL)


def _loss(program: Program, teacher: Program, data: Splits, options: QatOptions, task: Task) -> Loss | None:
    if not options.distill:
        return None
    hard = task_loss(options, data, task, program) if options.alpha < 1 else None
    return soft_target_loss(clone(teacher), options.temperature, options.alpha, task, hard)


def _worse(end: Score, start: Score) -> bool:
    assert end.value is not None
    assert start.value is not None
    return end.value < start.value if start.higher_is_better else end.value > start.value


def _score(program: Program, data: Splits, task: Task, batch_size: int = 256) -> Score:
    """The validation metric; its value is None without labelled samples."""
    score, split = Score(task), data.validation
    with evaluating(program), torch.no_grad():
        for start in range(0, len(split), batch_size):
            inputs, values = split.read(range(start, min(start + batch_size, len(split))))
            if values is None:
                return Score(task)
            feeds = program.signature.validate(inputs)
            outputs = program.module(*(torch.as_tensor(value) for value in feeds.values()))
            named = {spec.name: value for spec, value in zip(program.signature.outputs, outputs)}
            score.add(named, as_targets(values, program, task, "the validation split"), None)
    return score


def _keep_biases(program: Program) -> None:
    """Raise scales with which a bias, stored as INT32 on the grid input scale times weight scale, would overflow."""
    for layer in coded_layers(program.module):
        source = quantizer_of(layer.data)
        if layer.bias is None or source is None or not is_qdq(source):
            continue
        scale, bias = fetch(program.module, layer.scale), fetch(program.module, layer.bias).detach().abs().reshape(-1)
        if bias.numel() == scale.numel():
            step = fetch(program.module, str(source.args[1].target))  # type: ignore[union-attr]
            scale.copy_(torch.maximum(scale, bias / (step.reshape(()) * _BIAS_CODES)))
