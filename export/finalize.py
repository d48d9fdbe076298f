"""Last steps of an export: names of the signature, unique names, no data about the machine, reproducible bytes."""

from __future__ import annotations

import re
from dataclasses import replace

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..core.backends.ort_signature import SIGNATURE_KEY
from ..core.dynamic_kernels import OPERATORS
from ..core.errors import VerificationError
from ..core.signature import Signature
from .graph_edit import every_node

PRODUCER = "retort"


def finish(model: ir.Model, signature: Signature, axes: dict[str, str], opset: int) -> ir.Model:
    """Set the names and the order of the graph, and remove metadata.

    Args:
        model: edited in place.
        signature: names of inputs and outputs, in the graph's order.
        axes: symbols in shapes and the names that replace them.
        opset: version of the standard operators.

    Raises:
        VerificationError: the graph's inputs or outputs differ from those of the signature.
    """
    name_ports(model, signature)
    _name_axes(model, axes)
    _shape_outputs(model, signature)
    common.TopologicalSortPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    _strip(model)
    _order(model)
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, None, None
    model.metadata_props.clear()
    model.metadata_props[SIGNATURE_KEY] = signature.to_json()
    return model


def name_ports(model: ir.Model, signature: Signature) -> None:
    """Give inputs and outputs the signature's names; other values with these names are renamed.

    Raises:
        VerificationError: the graph's inputs or outputs differ from those of the signature.
    """
    common.OutputFixPass()(model)
    graph = model.graph
    for kind, ports, specs in (
        ("inputs", graph.inputs, signature.inputs),
        ("outputs", graph.outputs, signature.outputs),
    ):
        if len(ports) != len(specs):
            raise VerificationError(
                f"the ONNX graph has {len(ports)} {kind}, but the signature has {len(specs)}", "capture the model again"
            )
        for value, spec in zip(ports, specs, strict=True):
            value.name = spec.name
    common.NameFixPass()(model)


def with_batch_dependence(model: ir.Model, signature: Signature) -> Signature:
    """The signature, which states whether the result of a row depends on other rows of the batch."""
    dynamic = any(node.op_type in OPERATORS for node in every_node(model))
    return replace(signature, batch_invariant=signature.batch_invariant and not dynamic)


def _name_axes(model: ir.Model, axes: dict[str, str]) -> None:
    if not axes:
        return
    pattern = re.compile(rf"\b({'|'.join(sorted(map(re.escape, axes), key=len, reverse=True))})\b")
    seen: set[ir.Value] = set()
    for value in [*model.graph.inputs, *(out for node in every_node(model) for out in node.outputs)]:
        if value in seen or value.shape is None:
            continue
        seen.add(value)
        named = [size if isinstance(size, int) else _renamed(size, pattern, axes) for size in value.shape]
        value.shape = ir.Shape(named)


def _renamed(size: ir.SymbolicDim, pattern: re.Pattern[str], axes: dict[str, str]) -> str | None:
    return None if size.value is None else pattern.sub(lambda match: axes[match.group()], str(size.value))


def _shape_outputs(model: ir.Model, signature: Signature) -> None:
    """Give dynamic axes of outputs the signature's names where the graph has an expression."""
    for value, spec in zip(model.graph.outputs, signature.outputs, strict=True):
        shape = value.shape
        if shape is None or len(shape) != len(spec.shape):
            value.shape = ir.Shape(spec.shape)
            continue
        value.shape = ir.Shape(
            [size if isinstance(size, int) else wanted for size, wanted in zip(shape, spec.shape, strict=True)]
        )


def _strip(model: ir.Model) -> None:
    """Remove the exporter's metadata of values, graphs and tensors."""
    graph = model.graph
    graph.name, graph.doc_string = PRODUCER, None
    graph.metadata_props.clear()
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in every_node(model) for out in node.outputs)]
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        if isinstance(value.const_value, ir.TensorProtoTensor):  # of an operator's own function; its words are fixed
            value.const_value = ir.Tensor(value.const_value.numpy(), name=value.const_value.name)
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
            value.const_value.doc_string = None


def _order(model: ir.Model) -> None:
    """Attributes by name, initializers by first use: an order that no hash seed changes."""
    used: dict[str, ir.Value] = {}
    initializers = model.graph.initializers
    for node in every_node(model):
        ordered = sorted(node.attributes.values(), key=lambda item: item.name)
        node.attributes.clear()
        node.attributes.update({item.name: item for item in ordered})
        used.update({v.name: v for v in node.inputs if v is not None and v.name and v.is_initializer()})
    rest = {name: value for name, value in sorted(initializers.items()) if name not in used}
    initializers.clear()
    for value in [*used.values(), *rest.values()]:
        model.graph.register_initializer(value)
    opsets = sorted(model.graph.opset_imports.items())
    model.graph.opset_imports.clear()
    model.graph.opset_imports.update(opsets)
