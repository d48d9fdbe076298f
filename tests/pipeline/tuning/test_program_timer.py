"""Timers for a latency budget: subgraphs of a model, the user's function, this machine, and the command line."""

from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from known import known
from torch import nn

from retort.__main__ import main
from retort.cli.flags import build_options
from retort.compress.capture.capture_program import capture
from retort.compress.graph.cost import measure
from retort.compress.program import Program, reexport, save_program
from retort.compress.pruning.latency.latency_budget import LatencyBudget, Measured
from retort.compress.pruning.step import cut_and_prove
from retort.core.errors import MachineError, UserError
from retort.core.options.recipe import parse_recipe
from retort.core.options.stage_options import PruneOptions
from retort.export.translate import to_onnx
from retort.pipeline.tuning import program_timer
from retort.pipeline.tuning.program_timer import CallbackTimer, LocalTimer, nothing, split, timer_for, without_call

DEVICE = '''
"""A device that is not here: its time follows the weights of a file, padded to 8."""

import math

import onnx

def measure(path, batch):
    sizes = [item.dims for item in onnx.load(path).graph.initializer if len(item.dims) > 1]
    return 0.001 + batch * sum(math.prod(8 * math.ceil(size / 8) for size in dims) for dims in sizes) * 1e-4

def broken(path, batch):
    raise OSError("the board is off")

def off(path, batch):
    from retort.core.errors import MachineError

    raise MachineError("the board is off", "switch it on")

def silent(path, batch):
    return None
'''


@functools.cache
def program_of() -> Program:
    """A program that no test changes."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 4)]
    return capture(nn.Sequential(*layers), {"x": torch.randn(4, 16)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "board.py").write_text(DEVICE)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 16)).astype("float32"), draw.integers(0, 4, 60)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    save_program(program_of(), tmp_path / "net.pt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(str(left.value.code or 0))


def test_parts_of_a_model_run_alone() -> None:
    """A model is split by its outputs; each part has its own nodes, weights and inputs, and passes the checker."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(5, 6)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.one(a).relu(), self.two(b)

    program = capture(Two(), {"a": torch.randn(2, 3), "b": torch.randn(2, 5)}, output_names=["p", "q"])
    parts = split(to_onnx(reexport(program), program.signature), [["p"], ["q"]])
    assert [[item.name for item in part.graph.input] for part in parts] == [["a"], ["b"]]
    assert [sorted(tuple(w.dims) for w in part.graph.initializer)[0] for part in parts] == [(4,), (6,)]
    for part in [*parts, nothing()]:
        onnx.checker.check_model(part, full_check=True)


def test_the_cost_of_a_call_is_taken_off() -> None:
    """The time of an empty model is subtracted, and results stay positive if noise makes them smaller than that."""
    assert without_call([5.0, 1.5, 1.0]) == [4.0, 0.5]
    assert without_call([0.9, 1.0]) == [pytest.approx(0.018)]


@pytest.mark.parametrize(("name", "message"), [("broken", "raised OSError: the board is off"), ("silent", "None")])
def test_a_timer_that_fails_is_named(folder: Path, name: str, message: str) -> None:
    """An exception of the user's function, or a result that is not a time, is reported with its name."""
    options = PruneOptions(latency=0.5, timer=f"board:{name}")
    timer = timer_for(options, {}, folder)
    with pytest.raises(UserError, match=message) as caught:
        timer.compare(program_of(), program_of())
    assert f"board:{name}" in str(caught.value)


def test_a_timer_that_fails_stops_the_pruning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a board is off, the command stops with that message; the model is not taken for one without times."""
    assert command("prune", "net.pt2", "--data", "data.npz", "--latency", "0.5x", "--timer", "board:broken") == 2
    assert "raised OSError: the board is off" in " ".join(capsys.readouterr().err.split())


def test_a_timer_that_is_not_there_is_refused_with_the_nearest_name(folder: Path) -> None:
    """For a misspelt function, the message has the nearest name."""
    with pytest.raises(UserError, match="did you mean 'measure'"):
        timer_for(PruneOptions(latency=0.5, timer="board:mesure"), {}, folder)


def test_the_table_is_measured_again_when_the_function_changes(folder: Path) -> None:
    """The identity of a function includes the content of its module."""
    options = PruneOptions(latency=0.5, timer="board:measure")
    before = timer_for(options, {}, folder).identity
    (folder / "board.py").write_text(DEVICE.replace("0.001", "0.002"))
    assert timer_for(options, {}, folder).identity != before


def test_prune_to_a_latency_on_another_device_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--latency 0.5x --timer board:measure` cuts until the function returns half of the dense time, within 5 %."""
    words = ["--data", "data.npz", "--latency", "0.5x", "--batch", "2", "--timer", "board:measure"]
    assert command("prune", "net.pt2", *words, "--set", "recover=null", "--json", "--out", "cut") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["facts"]["latency"]
    assert found["within"]
    assert math.isclose(found["got_share"], 0.5, rel_tol=0.05)
    assert found["batch"] == 2
    assert "board:measure" in found["device"]


