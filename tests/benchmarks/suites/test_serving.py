"""The suites of serving in their short forms: what they judge, and that a fault of the server is seen."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
from served_models import archive, require_torchserve, site

from retort.benchmarks.scenarios.request_load import (
    NO_ANSWER,
    Ask,
    Load,
    Outcome,
    arrivals,
    closed_loop,
    open_loop,
)
from retort.benchmarks.suites.serving import (
    batch_isolation,
    bit_flips,
    body_fuzz,
    cold_start,
    http_fuzz,
    offered_load,
    request_cost,
    soak,
    version_swaps,
    worker_kills,
)
from retort.benchmarks.suites.serving.__main__ import SUITES, defaults, descriptions, main
from retort.benchmarks.suites.serving.bundle_runtime import Call, Reply, Runtime
from retort.benchmarks.suites.serving.findings import Report, at_least, at_most, figure
from retort.benchmarks.suites.serving.mutations import mutants, seeds
from retort.benchmarks.suites.serving.request_pool import TYPES, Form, RequestPool, npy, raw_session
from retort.benchmarks.suites.serving.running_server import serving
from retort.benchmarks.suites.serving.served_networks import convolutions, packed
from retort.serve.engine import Engine
from retort.serve.integrity import check_file, read_sums
from retort.serve.requests.multipart import read_form
from retort.serve.requests.request import Incoming, decode

BUNDLE = "bundle"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose model sums two numbers."""
    return archive("vector", tmp_path_factory.mktemp("made")).path / BUNDLE


@pytest.fixture(scope="module")
def runtime(bundle: Path) -> Runtime:
    """Its runtime, with the code of this repository instead of the copy that it carries."""
    return Runtime(Engine.load(bundle), Incoming, decode)


@pytest.fixture(scope="module")
def url(runtime: Runtime) -> Iterator[str]:
    """Its address behind HTTP."""
    with site(runtime.engine) as address:
        yield address


@pytest.fixture(scope="module")
def pool(bundle: Path) -> RequestPool:
    """Twenty requests with the answers of a local session."""
    return replace(RequestPool.of(bundle / "model.onnx", 20), name="vector")


def test_a_goal_is_reached_or_missed() -> None:
    """A limit itself reaches a goal, NaN never does, and a report with a missed goal is not reached."""
    assert at_most("G1", "x", 2, 2).reached
    assert not at_most("G1", "x", float("nan"), 2).reached
    assert not at_least("G1", "x", 1.9, 2, "×").reached
    assert at_least("G1", "x", 1.9, 2, "×").row() == ["G1", "x", "1.9×", "≥ 2×", "MISSED"]
    assert Report("x", "", 1, (figure("y", 1.0), at_most("G1", "x", 1, 2))).reached
    assert not Report("x", "", 1, (at_least("G1", "x", 1, 2),)).reached


def test_a_report_has_its_conditions() -> None:
    """The JSON result has the processor, the load and the number of requests."""
    found = json.loads(Report("x", "closed loop", 7, (figure("y", 1.0),)).to_json())
    assert found["machine"]["cpu"]["model"]
    assert (found["load"], found["requests"], found["reached"]) == ("closed loop", 7, True)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    """Their number and the spread of their gaps are those of the rate, and a seed repeats them."""
    moments = arrivals(500, 20, 3)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert abs(len(moments) - 10_000) < 400
    assert 0.9 < spread / mean < 1.1
    assert moments == arrivals(500, 20, 3)
    assert moments[-1] < 20


def test_latency_counts_from_the_intended_moment() -> None:
    """A server that takes requests one by one makes those wait that were due meanwhile, whatever the client does."""
    taken = []

    def slow(index: int) -> tuple[int, bool]:
        time.sleep(0.02)
        taken.append(index)
        return 200, True

    load = open_loop(slow, 200, 0.2, clients=1)
    assert sorted(taken) == list(range(len(load.outcomes)))
    assert load.latency_ms(100) > 20 * (len(taken) - 1) - 200
    assert load.latency_ms(100) > 5 * load.lateness_ms(0)
    assert load.statuses == {200: len(taken)}


