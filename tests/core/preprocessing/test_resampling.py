"""Another sample rate: the values of SciPy's polyphase filter, for usual and odd rates, at the cost of the outputs."""

from __future__ import annotations

import time
from math import gcd

import numpy as np
import pytest

from retort.core.preprocessing.resampling import resampled

RATES = [
    (44_100, 16_000, 9_000),
    (48_000, 16_000, 3_000),
    (8_000, 16_000, 1_000),
    (22_050, 44_100, 999),
    (16_000, 44_100, 1_001),
    (44_099, 16_000, 500),
    (16_000, 16_001, 400),
    (96_000, 8_000, 5_000),
    (3, 16_000, 20),
    (16_000, 15_999, 1),
]


@pytest.mark.parametrize(("rate", "wanted", "samples"), RATES)
def test_equals_scipy(rate: int, wanted: int, samples: int) -> None:
    """Length and values are those of `scipy.signal.resample_poly`, which other programs use before training."""
    signal = pytest.importorskip("scipy.signal")
    sound = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    step = gcd(rate, wanted)
    expected = signal.resample_poly(sound, wanted // step, rate // step)
    np.testing.assert_allclose(resampled(sound, rate, wanted), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8_000, 16_000), (44_099, 16_001)])
def test_a_tone_keeps_its_pitch_and_size(rate: int, wanted: int) -> None:
    """A tone that both rates can hold is the same tone afterwards."""
    made = resampled(np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32), rate, wanted)
    expected = np.sin(2 * np.pi * 440 * np.arange(wanted) / wanted)
    assert np.abs(made - expected)[200:-200].max() < 2e-3


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    """A tone above the new Nyquist frequency does not come back as another tone."""
    made = resampled(np.sin(2 * np.pi * 11_000 * np.arange(44_100) / 44_100).astype(np.float32), 44_100, 16_000)
    assert np.abs(made)[200:-200].max() < 5e-3


def test_a_short_recording_of_an_odd_rate_costs_little() -> None:
    """300 samples whose filter has 880,000 values take less time than 300,000 samples of a usual rate."""

    def cost(samples: int, rate: int) -> float:
        start = time.thread_time()
        resampled(np.ones(samples, np.float32), rate, 16_000)
        return time.thread_time() - start

    cost(300, 44_099)
    assert min(cost(300, 44_099) for _ in range(3)) < min(cost(300_000, 44_100) for _ in range(3))
