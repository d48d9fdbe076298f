"""Time of each layer of an ONNX file in ONNX Runtime; layers are identified by the names of their weights."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from ...core.backends.ort import CPU, exact_settings, start_session
from ...core.errors import ArtifactError
from ...core.faults import first_line
from ...core.formats.onnx_graphs import all_nodes, captured
from ...core.tensors import Feeds

_SUFFIX = "_kernel_time"
_LAYER = re.compile(r"\blayer_(\d+)_")
_QUANTIZED = re.compile(r"(_weight)?_quantized$")
_WARMUP, _MOST_RUNS, _FEWEST_RUNS, _BUDGET_S = 5, 200, 10, 0.6
_KEPT = 0.5
"""Share of a node's fastest runs whose mean is its time, because other processes disturbed them least."""
_SIZES = (1 << 10, 1 << 17)
_CALLS_MS = 0.003
"""The cost of two more small nodes in a file; if they were alone in a file, the session's call would hide it.

Measured with ONNX Runtime 1.31 on an x86-64 server with AVX-512 VNNI; it only ranks placements that are timed later.
"""

_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Scan")


def layer_times(model: onnx.ModelProto, layers: Mapping[str, str], feeds: Feeds) -> dict[str, float]:
    """Run a model with ONNX Runtime's profiler and give each layer its share of the time.

    A node belongs to the last layer before it. The overhead of the profiler, which is most of the time of nodes of a
    few microseconds, is subtracted evenly, so that the sum equals the time of the model without the profiler.

    Args:
        model: not changed.
        layers: names of layers in the order of the graph, each with the name of its weight, or with a beginning of the
            names of its weights that ends in a dot. Recurrent layers, whose weights the exporter packs, are identified
            by their order.
        feeds: inputs.

    Returns:
        Milliseconds by layer on one thread; layers without an identifiable weight are missing.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file.
    """
    renamed, owners = _renamed(model, layers)
    file = renamed.SerializeToString()
    total = _whole_ms(file, feeds)
    spent: dict[str, list[float]] = defaultdict(list)
    last = 0
    for name, node_ms in _nodes_ms(file, feeds).items():
        number = _LAYER.search(name)  # a fused node is called "fused layer_3_7", or layer_3_7_nchwc
        last = int(number[1]) if number else last
        spent[owners[last]].append(node_ms)
    nodes = sum(map(len, spent.values()))
    extra = max(0.0, sum(map(sum, spent.values())) - total) / max(1, nodes)
    return {layer: max(0.0, sum(times) - extra * len(times)) for layer, times in spent.items() if layer}


def conversion_ms() -> tuple[float, float]:
    """Time to quantize and dequantize a tensor: milliseconds for the two calls, and per value."""
    times = [_whole_ms(_conversion(size), {"x": np.zeros(size, np.float32)}) for size in _SIZES]
    slope = max(0.0, times[1] - times[0]) / (_SIZES[1] - _SIZES[0])
    return _CALLS_MS, slope


def _conversion(size: int) -> bytes:
    make = onnx.helper
    ports = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [size]) for name in ("x", "y")]
    grid = [
        make.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.1]),
        make.make_tensor("zero", onnx.TensorProto.UINT8, [], [128]),
    ]
    nodes = [
        make.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        make.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    graph = make.make_graph(nodes, "conversion", ports[:1], ports[1:], grid)
    made: bytes = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10).SerializeToString()
    return made