def test_answers_are_compared_bit_for_bit(pool: RequestPool, url: str) -> None:
    """All answers of a good server are right in both formats, and one changed bit of an output is seen."""
    for form in request_cost.FORMS:
        load = closed_loop(pool.ask(url, form), 2, 5)
        assert load.statuses == {200: 5}
        assert load.wrong == 0
    outputs = [output.copy() for output in pool.outputs]
    outputs[3].view("int32")[0] ^= 1
    spoiled = replace(pool, outputs=tuple(outputs))
    assert [one.index for one in closed_loop(spoiled.ask(url), 2, 5).answered if not one.right] == [3]


def test_the_cost_of_a_request_is_told_by_format(pool: RequestPool, runtime: Runtime, bundle: Path) -> None:
    """Every round has the session alone and both formats, and failures and wrong answers are judged."""
    asks = {form: _asking(pool, runtime, form) for form in request_cost.FORMS}
    found = request_cost.rounds(asks, raw_session(bundle / "model.onnx"), time.process_time, 2, 20, 2)
    assert [set(one) for one in found] == [{"raw", "npy", "json"}] * 2
    findings = {finding.what: finding for finding in request_cost.judged("light", found)}
    assert findings["light: failed answers"].reached
    assert findings["light: wrong answers"].reached
    worse = [{**one, "json": replace(one["json"], cpu_ms=9 * one["npy"].cpu_ms, wrong=1)} for one in found]
    missed = {finding.what for finding in request_cost.judged("light", worse) if finding.reached is False}
    assert {"light: wrong answers", "light: CPU of a request by JSON ÷ by npy"} <= missed


def _asking(pool: RequestPool, runtime: Runtime, form: Form) -> Ask:
    """Asks the runtime in this process."""
    bodies = pool.bodies(form)

    def ask(index: int) -> tuple[int, bool]:
        (reply,) = runtime.answer([Call({"body": bodies[index % len(bodies)]}, {"content-type": TYPES[form]})])
        return reply.status, pool.is_right(index, reply.body, form)

    return ask


def _load(*statuses: int, ms: float = 10.0, right: bool = True) -> Load:
    outcomes = [Outcome(at, at, at, at + ms / 1000, status, right) for at, status in enumerate(statuses)]
    return Load(tuple(outcomes), len(outcomes), 0.0)


def test_overload_is_judged_by_its_refusals() -> None:
    """Fast refusals and answers within the goal reach it; a hang, an error or a slow refusal misses it."""
    good, refused = _load(*[200] * 10), _load(*[200, 503] * 5)

    def missed(moderate: Load, too_much: Load) -> set[str]:
        return {one.what for one in offered_load.judged(moderate, too_much, 10, 250) if one.reached is False}

    assert missed(good, refused) == set()
    assert missed(good, _load(200, 500, 503)) == {"150 %: neither answered nor refused"}
    assert "without an answer within 60 s, or reset" in missed(good, _load(200, 0, 503))
    assert missed(good, _load(*[200, 503] * 5, ms=80)) == {"150 %: p99 of the refusals"}
    assert "60 %: not answered" in missed(_load(200, 503), refused)
    assert missed(_load(*[200] * 10, right=False), refused) == {"wrong answers"}


def test_hostile_requests_come_from_valid_ones(runtime: Runtime) -> None:
    """Every request that is changed is answered before the change, and a seed repeats all changes."""
    chosen = seeds(runtime.engine.signature)
    for seed in chosen:
        (reply,) = runtime.answer([seed.call])
        assert reply.status == 200, seed.form
    first, again = (list(islice(mutants(chosen, 4), 200)) for _ in range(2))
    assert first == again
    assert len({form for form, _ in first}) == len(chosen)


