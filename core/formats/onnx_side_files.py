"""Which files an ONNX file reads its weights from, found in its bytes without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from ..errors import ArtifactError

# Messages of onnx.proto and, by field number, those inside them that can hold a tensor
# (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
_INSIDE = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
# Fields that hold one message: protobuf merges all occurrences of one, which is what their joined bytes mean.
_SINGLE = {
    "Model": {7},
    "Training": {1, 2},
    "Attribute": {5, 6, 22},
    "SparseTensor": {1, 2},
}
_EXTERNAL_DATA, _DATA_LOCATION, _IS_EXTERNAL = 13, 14, 1
_INT32 = 0xFFFFFFFF


def side_files(model: bytes) -> set[str]:
    """Names of the files outside, as the model has them: nothing is opened, and any text may be among them.

    The bytes are read as protobuf reads them, whoever wrote them: what occurs twice is merged, and enumerations have 32
    bits. Where parsers differ, a tensor counts as one with weights outside.

    Raises:
        ArtifactError: the bytes are not an ONNX model.
    """
    found: set[str] = set()
    waiting = [("Model", memoryview(model))]
    try:
        while waiting:
            kind, content = waiting.pop()
            if kind == "Tensor":
                found |= _places(content)
            else:
                waiting += _messages(kind, content)
    except (IndexError, ValueError) as error:
        raise ArtifactError("the model is not an ONNX file", "export the model again") from error
    return found


def is_side_file(name: str) -> bool:
    """Whether a name can be that of a file of weights next to a model: no folder, and nothing that Python imports."""
    return PurePosixPath(name).name == name and "\\" not in name and not name.lower().endswith(".py")


def _messages(kind: str, content: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The messages inside one that can hold a tensor."""
    inside, single = _INSIDE[kind], _SINGLE.get(kind, set())
    parts: dict[int, list[memoryview]] = {}
    for number, value in _fields(content):
        if number in inside and isinstance(value, memoryview):
            if number in single:
                parts.setdefault(number, []).append(value)
            else:
                yield inside[number], value
    for number, values in parts.items():
        yield inside[number], values[0] if len(values) == 1 else memoryview(b"".join(values))


def _places(tensor: memoryview) -> set[str]:
    places: set[str] = set()
    outside = False
    for number, value in _fields(tensor):
        if number == _DATA_LOCATION and isinstance(value, int):
            # any occurrence: protobuf keeps the last that it knows, and parsers differ in what they know
            outside |= value & _INT32 == _IS_EXTERNAL
        elif number == _EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {inner: bytes(text) for inner, text in _fields(value) if isinstance(text, memoryview)}
            if entry.get(1) == b"location":
                places.add(entry.get(2, b"").decode("utf-8", "replace"))
    return places if outside else set()


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; values of a fixed width are left out.

    A tag beyond 32 bits, which some parsers cut and some refuse, is no protobuf message, and neither is a group.
    """
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        kind = tag & 7
        if tag > _INT32:
            raise ValueError("not a protobuf message")
        if kind == 0:
            value, position = _varint(content, position)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(content, position)
        if size is None or position + size > len(content):
            raise ValueError("not a protobuf message")
        if kind == 2:
            yield tag >> 3, content[position : position + size]
        position += size


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("not a protobuf message")
