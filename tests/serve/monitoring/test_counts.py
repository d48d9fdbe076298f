"""Counts of served models: quantiles can be read from them, processes add up, and nothing of a request is in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from quantiles import Samples, quantile, samples

from retort.serve.monitoring.exposition import exposition
from retort.serve.monitoring.families import FAMILIES, HANDLER, PHASE, TIMES_S, Family
from retort.serve.monitoring.recorder import FOLDER, Counting, shared_recorder
from retort.serve.monitoring.request_age import LONGEST_S, age_s
from retort.serve.monitoring.shared_counts import Counts, Unused, counts_in
from retort.serve.requests.replies import Answer

LABELS = {"model": "m", "version": "1"}
OK = Answer(200, b"")


def _read(folder: Path) -> Samples:
    return samples(exposition(counts_in(folder)))


def _total(found: Samples, name: str = f"{HANDLER}_count") -> float:
    return sum(value for (sample, _), value in found.items() if sample == name)


@pytest.mark.parametrize("middle_s", [2e-4, 3e-3, 0.04, 1.0])
def test_quantiles_are_within_a_tenth_of_the_truth(middle_s: float) -> None:
    """The median and p99 of Prometheus differ by less than 10 % from those of the times, at any speed of a model."""
    times = np.random.default_rng(3).lognormal(np.log(middle_s), 0.4, 4000)
    counting = Counting(LABELS)
    for took in times:
        counting.handled(took, [OK])
    found = samples(exposition(counting.counts()))
    for share in (0.5, 0.9, 0.99):
        read, true = quantile(found, HANDLER, share), float(np.quantile(times, share))
        assert read == pytest.approx(true, rel=0.1)


def test_neighbouring_bounds_of_times_differ_by_at_most_a_quarter() -> None:
    """The buckets reach from below 50 µs to 10 s, are few enough to store, and none is wider than 25 %."""
    assert TIMES_S[0] <= 50e-6
    assert TIMES_S[-1] == 10.0
    assert max(b / a for a, b in pairwise(TIMES_S)) <= 1.26
    assert sum(family.cells * len(family.series) for family in FAMILIES) < 700


def test_the_text_is_what_prometheus_reads() -> None:
    """Buckets never fall, the last is the count, and each family has one TYPE before its samples."""
    counting = Counting({"model": 'a"b\\c\nd', "version": "1"})
    for seconds in (1e-6, 0.003, 0.0031, 99.0):
        counting.phase("decode", seconds)
    text = exposition(counting.counts()).decode()
    assert r'model="a\"b\\c\nd"' in text
    assert [line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")] == ["histogram"] * 5 + [
        "counter"
    ]
    line = re.compile(r'[a-z_]+\{([a-z]+="(\\["\\n]|[^"\\\n])*",?)*\} [0-9.e+-]+')
    assert all(line.fullmatch(one) for one in text.splitlines() if not one.startswith("#"))
    found = samples(text.encode())
    decode = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == f"{PHASE}_bucket"
        and dict(labels)["phase"] == "decode"
    }  # fmt: skip
    assert list(decode.values()) == sorted(decode.values())
    assert (decode["4.7e-05"], decode["0.0027"], decode["0.0033"], decode["10.0"], decode["+Inf"]) == (1, 1, 3, 3, 4)


def test_processes_add_up_and_a_new_one_goes_on_where_a_dead_one_ended(tmp_path: Path) -> None:
    """Two workers count in two files; one that follows a killed one takes over its file, so no sum falls or doubles."""
    first, second = Counting(LABELS, tmp_path), Counting(LABELS, tmp_path)
    first.handled(0.002, [OK, OK])
    second.handled(0.002, [OK])
    assert _total(_read(tmp_path)) == 3
    first.close()
    third = Counting(LABELS, tmp_path)
    assert _total(_read(tmp_path)) == 3
    third.handled(0.002, [OK])
    other = Counting({"model": "m", "version": "2"}, tmp_path)
    other.handled(0.002, [OK])
    found = _read(tmp_path)
    assert _total(found) == 5
    assert len(list(tmp_path.iterdir())) == 3
    assert {dict(labels)["version"] for _, labels in found} == {"1", "2"}


def test_versions_that_nobody_serves_go_after_some_time(tmp_path: Path) -> None:
    """Both files of a swapped version are removed once neither was held for the time; those of others stay."""
    old, twin = Counting(LABELS, tmp_path), Counting(LABELS, tmp_path)
    current = Counting({"model": "m", "version": "2"}, tmp_path)
    for one in (old, twin, current):
        one.handled(0.002, [OK])
    unused = Unused(tmp_path, 10.0)
    old.close()
    for now in (0.0, 20.0):
        unused.remove(now)
    assert _total(_read(tmp_path)) == 3
    twin.close()
    unused.remove(25.0)
    again = Counting(LABELS, tmp_path)
    unused.remove(30.0)
    again.close()
    for now, left in ((31.0, 3), (40.9, 3), (41.0, 1)):
        unused.remove(now)
        assert _total(_read(tmp_path)) == left


def test_a_damaged_file_costs_only_its_own_counts(tmp_path: Path) -> None:
    """Files that are empty, cut or foreign are left out of the text."""
    counting = Counting(LABELS, tmp_path)
    counting.handled(0.002, [OK])
    whole = next(tmp_path.iterdir()).read_bytes()
    for name, content in {"a": b"", "b": whole[:200], "c": b"x" * 500, "d": b"RTCOUNT1\2\0\0\0[]"}.items():
        (tmp_path / f"{name}.counts").write_bytes(content)
    assert _total(_read(tmp_path)) == 1


def test_buckets_of_another_version_are_not_mixed() -> None:
    """Where two versions of Retort count a name in other buckets, the first is shown."""
    old = Counts(LABELS, (Family(HANDLER, "old", (1.0,)),), [5.0, 0.0, 2.0])
    found = samples(exposition([old, *Counting({"model": "n", "version": "1"}).counts()]))
    handled = {labels for name, labels in found if name == f"{HANDLER}_count"}
    assert [dict(labels)["model"] for labels in handled] == ["m"]


def test_a_folder_that_cannot_be_used_costs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, with one that cannot be written, or on a full disk, requests are still answered."""
    monkeypatch.delenv(FOLDER, raising=False)
    assert shared_recorder("m", "1") is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    assert shared_recorder("m", "1") is None
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone" / "metrics"))  # as of a server that has ended
    assert shared_recorder("net", "1") is None
    assert not (tmp_path / "gone").exists()
    monkeypatch.setenv(FOLDER, str(tmp_path / "new"))
    counting = shared_recorder("m", "1")
    assert counting is not None

    def full(*given: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        counting.handled(0.002, [OK])
    counting.handled(0.002, [OK])
    assert _total(_read(tmp_path / "new")) == 2


def test_statuses_and_operations_have_a_bounded_number_of_series() -> None:
    """A status that no answer has is counted as another; the number of series never grows."""
    counting = Counting(LABELS)
    before = len(samples(exposition(counting.counts())))
    counting.answered(Answer(418, b""))
    counting.handled(0.1, [Answer(400, b"secret", operation="explain"), Answer(413, b"", cause="secret")])
    text = exposition(counting.counts())
    found = samples(text)
    assert len(found) == before
    assert b"secret" not in text
    counted = {labels: value for (name, labels), value in found.items() if name == "retort_requests_total" and value}
    assert {(dict(labels)["operation"], dict(labels)["status"]) for labels in counted} == {
        ("predict", "other"),
        ("explain", "400"),
        ("predict", "413"),
    }
    assert _total(found) == 1  # explanations are no predictions


NOW = 1_700_000_000.5


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("t=1700000000.250", 0.25),
        (" 1700000000250 ", 0.25),
        ("t=1700000000250000", 0.25),
        ("1700000000250000000", 0.25),
        ("t=1700000001", 0.0),
        ("t=1700000002", None),
        (f"t={NOW - LONGEST_S - 1:.3f}", None),
        ("t=0", None),
        ("t=-1", None),
        ("t=1e99", None),
        ("t=nan", None),
        ("", None),
        ("t=" + "9" * 5000, None),
        ("t=٣", None),
    ],
)
def test_the_age_of_a_request_follows_from_its_header(text: str, age: float | None) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds are told apart; what cannot be true counts as nothing."""
    assert age_s(text, NOW) == (None if age is None else pytest.approx(age, abs=1e-6))


def test_the_header_of_a_file_describes_its_counts(tmp_path: Path) -> None:
    """A reader needs no table of its own, so that archives of other versions of Retort are read as well."""
    Counting(LABELS, tmp_path).handled(0.002, [OK])
    content = next(tmp_path.iterdir()).read_bytes()
    head = json.loads(content[12 : 12 + int.from_bytes(content[8:12], "little")])
    assert head["labels"] == LABELS
    assert [family["name"] for family in head["families"]] == [family.name for family in FAMILIES]


def test_every_observation_is_seen_once(tmp_path: Path) -> None:
    """Each kind of observation changes exactly its own series."""
    counting = Counting(LABELS, tmp_path)
    made: dict[str, Callable[[], None]] = {
        "retort_phase_seconds": lambda: counting.phase("encode", 0.1),
        "retort_batch_rows": lambda: counting.ran(0.1, 0.2, 3, 1),
        "retort_request_age_seconds": lambda: counting.arrived({"x-request-start": "t=9999999999"}),
        HANDLER: lambda: counting.handled(0.1, [OK] * 3),
    }
    for act in made.values():
        act()
    found = _read(tmp_path)
    totals = {family.name: _total(found, f"{family.name}_count") for family in FAMILIES if family.bounds}
    assert totals == {
        HANDLER: 3, "retort_phase_seconds": 3, "retort_request_age_seconds": 0, "retort_batch_rows": 1,
        "retort_batch_padded_ratio": 1,
    }  # fmt: skip
    assert _total(found, "retort_batch_padded_ratio_sum") == 0.25
