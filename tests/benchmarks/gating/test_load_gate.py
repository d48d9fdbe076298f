"""The gate of loads: what is certain between two runs, and why a NOISY or INVALID measurement never passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from load_results import load_result

from retort.__main__ import main
from retort.benchmarks.gating.load_gate import gate_loads
from retort.benchmarks.scenarios.load_result import write_load
from retort.benchmarks.scenarios.load_state import judged
from retort.core.errors import UserError


@pytest.fixture(autouse=True)
def no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose noise floor is not known."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("slower", "outcome"), [(0.8, "passed"), (1.0, "cannot tell"), (1.3, "failed")])
def test_a_slower_load_fails(slower: float, outcome: str) -> None:
    """A run that is 30 % slower fails, a faster one passes, and the same is within what two runs of one file differ."""
    found = gate_loads(load_result("single-stream"), load_result("single-stream", slower=slower, seed=3), 5.0)
    assert found.outcome == outcome
    assert {check.model for check in found.checks} >= {"the median of fp32", "the 99th percentile of int8"}
    assert gate_loads(load_result("server"), load_result("server", seed=3), 15.0).outcome == "passed"


@pytest.mark.parametrize(
    ("changes", "word"), [({"steal_percent": 9.0}, "NOISY"), ({"failed": 300}, "INVALID"), ({"drift": 0.5}, "NOISY")]
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_doubtful_load_never_passes_and_says_why(changes: dict[str, Any], word: str, side: int) -> None:
    """Whichever of the two is in doubt, and however fast it seems, the gate is invalid with the reason."""
    pair = [load_result("single-stream", slower=1.0), load_result("single-stream", slower=0.3)]
    pair[side] = load_result("single-stream", slower=(1.0, 0.3)[side], **changes)
    found = gate_loads(pair[0], pair[1], 5.0)
    assert found.outcome == "invalid"
    which = ("the baseline", "the present result")[side]
    assert all(f"{which} is {word}: " in check.sentence for check in found.checks)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("single-stream", {}), ("server", {}), "measured differently: scenario single-stream and server"),
        (("cold", {}), ("cold", {}), "a result of cold cannot be gated"),
        (("server", {"p99_ms": 5.0}), ("server", {"p99_ms": 5.0}), "a search for the highest rate cannot be gated"),
        (("offline", {}), ("offline", {"cores": 8}), "different machines: "),
        (("offline", {}), ("offline", {"names": ("other",)}), "no common candidate"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    before: tuple[str, dict[str, Any]], after: tuple[str, dict[str, Any]], said: str
) -> None:
    """Other scenarios, rates without intervals, machines and candidates have a sentence each."""
    with pytest.raises(UserError, match=said):
        gate_loads(load_result(before[0], **before[1]), load_result(after[0], **after[1]), 5.0)


def exit_code(*arguments: str) -> object:
    """Run a command; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_the_command_gates_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bench gate` reads results of loads: 0 if they passed, 6 with the reason if one is NOISY or accuracy is asked."""
    files = {name: tmp_path / f"{name}.json" for name in ("before", "faster", "noisy")}
    write_load(judged(load_result("single-stream")), files["before"])
    write_load(judged(load_result("single-stream", slower=0.5)), files["faster"])
    write_load(judged(load_result("single-stream", slower=0.5, steal_percent=9.0)), files["noisy"])
    gate = ("bench", "gate", "--baseline", str(files["before"]))
    assert exit_code(*gate, str(files["faster"]), "--json") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "passed"
    assert exit_code(*gate, str(files["noisy"]), "--cannot-tell", "pass") == 6
    assert "the present result is NOISY: the hypervisor took 9.0 %" in capsys.readouterr().err
    assert exit_code(*gate, str(files["faster"]), "--accuracy-drop", "0.01") == 2
    assert "only the latency can be gated" in capsys.readouterr().err


def test_a_reason_of_several_checks_stands_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All checks of a doubtful load share one short reason, and the remedy names the option of `bench load`."""
    noisy = load_result("single-stream", steal_percent=9.0, drift=0.5)
    sentence = gate_loads(load_result("single-stream"), noisy, 5.0).sentence
    assert sentence.count("the present result is NOISY: ") == 1
    assert "the median of fp32 at" in sentence
    assert "the median of int8 at" in sentence
    files = [tmp_path / f"{name}.json" for name in ("before", "noisy")]
    write_load(judged(load_result("single-stream")), files[0])
    write_load(judged(noisy), files[1])
    assert exit_code("bench", "gate", "--baseline", str(files[0]), str(files[1])) == 6
    assert "--seconds" in capsys.readouterr().err
