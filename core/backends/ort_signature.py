"""The signature of an ONNX file as ONNX Runtime sees it.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from typing import Any

from ..signature import Signature
from ..tensors import BATCH, TensorSpec

SIGNATURE_KEY = "retort.signature"
"""The key of the file's metadata under which Retort stores it."""
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


def session_signature(inner: Any) -> Signature:
    """The signature of a session: as stored in the file, or from its inputs and outputs."""
    stored = inner.get_modelmeta().custom_metadata_map.get(SIGNATURE_KEY)
    if stored:
        return Signature.from_json(stored)
    return Signature(tuple(map(_spec, inner.get_inputs())), tuple(map(_spec, inner.get_outputs())))


def _spec(value: Any) -> TensorSpec:
    named = BATCH in value.shape
    shape = tuple(_axis(axis, index, named) for index, axis in enumerate(value.shape))
    return TensorSpec(value.name, DTYPES.get(value.type, value.type), shape)


def _axis(axis: int | str | None, index: int, named: bool) -> int | str:
    if isinstance(axis, int):
        return axis
    return BATCH if index == 0 and not named else (axis or f"axis{index}")