def test_hostile_requests_are_refused_one_by_one(runtime: Runtime) -> None:
    """Each of 300 hostile requests has its own answer, and good ones in their batches keep their bits."""
    found, _ = body_fuzz.over_models([(runtime, seeds(runtime.engine.signature))], 300, 0, lambda: None)
    assert sum(found.statuses.values()) == 300
    assert found.good > 50
    assert all(finding.reached is not False for finding in body_fuzz.judged(found, 0.0))


def test_faults_under_hostile_requests_are_seen(runtime: Runtime) -> None:
    """A 500, an exception, a refusal without a message and a changed neighbour are counted, and the request is kept."""
    chosen = seeds(runtime.engine.signature)

    class Broken(Runtime):
        """Fails on batches of three, and answers others with 500s, empty refusals and changed bits."""

        def answer(self, calls: Sequence[Call]) -> list[Reply]:
            """Wrong answers, but to the first call."""
            if len(calls) == 3:
                raise OverflowError("three")
            return [Reply(200, b"")] if len(calls) == 1 else [Reply(500 - 78 * (len(calls) % 2), b"{}") for _ in calls]

    found = body_fuzz.fuzz(Broken(None, Incoming, decode), chosen, 100, 0, body_fuzz.Fuzzed())
    assert found.spoiled == found.good > 0
    assert {why["why"][:9] for why in found.faults} == {"raised Ov", "status 50", "a refusal"}
    assert all(why["parts"] for why in found.faults)


