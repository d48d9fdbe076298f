"""Metrics that are functions of the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.core.errors import DataError, UserError
from retort.core.metrics.task_metrics import (
    evaluate,
    higher_is_better,
    metric_interval,
    paired_difference,
    unit_of,
)

MODULE = '''"""Metrics of a user."""

import numpy as np


def right(outputs, targets):
    return (outputs.argmax(1) == targets).astype(float)


def distance(outputs, targets):
    return np.abs(outputs[:, 0] - targets)


def share(outputs, targets):
    return float((outputs.argmax(1) == targets).mean())


def wide(outputs, targets):
    return outputs


def undefined(outputs, targets):
    values = np.ones(len(outputs))
    values[3] = np.nan
    return values


def broken(outputs, targets):
    raise KeyError("no such thing")


def both(outputs, targets):
    return float(np.mean(outputs["one"] + outputs["two"]))
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user in the current folder, with a name that no other test uses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"own_{tmp_path.name}.py".replace("-", "_")).write_text(MODULE)
    return f"own_{tmp_path.name}".replace("-", "_")


OUTPUTS = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 3, 60)


def test_scores_of_zero_and_one_have_the_intervals_of_accuracy(module: str) -> None:
    """A value per sample that is 0 or 1 is a proportion: its intervals are those of accuracy, to the last bit."""
    name, other = f"{module}:right", np.roll(OUTPUTS, 1, axis=1)
    assert metric_interval(name, OUTPUTS, TARGETS) == metric_interval("accuracy", OUTPUTS, TARGETS)
    assert paired_difference(name, OUTPUTS, other, TARGETS) == paired_difference("accuracy", OUTPUTS, other, TARGETS)


def test_a_metric_of_the_set_is_resampled(module: str) -> None:
    """A function of all samples has the same value, and an interval of about the same width."""
    exact, found = metric_interval("accuracy", OUTPUTS, TARGETS), metric_interval(f"{module}:share", OUTPUTS, TARGETS)
    assert found.value == pytest.approx(exact.value)
    assert found.low == pytest.approx(exact.low, abs=0.05)
    assert found.high == pytest.approx(exact.high, abs=0.05)
    drop = paired_difference(f"{module}:share", OUTPUTS, OUTPUTS, TARGETS)
    assert (drop.low, drop.value, drop.high) == (0, 0, 0)


def test_the_name_tells_the_direction(module: str) -> None:
    """``:lower`` makes an error of it, so that a larger value is worse."""
    assert higher_is_better(f"{module}:distance")
    assert not higher_is_better(f"{module}:distance:lower")
    assert unit_of(f"{module}:distance") == "target"
    worse = OUTPUTS + 10
    assert paired_difference(f"{module}:distance:lower", OUTPUTS, worse, TARGETS).low > 0
    assert paired_difference(f"{module}:distance", OUTPUTS, worse, TARGETS).high < 0


def test_a_model_with_several_outputs_gives_them_by_name(module: str) -> None:
    """The function gets all outputs by name, and may do without targets."""
    assert evaluate(f"{module}:both", {"one": np.ones((4, 2)), "two": np.full((4, 2), 2.0)}, None) == 3.0


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wide", r"returned an array of shape \[60, 3\] for 60 samples"),
        ("undefined", "returned a value that is not finite, first for sample 3"),
        ("broken", "raised KeyError: 'no such thing'"),
    ],
)
def test_bad_functions_are_told_in_one_message(module: str, function: str, words: str) -> None:
    """A wrong shape, NaN and an exception name the metric and what to do."""
    with pytest.raises(DataError, match=words) as caught:
        evaluate(f"{module}:{function}", OUTPUTS, TARGETS)
    assert caught.value.remedy


def test_a_function_that_does_not_exist_is_told(module: str) -> None:
    """The closest name of the module is suggested."""
    with pytest.raises(UserError, match="did you mean 'share'"):
        evaluate(f"{module}:shares", OUTPUTS, TARGETS)
