"""The kernels that a model runs: integer and floating-point nodes of the graph that ONNX Runtime optimised."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnxruntime

from ...core.backends.ort import CPU, SIGNED, exact_settings, start_session
from ...core.errors import ArtifactError, MissingFileError
from ...core.facts.export_facts import Kernels
from ...core.faults import first_line
from ...core.formats.onnx_graphs import all_nodes

INTEGER_HEAVY = frozenset(
    [
        "QLinearConv",
        "ConvInteger",
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "QAttention",
        "MatMulNBits",
    ]
)
FLOATING_HEAVY = frozenset(
    [
        "Conv",
        "FusedConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "GemmFastGelu",
        "Attention",
        "MultiHeadAttention",
        "LSTM",
        "GRU",
        "RNN",
        "Einsum",
    ]
)
CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


def integer_kernels(path: Path | str, signed: bool = False) -> Kernels:
    """Count the nodes that ONNX Runtime runs on this CPU for a model, after all its graph optimisations.

    Args:
        path: an ``.onnx`` file.
        signed: count those that it runs on Arm, whose kernels take INT8 activations.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file cannot be loaded.
    """
    return count(optimized(Path(path), signed))


def optimized(path: Path, signed: bool = False) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs on this CPU, without its weights."""
    if not path.is_file():
        raise MissingFileError(f"no such model: {path}", "check the path")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory(prefix="retort-kernels-") as folder:
        target = Path(folder) / "optimized.onnx"
        options = exact_settings(onnxruntime)
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(target)
        if signed:
            options.add_session_config_entry(SIGNED, "1")
        # In a separate file, so that models above protobuf's 2 GB can be written as well.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        try:
            start_session(onnxruntime, str(path), options, [CPU])
        except Exception as error:  # the exceptions of onnxruntime have no narrower common base class
            text = first_line(error, 300)
            raise ArtifactError(f"{path.name} cannot be loaded: {text}", "export the model again") from error
        return onnx.load(str(target), load_external_data=False)


def count(model: onnx.ModelProto) -> Kernels:
    """Count the nodes of an optimised graph, subgraphs included."""
    nodes = list(all_nodes(model.graph))
    heavy = [node for node in nodes if node.op_type in FLOATING_HEAVY]
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    light = (name for name in _types(nodes) if name.startswith("QLinear") and name not in INTEGER_HEAVY)
    return Kernels(
        integer=_tally(name for name in _types(nodes) if name in INTEGER_HEAVY),
        floating=_tally(_types(heavy)),
        integer_light=_tally(light),
        conversions=_tally(name for name in _types(nodes) if name in CONVERSIONS),
        floating_names=tuple(map(_name, heavy)),
        unfused_names=tuple(_name(node) for node in heavy if not dequantized.isdisjoint(node.input)),
    )


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _types(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    return (node.op_type for node in nodes)


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
