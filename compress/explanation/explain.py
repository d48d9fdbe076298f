"""Explains a captured program from within: integrated gradients, Grad-CAM, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.errors import InputError
from ...core.explanation.evaluations import Sample
from ...core.explanation.explain import Setting, Study, begin, conclude
from ...core.explanation.explanation import Asked, Explanation
from ...core.explanation.refinement import Leaf, start_regions
from ...core.tensors import Array
from ..program import Program
from .attention import attention_rollout
from .grad_cam import grad_cam
from .integrated_gradients import MOST_POINTS, integrated_gradients
from .scored_module import ScoredModule

DELETED = 128
"""Parts in which a sample is deleted to judge a map."""
_GAP = 0.05


def explain_program(program: Program, setting: Setting, sample: Sample, asked: Asked) -> Explanation:
    """The explanation of one sample of a program, given without batch axes, by a method that looks into it.

    Raises:
        InputError: what is asked for does not fit the program, or the method does not.
    """
    study = begin(setting, sample, asked)
    scored = ScoredModule(program, study.evaluations, study.explained)
    total = study.score - study.baseline_score
    if asked.method == "integrated-gradients":
        maps, notes = _integrated(scored, study, total)
    else:
        maps, notes = _relative(scored, study, total, asked.method)
    regions = start_regions(study.forms, DELETED)
    leaves = [Leaf(region, float(maps[region.form.name][_index(region.box)].sum())) for region in regions]
    return replace(conclude(study, asked.method, leaves, maps), notes=notes)


def _index(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _integrated(scored: ScoredModule, study: Study, total: float) -> tuple[Mapping[str, Array], tuple[str, ...]]:
    points = max(1, min(MOST_POINTS, study.affordable - 2 * len(study.forms)))
    maps = integrated_gradients(scored, study.forms, points)
    gap = abs(sum(float(values.sum()) for values in maps.values()) - total)
    if gap <= _GAP * max(abs(total), 1e-12):
        return maps, ()
    note = f"the attributions miss the difference of the scores by {gap:.3g} of {abs(total):.3g}"
    return maps, (f"{note}; the score bends on the way, or the baseline changes more than the embeddings",)


def _relative(
    scored: ScoredModule, study: Study, total: float, method: str
) -> tuple[Mapping[str, Array], tuple[str, ...]]:
    """The maps of methods that say where, but not how much: they are scaled to the difference of the scores."""
    if len(study.forms) > 1:
        names = ", ".join(form.name for form in study.forms)
        raise InputError(f"{method} explains one input at a time, not {names}", "name the input to explain")
    form = study.forms[0]
    values = grad_cam(scored, form) if method == "grad-cam" else attention_rollout(scored, form)
    whole = float(np.abs(values).sum())
    scaled = values * (abs(total) / whole) if whole > 0 else values
    return {form.name: scaled}, (f"{method} shows where the model looks, not how much that adds: values are relative",)
