"""FP16 and BF16 for strongly typed networks: real samples decide which nodes compute in half precision.

TensorRT 11 has no precision flags: the types in the file determine what runs (tensorrt.md 1.8). A node uses half
precision if ONNX allows it, its operator does not lose accuracy, and neither its values on the samples nor its weights
come near the limits of the type.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ...core.counts import counted
from ...core.errors import UserError
from ...core.facts.export_facts import HalfPrecision
from ...core.formats.onnx_graphs import captured
from ...core.signature import Signature
from ...core.tensors import Feeds
from ..lint.graph_view import DEQUANTIZE, HEAVY, QUANTIZE, View, label
from ..lint.type_rules import allows
from .magnitudes import largest_magnitudes
from .retype import Rewriter

Precision = Literal["fp16", "bf16"]
KINDS: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST: dict[str, float] = {"fp16": 512.0, "bf16": 1e30}
"""Values above this stay in FP32: the maximum of FP16 is 65504, and sums are larger than their terms."""
LARGEST_WEIGHT = {"fp16": 65504.0, "bf16": 3e38}
SMALLEST_NORMAL = {"fp16": 6.1e-5, "bf16": 1.2e-38}
SCALE_ROOM = 0.1
"""A scale may lie this far in the denormal range: it then keeps two digits."""
LEAST_OPSET = {"fp16": 13, "bf16": 22}
QDQ_OPSET = 19
BLOCKED = frozenset(
    (
        *("Range", "NonMaxSuppression", "TopK", "Resize", "Upsample", "Loop", "If", "Scan", "CumSum", "EyeLike"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "CastLike", "GridSample"),
        *(
            "LayerNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "MeanVarianceNormalization",
        ),
        *(
            "Softmax",
            "LogSoftmax",
            "LpNormalization",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceLogSum",
            "ReduceProd",
        ),
        *("LSTM", "GRU", "RNN", "Einsum", "BatchNormalization", "Exp", "Log", "Pow", "Reciprocal", "Mish", "HardSwish"),
    )
)
_HALF_OK = {"fp16": frozenset(("HardSwish", "Einsum", "BatchNormalization", "Mish")), "bf16": frozenset(("Einsum",))}
"""Operators of :data:`BLOCKED` that keep their accuracy in one of the two types."""
LONG_REDUCE = 1024
_REDUCES = ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "GlobalAveragePool")
_DENORMAL_SHARE = 0.05


@dataclass
class HalfReport:
    """The result for each node.

    Attributes:
        half: nodes in half precision.
        kept: nodes with floating-point values that stay in FP32, with the reason.
        casts: number of added casts.
    """

    half: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    casts: int = 0

    def facts(self, errors: dict[str, float] | None = None) -> HalfPrecision:
        """The facts for a manifest, with a count instead of the names of what is in half precision.

        Args:
            errors: largest error of each output, relative to its largest value, if they were measured.
        """
        return HalfPrecision(half_nodes=len(self.half), kept_fp32=self.kept, casts=self.casts, errors=errors)


def to_half(
    model: onnx.ModelProto,
    precision: Precision,
    signature: Signature,
    feeds: Feeds,
    *,
    exclude: tuple[str, ...] = (),
    keep_io: bool = True,
    largest: float | None = None,
) -> tuple[onnx.ModelProto, HalfReport]:
    """Convert a network to half precision where that is safe.

    Args:
        model: FP32, or INT8 with other parts in FP32. It is not changed. Weights must be loaded.
        precision: the type.
        signature: of the model.
        feeds: one batch of real samples, which determine how large the values become.
        exclude: patterns of node names that stay in FP32.
        keep_io: keep inputs and outputs in FP32; else they are converted (only to FP16, because numpy has no BF16).
        largest: values above this stay in FP32; by default :data:`LARGEST`.

    Returns:
        The converted model and the result for each node.

    Raises:
        UserError: the opset is too old for the type.
        VerificationError: ONNX Runtime does not run the model.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _constants_to_initializers(made)
    view = View(made)
    needed = max(LEAST_OPSET[precision], QDQ_OPSET if any(True for _ in view.pairs()) else 0)
    if view.opset < needed:
        raise UserError(
            f"{precision} needs opset {needed} here, the file has {view.opset}",
            f"export it again with --opset {needed}",
        )
    floats = {name for name, kind in view.types.items() if kind == TensorProto.FLOAT}
    computed = [n for node in view.order for n in node.output if n in floats] + [
        value.name for value in made.graph.input if value.name in floats and value.name not in view.stored
    ]
    seen = largest_magnitudes(made, computed, signature, feeds)
    chooser = _Chooser(view, precision, floats, seen, exclude, LARGEST[precision] if largest is None else largest)
    report = HalfReport()
    chosen = set()
    reasons = chooser.reasons()
    for node in view.order:
        reason = reasons[id(node)]
        if reason is None:
            chosen.add(id(node))
            report.half.append(label(node))
        elif reason:
            report.kept[label(node)] = reason
    report.casts = Rewriter(view, KINDS[precision], floats, chosen, keep_io or precision == "bf16").rewrite()
    return made, report


