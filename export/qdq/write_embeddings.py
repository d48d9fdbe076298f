"""Embedding tables with INT8 rows: codes are looked up and then scaled, so the table is never in floating point.

ONNX Runtime looks up INT8 codes. TensorRT does not: an INT8 constant may only be the input of DequantizeLinear (RTX
1.7.1: "Quantized constant is only allowed before DQ"), and UINT8 constants become INT32. It accepts DequantizeLinear
before the look-up, but then it scales the whole table for a few rows. So for TensorRT four codes form a 32-bit word,
and rows of words are looked up and unpacked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...core.options.stage_options import Target
from ..graph_edit import Numbers, add_constant, attribute, constant, every_node, insert_before, is_op
from .recurrent_weights import follow
from .write_qdq import attribute_axis, has_qdq, is_qdq

_PER_WORD, _STEPS, _MIDDLE = 4, 256, 128
_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32

Store = Callable[[ir.Model, str, Numbers], tuple[ir.Value, ...]]
LookUp = Callable[[ir.Model, ir.Node, tuple[ir.Value, ...], int], ir.Value]


def write_tables(model: ir.Model, target: Target) -> tuple[ir.Model, bool]:
    """Look up codes and scales of fake-quantized tables and multiply them; runs before Q/DQ is written."""
    store, look_up = _FORMS[target]
    stored: dict[ir.Value, tuple[tuple[ir.Value, ...], ir.Value]] = {}
    for node, table, codes, scales in _lookups(model):
        if table not in stored:
            base = table.name or "table"
            stored[table] = store(model, base, codes), add_constant(model, f"{base}_scale", scales[:, None])
        held, factors = stored[table]
        _scale(node, look_up(model, node, held, codes.shape[1]), factors)
    return model, bool(stored)


def _lookups(model: ir.Model) -> list[tuple[ir.Node, ir.Value, Numbers, Numbers]]:
    """Gathers of rows of a constant table with one scale per row: node, table, codes and scales."""
    opset, found = model.graph.opset_imports.get("", 21), []
    for node in every_node(model) if has_qdq(model) else ():
        table = node.inputs[0] if is_op(node, "Gather") and attribute(node, "axis", 0) == 0 else None
        producer = table.producer() if table is not None else None
        if table is None or producer is None or not is_qdq(producer) or attribute_axis(producer) != 0:
            continue
        known = follow(table, opset)
        rows = constant(producer.inputs[1])
        if known is not None and rows is not None and known[0].ndim == 2:
            found.append((node, table, known[0], rows.astype(np.float32).reshape(-1)))
    return found


def _scale(node: ir.Node, numbers: ir.Value, scales: ir.Value) -> None:
    """``numbers * Gather(scales, indices)`` in place of a lookup."""
    indices, old = node.inputs[1], node.outputs[0]
    name = old.name or "lookup"
    rows = insert_before(node, "Gather", [scales, indices], {"axis": 0}, f"{name}_scales", None, _FLOAT)
    result = insert_before(node, "Mul", [numbers, rows], {}, f"{name}_scaled", old.shape, _FLOAT)
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _store_codes(model: ir.Model, base: str, codes: Numbers) -> tuple[ir.Value, ...]:
    return (add_constant(model, f"{base}_quantized", codes),)


def _look_up_codes(model: ir.Model, node: ir.Node, held: tuple[ir.Value, ...], width: int) -> ir.Value:
    """``Cast(Gather(codes, indices))``."""
    indices, old = node.inputs[1], node.outputs[0]
    name = old.name or "lookup"
    rows = insert_before(node, "Gather", [held[0], indices], {"axis": 0}, f"{name}_codes", old.shape, ir.DataType.INT8)
    return insert_before(node, "Cast", [rows], {"to": int(_FLOAT)}, f"{name}_numbers", old.shape, _FLOAT)


def pack(codes: Numbers) -> Numbers:
    """INT8 codes ``[R, C]`` as INT32 words ``[R, ceil(C / 4)]``.

    Byte ``k`` of word ``j`` holds column ``k * ceil(C / 4) + j``: the lower three plus 128, the highest with its sign.
    """
    width = -(-codes.shape[1] // _PER_WORD)
    filled = np.zeros((len(codes), width * _PER_WORD), np.int32)
    filled[:, : codes.shape[1]] = codes
    planes = filled.reshape(len(codes), _PER_WORD, width)
    planes[:, :-1] += _MIDDLE
    words = planes[:, -1]
    for number in range(_PER_WORD - 2, -1, -1):
        words = words * np.int32(_STEPS) + planes[:, number]
    return words


def _store_words(model: ir.Model, base: str, codes: Numbers) -> tuple[ir.Value, ...]:
    words = pack(codes)
    middle = np.zeros(words.shape[1] * _PER_WORD, np.float32)
    middle[: -words.shape[1]] = _MIDDLE
    stored = {"packed": words, "steps": np.int32(_STEPS), "middle": middle}
    return tuple(add_constant(model, f"{base}_{name}", np.asarray(array)) for name, array in stored.items())


def _look_up_words(model: ir.Model, node: ir.Node, held: tuple[ir.Value, ...], width: int) -> ir.Value:
    """Unpack rows of words from the lowest byte upwards; every division is exact."""
    (table, steps, middle), (indices, old) = held, (node.inputs[1], node.outputs[0])
    name = old.name or "lookup"
    rest = insert_before(node, "Gather", [table, indices], {"axis": 0}, f"{name}_words", None, _INT32)
    planes = []
    for number in range(_PER_WORD - 1):
        low = insert_before(node, "Mod", [rest, steps], {}, f"{name}_byte{number}", None, _INT32)
        more = insert_before(node, "Sub", [rest, low], {}, f"{name}_above{number}", None, _INT32)
        rest = insert_before(node, "Div", [more, steps], {}, f"{name}_rest{number}", None, _INT32)
        planes.append(low)
    codes = insert_before(node, "Concat", [*planes, rest], {"axis": -1}, f"{name}_bytes", None, _INT32)
    wide = insert_before(node, "Cast", [codes], {"to": int(_FLOAT)}, f"{name}_shifted", None, _FLOAT)
    whole = insert_before(node, "Sub", [wide, middle], {}, f"{name}_codes", None, _FLOAT)
    if width % _PER_WORD == 0:
        return whole
    ends = [add_constant(model, f"{name}_{key}", np.asarray([end])) for key, end in (("from", 0), ("to", width))]
    last = add_constant(model, f"{name}_axis", np.asarray([-1]))
    return insert_before(node, "Slice", [whole, *ends, last], {}, f"{name}_numbers", old.shape, _FLOAT)


_FORMS: dict[Target, tuple[Store, LookUp]] = {
    "cpu": (_store_codes, _look_up_codes),
    "arm": (_store_codes, _look_up_codes),
    "tensorrt": (_store_words, _look_up_words),
}
