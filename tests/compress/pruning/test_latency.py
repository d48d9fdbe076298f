"""Budgets in milliseconds: the table, the choice of widths, the final measurement, rejections, and resumption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone, cost, load_program, store
from retort.compress.pruning.coupling.shapes import propagate
from retort.compress.pruning.latency.latency_budget import LatencyBudget, Measured
from retort.compress.pruning.latency.latency_table import Compared, Table
from retort.compress.pruning.latency.predictor import Curves, path
from retort.compress.pruning.latency.search import TOLERANCE
from retort.compress.pruning.latency.subgraphs import Subgraphs
from retort.compress.pruning.stage import prune
from retort.compress.pruning.step import cut_and_prove, rank
from retort.compress.pruning.surgery.slice_parameters import cut
from retort.core.artifact import Artifact
from retort.core.aten_names import operator_name
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import UserError, VerificationError
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import PruneOptions

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A slow layer (wide, on large maps) and a fast one (hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.wide, self.back = nn.Conv2d(32, 64, 3, 1, 1), nn.Conv2d(64, 32, 1)
        self.hidden, self.out = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.wide(x)))
        return self.out(F.relu(self.hidden(x.mean((2, 3)))))


class Device:
    """A simulated device: its time is proportional to multiply-accumulates, and it pads channels."""

    def __init__(self, fixed_ms: float = 0.02, gain: float = 1.0, pad: int = 8) -> None:
        self.fixed_ms, self.gain, self.pad, self.asked = fixed_ms, gain, pad, 0
        self.identity = f"a device that pads to {pad}"

    def _node_ms(self, node: fx.Node, values: dict[fx.Node, Any]) -> float:
        if operator_name(node) not in ("conv2d", "linear"):
            return 0.0
        weight = values[cast(torch.fx.Node, node.args[1])].shape
        padded = [self.pad * math.ceil(size / self.pad) for size in weight[:2]]
        return float(values[node].numel() / weight[0] * math.prod(padded) * math.prod(weight[2:]) * 1e-6)

    def subgraphs(self, program: Program, outputs: Sequence[Sequence[str]]) -> list[float]:
        """Times of the subgraphs for groups of outputs."""
        values, names = propagate(program), [spec.name for spec in program.signature.outputs]
        ends = dict(zip(names, program.module.graph.output_node().args[0]))  # type: ignore[arg-type]
        times = []
        for group in outputs:
            seen, queue = set(), [ends[name] for name in group]
            while queue:
                node = queue.pop()
                queue += [] if node in seen else node.all_input_nodes
                seen.add(node)
            times.append(sum(self._node_ms(node, values) for node in seen))
        return times

    def whole_ms(self, program: Program) -> float:
        """Time of a whole program."""
        values = propagate(program)
        return self.fixed_ms + self.gain * sum(self._node_ms(node, values) for node in values)

    def compare(self, dense: Program, candidate: Program) -> Compared:
        """Without noise."""
        self.asked += 1
        one, two = self.whole_ms(dense), self.whole_ms(candidate)
        return Compared(one, two, Ratio(one / two, one / two * 0.99, one / two * 1.01, 0.95))


def program_of() -> Program:
    torch.manual_seed(0)
    return capture(Net(), {"image": IMAGE})


@pytest.fixture(scope="module")
def program() -> Program:
    return program_of()


def options(**given: object) -> PruneOptions:
    return PruneOptions.model_validate({"recover": None, "latency": 0.5, **given})


def clock(program: Program, folder: Path, asked: PruneOptions, device: Device | None = None) -> LatencyBudget:
    return LatencyBudget(program, asked, device or Device(), Measured(None, ""), folder)


def test_subgraphs_of_a_width_compute_what_the_cut_program_computes(program: Program) -> None:
    """Every operator is in exactly one subgraph, and a subgraph of some width has the shapes of the cut program."""
    ranked = rank(program, options())
    subgraphs = Subgraphs(program, 3, ranked.grouping.coupling.narrow)
    nodes = [node.name for subgraph in subgraphs.all for node in subgraph.nodes]
    assert sorted(nodes) == sorted(n.name for n in program.module.graph.nodes if n.op == "call_function")
    mask = torch.zeros(len(ranked.grouping.coupling.unions), dtype=torch.bool).numpy()
    for group in ranked.grouping.free:
        mask[group.units[: len(group.units) // 2]] = True
    assembled, outputs = subgraphs.assemble([(subgraph, mask) for subgraph in subgraphs.all])
    small = propagate(cut(program, ranked.grouping.coupling, mask))
    by_name = {node.name: tuple(value.shape) for node, value in small.items() if isinstance(value, torch.Tensor)}
    specs = {spec.name: spec.shape for spec in assembled.signature.outputs}
    for subgraph, names in zip(subgraphs.all, outputs):
        assert specs[names[-1]][1:] == by_name[subgraph.nodes[-1].name][1:]


@pytest.mark.parametrize("asked", [0.8, 0.5, 0.3])
def test_a_latency_is_reached_within_five_percent(program: Program, tmp_path: Path, asked: float) -> None:
    """The measured time of the cut program is within 5 % of the requested time."""
    wanted, device = options(latency=asked), Device(pad=4)
    pruned = cut_and_prove(program, wanted, clock(program, tmp_path, wanted, device).decide(0, asked, True))
    got = device.whole_ms(pruned.program) / device.whole_ms(program)
    assert got == pytest.approx(asked, rel=TOLERANCE)
    assert device.asked <= 12


def test_measured_times_decide_what_is_cut(program: Program, tmp_path: Path) -> None:
    """The slow layer is cut to widths that are efficient on the device; the fast layer stays."""
    wanted = options(latency=0.5)
    pruned = cut_and_prove(program, wanted, clock(program, tmp_path, wanted).decide(0, 0.5, True)).program
    assert pruned.module.get_parameter("wide.weight").shape[0] < 64
    assert pruned.module.get_parameter("wide.weight").shape[0] % 8 == 0
    assert pruned.module.get_parameter("hidden.weight").shape[0] == 64


def test_the_path_gets_faster_step_by_step(program: Program, tmp_path: Path) -> None:
    """Each state on the path removes more channels and is predicted to be faster; widths without a gain are skipped."""
    wanted = options()
    search = clock(program, tmp_path, wanted).search(0, program, rank(program, wanted))
    assert all(after < before for before, after in zip(search.times, search.times[1:]))
    assert all(
        all(after[place] >= before[place] for place in before)
        for before, after in zip(search.states, search.states[1:])
    )
    widths = {(64 - count) % 8 for group_cut in search.curves.group_cuts for count in group_cut.steps[:-1]}
    assert widths == {0}


def test_layer_scope_shrinks_all_groups_alike(program: Program, tmp_path: Path) -> None:
    """With the scope `layer`, about the same share of each group is removed, here in the middle of the path."""
    wanted = options(scope="layer")
    ranked = rank(program, wanted)
    subgraphs = Subgraphs(program, 1, ranked.grouping.coupling.narrow)
    search = clock(program, tmp_path, wanted).search(0, program, ranked)
    table = Table(Device(), tmp_path)
    curves = Curves(ranked.grouping, search.curves.group_cuts, subgraphs, table)
    middle = path(curves, "layer")[len(path(curves, "layer")) // 2]
    shares = [middle[i] / len(group_cut.group.units) for i, group_cut in enumerate(curves.group_cuts)]
    assert max(shares) - min(shares) <= 0.25
    assert table.measured == 0


def test_a_target_out_of_reach_names_the_best(program: Program, tmp_path: Path) -> None:
    """If fixed costs prevent the target, the message has the time of the best candidate, which can be requested."""
    wanted = options(latency=0.1)
    device = Device(fixed_ms=1.0)
    with pytest.raises(UserError, match="cannot be reached; the best found takes") as caught:
        cut_and_prove(program, wanted, clock(program, tmp_path, wanted, device).decide(0, 0.1, True))
    best = float(str(caught.value.facts["best"]))
    pruned = cut_and_prove(program, wanted, clock(program, tmp_path, wanted, device).decide(0, best, True))
    assert device.whole_ms(pruned.program) / device.whole_ms(program) == pytest.approx(best, rel=0.01)


def test_the_remedy_of_a_target_out_of_reach_is_possible(program: Program, tmp_path: Path) -> None:
    """A share of 1 or more is refused, so it is no remedy where no candidate takes less time."""
    wanted = options(latency=0.1)
    with pytest.raises(UserError, match="cannot be reached") as caught:
        cut_and_prove(program, wanted, clock(program, tmp_path, wanted, Device(fixed_ms=1e4)).decide(0, 0.1, True))
    assert "pruning does not make this model faster here: use `macs` or `parameters`" in str(caught.value)
    assert "set the share" not in str(caught.value)


def test_a_program_that_is_not_faster_is_not_shipped(program: Program, tmp_path: Path) -> None:
    """If the finished program is not faster than the dense one, it is rejected."""
    wanted = options(latency=0.9)
    with pytest.raises(VerificationError, match="is not faster"):
        clock(program, tmp_path, wanted).facts(clone(program))


@pytest.mark.parametrize(
    ("spread", "gain", "verdict"), [(0.005, 1.0, "landed"), (0.4, 1.0, "cannot tell"), (0.005, 0.8, "missed")]
)
def test_an_interval_that_is_too_wide_is_undecided(
    program: Program, tmp_path: Path, spread: float, gain: float, verdict: str
) -> None:
    """The verdict depends on the interval: within 5 %, outside, or too wide to decide, which is not an error."""

    class Noisy(Device):
        def compare(self, dense: Program, candidate: Program) -> Compared:
            return Compared(1.0, 0.5, Ratio(2 * gain, 2 * gain * (1 - spread), 2 * gain * (1 + spread), 0.95))

    found = clock(program, tmp_path, options(latency=0.5), Noisy()).facts(program)
    assert found.verdict == verdict


def test_a_budget_that_is_already_met_is_rejected(program: Program, tmp_path: Path) -> None:
    """A budget above the program's present time is rejected with that time."""
    wanted = PruneOptions(latency_ms=1e6, recover=None)
    with pytest.raises(UserError, match="but the program already takes only"):
        clock(program, tmp_path, wanted).requested()


