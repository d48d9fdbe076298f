"""Latency of exported programs for pruning, measured on this machine, on a device, or by a callback."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.data.references import place, resolve, source_identity
from ...core.errors import RetortError, UserError
from ...core.formats.onnx_graphs import captured
from ...core.options.edge_options import EdgeOptions
from ...core.options.named_inputs import DEVICE
from ...core.options.stage_options import BenchOptions, PruneOptions
from ...core.session import SessionOptions, open_session
from ...core.signature import Signature
from ...core.system.garbage import no_collections
from ...core.tensors import Feeds, TensorSpec
from .timed_files import exported

if TYPE_CHECKING:
    import onnx

    from ...benchmarks.edge.ssh import Device
    from ...compress.program import Program
    from ...compress.pruning.latency.latency_table import Compared, Timer

Function = Callable[[str, int], float]

NOTHING = np.zeros(1, np.float32)

BLOCKS, BLOCK_MS, BUDGET_S = 30, 4.0, 6.0
SUBGRAPH_ROUNDS, SUBGRAPH_BLOCK_MS = 7, 1.0
SUBGRAPH_S = 0.05
"""Seconds of a timing on a device for each subgraph."""
LEAST_SHARE = 0.02
"""Smallest share of a subgraph's time that remains after the overhead of a call is subtracted."""
CONFIDENCE = 0.95


def timer_for(options: PruneOptions, samples: Feeds, base: Path, console: Console = SILENT) -> Timer:
    """The timer that the options select: ONNX Runtime on this machine or on a device, or the user's function.

    Args:
        samples: real inputs, repeated to the batch size.
        base: folder in which the function's module is looked up.

    Raises:
        UserError: the function does not exist.
        MachineError: the device cannot be reached, or cannot measure.
    """
    if options.timer is None:
        return LocalTimer(options.batch, options.threads, samples)
    if options.timer.startswith(DEVICE):
        from ...benchmarks.edge.device_timing import description_of, device_named

        device = device_named(options.timer)
        return DeviceTimer(device, description_of(device), options.batch, options.threads, samples, console)
    function = resolve(options.timer, base)
    return CallbackTimer(function, source_identity(options.timer, base), options.batch, options.threads)


