"""INT8 is timed against FP32, the layers that make it slow are listed, and `prefer: fastest` ships the faster one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from retort.__main__ import main
from retort.benchmarks.timing.candidates import Bench
from retort.benchmarks.timing.clocks import single
from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import memory_budget
from retort.core.artifact import Artifact, is_finished, load_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import MachineError
from retort.core.facts.measurement_facts import PlacementFacts
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import QatOptions, QuantizeOptions
from retort.core.signature import Signature
from retort.pipeline import run, stages
from retort.pipeline.tuning import int8_speed, mixed_precision

NET = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
"""
RECIPE = """
name: own
prefer: {PREFER}
model: own_net:tiny
data: digits
stages:
  - quantize: {{samples: 32, method: minmax, correction: none, exclude: ["1"]}}
  - export
  - bench: {{batch_sizes: [1], blocks: 3, block_ms: 1, budget_s: 0.1}}
"""


SLOW, FAST = Ratio(0.8, 0.7, 0.9, 0.95), Ratio(1.5, 1.4, 1.6, 0.95)
ROUGH = QuantizeOptions(method="minmax", correction=("none",), smooth=False, samples=8, batch_size=8)
FOUND = PlacementFacts(float={"0": "for speed: told"}, tried=(), doubts=())
BUSY = PlacementFacts(float={}, tried=(), doubts=("busy",))


def call(arguments: list[str]) -> object:
    """Exit code of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of this file end early."""
    monkeypatch.setattr(int8_speed, "BLOCKS", 6)
    monkeypatch.setattr(int8_speed, "BUDGET_S", 0.1)


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    save_program(capture(net, {"x": torch.randn(2, 16)}), tmp_path / "net.pt2")
    return load_artifact(tmp_path / "net.pt2")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    values = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    split = ArraySplit({"x": values}, np.zeros(16, np.int64))
    return Context(Splits(split, split, split, split), scratch=tmp_path / "scratch")


class Clock:
    """A simulated machine: the ratio of each program in turn, and the result of a search for placements."""

    def __init__(
        self, patch: pytest.MonkeyPatch, said: list[Ratio], found: Sequence[PlacementFacts | BaseException]
    ) -> None:
        self.said, self.found, self.timed, self.searched = iter(said), iter(found), 0, 0
        patch.setattr(int8_speed, "_compared", self.compared)
        patch.setattr(mixed_precision, "search", self.search)

    def compared(self, *_: object) -> int8_speed.Ratios:
        """The next ratio."""
        self.timed += 1
        return {"1": next(self.said)}

    def search(self, *_: object) -> PlacementFacts:
        """The next result, or the next exception."""
        self.searched += 1
        found = next(self.found)
        if isinstance(found, BaseException):
            raise found
        return found


@pytest.mark.parametrize("first", [SLOW, FAST])
def test_only_what_is_slower_is_searched_and_made_again(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: Ratio
) -> None:
    """A program that is faster everywhere is kept; another one is made again without layers that are faster in FP32."""
    clock, place = Clock(monkeypatch, [first, FAST], [FOUND]), Place(tmp_path / "int8", "k")
    made = stages.quantize(ROUGH, parent, place, context)
    assert made.facts.get("float_for_speed", {}) == (FOUND.float if first is SLOW else {})
    assert (made.key, made.path) == ("k", place.directory)
    assert (clock.timed, clock.searched) == ((2, 1) if first is SLOW else (1, 0))
    assert int8_speed.speed_of(ROUGH, parent, made, context) == {"1": FAST}
    assert clock.timed <= 2
    assert not list(tmp_path.glob(".*-first*"))


