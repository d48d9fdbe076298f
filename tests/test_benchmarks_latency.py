"""Latency by randomised interleaved blocks, on a clock that the tests turn by hand."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retort.benchmarks import latency, noise
from retort.benchmarks.blocks import Plan, calibrate, clock_step, time_block
from retort.core.errors import InputError, UserError
from retort.core.options import BenchOptions
from retort.core.tensors import Signature, TensorSpec


class Machine:
    """A computer whose time passes only when told, with a load that drifts and stalls that come at random."""

    def __init__(self, seed: int = 0, jitter: float = 0.03, stall: float = 0.01, drift: float = 0.0) -> None:
        self.now = 0
        self.random = random.Random(seed)
        self.jitter, self.stall, self.drift = jitter, stall, drift

    def clock(self) -> int:
        """Nanoseconds; reading the clock takes 40 of them."""
        self.now += 40
        return self.now

    def task(self, nanoseconds: float) -> Callable[[], None]:
        """A call that takes about so long, slower the later it is when there is drift."""

        def run() -> None:
            factor = self.random.lognormvariate(0, self.jitter) * (1 + self.drift * self.now / 1e9)
            self.now += int(nanoseconds * factor) + (3_000_000 if self.random.random() < self.stall else 0)

        return run


QUICK = BenchOptions(blocks=30, block_ms=1.0, budget_s=5.0)


def test_known_ratio_is_found() -> None:
    """A candidate that is 1.25 times faster is called faster, with an interval of a few percent around 1.25."""
    machine = Machine()
    found = latency.compare_latency(
        {"fp32": machine.task(100_000), "int8": machine.task(80_000)}, QUICK, clock=machine.clock
    )
    int8 = found.candidates["int8"]
    assert int8.verdict == "faster"
    assert int8.ratio.low < 1.25 < int8.ratio.high
    assert int8.ratio.high - int8.ratio.low < 0.06
    assert int8.p_value < 0.01
    assert found.candidates["fp32"].verdict == "reference"
    assert found.stopped == "precise"


def test_same_candidate_twice_raises_no_alarm() -> None:
    """A/A under drift and stalls: at 99 % confidence at most 2 of 30 comparisons tell a call from itself."""
    options = QUICK.model_copy(update={"confidence": 0.99, "blocks": 20, "budget_s": 0.3})
    alarms = 0
    for seed in range(30):
        machine = Machine(seed, jitter=0.1, stall=0.05, drift=0.5)
        pair = {"a": machine.task(100_000), "b": machine.task(100_000)}
        found = latency.compare_latency(pair, options.model_copy(update={"seed": seed}), clock=machine.clock)
        alarms += found.candidates["b"].verdict != "cannot tell"
    assert alarms <= 2


def test_order_within_rounds_is_random() -> None:
    """No candidate always comes first: the order of blocks is drawn anew in every round."""
    machine = Machine()
    order: list[str] = []
    names = ("a", "b", "c")
    calls = {name: (lambda name=name: (order.append(name), machine.task(2_000_000)())) for name in names}
    found = latency.compare_latency(calls, QUICK, clock=machine.clock)
    assert all(candidate.plan == Plan(1, 1) for candidate in found.candidates.values())
    rounds = [tuple(order[-3 * (k + 1) :][:3]) for k in range(found.rounds)]
    assert len(set(rounds)) == 6
    assert all(sorted(one) == list(names) for one in rounds)


def test_raw_block_medians_are_kept() -> None:
    """The result carries one median per round and candidate, from which the ratio can be computed again."""
    machine = Machine()
    found = latency.compare_latency({"a": machine.task(50_000), "b": machine.task(60_000)}, QUICK, clock=machine.clock)
    first, second = (np.array(found.candidates[name].block_medians_ms) for name in "ab")
    assert len(first) == len(second) == found.rounds
    assert np.exp(np.median(np.log(first / second))) == pytest.approx(found.candidates["b"].ratio.value)
    assert found.candidates["a"].median_ms.value == pytest.approx(np.median(first))
    assert len(found.candidates["a"].warmup_ms) >= 3


def test_budget_ends_the_measurement_and_says_so() -> None:
    """Calls of half a second leave few rounds in a budget of four seconds: no verdict, and NOISY with the reason."""
    machine = Machine()
    options = QUICK.model_copy(update={"budget_s": 4.0})
    found = latency.compare_latency({"a": machine.task(5e8), "b": machine.task(2.5e8)}, options, clock=machine.clock)
    assert found.stopped == "budget"
    assert found.rounds < 6
    assert found.candidates["b"].verdict == "cannot tell"
    assert found.noise.status == "NOISY"
    assert "rounds fitted into the time budget" in found.noise.reasons[-1]
    assert found.candidates["b"].percentiles[0].value is None


def test_fast_calls_are_grouped_until_the_clock_can_see_them() -> None:
    """A sample lasts at least 200 clock steps and a block at least ``block_ms``."""
    machine = Machine(jitter=0.0, stall=0.0)
    step = clock_step(machine.clock)
    plan = calibrate(machine.task(100), 2.0, step, machine.clock)
    assert step == 40
    assert plan.calls * 100 >= 200 * step
    assert plan.calls * plan.samples * 100 >= 0.95 * 2e6
    assert time_block(machine.task(100), plan, machine.clock) == pytest.approx(100, rel=0.02)


def test_a_slow_call_is_one_sample() -> None:
    """A call longer than a block is timed once per block."""
    machine = Machine(jitter=0.0, stall=0.0)
    assert calibrate(machine.task(50_000_000), 5.0, 40, machine.clock) == Plan(1, 1)


def test_garbage_collection_rests_while_timing() -> None:
    """The collector is off inside the measurement and as before after it."""
    machine, seen = Machine(), []
    task = machine.task(1_000_000)
    latency.compare_latency({"a": lambda: (seen.append(gc.isenabled()), task())}, QUICK, clock=machine.clock)
    assert not any(seen)
    assert gc.isenabled()


def test_drift_is_reported() -> None:
    """A machine that slows down by half during the measurement is called NOISY, and the ratio still holds."""
    machine = Machine(drift=2.0, stall=0.0)
    pair = {"a": machine.task(100_000), "b": machine.task(50_000)}
    found = latency.compare_latency(pair, QUICK, clock=machine.clock)
    assert found.candidates["b"].ratio.value == pytest.approx(2.0, rel=0.02)
    judged = noise.judge({"a": np.linspace(1, 1.5, 30)}, None, None)
    assert judged.status == "NOISY"
    assert any("drifted" in reason for reason in judged.reasons)


def test_pressure_and_steal_make_a_run_noisy(tmp_path: Path) -> None:
    """CPU pressure and stolen time beyond their limits are reasons; a quiet machine is VALID."""
    quiet = {"a": np.full(30, 1.0)}
    assert noise.judge(quiet, 1.0, 0.0).status == "VALID"
    judged = noise.judge(quiet, 35.0, 7.0)
    assert judged.status == "NOISY"
    assert len(judged.reasons) == 2
    files = tmp_path / "proc" / "pressure"
    files.mkdir(parents=True)
    (files / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n")
    (tmp_path / "proc" / "stat").write_text("cpu 10 0 10 80 0 0 0 0 0 0\n")
    watch = noise.Watch(tmp_path)
    (files / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=900000000\n")
    (tmp_path / "proc" / "stat").write_text("cpu 20 0 20 140 0 0 0 20 0 0\n")
    pressure, steal = watch.read()
    assert pressure > 100
    assert steal == pytest.approx(20.0)
    assert noise.Watch(tmp_path / "nowhere").read() == (None, None)


class Doubler:
    """A session that doubles its input and remembers the batches it saw."""

    backend, providers = "test", ()
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("gain", "float32", (1,))),
        (TensorSpec("y", "float32", ("batch", 2)),),
    )

    def __init__(self) -> None:
        self.rows: set[int] = set()

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Twice the input."""
        self.rows.add(len(feeds["x"]))
        return {"y": 2 * feeds["x"]}

    def close(self) -> None:
        """Nothing to free."""


def test_batches_are_made_of_real_samples_by_repetition() -> None:
    """Three samples make a batch of eight by going round; inputs without a batch axis stay as they are."""
    session, other = Doubler(), Doubler()
    samples = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "gain": np.ones(1, np.float32)}
    feeds = latency.repeat_rows(samples, session, 8)
    assert feeds["x"][:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0, 2]
    assert feeds["gain"].shape == (1,)
    options = BenchOptions(batch_sizes=(1, 8), blocks=6, block_ms=0.1, budget_s=0.5)
    found = latency.compare_sessions({"a": session, "b": other}, samples, options, reference="b")
    assert session.rows == {1, 8}
    assert [found[batch].batch for batch in (1, 8)] == [1, 8]
    assert found[8].candidates["b"].verdict == "reference"
    with pytest.raises(InputError):
        latency.repeat_rows({"x": samples["x"]}, session, 2)


def test_unknown_reference_is_refused() -> None:
    """A reference that is no candidate is named with those there are."""
    with pytest.raises(UserError, match="no candidate named 'teacher'") as caught:
        latency.compare_latency({"a": int}, QUICK, reference="teacher")
    assert "a" in caught.value.remedy