@pytest.mark.slow
def test_a_latency_out_of_reach_is_one_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreachable latency ends with exit code 2, the best value that was found, and no artifact."""
    words = ["--data", "data.npz", "--latency", "0.02x", "--timer", "board:measure", "--set", "recover=null"]
    assert command("prune", "net.pt2", *words, "--out", "cut") == 2
    assert "cannot be reached; the best found takes" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "cut").exists()


def test_the_help_teaches_latency(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`retort prune --help` describes the latency budget, its batch and its function, with an example."""
    monkeypatch.setenv("COLUMNS", "200")
    assert command("prune", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("--latency", "0.5x means twice as fast", "--batch", "--timer", "package.module:function", "--align"):
        assert words in text


def test_recipes_and_flags_read_quantities() -> None:
    """`0.5x`, `2 ms`, `500 kB` and `auto` mean the same in a recipe and on the command line."""
    stages = [
        {"prune": {"latency_ms": "2 ms", "batch": 8, "layers": {"conv*": "50%"}}},
        {"sparsify": {"pattern": "2:4"}},
    ]
    recipe = parse_recipe({"model": "a:b", "data": "digits", "stages": stages})
    options = recipe.stages[0].options
    assert (options.latency_ms, options.batch, options.layers, options.align) == (2.0, 8, {"conv*": 0.5}, "auto")
    flags = build_options(PruneOptions, {"size_bytes": "500 kB", "align": "16"}, ["layers={stem: 0.5}"])
    assert (flags.size_bytes, flags.align, flags.layers) == (500_000, 16, {"stem": 0.5})
    with pytest.raises(UserError, match="--latency: '2 parsecs' does not have the form"):
        build_options(PruneOptions, {"latency": "2 parsecs"}, [])
    faults = parse_faults({"model": "a:b", "data": "digits", "stages": [{"prune": {"latancy": 0.5}}]})
    assert "did you mean 'latency'" in faults


def parse_faults(raw: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe(raw)
    return str(caught.value)


def test_local_times_are_of_the_files_that_would_be_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subgraphs and whole programs are timed in ONNX Runtime, and a ratio has an interval around it."""
    for name, value in {"BLOCKS": 6, "BLOCK_MS": 1.0, "BUDGET_S": 0.2}.items():
        monkeypatch.setattr(program_timer, name, value)
    program = program_of()
    timer = LocalTimer(2, 1, {"x": np.ones((2, 16), np.float32)})
    assert "onnxruntime" in timer.identity
    assert timer.subgraphs(program, [["output"]])[0] > 0
    found = timer.compare(program, program)
    assert found.ms > 0
    speedup = known(found.speedup)
    assert 0 < known(speedup.low) <= speedup.value <= known(speedup.high)


def test_callbacks_are_asked_in_turns() -> None:
    """Dense and candidate are timed alternately, so that a drift of the device affects both."""
    asked: list[int] = []

    def function(path: str, batch: int) -> float:
        asked.append(Path(path).stat().st_size)
        return 1.0 + len(asked)

    small = capture(nn.Linear(2, 2), {"x": torch.randn(2, 2)})
    CallbackTimer(function, "drifting", 1, 1).compare(program_of(), small)
    assert len(set(asked)) == 2
    assert asked[0] != asked[1]
    assert asked[::2] == [asked[0]] * (len(asked) // 2)


@pytest.mark.slow
def test_a_latency_on_this_machine_is_reached(tmp_path: Path) -> None:
    """Half of the time on this machine is requested: a cut program and a verdict on its times are the result."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5)]
    images = torch.rand(4, 3, 32, 32)
    program = capture(nn.Sequential(*layers), {"image": images})
    options = PruneOptions(latency=0.5, batch=4, recover=None)
    timer = LocalTimer(4, 1, {"image": images.numpy()})
    clock = LatencyBudget(program, options, timer, Measured(None, ""), tmp_path)
    whole = measure(program.module, program.example).macs
    pruned = cut_and_prove(program, options, clock.decide(0, 0.5, True))
    found = clock.facts(pruned.program)
    low, high = (known(end) / found.asked_ms for end in (found.got_low_ms, found.got_high_ms))
    assert found.tried
    assert pruned.cost.macs < whole
    assert found.verdict == "landed" if low >= 0.95 and high <= 1.05 else found.verdict != "landed"


@pytest.fixture
def wide(folder: Path) -> str:
    """A program whose products take most of its time."""
    torch.manual_seed(0)
    layers = [nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 768), nn.ReLU(), nn.Linear(768, 4)]
    save_program(capture(nn.Sequential(*layers), {"x": torch.randn(4, 16)}), folder / "wide.pt2")
    return "wide.pt2"


@pytest.mark.slow
def test_prune_to_a_latency_on_a_device_of_edge(
    wide: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--timer edge:HOST` times subgraphs and whole programs by the program of `retort edge`, and leaves nothing."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    device = f"edge:local,python={sys.executable}"
    words = ["--data", "data.npz", "--latency", "0.6x", "--batch", "8", "--timer", device, "--set", "recover=null"]
    assert command("prune", wide, *words, "--json", "--out", "cut") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["facts"]["latency"]
    assert found["got_share"] < 0.75
    assert found["device"].startswith("local (")
    assert not (folder / "home/retort-edge").exists()


def test_a_device_that_is_away_stops_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A timer whose device vanished is an error; its subgraphs are not taken as free."""
    words = ["--data", "data.npz", "--latency", "0.5x", "--timer", "board:off", "--set", "recover=null"]
    assert command("prune", "net.pt2", *words, "--out", "cut") == MachineError.exit_code
    assert "the board is off" in capsys.readouterr().err
    assert not (folder / "cut").exists()


@pytest.mark.slow
def test_prune_to_a_latency_with_data_of_other_names(wide: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The only input of a file of data stands for the only input of the program, on this machine too."""
    words = ["--data", "data.npz", "--latency", "0.7x", "--batch", "8", "--set", "recover=null"]
    assert command("prune", wide, *words, "--json", "--out", "cut") == 0
    assert json.loads(capsys.readouterr().out)["facts"]["latency"]["batch"] == 8