def test_a_killed_search_goes_on_with_what_was_measured(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first program is stored only when it is final; its time is not measured twice."""
    place, clock = (
        Place(tmp_path / "int8", "k"),
        Clock(monkeypatch, [SLOW], [KeyboardInterrupt(), FOUND.model_copy(update={"float": {}})]),
    )
    with pytest.raises(KeyboardInterrupt):
        stages.quantize(ROUGH, parent, place, context)
    assert not is_finished(place.directory)
    made = stages.quantize(ROUGH, parent, place, context)
    assert made.path == place.directory
    assert is_finished(place.directory)
    assert (clock.timed, clock.searched) == (1, 2)
    assert not list(tmp_path.glob(".*-first*"))


@pytest.mark.parametrize(
    "failed",
    [
        MachineError("no session here", "use another machine"),
        BUSY,
    ],
)
def test_a_search_that_failed_or_was_noisy_is_not_taken_for_nothing_found(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failed: Any
) -> None:
    """Only a search with a result is stored; otherwise, the next program of the same key is searched again."""
    clock = Clock(monkeypatch, [SLOW, SLOW, FAST], [failed, FOUND])
    first = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    assert "float_for_speed" not in first.facts
    again = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    assert again.facts["float_for_speed"] == FOUND.float
    assert clock.searched == 2
    last = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    assert last.facts["float_for_speed"] == FOUND.float
    assert clock.searched == 2


def test_a_noisy_time_is_read_once(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A NOISY ratio is returned to the first caller, and measured again for the next one."""
    noisy = replace(FAST, doubts=("the machine was busy",))
    clock = Clock(monkeypatch, [noisy, FAST], [])
    made = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    told = [int8_speed.speed_of(ROUGH, parent, made, context)["1"] for _ in range(3)]
    assert told == [noisy, FAST, FAST]
    assert clock.timed == 2


def test_a_training_is_searched_first_and_keeps_the_placement_it_began_with(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With qat, the search comes before the only training; an interrupted training resumes on the same program."""
    options = ROUGH.model_copy(update={"qat": QatOptions(epochs=1)})
    place, asked = Place(tmp_path / "int8", "k"), []
    clock = Clock(monkeypatch, [FAST], [MachineError("no session", "another"), FOUND])

    def train(given: QuantizeOptions, *_: object) -> Artifact:
        asked.append(dict(given.float_layers))
        if len(asked) == 1:
            raise KeyboardInterrupt
        return stages._quantize_once(ROUGH, parent, place, context)

    with pytest.raises(KeyboardInterrupt):
        int8_speed.never_slower(train, options, parent, place, context)
    int8_speed.never_slower(train, options, parent, place, context)
    assert asked == [{}, {}]
    assert clock.searched == 1
    other = replace(context, scratch=tmp_path / "elsewhere")
    int8_speed.never_slower(train, options, parent, place, other)
    assert asked[-1] == FOUND.float


def test_recipes_and_commands_make_one_program_with_one_speedup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort quantize` with a recipe's options finds the recipe's program and times, and measures nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(PREFER="asked"))
    clock = Clock(monkeypatch, [SLOW, FAST], [FOUND.model_copy(update={"float": {"3": "for speed: told"}})])
    made = run.run(tmp_path / "recipe.yaml", tmp_path / "runs", until="quantize").artifacts
    assert made["quantize"].facts["float_for_speed"] == {"3": "for speed: told"}
    words = ["--samples", "32", "--method", "minmax", "--correction", "none", "--exclude", "1", "--data", "digits"]
    capsys.readouterr()
    assert call(["quantize", str(made["capture"].path), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["key"] == made["quantize"].key
    assert Ratio.from_dict(told["speed"]["1"]) == FAST
    assert (clock.timed, clock.searched) == (2, 1)


@pytest.mark.parametrize(
    ("share", "scatter", "verdict"), [(0.5, 0.01, "faster"), (2.0, 0.01, "slower"), (1.0, 0.01, "cannot tell")]
)
def test_a_doubled_clock_shows_the_three_verdicts(
    parent: Artifact,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    scatter: float,
    verdict: str,
) -> None:
    """If INT8 takes half, twice or the same time as FP32, the verdict is as expected."""
    now, random = [0], np.random.default_rng(0)

    def clock() -> int:
        now[0] += 40
        return now[0]

    class Timed:
        backend, providers = "test", ()

        def __init__(self, nanoseconds: float, signature: Signature) -> None:
            self.nanoseconds, self.signature = nanoseconds, signature

        def run(self, feeds: object) -> dict[str, Any]:
            now[0] += int(self.nanoseconds * random.lognormal(0, scatter))
            return {}

        def close(self) -> None:
            pass

    signature, took = _signature_of(parent), _turns(1e6, 1e6 * share)

    files: dict[Path, float] = {}

    def written(*_: object, **__: object) -> Path:
        path = Path(str(len(files)))
        files[path] = next(took)
        return path

    def opened(path: Path) -> Timed:
        return Timed(files[path], signature)

    monkeypatch.setattr("retort.pipeline.tuning.int8_speed.file_of", written)
    monkeypatch.setattr("retort.pipeline.tuning.int8_speed.opened", opened)
    monkeypatch.setattr("retort.pipeline.tuning.timed_files.opened", opened)
    monkeypatch.setattr(Bench, "clocks", lambda *_: single(clock))
    found = int8_speed._compared(ROUGH, parent, parent, context)
    assert {ratio.verdict for ratio in found.values()} == {verdict}
    assert set(found) == {"1", "32"}


@pytest.mark.usefixtures("brief")
def test_batches_that_do_not_fit_into_the_memory_are_not_timed(
    parent: Artifact, context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The largest batch that fits takes their place, and the output says so."""
    monkeypatch.setattr(memory_budget, "rows_within", lambda *_: 5)
    wanted = ROUGH.model_copy(update={"timed_batches": (1, 16, 32)})
    found = int8_speed._compared(wanted, parent, parent, replace(context, console=Console()))
    assert set(found) == {"1", "5"}
    assert "batches of up to 5 are timed" in " ".join(capsys.readouterr().err.split())


def _turns(*values: float) -> Iterator[float]:
    return iter(values)


def _signature_of(program: Artifact) -> Signature:
    from retort.core.formats.program_file import read_signature

    return read_signature(program.main)


@pytest.mark.parametrize("prefer", ["fastest", pytest.param("asked", marks=pytest.mark.slow)])
def test_a_net_that_int8_slows_down_is_shipped_as_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefer: str
) -> None:
    """If INT8 is slower, the reason is reported; `fastest` ships FP32, `asked` INT8."""
    monkeypatch.setattr(int8_speed, "_compared", lambda *_: {"1": SLOW})
    monkeypatch.setattr(int8_speed, "look_for_faster", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(PREFER=prefer))
    outcome = run.run(tmp_path / "recipe.yaml", tmp_path / "runs", Console())
    told = " ".join(capsys.readouterr().err.split())
    assert "speedup over FP32" in told
    assert "1 stays in floating point (excluded by the recipe)" in told
    shipped = operators(outcome.artifacts["export"].main)
    assert ("QuantizeLinear" in shipped) is (prefer == "asked")
    assert ("the FP32 program is shipped" in told) is (prefer == "fastest")
    again = run.run(tmp_path / "recipe.yaml", tmp_path / "runs")
    assert again.artifacts["export"].key == outcome.artifacts["export"].key


@pytest.mark.usefixtures("brief")
def test_the_quantize_command_times_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort quantize` ends with the speedup and the floating-point layers; `timed=false` does not measure it."""
    monkeypatch.setattr(int8_speed, "look_for_faster", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    (tmp_path / "own_net.py").write_text(NET)
    assert call(["capture", "own_net:tiny", "--data", "digits", "--out", "net"]) == 0
    given = [
        "quantize",
        "net",
        "--data",
        "digits",
        "--json",
        "--exclude",
        "1",
        "--correction",
        "none",
        "--method",
        "minmax",
    ]
    capsys.readouterr()
    assert call([*given, "--out", "timed"]) == 0
    told = capsys.readouterr()
    ratios = json.loads(told.out.splitlines()[-1])["speed"]
    assert all(0 < item["low"] <= item["value"] for item in ratios.values())
    assert {item["clock"] for item in ratios.values()} == {"thread"}
    assert len(ratios) == 2
    assert call([*given, "--out", "untimed", "--set", "timed=false"]) == 0
    assert "speed" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_cannot_be_timed_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that cannot run as ONNX is quantized without timing, and the reason is reported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_net.py").write_text(NET)
    assert call(["capture", "own_net:tiny", "--data", "digits", "--out", "net"]) == 0

    def refuse(*_: object, **__: object) -> None:
        raise MachineError("no session here", "use another machine")

    monkeypatch.setattr("retort.pipeline.tuning.int8_speed.file_of", refuse)
    given = ["quantize", "net", "--data", "digits", "--correction", "none", "--method", "minmax", "--out", "int8"]
    assert call(given) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "INT8 was not timed against FP32: no session here" in told
    assert (tmp_path / "int8" / "manifest.json").is_file()


def test_too_few_rounds_for_an_interval_are_no_reason_to_search() -> None:
    """A large model that is timed twice and is twice as fast is not reported as slower."""
    assert not int8_speed.is_slower({"32": Ratio(2.0, None, None, 0.95)})
    assert int8_speed.is_slower({"32": Ratio(0.9, None, None, 0.95)})
    assert int8_speed.is_slower({"1": Ratio(1.1, 0.99, 1.2, 0.95)})


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        (Ratio(0.8, 0.7, 0.9, 0.95), "INT8 is slower than FP32 at batch 1"),
        (Ratio(2.25, None, None, 0.95), "is unknown: too few rounds were timed for an interval"),
        (Ratio(1.02, 0.97, 1.08, 0.95), "is unknown: the interval contains 1"),
        (Ratio(1.9, 1.8, 2.0, 0.95, doubts=("the ratio moved",)), "is unknown: the ratio moved"),
        (Ratio(1.9, 1.8, 2.0, 0.95), ""),
    ],
)
def test_the_report_states_what_was_measured(ratio: Ratio, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """ "slower" and "cannot tell" differ, noise is reported, and no cause is stated that was not measured."""
    int8_speed._report_speed({"1": ratio}, [], Console())
    shown = " ".join(capsys.readouterr().err.split())
    assert int8_speed.is_faster({"1": ratio}) is (ratio.value > 1)
    assert told in shown
    assert ("warning" in shown) is bool(told)
    assert "conversions" not in shown
    assert ("all layers are INT8" in shown) is (ratio.verdict == "slower" or ratio.why_undecided.endswith("contains 1"))
