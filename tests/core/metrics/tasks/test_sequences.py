"""Error rates of recognised sequences, by hand and against a plain dynamic program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, metric_interval, paired_difference, scorer
from retort.core.metrics.tasks.sequences import edit_distances, greedy_symbols
from retort.core.tensors import Array


def plain_distance(one: list[int], two: list[int]) -> int:
    """Levenshtein's distance as in textbooks."""
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(two, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def rows(*texts: str) -> Array:
    """Texts as integer symbols, filled up with -100."""
    made = np.full((len(texts), max(map(len, texts))), -100, np.int64)
    for index, text in enumerate(texts):
        made[index, : len(text)] = [ord(letter) - ord("a") + 2 if letter != " " else 1 for letter in text]
    return made


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), max_size=8)] * 2), min_size=1, max_size=6))
def test_distances_equal_the_textbook(pairs: list[tuple[list[int], list[int]]]) -> None:
    """The distances of many pairs at once are those of each pair, and the same in both directions."""
    found, wanted = ([np.array(row, np.int64) for row in side] for side in zip(*pairs, strict=True))
    assert edit_distances(found, wanted).tolist() == [plain_distance(*pair) for pair in pairs]
    assert edit_distances(wanted, found).tolist() == [plain_distance(*pair) for pair in pairs]


def test_rates_by_hand() -> None:
    """kitten to sitting takes three edits of seven symbols; one of three words is wrong."""
    assert evaluate("cer", rows("kitten"), rows("sitting")) == pytest.approx(3 / 7)
    found, wanted = rows("the cat sat", "a"), rows("the hat sat", "a")
    assert evaluate("cer", found, wanted) == pytest.approx(1 / 12)
    assert evaluate("wer[1]", found, wanted) == pytest.approx(1 / 4)
    assert evaluate("wer", found, wanted) == evaluate("cer", found, wanted)  # each symbol is a word


def test_greedy_decoding_drops_repetitions_and_blanks() -> None:
    """The frames 0 1 1 0 1 2 2 of a CTC model say 1 1 2."""
    frames = np.eye(3, dtype=np.float32)[[[0, 1, 1, 0, 1, 2, 2]]]
    assert greedy_symbols(frames)[0].tolist() == [1, 1, 2]
    assert evaluate("cer", frames, np.array([[1, 1, 2, -100]])) == 0
    assert evaluate("cer", frames, np.array([[1, 2, -100, -100]])) == 0.5


def test_weights_intervals_and_pairs() -> None:
    """Rates are weighted by length; lower is better, and a worse model has a positive difference."""
    rng = np.random.default_rng(0)
    wanted = rng.integers(1, 6, (60, 9))
    good, bad = wanted.copy(), wanted.copy()
    good[rng.random(good.shape) < 0.05] = 0
    bad[rng.random(bad.shape) < 0.3] = 0
    weights = rng.integers(0, 3, 60)
    chosen = np.repeat(np.arange(60), weights)
    weighted = scorer("cer", good, wanted)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(evaluate("cer", good[chosen], wanted[chosen]))
    assert paired_difference("cer", good, bad, wanted).low > 0
    assert paired_difference("cer", bad, good, wanted).high < 0
    perfect = metric_interval("cer", wanted, wanted)
    assert perfect.low == perfect.value == 0 < perfect.high < 0.1


def test_what_is_no_sequence_is_told() -> None:
    """Scores of whole samples, and targets that are not rows of symbols, are refused with what to give."""
    with pytest.raises(DataError, match="no scores of frames"):
        evaluate("cer", np.zeros((2, 5)), np.zeros((2, 3), int))
    with pytest.raises(DataError, match="no sequences of symbols"):
        evaluate("cer", np.zeros((2, 5, 3)), np.zeros(2, int))
    with pytest.raises(DataError, match="'cer' is not defined"):
        evaluate("cer", np.zeros((2, 5, 3)), np.full((2, 3), -100))
