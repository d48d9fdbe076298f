"""Latency by randomised interleaved blocks, with a clock that the tests control."""

from __future__ import annotations

import gc
import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from known import known

from retort.benchmarks.edge.runner.slots import Plan, calibrate, clock_step, runs_here
from retort.benchmarks.timing import candidates, clocks, latency, machine_noise, statistics
from retort.benchmarks.timing.blocks import Block, time_block
from retort.benchmarks.timing.clocks import Clocks, single
from retort.core.console import Console
from retort.core.errors import InputError, UserError
from retort.core.options.stage_options import BenchOptions
from retort.core.signature import Signature
from retort.core.tensors import Array, Feeds, TensorSpec


class Machine:
    """A simulated computer whose time advances on request, with a drifting load and random stalls."""

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
        {"fp32": machine.task(100_000), "int8": machine.task(80_000)}, QUICK, clocks=single(machine.clock)
    )
    int8 = found.candidates["int8"]
    low, high = known(known(int8.ratio).low), known(known(int8.ratio).high)
    assert int8.verdict == "faster"
    assert low < 1.25 < high
    assert high - low < 0.06
    assert known(int8.p_value) < 0.05
    assert found.candidates["fp32"].verdict == "reference"
    assert found.stopped == "precise"


def test_same_candidate_twice_raises_no_alarm() -> None:
    """A/A under drift and stalls: at 99 % confidence, at most 2 of 30 comparisons find a difference."""
    options = QUICK.model_copy(update={"confidence": 0.99, "blocks": 20, "budget_s": 0.3})
    alarms = 0
    for seed in range(30):
        machine = Machine(seed, jitter=0.1, stall=0.05, drift=0.5)
        pair = {"a": machine.task(100_000), "b": machine.task(100_000)}
        found = latency.compare_latency(pair, options.model_copy(update={"seed": seed}), clocks=single(machine.clock))
        alarms += found.candidates["b"].verdict != "cannot tell"
    assert alarms <= 2


def test_order_within_rounds_is_random() -> None:
    """No candidate always comes first: the order of blocks is random in every round."""
    machine = Machine()
    order: list[str] = []
    names = ("a", "b", "c")

    def noted(name: str) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            machine.task(2_000_000)()

        return call

    calls = {name: noted(name) for name in names}
    found = latency.compare_latency(calls, QUICK, clocks=single(machine.clock))
    assert all(candidate.plan == Plan(1, 1) for candidate in found.candidates.values())
    rounds = [tuple(order[-3 * (k + 1) :][:3]) for k in range(found.rounds)]
    assert len(set(rounds)) == 6
    assert all(sorted(one) == list(names) for one in rounds)


def test_raw_block_medians_are_kept() -> None:
    """The result has one median per round and candidate, from which the ratio can be computed again."""
    machine = Machine()
    found = latency.compare_latency(
        {"a": machine.task(50_000), "b": machine.task(60_000)}, QUICK, clocks=single(machine.clock)
    )
    first, second = (np.array(found.candidates[name].block_medians_ms) for name in "ab")
    assert len(first) == len(second) == found.rounds
    assert statistics.low(first) / statistics.low(second) == pytest.approx(
        known(found.candidates["b"].ratio).value, rel=1e-3
    )
    assert found.candidates["a"].median_ms.value == pytest.approx(statistics.low(first), rel=1e-3)
    assert len(found.candidates["a"].warmup_ms) >= 3


def test_slow_calls_get_the_rounds_that_an_interval_needs() -> None:
    """Calls of half a second exceed a budget of one second until six rounds give an interval and a verdict."""
    machine = Machine()
    options = QUICK.model_copy(update={"budget_s": 1.0})
    pair = {"a": machine.task(5e8), "b": machine.task(2.5e8)}
    found = latency.compare_latency(pair, options, clocks=single(machine.clock))
    assert (found.stopped, found.rounds) == ("budget", 6)
    assert found.candidates["b"].verdict == "faster"
    assert found.ratio_of("b").bounded
    assert found.noise.status == "VALID"
    assert any("before every ratio was known" in remark for remark in found.noise.remarks)