def test_the_table_is_kept_and_a_damaged_one_is_measured_again(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second pruning measures no subgraph again; truncated or altered tables are discarded with a message."""
    wanted = options()
    ranked = rank(program, wanted)

    def filled() -> Table:
        cuts = group_cuts()
        table = Table(Device(), tmp_path, Console("text"))
        Curves(ranked.grouping, cuts, Subgraphs(program, 1, ranked.grouping.coupling.narrow), table)
        return table

    def group_cuts() -> list[Any]:
        return clock(program, tmp_path, wanted).search(0, program, ranked).curves.group_cuts

    assert filled().measured == 0
    file = next(tmp_path.glob("*.json"))
    for content in (file.read_text()[:100], file.read_text().replace('"ms": {"', '"ms": {"0'), "[]"):
        file.write_text(content)
        assert len(Table(Device(), tmp_path, Console("text"))._ms) == 0
        assert "is damaged, so it is measured again" in capsys.readouterr().err.replace("\n", " ")


def test_tables_of_devices_are_kept_apart(program: Program, tmp_path: Path) -> None:
    """The times of one device are not used for another."""
    first, second = Device(), Device()
    second.identity = "another device"
    assert Table(first, tmp_path).path != Table(second, tmp_path).path


def split(rows: int, seed: int) -> ArraySplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 8, 8, generator=generator).numpy()
    return ArraySplit({"image": images}, torch.randint(0, 5, (rows,), generator=generator).numpy())


DATA = Splits(split(32, 0), split(8, 1), split(8, 2), split(8, 3))


def run(model: Artifact, wanted: PruneOptions, name: str, device: Device) -> Artifact:
    folder = model.path.parent
    context = Context(DATA, scratch=folder / "scratch")
    return prune(wanted, model, Place(folder / name), context, timer=device, tables=folder / "tables")


def test_the_stage_reports_requested_and_measured_latency(program: Program, tmp_path: Path) -> None:
    """Facts have both latencies, the interval, the device and the candidates; only the last of two steps is timed."""
    model = store(program, Place(tmp_path / "model"), "train")
    device = Device()
    milliseconds = 0.5 * device.whole_ms(program)
    wanted = PruneOptions(latency_ms=milliseconds, recover=None, steps=2, importance="taylor")
    made = run(model, wanted, "pruned", device)
    found = made.facts["latency"]
    assert found["asked_ms"] == pytest.approx(milliseconds)
    assert found["got_ms"] == pytest.approx(device.whole_ms(load_program(made.main)))
    assert found["got_low_ms"] < found["got_ms"] < found["got_high_ms"]
    assert found["within"]
    assert (found["device"], found["batch"], found["threads"]) == (device.identity, 1, 1)
    assert len(made.facts["steps"]) == 2
    assert list((tmp_path / "scratch").iterdir()) == []


class Stopped(Exception):
    """Represents a power failure."""


def test_a_stopped_run_measures_no_candidate_twice(program: Program, tmp_path: Path) -> None:
    """If the stage is stopped at its third comparison and run again, it measures only the rest: same result."""
    model, wanted = store(program, Place(tmp_path / "model"), "train"), options(latency=0.45)
    whole = Device()
    straight = run(model, wanted, "straight", whole)

    class Unplugged(Device):
        def compare(self, dense: Program, candidate: Program) -> Compared:
            if self.asked == 2:
                raise Stopped
            return super().compare(dense, candidate)

    broken = Unplugged()
    with pytest.raises(Stopped):
        run(model, wanted, "resumed", broken)
    rest = Device()
    resumed = run(model, wanted, "resumed", rest)
    assert broken.asked + rest.asked == whole.asked
    one, two = (load_program(item.main).module.state_dict() for item in (straight, resumed))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_latency_without_a_timer_is_refused(program: Program, tmp_path: Path) -> None:
    """A latency budget without a timer is rejected with a message that says so."""
    model = store(program, Place(tmp_path / "model"), "train")
    with pytest.raises(UserError, match="no timer to measure it"):
        run(model, options(), "pruned", None)  # type: ignore[arg-type]
    assert cost(load_program(model.main)) == cost(program)
