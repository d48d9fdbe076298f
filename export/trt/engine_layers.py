"""Layers of a parsed network with their types, as TensorRT reports them: INT8, FP16 or FP32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT")
NAMES = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "FP8": "FP8", "INT4": "INT4", "FP4": "FP4"}
_PASSES = ("SHUFFLE", "SLICE", "CONCATENATION", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "PADDING")
_PASSING_POOLS = ("POOLING",)


def describe_layers(network: Any) -> list[dict[str, Any]]:
    """Every layer as values for JSON: name, type, input and output tensors with their types and shapes."""
    return [_layer(network.get_layer(index)) for index in range(network.num_layers)]


def describe_tensors(network: Any, trt: Any) -> dict[str, Any]:
    """Inputs and outputs: name, type, shape, and whether an input's values are shapes."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    shape_inputs = [tensor.name for tensor in inputs if tensor.is_shape_tensor]
    return {"inputs": list(map(_tensor, inputs)), "outputs": list(map(_tensor, outputs)), "shape_inputs": shape_inputs}


def _layer(layer: Any) -> dict[str, Any]:
    ins = [layer.get_input(index) for index in range(layer.num_inputs)]
    outs = [layer.get_output(index) for index in range(layer.num_outputs)]
    return {
        "name": layer.name,
        "type": layer.type.name,
        "inputs": [_tensor(tensor) for tensor in ins if tensor is not None],
        "outputs": [_tensor(tensor) for tensor in outs if tensor is not None],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    try:
        shape = list(tensor.shape)
    except ValueError:  # the rank is not known before the build
        shape = []
    return {"name": tensor.name, "dtype": tensor.dtype.name, "shape": shape}


def histogram(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of layers by type and precision, such as ``{"CONVOLUTION INT8": 7}``."""
    precisions = layer_precisions(layers)
    counts = Counter(f"{layer['type']} {precisions[layer['name']]}" for layer in layers)
    return dict(sorted(counts.items()))


def layer_precisions(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The precision that each layer's multiplications can use, by name.

    A layer whose inputs all come from DEQUANTIZE may run in INT8, because TensorRT fuses it with its Q/DQ layers; any
    other layer runs in the type of its output.
    """
    producers = {tensor["name"]: layer for layer in layers for tensor in layer["outputs"]}
    found = {}
    for layer in layers:
        outputs = layer["outputs"]
        own = NAMES.get(outputs[0]["dtype"], outputs[0]["dtype"]) if outputs else "?"
        quantized = [_quantized_type(tensor["name"], producers) for tensor in layer["inputs"]]
        if layer["type"] in HEAVY and quantized and all(quantized[:2]):
            own = str(quantized[0])
        if layer["type"] == "QUANTIZE":
            own = NAMES.get(outputs[0]["dtype"], outputs[0]["dtype"])
        found[layer["name"]] = own
    return found


def _quantized_type(name: str, producers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The integer type that a tensor was dequantized from, looking through layers that move data; None for none."""
    for _ in range(8):
        producer = producers.get(name)
        if producer is None:
            return None
        if producer["type"] == "DEQUANTIZE":
            kind = str(producer["inputs"][0]["dtype"])
            return NAMES.get(kind, kind)
        if producer["type"] not in (*_PASSES, *_PASSING_POOLS) or not producer["inputs"]:
            return None
        name = producer["inputs"][0]["name"]
    return None