class _Chooser:
    """Decides for each node whether it computes in half precision."""

    def __init__(
        self,
        view: View,
        precision: Precision,
        floats: set[str],
        seen: dict[str, float],
        exclude: tuple[str, ...],
        largest: float,
    ) -> None:
        self.view, self.precision, self.floats, self.seen = view, precision, floats, seen
        self.exclude, self.largest = exclude, largest
        self.captured = {name for node in view.graph.node for name in captured(node)}

    def reasons(self) -> dict[int, str | None]:
        """Why each node stays in FP32, by its identity.

        A heavy node and the DequantizeLinear nodes that it reads stay together: a cast between them would keep
        TensorRT from fusing them into an INT8 kernel.
        """
        found = {id(node): self.reason(node) for node in self.view.order}
        changed = True
        while changed:
            changed = False
            for node in self.view.order:
                if node.op_type not in HEAVY:
                    continue
                producers = [self.view.producer.get(name) for name in node.input[:2]]
                group = [
                    node,
                    *(producer for producer in producers if producer is not None and producer.op_type == DEQUANTIZE),
                ]
                kept = [found[id(item)] for item in group if found[id(item)] is not None]
                for item in group if kept and len(group) > 1 else ():
                    if found[id(item)] is None:
                        found[id(item)], changed = f"it has the type of '{label(node)}'", True
        return found

    def reason(self, node: onnx.NodeProto) -> str | None:
        """Why a node stays in FP32; None when it need not; empty when it has no floating-point values."""
        values = [name for name in (*node.input, *node.output) if name in self.floats]
        if not values:
            return ""
        if any(fnmatch(node.name, pattern) for pattern in self.exclude):
            return "excluded"
        if node.op_type in BLOCKED - _HALF_OK[self.precision] or node.domain not in ("", "ai.onnx"):
            return f"{node.op_type} is computed in FP32"
        if any(name in self.captured for name in node.output):
            return "its output is read inside a loop or a branch"
        if not self._allowed(node):
            return f"ONNX has no {node.op_type} in {self.precision.upper()} at opset {self.view.opset}"
        return self._too_long(node) or self._too_large(values) or self._weights(node)

    def _allowed(self, node: onnx.NodeProto) -> bool:
        kind = KINDS[self.precision]
        inputs = [index for index, name in enumerate(node.input) if name in self.floats]
        return all(allows(node.op_type, self.view.opset, index, kind) for index in inputs)

    def _too_long(self, node: onnx.NodeProto) -> str | None:
        if node.op_type not in _REDUCES or self.precision == "bf16":
            return None
        before, after = self.view.shape_of(node.input[0]), self.view.shape_of(node.output[0])
        sizes = [size for size in (before or ())[1:] if size is not None]
        kept = [size for size in (after or ())[1:] if size is not None]
        count = int(np.prod(sizes)) // max(int(np.prod(kept)), 1) if sizes else 0
        return f"it adds {counted(count, 'value')}" if count > LONG_REDUCE else None

    def _too_large(self, values: list[str]) -> str | None:
        for name in values:
            size = self.seen.get(name, 0.0)
            if not size <= self.largest:  # NaN, too
                return f"'{name}' reaches {size:.3g}, more than {self.largest:g}"
        return None

    def _weights(self, node: onnx.NodeProto) -> str | None:
        for name in node.input:
            array = self.view.constant(name) if name in self.floats and name in self.view.stored else None
            if array is None or not array.size:
                continue
            size = np.abs(array[array != 0]) if (array != 0).any() else np.zeros(1)
            if float(size.max()) > LARGEST_WEIGHT[self.precision]:
                return f"its constant '{name}' reaches {float(size.max()):.3g}"
            scale = node.op_type in (QUANTIZE, DEQUANTIZE)
            small = float(np.mean(size < SMALLEST_NORMAL[self.precision] * (SCALE_ROOM if scale else 1)))
            if small > (0.0 if scale else _DENORMAL_SHARE) and size.max() > 0:
                return f"{small:.0%} of its constant '{name}' is too small for {self.precision.upper()}"
        return None


def half_signature(signature: Signature, model: onnx.ModelProto) -> Signature:
    """The signature with the types that the converted graph's inputs and outputs have."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}

    def _typed(specs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            replace(spec, dtype="float16") if kinds.get(spec.name) == TensorProto.FLOAT16 else spec for spec in specs
        )

    return replace(signature, inputs=_typed(signature.inputs), outputs=_typed(signature.outputs))


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = next((item.t for item in node.attribute if item.name == "value"), None)
        if tensor is not None:
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), node.output[0]))
            graph.node.remove(node)
