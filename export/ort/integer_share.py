"""Share of a model's multiply-accumulates that ONNX Runtime computes in integer kernels."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from ...core.backends.ort import CPU, exact_settings, start_session
from ...core.errors import VerificationError
from ...core.tensors import Feeds
from .kernels import FLOATING_HEAVY, INTEGER_HEAVY, optimized

_SUFFIX = "_kernel_time"
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


@dataclass(frozen=True)
class Share:
    """Multiply-accumulates of one run.

    Attributes:
        integer: in integer kernels.
        floating: in floating-point kernels.
        floating_nodes: the multiply-accumulates of each floating-point node, by its name.
    """

    integer: int
    floating: int
    floating_nodes: Mapping[str, int]

    @property
    def percent(self) -> float:
        """Share of the integer kernels, in percent; 0 for a model without heavy nodes."""
        total = self.integer + self.floating
        return 100 * self.integer / total if total else 0.0


def integer_share(path: Path, feeds: Feeds) -> Share:
    """Run a model once with ONNX Runtime's profiler and count the multiply-accumulates of its heavy nodes.

    Args:
        path: an ``.onnx`` file.
        feeds: its inputs.

    Raises:
        ArtifactError: the file cannot be loaded.
        MissingFileError: the file does not exist.
        VerificationError: a heavy node is missing in the profile.
    """
    graph = optimized(path).graph
    sizes = {item.name: tuple(item.dims) for item in graph.initializer}
    events = {event["name"].removesuffix(_SUFFIX): event["args"] for event in _events(path, feeds)}
    integer, floating = 0, {}
    for node in graph.node:
        if node.op_type not in INTEGER_HEAVY | FLOATING_HEAVY:
            continue
        if node.name not in events:
            raise VerificationError(
                f"the profile of {path.name} does not contain '{node.name}'", "please report this model"
            )
        products = _products(node, events[node.name], sizes)
        if node.op_type in INTEGER_HEAVY:
            integer += products
        else:
            floating[node.name] = products
    return Share(integer, sum(floating.values()), floating)


def _events(path: Path, feeds: Feeds) -> Iterator[dict[str, Any]]:
    options = exact_settings(onnxruntime)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="retort-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = start_session(onnxruntime, str(path), options, [CPU])
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    return (event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX))


def _shapes(listed: list[dict[str, list[int]]]) -> list[list[int]]:
    return [next(iter(item.values())) for item in listed]


def _products(node: onnx.NodeProto, event: dict[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of a node, from the shapes of its values during the run and of its weights."""
    outputs, inputs = _shapes(event["output_type_shape"]), _shapes(event["input_type_shape"])
    weights = [sizes[name] for name in node.input if name in sizes and len(sizes[name]) >= 2]
    if node.op_type in _RECURRENT:
        return math.prod(inputs[0][:2]) * sum(map(math.prod, weights))
    if "Conv" in node.op_type:
        reads = inputs[0] if node.op_type == "ConvTranspose" else outputs[0]
        return math.prod(reads) * math.prod(weights[0][1:])
    return math.prod(outputs[0]) * inputs[0][-1]