@dataclass
class LocalTimer:
    """ONNX Runtime on this machine; a :class:`retort.compress.pruning.latency.latency_table.Timer`.

    Subgraphs are timed in interleaved blocks, and the fastest block is used, because other processes disturb it least.
    Whole programs are compared as in a benchmark (:mod:`retort.benchmarks.timing.latency`), in several sessions each.
    """

    batch: int
    threads: int
    samples: Feeds
    _dense: dict[int, bytes] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Processor, runtime, threads and batch size."""
        from ...benchmarks.machine import cpu_model, package_version

        runtime = f"onnxruntime {package_version('onnxruntime')}"
        clock = "CPU time" if self.threads == 1 else "time"
        return f"{cpu_model()}, {runtime}, {self.threads} threads, batch {self.batch}, {clock}"

    def subgraphs(self, program: Program, outputs: Sequence[Sequence[str]]) -> list[float]:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        from ...benchmarks.timing.candidates import callable_of
        from ...benchmarks.timing.clocks import clocks_for
        from ...benchmarks.timing.rounds import best_times_ms

        models, calls = [*split(exported(program), outputs), nothing()], {}
        sessions = []
        for index, model in enumerate(models):
            signature = signature_of(model, program.signature)
            sessions.append(open_session(model.SerializeToString(), SessionOptions(threads=self.threads), signature))
            feeds = {spec.name: np.asarray(program.example.get(spec.name, NOTHING)) for spec in signature.inputs}
            calls[str(index)] = callable_of((sessions[-1], feeds), self.batch)
        clocks = clocks_for(self.threads, "cpu", sessions, calls.values())
        with no_collections(collect_first=True):
            best = best_times_ms(calls, clocks, SUBGRAPH_ROUNDS, SUBGRAPH_BLOCK_MS)
        return without_call(list(best.values()))

    def compare(self, dense: Program, candidate: Program) -> Compared:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        from ...benchmarks.timing.latency import compare_sessions
        from ...compress.pruning.latency.latency_table import Compared

        settings = SessionOptions(threads=self.threads)
        files = {"dense": self._file(dense), "candidate": exported(candidate).SerializeToString()}
        openers = {name: partial(open_session, file, settings) for name, file in files.items()}
        options = BenchOptions(
            batch_sizes=(self.batch,), threads=self.threads, blocks=BLOCKS, block_ms=BLOCK_MS, budget_s=BUDGET_S
        )
        found = compare_sessions(openers, self.samples, options)[self.batch]
        dense_ms, ms = (found.candidates[name].median_ms.value for name in files)
        return Compared(dense_ms, ms, found.ratio_of("candidate"))

    def _file(self, dense: Program) -> bytes:
        if id(dense) not in self._dense:
            self._dense[id(dense)] = exported(dense).SerializeToString()
        return self._dense[id(dense)]


@dataclass
class DeviceTimer:
    """ONNX Runtime on a device that ssh reaches; a :class:`retort.compress.pruning.latency.latency_table.Timer`.

    Subgraphs and whole programs are timed by the program of ``retort edge``, in interleaved blocks.
    """

    device: Device
    described: str
    batch: int
    threads: int
    samples: Feeds
    console: Console = SILENT

    @property
    def identity(self) -> str:
        """The device, its runtime, threads and batch size."""
        return f"{self.described}, {self.threads} threads, batch {self.batch}"

    def subgraphs(self, program: Program, outputs: Sequence[Sequence[str]]) -> list[float]:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        from ...benchmarks.edge.device_timing import TimedFile, time_on_device

        files = {}
        for index, model in enumerate([*split(exported(program), outputs), nothing()]):
            signature = signature_of(model, program.signature)
            feeds = {spec.name: np.asarray(program.example.get(spec.name, NOTHING)) for spec in signature.inputs}
            files[str(index)] = TimedFile(model.SerializeToString(), feeds, signature)
        options = self._options(SUBGRAPH_BLOCK_MS, SUBGRAPH_S * len(files))
        found = time_on_device(self.device, files, options, self.console).comparison
        return without_call([found.candidates[name].median_ms.value for name in files])

    def compare(self, dense: Program, candidate: Program) -> Compared:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        from ...benchmarks.edge.device_timing import TimedFile, time_on_device
        from ...compress.pruning.latency.latency_table import Compared

        programs = {"dense": dense, "candidate": candidate}
        files = {name: TimedFile(exported(one).SerializeToString(), self.samples) for name, one in programs.items()}
        found = time_on_device(self.device, files, self._options(BLOCK_MS, BUDGET_S), self.console).comparison
        dense_ms, ms = (found.candidates[name].median_ms.value for name in files)
        return Compared(dense_ms, ms, found.ratio_of("candidate"))

    def _options(self, block_ms: float, seconds: float) -> EdgeOptions:
        return EdgeOptions(
            batch_sizes=(self.batch,), threads=(self.threads,), block_ms=block_ms, seconds=seconds, precision=0.01
        )


@dataclass
class CallbackTimer:
    """Another device: the user's function takes a path and a batch size and returns milliseconds."""

    function: Function
    name: str
    batch: int
    threads: int
    _dense: dict[int, bytes] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The function's name and source, threads and batch size."""
        return f"{self.name}, {self.threads} threads, batch {self.batch}"

    @property
    def label(self) -> str:
        """The function's name, for messages."""
        return self.name.partition("@")[0]

    def subgraphs(self, program: Program, outputs: Sequence[Sequence[str]]) -> list[float]:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        models = [*split(exported(program), outputs), nothing()]
        return without_call([self._ask(model.SerializeToString()) for model in models])

    def compare(self, dense: Program, candidate: Program) -> Compared:
        """See :class:`retort.compress.pruning.latency.latency_table.Timer`."""
        from ...benchmarks.timing.statistics import ratio_interval, rounds_needed
        from ...compress.pruning.latency.latency_table import Compared

        first = self._dense.get(id(dense)) or exported(dense).SerializeToString()
        self._dense[id(dense)] = first
        second = exported(candidate).SerializeToString()
        turns = [(self._ask(first), self._ask(second)) for _ in range(rounds_needed(CONFIDENCE))]
        ours, theirs = [turn[1] for turn in turns], [turn[0] for turn in turns]
        names: dict[str, Any] = {"candidate": "candidate", "reference": "dense", "clock": "device"}
        ratio = ratio_interval(theirs, ours, CONFIDENCE, **names)
        return Compared(float(np.median(theirs)), float(np.median(ours)), ratio)

    def _ask(self, model: bytes) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            try:
                found: Any = self.function(str(path), self.batch)
            except RetortError:
                raise
            except Exception as error:  # the user's function may raise anything
                what = f"the timer '{self.label}' raised {type(error).__name__}: {error}"
                raise UserError(what, f"fix the error in {place(error)}") from error
        if isinstance(found, bool) or not isinstance(found, int | float | np.number) or not 0 < float(found) < 1e9:
            raise UserError(
                f"the timer '{self.label}' returned {found!r}, which is not a time in milliseconds",
                "return a positive number",
            )
        return float(found)