def test_budget_ends_the_measurement_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Calls that exceed ten budgets give a value without an interval, NOISY with the reason, and no verdict."""
    machine = Machine()
    options = QUICK.model_copy(update={"budget_s": 1.0})
    pair = {"a": machine.task(4e9), "b": machine.task(2e9)}
    found = latency.compare_latency(pair, options, Console(), clocks=single(machine.clock))
    ratio = found.ratio_of("b")
    assert found.rounds < 6
    assert (ratio.low, ratio.high, ratio.verdict) == (None, None, "cannot tell")
    assert found.noise.status == "NOISY"
    assert f"needs 6 rounds, but only {found.rounds} were possible" in found.noise.reasons[0]
    assert found.candidates["b"].percentiles[0].value is None
    told = " ".join(capsys.readouterr().err.split())
    assert "latency at batch 1 is NOISY, so no decision can be based on it: an interval needs" in told


def test_fast_calls_are_grouped_until_the_clock_can_see_them() -> None:
    """A sample lasts at least 200 clock steps, and a block at least ``block_ms``."""
    machine = Machine(jitter=0.0, stall=0.0)
    step = clock_step(machine.clock)
    plan = calibrate(machine.task(100), 2.0, step, machine.clock)
    assert step == 40
    assert plan.calls * 100 >= 200 * step
    assert plan.calls * plan.samples * 100 >= 0.95 * 2e6
    assert time_block(machine.task(100), plan, single(machine.clock)).value == pytest.approx(100, rel=0.02)


def test_a_slow_call_is_one_sample() -> None:
    """A call longer than a block is timed once per block."""
    machine = Machine(jitter=0.0, stall=0.0)
    assert calibrate(machine.task(50_000_000), 5.0, 40, machine.clock) == Plan(1, 1)


def test_samples_that_were_interrupted_or_that_the_clock_missed_are_left_out() -> None:
    """In wall-clock time, uninterrupted slots decide, or all if there are none; in CPU time, all slots decide."""
    spent = np.array([0.0, 101.0, 100.0, 102.0, 90.0])
    hit, all_hit = np.array([False, False, False, False, True]), np.ones(5, bool)
    assert Block(spent, hit, spent).value == pytest.approx(100, rel=0.01)
    assert Block(spent, all_hit, spent).value == pytest.approx(90)
    assert Block(spent, all_hit, spent).lost
    in_cpu_time = Block(spent, hit, spent, in_cpu_time=True)
    assert in_cpu_time.value == pytest.approx(90)
    assert in_cpu_time.wall == pytest.approx(100, rel=0.01)
    assert not Block(spent, all_hit, spent, in_cpu_time=True).lost
    two_calls_per_slot = np.array([100.0, 101.0, 10.0, 20.0])
    assert Block(np.array([100.5, 15.0]), np.array([False, True]), two_calls_per_slot).wall == pytest.approx(100)


@pytest.mark.parametrize("noise", [0.05, 0.2])
@pytest.mark.parametrize("slots", [3, 40])
def test_skewed_noise_leaves_the_ratio_of_long_and_short_calls(noise: float, slots: int) -> None:
    """The ratio of calls of 8 ms and 1 ms is true to 1 % in wall-clock time, where each call takes random extra time.

    Means of eight short calls have a higher low quantile than single long calls, and eight times as many calls a lower
    one.
    """
    random_numbers = np.random.default_rng(0)
    quiet, ratios = np.zeros(slots, bool), list[float]()
    for _ in range(12_000 // slots):
        long = 8 * (1 + random_numbers.exponential(noise, slots))
        short = 1 + random_numbers.exponential(noise, 8 * slots)
        ratios.append(Block(long, quiet, long).value / Block(short.reshape(slots, 8).mean(1), quiet, short).value)
    assert np.mean(ratios) == pytest.approx(8, rel=0.01)


def test_slots_have_equal_length_and_every_call_keeps_its_time() -> None:
    """A call of 2 ms is timed in slots of one, a call of 0.5 ms in slots of four; percentiles see single calls."""
    machine = Machine(jitter=0.0, stall=0.0)
    pair = {"slow": machine.task(2e6), "fast": machine.task(5e5)}
    found = latency.compare_latency(pair, QUICK, clocks=single(machine.clock))
    assert {name: item.plan.groups for name, item in found.candidates.items()} == {"slow": 1, "fast": 4}
    assert found.candidates["fast"].percentiles[0].n == 4 * found.candidates["slow"].percentiles[0].n
    assert found.ratio_of("fast").value == pytest.approx(4, rel=1e-3)
    long = {"slow": machine.task(4e8), "fast": machine.task(1e6)}
    limited = latency.compare_latency(long, QUICK, clocks=single(machine.clock))
    assert limited.candidates["fast"].plan.groups == 50


def test_garbage_collection_is_off_while_timing() -> None:
    """The collector is off during the measurement and restored after it."""
    machine, seen = Machine(), list[bool]()
    task = machine.task(1_000_000)

    def call() -> None:
        seen.append(gc.isenabled())
        task()

    latency.compare_latency({"a": call}, QUICK, clocks=single(machine.clock))
    assert not any(seen)
    assert gc.isenabled()


def test_drift_is_reported() -> None:
    """A machine that slows down by half during the measurement is called NOISY, and the ratio is still correct."""
    machine = Machine(drift=2.0, stall=0.0)
    pair = {"a": machine.task(100_000), "b": machine.task(50_000)}
    found = latency.compare_latency(pair, QUICK, clocks=single(machine.clock))
    assert known(found.candidates["b"].ratio).value == pytest.approx(2.0, rel=0.02)
    judged = machine_noise.judge({"a": np.linspace(1, 1.5, 30)}, machine_noise.Seen())
    assert judged.status == "NOISY"
    assert any("drifted" in reason for reason in judged.reasons)


def test_pressure_and_steal_make_a_run_noisy(tmp_path: Path) -> None:
    """CPU pressure and stolen time above their limits are reasons; a quiet machine is VALID."""
    quiet = {"a": np.full(30, 1.0)}
    assert machine_noise.judge(quiet, machine_noise.Seen(1.0, 0.0)).status == "VALID"
    judged = machine_noise.judge(quiet, machine_noise.Seen(35.0, 7.0))
    assert judged.status == "NOISY"
    assert len(judged.reasons) == 2
    thread = machine_noise.judge(quiet, machine_noise.Seen(35.0, 7.0, clock="thread"))
    assert (thread.status, thread.remarks) == ("VALID", judged.reasons)
    files = tmp_path / "proc" / "pressure"
    files.mkdir(parents=True)
    (files / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n")
    (tmp_path / "proc" / "stat").write_text("cpu 10 0 10 80 0 0 0 0 0 0\n")
    watch = machine_noise.Watch(tmp_path)
    (files / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=900000000\n")
    (tmp_path / "proc" / "stat").write_text("cpu 20 0 20 140 0 0 0 20 0 0\n")
    pressure, steal = watch.read()
    assert known(pressure) > 100
    assert steal == pytest.approx(20.0)
    assert machine_noise.Watch(tmp_path / "nowhere").read() == (None, None)


def test_the_processors_that_others_use_are_counted(tmp_path: Path) -> None:
    """Busy ticks of all processors without those of this process; nothing where the kernel does not count them."""
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc" / "stat"
    stat.write_text("cpu 100 0 0 500 50 0 0 0 0 0\n")
    watch = machine_noise.Watch(tmp_path)
    assert watch.others() == 0
    stat.write_text("cpu 900000 0 0 600 60 0 0 0 0 0\n")
    assert watch.others() > 100
    assert machine_noise.Watch(tmp_path / "nowhere").others() == 0


def test_beside_busy_processes_half_of_the_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A precise result ends early on a quiet machine; beside others it goes on, because they come in bursts."""
    found = []
    for others in (0.0, 1.0):
        machine = Machine()
        monkeypatch.setattr(machine_noise.Watch, "others", lambda self, others=others: others)
        pair = {"a": machine.task(100_000), "b": machine.task(50_000)}
        found.append(latency.compare_latency(pair, QUICK, clocks=single(machine.clock)))
    quiet, busy = found
    assert quiet.stopped == busy.stopped == "precise"
    assert quiet.seconds < 0.5 * QUICK.budget_s <= busy.seconds < QUICK.budget_s


