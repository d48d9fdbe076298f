"""The reconstruction of a proven cut as one step: fitted, judged by the outputs, and undone if they did not improve."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....core.context import Context
from ....core.counts import counted
from ....core.errors import DataError, UserError
from ....core.facts.prune_facts import Reconstruction
from ....core.options.stage_options import PruneOptions
from ...graph.module_edit import fetch
from ...program import Program
from ..output_change import OutputChange, quality, shown
from ..step import Pruned
from .reconstruct import FEWEST, Cut, reconstruct, samples_of


def reconstruct_cut(
    load_dense: Callable[[], Program], pruned: Pruned, options: PruneOptions, context: Context, trained: bool
) -> Reconstruction | None:
    """Reconstruct the kept weights of a cut program in place, if the options ask for it.

    Args:
        load_dense: gives the program before the cut.
        trained: whether training follows the cut; then ``auto`` leaves the weights as they are.

    Returns:
        What was done; None if nothing was asked for.

    Raises:
        DataError: ``reconstruct: on`` is set and there are too few samples.
        UserError: ``reconstruct: on`` is set and the samples do not fit the program.
    """
    if options.reconstruct == "off" or (options.reconstruct == "auto" and trained) or not pruned.removed.any():
        return None
    try:
        return _reconstruct(load_dense(), pruned, options, context)
    except (DataError, UserError) as error:
        if options.reconstruct == "on":
            raise
        return Reconstruction(samples=0, reason=error.message)


def _reconstruct(dense: Program, pruned: Pruned, options: PruneOptions, context: Context) -> Reconstruction:
    split, console = context.data.calibration, context.console
    if len(split) < FEWEST:
        raise DataError(
            f"{len(split)} calibration samples are too few to reconstruct weights", f"give at least {FEWEST} samples"
        )
    chunks = samples_of(dense, split, options.reconstruct_samples)
    change = OutputChange(dense, context.data.judging, context.task, console)
    before, state = change.of(pruned.program), _tensors(pruned.program)
    layers = reconstruct(Cut(dense, pruned.program, pruned.grouping.coupling, pruned.removed), chunks, console)
    after = change.of(pruned.program)
    kept = quality(after) > quality(before)
    for name, value in () if kept else state.items():
        fetch(pruned.program.module, name).data.copy_(value)
    verdict = "kept" if kept else "not kept"
    console.stage("reconstruct", f"{counted(layers, 'layer')}; {shown(before)} -> {shown(after)}: {verdict}")
    samples = min(len(split), options.reconstruct_samples)
    return Reconstruction(samples=samples, layers=tuple(layers), before=before, after=after, kept=kept)


def _tensors(program: Program) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    module = program.module
    return {name: value.detach().clone() for name, value in (*module.named_parameters(), *module.named_buffers())}
