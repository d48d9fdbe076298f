"""Explains the answers of any model that can be run: without gradients, in batches, within a budget (serve.md H23).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..counts import counted, listed
from ..errors import InputError
from ..signature import Signature
from ..tensors import Array, Feeds
from .evaluations import Evaluations, Run, Sample, samples_of
from .evidence import ORDERS, deletion_curve, judge
from .explained_value import Explained, choose
from .explanation import FROM_OUTSIDE, Asked, Explanation, Heatmap
from .input_forms import Form, forms_of, with_baseline
from .occlusion import STEPS, Path, occlusion, without
from .refinement import Effects, Leaf, Region, attribute, heatmap, start_regions

CURVE_STEPS = 8
"""Steps of a deletion curve, if a quarter of the budget allows them."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all samples of an explanation.

    Attributes:
        run: computes the outputs of a batch.
        rows: largest number of rows in one batch.
        means: mean of other samples of an input, which is the baseline of tables.
        done: called with the number of samples that were computed.
    """

    run: Run
    signature: Signature
    rows: int = 32
    means: Mapping[str, Array] = field(default_factory=dict)
    done: Callable[[int], None] = lambda count: None


def explain(setting: Setting, feeds: Feeds, asked: Asked) -> list[Explanation]:
    """One explanation per sample of a batch, the same each time.

    Raises:
        InputError: what is asked for does not fit the model, or the model gives NaN.
    """
    return [explain_sample(setting, sample, asked) for sample in samples_of(setting.signature, feeds)]


def explain_sample(setting: Setting, sample: Sample, asked: Asked) -> Explanation:
    """The explanation of one sample, given without batch axes.

    Raises:
        InputError: as :func:`explain`.
    """
    if asked.method not in FROM_OUTSIDE:
        message = f"the method {asked.method} looks into a captured program"
        raise InputError(message, f"explain a .pt2 file with it, or use {listed(FROM_OUTSIDE, 'or')}")
    study = begin(setting, sample, asked)
    leaves = _attributed(study, asked)
    maps = {form.name: heatmap(form, leaves) for form in study.forms}
    return conclude(study, asked.method, leaves, maps)


@dataclass(frozen=True)
class Study:
    """A sample that is being explained.

    Attributes:
        score: of the sample, and ``baseline_score`` of the sample without any of its parts.
        curve: evaluations that are kept for the deletion curve.
        affordable: evaluations that are left for attributions.
    """

    evaluations: Evaluations
    explained: Explained
    forms: Sequence[Form]
    score: float
    baseline_score: float
    curve: int
    affordable: int
    budget: int


def begin(setting: Setting, sample: Sample, asked: Asked) -> Study:
    """Compute the sample and its baseline, and choose what is explained.

    Raises:
        InputError: what is asked for does not fit the model, or the model gives NaN.
    """
    signature = setting.signature
    evaluations = Evaluations(setting.run, signature, sample, setting.rows, setting.done)
    outputs = {name: rows[0] for name, rows in next(evaluations.outputs([{}])).items()}
    explained = choose(signature, outputs, asked)
    forms = [_based(form, setting, asked) for form in forms_of(signature, sample, asked.inputs)]
    score = float(evaluations.seen_scores(outputs[explained.output][None], explained)[0])
    everything = without([Region(form, form.whole) for form in forms])
    baseline_score = float(evaluations.scores([everything], explained)[0])
    curve = min((asked.budget - 2) // 4, CURVE_STEPS * (ORDERS + 1))
    affordable = asked.budget - curve - 2
    if len(forms) > affordable:
        message = f"a budget of {asked.budget} evaluations is too small for {counted(forms, 'input')}"
        raise InputError(message, f"allow {4 * len(forms)}, or name the inputs to explain")
    return Study(evaluations, explained, forms, score, baseline_score, curve, affordable, asked.budget)


def conclude(study: Study, method: str, leaves: Sequence[Leaf], maps: Mapping[str, Array]) -> Explanation:
    """Judge attributions by deletion, and put everything together.

    Args:
        leaves: the regions that are deleted, with their shares.
        maps: the share of each cell, by input.
    """
    explained, ends = study.explained, (study.score, study.baseline_score)
    deletion = deletion_curve(leaves, study.evaluations, explained, ends, study.curve)
    verdict = judge(explained, np.array(study.evaluations.seen), deletion)
    chances = explained.probabilities(np.array([study.score]))
    return Explanation(
        method=method,
        output=explained.output,
        kind=explained.kind,
        index=explained.index,
        label=explained.label,
        scale=explained.scale,
        score=study.score,
        baseline_score=study.baseline_score,
        probability=None if chances is None else float(chances[0]),
        predicted=explained.predicted,
        heatmaps={form.name: Heatmap(form.kind, form.axes, maps[form.name], form.told) for form in study.forms},
        deletion=deletion,
        evidence=verdict.evidence,
        reason=verdict.reason,
        budget=study.budget,
        used=study.evaluations.used,
    )


def _based(form: Form, setting: Setting, asked: Asked) -> Form:
    spelled = setting.signature.spelled
    letters = spelled is not None and spelled.name == form.name
    return with_baseline(form, asked.baseline, setting.means.get(form.name), letters)


def _attributed(study: Study, asked: Asked) -> list[Leaf]:
    evaluations, explained, affordable = study.evaluations, study.explained, study.affordable
    effects: Effects = partial(occlusion, evaluations=evaluations, explained=explained, score=study.score)
    if asked.method == "integrated-differences":
        effects = Path(study.forms, evaluations, explained).effects
        affordable = max(1, (affordable - STEPS - 1) // STEPS)
    all_fit = sum(form.cells for form in study.forms) <= affordable
    start = start_regions(study.forms, affordable if all_fit else max(1, affordable // 2))
    return attribute(start, effects, study.score - study.baseline_score, affordable)