class Doubler:
    """A session that doubles its input and remembers the batches it saw."""

    backend = "test"
    providers: tuple[str, ...] = ()
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("gain", "float32", (1,))),
        (TensorSpec("y", "float32", ("batch", 2)),),
    )

    def __init__(self) -> None:
        self.rows: set[int] = set()

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Twice the input."""
        self.rows.add(len(feeds["x"]))
        return {"y": 2 * feeds["x"]}

    def close(self) -> None:
        """Nothing to free."""


def test_batches_are_made_of_real_samples_by_repetition() -> None:
    """Three samples are repeated to a batch of eight; inputs without a batch axis are unchanged."""
    session, other = Doubler(), Doubler()
    samples = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "gain": np.ones(1, np.float32)}
    feeds = candidates.repeat_rows(samples, session, 8)
    assert feeds["x"][:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0, 2]
    assert feeds["gain"].shape == (1,)
    options = BenchOptions(batch_sizes=(1, 8), blocks=6, block_ms=0.1, budget_s=0.5)
    found = latency.compare_sessions({"a": session, "b": other}, samples, options, reference="b")
    assert session.rows == {1, 8}
    assert [found[batch].batch for batch in (1, 8)] == [1, 8]
    assert found[8].candidates["b"].verdict == "reference"
    with pytest.raises(InputError):
        candidates.repeat_rows({"x": samples["x"]}, session, 2)


def test_a_batch_on_another_axis_is_repeated() -> None:
    """A state ``[2, batch, 3]`` is repeated along its second axis."""
    session = Doubler()
    specs = (*session.signature.inputs, TensorSpec("state", "float32", (2, "batch", 3)))
    session.signature = Signature(specs, session.signature.outputs)
    samples = {"x": np.zeros((2, 2), np.float32), "gain": np.ones(1, np.float32)}
    state = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    feeds = candidates.repeat_rows({**samples, "state": state}, session, 3)
    assert np.array_equal(feeds["state"], state[:, [0, 1, 0]])


def test_unknown_reference_is_refused() -> None:
    """A reference that is not a candidate is rejected with the existing ones."""
    with pytest.raises(UserError, match="no candidate named 'teacher'") as caught:
        latency.compare_latency({"a": int}, QUICK, reference="teacher")
    assert "a" in caught.value.remedy


class Shared:
    """A machine of two cores with so many other processes: who has computed for 3 ms waits while they have their turn.

    CPU time counts what is computed, wall time the waiting, too; every opening of a model moves its time a little.
    """

    def __init__(self, seed: int, load: int) -> None:
        self.random, self.load = random.Random(seed), load
        self.cpu, self.passed, self.lost, self.left = 0, 0, 0, 3_000_000

    def work(self, nanoseconds: float) -> None:
        """Compute for this time, and yield whenever the turn is over."""
        remaining = int(nanoseconds * self.random.lognormvariate(0, 0.02))
        while remaining > 0:
            spent = min(remaining, self.left)
            remaining, self.left = remaining - spent, self.left - spent
            self.cpu, self.passed = self.cpu + spent, self.passed + spent
            if self.left == 0:
                self.left = 3_000_000
                if self.load > 1:
                    self.passed += int(self.random.uniform(1, 3) * 1e6 * self.load)
                    self.lost += 1

    def clocks(self, name: str) -> Clocks:
        """The two clocks and the counter; reading one takes 40 ns."""

        def cpu() -> int:
            self.cpu, self.passed = self.cpu + 40, self.passed + 40
            return self.cpu

        def wall() -> int:
            self.cpu, self.passed = self.cpu + 40, self.passed + 40
            return self.passed

        thread = name == "thread"
        return Clocks(cpu if thread else wall, wall, lambda: self.lost, "thread" if thread else "wall", Path("nowhere"))


def opened(machine: Shared, nanoseconds: float) -> Callable[[], Doubler]:
    """Opens a session with calls of about this length; each opening changes it by about a percent."""

    def open_it() -> Doubler:
        own = nanoseconds * machine.random.lognormvariate(0, 0.01)

        class Working(Doubler):
            def run(self, feeds: Feeds) -> dict[str, Array]:
                machine.work(own)
                return {}

        return Working()

    return open_it


SAMPLES = {"x": np.zeros((1, 2), np.float32), "gain": np.ones(1, np.float32)}


def repeated(name: str, times: tuple[float, float], count: int) -> list[latency.LatencyComparison]:
    """The same two models compared repeatedly, under a load that changes from 0 to 4 processes."""
    found = []
    for seed in range(count):
        machine = Shared(seed, load=seed % 5)
        pair = {"a": (opened(machine, times[0]), SAMPLES), "b": (opened(machine, times[1]), SAMPLES)}
        options = BenchOptions(blocks=30, block_ms=2.0, budget_s=4.0, seed=seed)
        found.append(latency.compare_latency(pair, options, clocks=machine.clocks(name)))
    return found


@pytest.mark.parametrize(("name", "times"), [("thread", (6e6, 2e6)), ("wall", (1.5e6, 0.5e6))])
def test_intervals_hold_over_repetitions_under_changing_load(name: str, times: tuple[float, float]) -> None:
    """Of 40 repetitions with 0 to 4 processes, 93 % of the intervals contain the truth; the values agree to 3 %."""
    ratios = [found.ratio_of("b") for found in repeated(name, times, 40)]
    held = [ratio.low <= 3.0 <= ratio.high for ratio in ratios if ratio.low is not None and ratio.high is not None]
    assert len(held) == 40
    assert np.mean(held) >= 0.93
    assert np.std(np.log([ratio.value for ratio in ratios])) <= 0.03
    assert {ratio.clock for ratio in ratios} == {name}
    assert all(ratio.tendency == "faster" for ratio in ratios)


def test_wall_time_of_calls_that_always_lose_the_cpu_decides_nothing() -> None:
    """If every slot is interrupted, the rounds are used and counted, and the result is NOISY without a verdict."""
    machine = Shared(0, load=4)
    pair = {"a": (opened(machine, 12e6), SAMPLES), "b": (opened(machine, 6e6), SAMPLES)}
    options = BenchOptions(blocks=30, block_ms=2.0, budget_s=4.0)
    found = latency.compare_latency(pair, options, clocks=machine.clocks("wall"))
    assert found.candidates["b"].verdict == "cannot tell"
    assert any("lost the CPU in every slot" in reason for reason in found.noise.reasons)
    assert found.ratio_of("b").why_undecided == "; ".join(found.noise.reasons)
    assert found.noise.interrupted_percent == 100


def test_wall_time_is_reported_with_cpu_time() -> None:
    """A ratio by the thread's clock also has the ratio by wall time, and times of both clocks are kept."""
    found = repeated("thread", (6e6, 2e6), 5)[-1]
    ratio, slow = found.ratio_of("b"), found.candidates["a"]
    assert ratio.wall is not None
    assert slow.wall_ms.value > 1.2 * slow.median_ms.value
    assert slow.median_ms.value == pytest.approx(6.0, rel=0.05)