def _renamed(model: onnx.ModelProto, layers: Mapping[str, str]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy whose nodes and values are named after the layer they belong to, by its place in the list."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    owners, of_node = _owners(made, layers)
    kept = {item.name for item in (*made.graph.output, *made.graph.input)}
    names: dict[str, str] = {}
    for index, node in enumerate(made.graph.node):
        node.name = f"layer_{of_node[index]}_{index}"
        fresh = {name: f"{node.name}_{place}" for place, name in enumerate(node.output) if name and name not in kept}
        names |= fresh
        node.output[:] = [fresh.get(name, name) for name in node.output]
    for node in all_nodes(made.graph):
        node.input[:] = [names.get(name, name) for name in node.input]
    del made.graph.value_info[:]
    return made, owners


def _owners(model: onnx.ModelProto, layers: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """The layers in the order of the graph, and for each node the index of the last layer before it."""
    weights = {item.name: name for item in model.graph.initializer if (name := _layer(item.name, layers))}
    computed = {item.name for item in model.graph.initializer}
    packed = [name for name in layers if name not in weights.values()]
    order: list[str] = []
    of_value: dict[str, int] = {}
    of_node: list[int] = []
    for node in model.graph.node:
        inputs = [*node.input, *captured(node)]
        own = next((weights[name] for name in inputs if name in weights), "")
        if all(
            name in computed or not name for name in node.input
        ):  # a node with only constant inputs computes a weight
            computed.update(node.output)
            weights |= dict.fromkeys(node.output, own) if own else {}
            of_node.append(-1)
            continue
        if not own and node.op_type in _RECURRENT and packed:
            own = packed.pop(0)
        if own and own not in order:
            order.append(own)
        index = order.index(own) if own else max((of_value.get(name, 0) for name in inputs), default=0)
        of_value |= dict.fromkeys(node.output, index)
        of_node.append(index)
    return order or [""], [max(index, 0) for index in of_node]


def _layer(weight: str, layers: Mapping[str, str]) -> str:
    """The layer that a weight belongs to, by the longest beginning of its name; empty without one."""
    stem = _QUANTIZED.sub("", weight)
    found = {name: own for name, own in layers.items() if stem == own or (own.endswith(".") and weight.startswith(own))}
    return max(found, key=lambda name: len(found[name]), default="")


def _session(file: bytes, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    options = options or exact_settings(onnxruntime)
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return start_session(onnxruntime, file, options, [CPU])
    except Exception as error:  # the runtime has its own exception classes
        text = first_line(error)
        raise ArtifactError(f"the layers of a file cannot be timed: {text}", "please report this model") from error


def _run(session: Any, given: Feeds) -> None:
    try:
        session.run(None, given)
    except Exception as error:  # the runtime has its own exception classes
        text = first_line(error)
        raise ArtifactError(f"the layers of a file cannot be timed: {text}", "time it at another batch size") from error


def _whole_ms(file: bytes, feeds: Feeds) -> float:
    """CPU time of a run without the profiler; with one thread, other processes do not affect it."""
    session, given = _session(file), dict(feeds)
    times: list[int] = []
    for _ in _runs():
        before = time.thread_time_ns()
        _run(session, given)
        times.append(time.thread_time_ns() - before)
    return _fast(times) / 1e6


def _nodes_ms(file: bytes, feeds: Feeds) -> dict[str, float]:
    """Time of every node by its name, in the order in which they run."""
    with tempfile.TemporaryDirectory(prefix="retort-profile-") as folder:
        options = exact_settings(onnxruntime)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session, given = _session(file, options), dict(feeds)
        for _ in _runs():
            _run(session, given)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            times[event["name"].removesuffix(_SUFFIX)].append(int(event["dur"]))
    return {name: _fast(values) / 1e3 for name, values in times.items()}


def _runs() -> Iterator[None]:
    """Yields once per run, for as many runs as the time budget allows."""
    started = time.perf_counter()
    for index in range(_MOST_RUNS):
        if index >= _FEWEST_RUNS and time.perf_counter() - started > _BUDGET_S:
            return
        yield


def _fast(times: Sequence[int]) -> float:
    """Mean of the fastest runs, without the first runs."""
    settled = sorted(times[_WARMUP:] or times)
    return float(np.mean(settled[: max(1, int(_KEPT * len(settled)))]))


__all__ = ["conversion_ms", "layer_times"]