def nothing() -> onnx.ModelProto:
    """A model that computes almost nothing; its time is the overhead of a call."""
    import onnx

    kind = onnx.TensorProto.FLOAT
    ports = [onnx.helper.make_tensor_value_info(name, kind, [1]) for name in ("nothing", "nothing_out")]
    node = onnx.helper.make_node("Abs", ["nothing"], ["nothing_out"])
    graph = onnx.helper.make_graph([node], "nothing", ports[:1], ports[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def without_call(times: Sequence[float]) -> list[float]:
    """Times of subgraphs without the overhead of a call, which is the last time."""
    *subgraphs, call = times
    return [max(time - call, LEAST_SHARE * time) for time in subgraphs]


def split(model: onnx.ModelProto, outputs: Sequence[Sequence[str]]) -> list[onnx.ModelProto]:
    """The independent parts of a model, each identified by its outputs."""
    import onnx

    producers = {name: node for node in model.graph.node for name in node.output}
    weights = {item.name: item for item in model.graph.initializer}
    values = {item.name: item for item in (*model.graph.input, *model.graph.output)}
    parts = []
    for names in outputs:
        seen: set[str] = set()
        queue, used = list(names), []
        while queue:
            name = queue.pop()
            if name in seen or not name:
                continue
            seen.add(name)
            node = producers.get(name)
            if node is not None and node not in used:
                used.append(node)
                queue += [*node.input, *captured(node)]
        nodes = [node for node in model.graph.node if any(name in seen for name in node.output)]
        inputs = [item for item in model.graph.input if item.name in seen]
        held = [weights[name] for name in weights if name in seen]
        graph = onnx.helper.make_graph(nodes, "subgraph", inputs, [values[name] for name in names], held)
        parts.append(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version))
    return parts


def signature_of(model: onnx.ModelProto, whole: Signature) -> Signature:
    """The signature of a part of a model."""

    def _specs(names: set[str], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in specs if spec.name in names)

    inputs, outputs = {item.name for item in model.graph.input}, {item.name for item in model.graph.output}
    if inputs == {"nothing"}:
        return Signature((TensorSpec("nothing", "float32", (1,)),), (TensorSpec("nothing_out", "float32", (1,)),))
    return Signature(_specs(inputs, whole.inputs), _specs(outputs, whole.outputs))