def test_what_is_noisy_is_measured_again_and_then_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    """Scattered blocks are measured again within the budget: they settle, or the result is NOISY and undecided."""

    def compared(quiet_after_s: float) -> latency.LatencyComparison:
        machine = Machine(jitter=0.01, stall=0.0)

        def task(nanoseconds: float) -> Callable[[], None]:
            run = machine.task(nanoseconds)

            def timed() -> None:
                if machine.now < quiet_after_s * 1e9:  # both slow down together, so that the ratio is precise
                    machine.now += int(nanoseconds * (0.5 + 0.5 * math.sin(machine.now / 1e8)))
                run()

            return timed

        pair = {"a": task(2e6), "b": task(1e6)}
        options = BenchOptions(blocks=240, block_ms=2.0, budget_s=12.0)
        return latency.compare_latency(pair, options, Console(), clocks=single(machine.clock))

    settled = compared(quiet_after_s=2.0)
    assert settled.noise.attempts > 1
    assert (settled.noise.status, settled.candidates["b"].verdict) == ("VALID", "faster")
    assert "NOISY" not in capsys.readouterr().err
    noisy = compared(quiet_after_s=1e9)
    assert noisy.noise.attempts > 1
    assert noisy.ratio_of("b").tendency == "faster"
    assert noisy.candidates["b"].verdict == "cannot tell"
    assert "scatter" in noisy.ratio_of("b").why_undecided
    assert "NOISY" in capsys.readouterr().err


