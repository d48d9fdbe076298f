"""What is asked of an explanation, and what it consists of.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ..counts import listed
from ..errors import InputError
from ..tensors import Array

Method = Literal["occlusion", "integrated-differences", "integrated-gradients", "grad-cam", "attention"]
FROM_OUTSIDE: tuple[Method, ...] = ("occlusion", "integrated-differences")
"""Methods that need only the outputs of a model; the others look into a captured program."""
Baseline = Literal["auto", "zero", "mean", "blur", "pad", "unknown"]
Kind = Literal["class", "mask", "value", "similarity"]
Choice = Literal["auto", "class", "value", "similarity"]
SMALLEST_BUDGET = 24
"""With fewer evaluations no region could be told from another."""


@dataclass(frozen=True)
class Asked:
    """What is asked of an explanation.

    Attributes:
        method: how attributions are found.
        target: what is explained; ``auto`` takes a class, a mask or a value as the output has them.
        label: name or index of the class (or of the value) that is explained; None for the predicted one.
        output: name of the output; None for the one with scores.
        inputs: names of the inputs that are explained; empty for all that can be.
        baseline: what takes the place of a part of the sample.
        budget: largest number of samples that the model may compute for one explanation.
    """

    method: Method = "occlusion"
    target: Choice = "auto"
    label: str | int | None = None
    output: str | None = None
    inputs: tuple[str, ...] = ()
    baseline: Baseline = "auto"
    budget: int = 256

    def __post_init__(self) -> None:
        for name, known in (("method", Method), ("target", Choice), ("baseline", Baseline)):
            value = getattr(self, name)
            if value not in get_args(known):
                words = listed(get_args(known), "or")
                raise InputError(f"no {name} of an explanation is called '{str(value)[:80]}'", f"give {words}")
        if self.budget < SMALLEST_BUDGET:
            remedy = f"allow at least {SMALLEST_BUDGET} evaluations"
            raise InputError(f"a budget of {self.budget} evaluations is too small for an explanation", remedy)


@dataclass(frozen=True)
class Heatmap:
    """The attributions of one input.

    Attributes:
        kind: how a person reads the input: ``image``, ``sequence``, ``signal``, ``table``, ``tokens`` or ``volume``.
        axes: the axes of the sample that the values have; the others (channels) are explained together.
        values: share of every cell in the score; all values of all inputs add up to the score minus that of the
            baseline. Float64 in the sizes of ``axes``.
        baseline: what took the place of the sample's parts, in words.
    """

    kind: str
    axes: tuple[int, ...]
    values: Array
    baseline: str


@dataclass(frozen=True)
class Deletion:
    """How the score falls while the sample is deleted: by attribution, and in random order.

    Attributes:
        shares: share of the sample that is deleted, from 0 to 1.
        scores: score after that, the most supporting parts first.
        random: the mean over random orders.
        gain: how much lower the score is than in the random order in which it falls fastest, on average over the steps
            between; 0 without such steps.
    """

    shares: tuple[float, ...]
    scores: tuple[float, ...]
    random: tuple[float, ...]
    gain: float


@dataclass(frozen=True)
class Explanation:
    """Which parts of one sample the score of a model rests on.

    Attributes:
        output: the explained output.
        kind: what is explained: ``class``, ``mask`` (the mean over the positions of a class), ``value`` or
            ``similarity`` (to the output of the whole sample).
        index: index of the class or value; None where the output has only one.
        label: name of the class, if it is known.
        scale: the unit of scores, in words.
        score: of the sample.
        baseline_score: of the sample without any of its parts.
        probability: of the class; None where there is none.
        predicted: whether the class is the one that the model predicts.
        heatmaps: by input.
        evidence: whether the heatmap says more than chance; if not, ``reason`` says why in a sentence.
        budget: how many samples the model was allowed to compute, and ``used`` how many it did.
        notes: what a reader should know about the heatmaps, in sentences without their last point.
    """

    method: str
    output: str
    kind: Kind
    index: int | None
    label: str | None
    scale: str
    score: float
    baseline_score: float
    probability: float | None
    predicted: bool
    heatmaps: Mapping[str, Heatmap]
    deletion: Deletion
    evidence: bool
    reason: str
    budget: int
    used: int
    notes: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        """What is explained: ``'seven'``, ``class 7`` or the output."""
        if self.kind == "similarity":
            return f"the meaning of '{self.output}'"
        if self.label is not None:
            return f"'{self.label}'"
        what = "value" if self.kind == "value" else "class"
        return f"'{self.output}'" if self.index is None else f"{what} {self.index}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; the heatmaps are nested lists with six digits."""
        found = asdict(self)
        for name, heatmap in self.heatmaps.items():
            found["heatmaps"][name]["values"] = rounded(heatmap.values).tolist()
        return found


def rounded(values: Array) -> Array:
    """Values with six digits, so that their text is short."""
    with np.errstate(divide="ignore"):
        places = 5 - np.floor(np.log10(np.maximum(np.abs(values).max(initial=0.0), 1e-30)))
    return np.round(values.astype(np.float64), int(places))
