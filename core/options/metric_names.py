"""Names of tasks and metrics: fixed words, words with a number, and functions of the user."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

Task = Literal["classification", "multilabel", "regression", "embedding", "sequence", "detection"]

DEFAULT_METRICS: dict[Task, str] = {
    "classification": "accuracy",
    "multilabel": "average_precision",
    "regression": "mse",
    "embedding": "recall@1",
    "sequence": "cer",
    "detection": "map",
}
"""The metric of each task, unless another one is chosen."""
WORDS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "precision_micro",
    "recall_micro",
    "f1_micro",
    "roc_auc",
    "average_precision",
    "miou",
    "perplexity",
    "ece",
    "mse",
    "mae",
    "r2",
    "pearson",
    "spearman",
    "cer",
    "wer",
    "map",
    "map50",
    "cosine",
    "agreement",
    "sqnr",
)
"""Metrics that are a word alone."""
NUMBERED = {
    "top": r"top([1-9][0-9]*)",
    "recall@": r"recall@([1-9][0-9]*)",
    "overlap@": r"overlap@([1-9][0-9]*)",
    "precision[]": r"precision\[([0-9]+)\]",
    "recall[]": r"recall\[([0-9]+)\]",
    "f1[]": r"f1\[([0-9]+)\]",
    "iou[]": r"iou\[([0-9]+)\]",
    "wer[]": r"wer\[([0-9]+)\]",
}
"""Metrics with a number: how many places count, or the index of a class or a symbol."""
EXAMPLES = {
    "top": "top5",
    "recall@": "recall@10",
    "overlap@": "overlap@10",
    "precision[]": "precision[1]",
    "recall[]": "recall[1]",
    "f1[]": "f1[1]",
    "iou[]": "iou[1]",
    "wer[]": "wer[0]",
}
USER = r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*(:lower)?"
LOWER = ":lower"
"""Ends the name of a function of the user whose smaller values are better."""


class ParsedMetric(NamedTuple):
    """A metric's name in parts.

    Attributes:
        family: the word, or the key of :data:`NUMBERED`; ``module:function`` without its direction for a function.
        number: the number in the name, or None.
    """

    family: str
    number: int | None = None


def is_function(name: str) -> bool:
    """Whether a name is that of a function of the user."""
    return re.fullmatch(USER, name) is not None


def parse_metric(name: str) -> ParsedMetric | None:
    """The parts of a metric's name; None if there is no such metric."""
    if name in WORDS:
        return ParsedMetric(name)
    for family, pattern in NUMBERED.items():
        found = re.fullmatch(pattern, name)
        if found:
            return ParsedMetric(family, int(found[1]))
    return ParsedMetric(name.removesuffix(LOWER)) if is_function(name) else None


def shown_metrics() -> str:
    """All metrics in one line, those with a number by an example."""
    return f"{', '.join((*WORDS, *EXAMPLES.values()))}, or a function as package.module:function"


def known_metric(name: str) -> str:
    """The name, if there is such a metric.

    Raises:
        ValueError: there is not; the message suggests the closest name.
    """
    if parse_metric(name) is None:
        close = difflib.get_close_matches(name, (*WORDS, *EXAMPLES.values()), n=1, cutoff=0.6)
        meant = f"; did you mean '{close[0]}'?" if close else f"; choose one of {shown_metrics()}"
        raise ValueError(f"'{name}' is no metric{meant}")
    return name


_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": [*WORDS, *EXAMPLES.values()], "type": "string"},
        {"pattern": f"^({'|'.join([*NUMBERED.values(), USER])})$", "type": "string"},
    ]
}
MetricName = Annotated[str, AfterValidator(known_metric), WithJsonSchema(_SCHEMA)]
"""The name of a metric, such as ``accuracy``, ``top3``, ``recall@10``, ``f1[2]`` or ``package.module:function``."""