def test_a_ratio_that_moves_while_it_is_measured_decides_nothing() -> None:
    """If the intervals of the first and last third of the rounds do not overlap, the ratio is NOISY in any clock."""
    machine, calls = Shared(0, 0), [0]

    def second() -> None:
        calls[0] += 1
        machine.work(1e6 if calls[0] < 400 else 2e6)

    options = BenchOptions(blocks=2000, block_ms=2.0, budget_s=2.0)
    pair = {"a": lambda: machine.work(2e6), "b": second}
    found = latency.compare_latency(pair, options, clocks=machine.clocks("thread"))
    assert found.candidates["b"].verdict == "cannot tell"
    assert "the ratio of 'b' changed from" in found.ratio_of("b").why_undecided


def test_the_thread_decides_only_where_it_does_the_work() -> None:
    """A call that computes in this thread is timed by CPU time; one that waits for another thread or device is not."""
    assert runs_here(lambda: sum(range(20_000)))
    assert not runs_here(lambda: time.sleep(0.02))

    def elsewhere() -> None:
        worker = threading.Thread(target=lambda: sum(range(3_000_000)))
        worker.start()
        worker.join()

    assert not runs_here(elsewhere)
    assert clocks.clocks_for(2, "cpu", [], []) is clocks.WALL
    assert clocks.clocks_for(1, "cuda", [], []) is clocks.WALL
    foreign = Doubler()
    foreign.backend = "tvm"
    assert clocks.clocks_for(1, "cpu", [foreign], []) is clocks.WALL
