"""``config.pbtxt`` of Triton: protobuf's text format, written from a signature and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...core.signature import Signature
from ...core.tensors import BATCH, TensorSpec
from ..batching import combinable
from ..settings import Settings

DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
VERSION = 1
"""The folder of the model's version: Triton's versions are whole numbers."""


@dataclass(frozen=True)
class Batching:
    """How Triton forms batches.

    Attributes:
        rows: largest number of rows of a batch; 0 if the batch axis is part of the shapes, so that requests run singly.
        delay_ms: longest time that a batch waits for more requests.
        queue_ms: longest time that a request waits in the queue; then it is refused.
    """

    rows: int
    delay_ms: int
    queue_ms: int


def rows_of_batches(signature: Signature, settings: Settings) -> int:
    """The ``max_batch_size``: 0 unless every tensor has its batch axis first and another axis behind it.

    Triton has no name for a tensor with no axis besides the batch, and combines requests without being told to where
    ``max_batch_size`` allows it, also for a model whose rows influence each other.
    """
    specs = (*signature.inputs, *signature.outputs)
    first = all(spec.shape.index(BATCH) == 0 and len(spec.shape) > 1 for spec in specs if BATCH in spec.shape)
    return settings.limits.rows if first and settings.batching != "off" and combinable(signature) else 0


def message(name: str, lines: Sequence[str]) -> list[str]:
    """A field that is a message."""
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def text(value: str) -> str:
    """A string in protobuf's text format."""
    # JSON escapes a part of what protobuf does, and writes other characters as \\u, which protobuf reads as well
    return json.dumps(value)


def ports(field: str, specs: Sequence[TensorSpec], batching: Batching) -> Iterator[str]:
    """The inputs or the outputs."""
    for spec in specs:
        shape = spec.shape[1:] if batching.rows else spec.shape
        dims = [axis if isinstance(axis, int) else -1 for axis in shape]
        # Triton has no tensors without axes
        yield from message(
            field, [f"name: {text(spec.name)}", f"data_type: {DATA_TYPES[spec.dtype]}", f"dims: {dims or [1]}"]
        )


def scheduling(batching: Batching) -> list[str]:
    """The dynamic batcher with its queue; nothing where requests run singly, because Triton then has no batcher."""
    if not batching.rows:
        return []
    policy = [
        "timeout_action: REJECT",
        f"default_timeout_microseconds: {1000 * batching.queue_ms}",
        "allow_timeout_override: false",
    ]
    delay = f"max_queue_delay_microseconds: {1000 * batching.delay_ms}"
    return message("dynamic_batching", [delay, *message("default_queue_policy", policy)])


def instances(count: int, kind: str, profiles: int = 0) -> list[str]:
    """How often the model is opened, and where.

    Args:
        profiles: number of the profiles of a plan, each of which gets a context in every instance.
    """
    used = [f"profile: {json.dumps([str(index) for index in range(profiles)])}"] if profiles > 1 else []
    return message("instance_group", [f"count: {count}", f"kind: {kind}", *used])


def only_version() -> list[str]:
    """Which version is served: the one that was packed, also if another folder is put beside it."""
    return message("version_policy", message("specific", [f"versions: [{VERSION}]"]))


def parameter(key: str, value: str) -> list[str]:
    """A parameter of the backend."""
    return message("parameters", [f"key: {text(key)}", *message("value", [f"string_value: {text(value)}"])])


def golden_warmup(signature: Signature, batching: Batching, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """A request before the first one of a client: a golden sample, from files in the folder ``warmup``.

    Args:
        shapes: the shape of each stored input, with its batch axis.
    """
    lines = ['name: "golden"', f"batch_size: {1 if batching.rows else 0}"]
    for spec in signature.inputs:
        shape = shapes[spec.name][1:] if batching.rows else shapes[spec.name]
        kind = [f"data_type: {DATA_TYPES[spec.dtype]}", f"dims: {list(shape) or [1]}"]
        file = warmup_file(signature, spec.name)
        lines += message(
            "inputs", [f"key: {text(spec.name)}", *message("value", [*kind, f"input_data_file: {text(file)}"])]
        )
    return message("model_warmup", lines)


def warmup_file(signature: Signature, name: str) -> str:
    """The file of an input's golden sample: by number, because names of inputs need not be names of files."""
    return f"input{[spec.name for spec in signature.inputs].index(name)}"
