"""The self-test at a machine's first comparison: once, short, told in one line, and without it nothing breaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from known import known

from retort.benchmarks.repeatability import first_use, noise_floor, self_comparison
from retort.benchmarks.repeatability.first_use import known_floors
from retort.benchmarks.small_networks import make_nets
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Console
from retort.core.options.stage_options import BenchOptions

NOISY = {"ratio": 1.0, "low": 0.9, "noisy": ["the hypervisor took 9 %"], "pressure_percent": None}


@pytest.fixture(autouse=True)
def first_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing was compared yet, and a self-test of a second; gives its cache folder."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RETORT_SELF_TEST")
    monkeypatch.setattr(first_use, "BUDGET_S", 0.1)
    monkeypatch.setattr(first_use, "BLOCK_MS", 1.0)
    return tmp_path / "cache" / "noise"


@pytest.fixture
def models(tmp_path: Path) -> list[Artifact]:
    """Two networks."""
    return [load_artifact(path) for path in make_nets(tmp_path)]


def counted_comparisons(monkeypatch: pytest.MonkeyPatch, then: BaseException | None = None) -> list[int]:
    """The seeds of the comparisons that were made; the second one raises ``then``."""
    append, seeds = self_comparison.append_row, list[int]()

    def noted(path: Path, row: Mapping[str, Any]) -> None:
        append(path, row)
        seeds.append(row["seed"])
        if then is not None and len(seeds) == 2:
            raise then

    monkeypatch.setattr(self_comparison, "append_row", noted)
    return seeds


def test_only_the_first_comparison_tests_the_machine(
    models: list[Artifact], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It makes eight short comparisons, says what it found in one line and stores it; the second only reads it."""
    seeds, console = counted_comparisons(monkeypatch), Console()
    (found,) = known_floors(models, BenchOptions(), console)
    assert seeds == list(range(8))
    (line,) = capsys.readouterr().err.splitlines()
    assert "first comparison on this machine with ONNX Runtime on the CPU" in line
    assert f"differs from itself by up to {found.floor:.2%}" in line
    assert known_floors(models, BenchOptions(), console) == [found]
    assert (len(seeds), capsys.readouterr().err) == (8, "")
    assert known(noise_floor.stored(found.machine, found.runtime, 1)) == found


def test_it_can_be_turned_off(models: list[Artifact], monkeypatch: pytest.MonkeyPatch, first_machine: Path) -> None:
    """Without a second model, with the option, or with the variable, nothing is measured."""
    assert known_floors(models[:1], BenchOptions(), Console()) == []
    assert known_floors(models, BenchOptions(self_test=False), Console()) == []
    monkeypatch.setenv("RETORT_SELF_TEST", "off")
    assert known_floors(models, BenchOptions(), Console()) == []
    assert not first_machine.exists()


def test_an_interrupted_test_goes_on(models: list[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command and keeps what was measured; the next comparison makes the rest."""
    seeds = counted_comparisons(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        known_floors(models, BenchOptions(), Console())
    (found,) = known_floors(models, BenchOptions(), Console())
    assert seeds == list(range(8))
    assert len(found.ratios) + found.noisy == 8


def test_a_busy_machine_gives_no_floor_and_no_error(
    models: list[Artifact], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first_machine: Path
) -> None:
    """After three NOISY comparisons it gives up, says why in one line, and leaves nothing behind."""
    made = list[int]()

    def compared(model: Artifact, options: BenchOptions, seeds: range, batch: int) -> Any:
        for seed in seeds:
            made.append(seed)
            yield NOISY | {"seed": seed}

    monkeypatch.setattr(self_comparison, "compared", compared)
    assert known_floors(models, BenchOptions(threads=2), Console()) == []
    assert made == [0, 1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 threads: its noise could not be measured (comparisons are NOISY: the hypervisor took 9 %)" in line
    assert list(first_machine.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(
    models: list[Artifact], first_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the cache folder is a file, the comparison goes on without a floor."""
    first_machine.parent.mkdir()
    first_machine.write_text("")
    assert known_floors(models, BenchOptions(), Console()) == []
    assert "its noise could not be measured" in capsys.readouterr().err


def test_a_slow_model_is_given_up(models: list[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that takes longer than its limit ends after the comparison in which this is found."""
    monkeypatch.setattr(first_use, "LIMIT_S", 0.0)
    seeds = counted_comparisons(monkeypatch)
    assert known_floors(models, BenchOptions(), Console()) == []
    assert seeds == [0]