def test_hostile_requests_over_http_are_told_apart(runtime: Runtime) -> None:
    """Errors of the front end are no errors of ours; forms have their parts, and good requests are compared."""
    asked: list[dict[str, str]] = []

    def send(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        asked.append(dict(headers))
        kind = headers.get("content-type", "")
        parts = read_form(body, kind)[0] if f"boundary={http_fuzz.BOUNDARY}" in kind else {"body": body}
        (reply,) = runtime.answer([Call(parts, headers)])
        return reply.status, reply.body

    found = http_fuzz.Answers()
    http_fuzz.fuzz(send, "vector", seeds(runtime.engine.signature), 100, 0, found)
    assert (found.faulty, found.spoiled, found.good) == (0, 0, 2)
    assert any(http_fuzz.BOUNDARY in headers.get("content-type", "") for headers in asked)
    answers = iter([(200, b"1"), (500, b'{"type":"JavaException"}'), (200, b"2"), (500, b'{"code":"X"}'), (0, b"")])
    http_fuzz.fuzz(lambda *_: next(answers), "vector", seeds(runtime.engine.signature), 3, 0, found)
    assert (found.faulty, found.spoiled, found.theirs) == (1, 1, {"JavaException": 1})
    missed = {finding.what for finding in http_fuzz.judged(found, 1, {"vector": 0.0}) if finding.reached is False}
    assert len(missed) == 3


def test_answers_in_batches_are_those_alone(runtime: Runtime) -> None:
    """Random batches of good and bad requests are compared with the requests alone, and a changed bit is seen."""
    good, bad = batch_isolation.known(runtime)
    assert len(good) > 50
    assert len(bad) > 200
    found = batch_isolation.isolate(runtime, good, bad, 300, 0)
    assert found.slots >= 300
    assert (found.changed, found.misjudged) == (0, 0)
    spoiled = [replace(one, reply=replace(one.reply, body=b"x")) for one in good]
    worse = batch_isolation.isolate(runtime, spoiled, bad, 100, 0)
    assert worse.changed == worse.good > 0
    judged = batch_isolation.judged({"vector": worse}, 100, 9)
    assert [one.what for one in judged if one.reached is False] == ["vector: good requests with other bits than alone"]


def test_losses_belong_to_the_kill_before_them() -> None:
    """Failed first tries count for the last kill; more than a batch, and a worker that stays away, miss the goal."""
    first = [Outcome(at, at, at, at, 200 if at % 10 else 0, True) for at in range(100)]
    kills = [worker_kills.Kill(5, 1.0), worker_kills.Kill(25, 2.0)]
    assert [len(one) for one in worker_kills.losses(first, kills)] == [2, 7]
    assert worker_kills.losses(first, kills)[0] == [(5, 5, 0), (15, 15, 0)]
    waited = Outcome(0, 4, 4, 64, 0, False)
    assert worker_kills.losses([waited], kills) == [[(-1, 59, 0)], []]
    told = {one.what: one.got for one in worker_kills.judged(_load(200), [waited], kills, 1.0)}
    assert told["longest time from a kill until a lost request was told"] == "59 s"
    missed = {one.what for one in worker_kills.judged(_load(200), first, kills, 1.0) if one.reached is False}
    assert missed == set()
    away = [worker_kills.Kill(5, float("inf"))]
    missed = {one.what for one in worker_kills.judged(_load(200, 0), first, away, 1.0) if one.reached is False}
    assert len(missed) == 4


def test_a_lost_request_is_asked_again() -> None:
    """A request that fails is repeated until it is answered, and its first try is kept."""
    statuses = iter([0, 503, 200, 200])
    asks = worker_kills.Retrying(lambda _: (next(statuses), True), wait_s=0)
    assert [asks(0), asks(1)] == [(200, True), (200, True)]
    assert [one.status for one in asks.first] == [0, 200]


def test_a_load_lasts_as_long_as_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent before, during and after the work, and an error of the work ends them."""
    monkeypatch.setattr(worker_kills, "_PAUSE_S", 0.02)
    marks = itertools.count()
    load = worker_kills.under_load(lambda index: (200, next(marks) >= 0), 1, lambda: time.sleep(0.01))
    assert len(load.outcomes) == next(marks) > 10
    with pytest.raises(IndexError):
        worker_kills.under_load(lambda _: (200, True), 1, lambda: [][1])


def test_an_old_version_may_answer_only_until_the_switch(pool: RequestPool) -> None:
    """While versions are exchanged both may answer; what is sent behind the switch needs the new one's outputs."""
    other = replace(pool, outputs=tuple(output + 1 for output in pool.outputs))
    versions = version_swaps.Versions({"1": pool, "2": other}, "1")
    answers = {version: [npy(output) for output in one.outputs] for version, one in (("1", pool), ("2", other))}
    assert versions.is_right(0, answers["1"][0], versions.allowed)
    assert not versions.is_right(0, answers["2"][0], versions.allowed)
    before = versions.allowed
    with versions.exchange("2"):
        assert all(versions.is_right(0, answers[version][0], versions.allowed) for version in "12")
    assert not versions.is_right(0, answers["1"][0], versions.allowed)
    assert versions.is_right(0, answers["1"][0], before)
    assert not versions.is_right(0, answers["2"][1], before)


def test_versions_go_back_and_forth(pool: RequestPool) -> None:
    """Swaps alternate, only the last keeps the other version, and rollbacks follow."""
    done: list[tuple[str, bool] | str] = []
    versions = version_swaps.Versions({"1": pool, "2": pool}, "1")
    version_swaps.exchange_often(versions, lambda *one: done.append(one), lambda: done.append("back"), 3, 2)
    assert done == [("2", False), ("1", False), ("2", True), "back", "back"]
    assert versions.allowed == {"2"}


def test_flipped_bits_are_found_in_every_file(bundle: Path) -> None:
    """The whole bundle passes again behind the flips, and a check that sees nothing is told."""

    def check(folder: Path) -> None:
        sums = read_sums(folder)
        for name in sums:
            check_file(folder, name, sums)

    chosen = [one for one in bit_flips.flips(bundle, 20, 0) if one[0].name != "SHA256SUMS"]
    assert len({path for path, _, _ in chosen}) >= 4
    assert bit_flips.undetected(bundle, check, chosen) == []
    missed = bit_flips.undetected(bundle, lambda _: None, chosen)
    assert len(missed) == len(chosen)
    assert [one.reached for one in bit_flips.judged(len(chosen), missed, 0.5)] == [False, True, None]


def test_the_slope_of_memory_leaves_the_warm_up_out() -> None:
    """Memory that grows only at first has no slope; a megabyte in an hour is one."""
    moments = [36.0 * at for at in range(100)]
    assert abs(soak.slope_mb_per_hour(moments, [min(at, 10) * 1e6 for at in range(100)])) < 1e-6
    assert soak.slope_mb_per_hour(moments, [1e4 * at for at in range(100)]) == pytest.approx(1.0)
    leak = [1e5 * at for at in range(100)]
    missed = [one.goal for one in soak.judged(_load(200), moments, leak, leak) if one.reached is False]
    assert missed == ["G9"]


def test_a_start_is_judged_without_the_load_of_the_model() -> None:
    """The CPU time of Java and the worker counts, that of the command, of the model and of the first start does not."""
    first, starts = cold_start.Start(9.0, 9.0, 9.0, 9.0), [cold_start.Start(9.0, 1.2, 1.0, 5.0)] * 3
    assert cold_start.judged(first, starts, 0.3)[0].reached
    assert not cold_start.judged(first, starts, 0.1)[0].reached


@pytest.mark.slow
@pytest.mark.torchserve
def test_a_real_server_is_measured(tmp_path: Path) -> None:
    """Cost and a killed worker in their shortest forms: every answer is right, and the worker comes back."""
    require_torchserve()
    file = convolutions(tmp_path / "light.onnx", 4)
    pool = RequestPool.of(file, 20)
    with serving([packed(file, tmp_path / "light")], "--workers", "1") as server:
        asks = {form: pool.ask(server.url, form) for form in request_cost.FORMS}
        found = request_cost.rounds(asks, raw_session(file), server.cpu_s, 1, 40, 4)
        assert all(found[0][form].cpu_ms > 0 for form in request_cost.FORMS)
        assert [(found[0][form].failed, found[0][form].wrong) for form in request_cost.FORMS] == [(0, 0)] * 2
        kill = worker_kills.kill_one(server, "light", random.Random(0))
        assert kill.back_s < worker_kills.BACK_S
        assert asks["npy"](3) == (200, True)
        assert cold_start.start_of(server, 1.0).worker_s > 0


@pytest.mark.slow
@pytest.mark.torchserve
def test_torchserve_forgets_what_it_collected_for_a_worker_that_dies(tmp_path: Path) -> None:
    """Such a request gets no answer, which docs/specs/serve.md 2.4 says; the next one is answered."""
    require_torchserve()
    file = convolutions(tmp_path / "light.onnx", 4)
    archive_of_it = packed(file, tmp_path / "light", "--max-batch-delay-ms", "1500")
    with serving([archive_of_it], "--workers", "1") as server:
        ask = RequestPool.of(file, 1).ask(server.url, timeout_s=4)
        found: list[tuple[int, bool]] = []
        waiting = threading.Thread(target=lambda: found.append(ask(0)))
        waiting.start()
        time.sleep(0.5)
        assert worker_kills.kill_one(server, "light", random.Random(0)).back_s < worker_kills.BACK_S
        waiting.join()
        assert found == [(NO_ANSWER, False)]
        assert ask(0) == (200, True)


def test_every_suite_has_options_with_defaults() -> None:
    """Every argument of a suite but the folder can be given on the command line."""
    for measure in SUITES.values():
        assert all(isinstance(value, int | float | str) for value in defaults(measure).values())


@pytest.mark.parametrize("suite", ["", *SUITES])
def test_help_tells_what_every_option_is(
    suite: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends well, although texts have percent signs, and names each suite, or each option with what it is."""
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as ended:
        main([*filter(None, [suite]), "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    if not suite:
        assert all(name in told for name in SUITES)
        return
    meant = descriptions(SUITES[suite])
    assert set(meant) == {"folder", *defaults(SUITES[suite])}
    assert all(len(text) > 10 for text in meant.values())
    assert all(meant[key] in told and f"--{key.replace('_', '-')} " in told for key in defaults(SUITES[suite]))
