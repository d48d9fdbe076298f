"""Embedding tables with INT8 rows: codes are looked up, then scaled; the whole table is never in floating point."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Numbers, add_constant, attribute, constant, every_node, insert_before, is_op
from .quantized import attribute_axis, has_qdq, is_qdq
from .recurrent_codes import follow


def write_tables(model: ir.Model) -> tuple[ir.Model, bool]:
    """Look up codes and scales of fake-quantized tables and multiply them; runs before Q/DQ is written."""
    changed = False
    stored: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node, table, codes, scales in _lookups(model):
        if table not in stored:
            base = table.name or "table"
            stored[table] = (
                add_constant(model, f"{base}_quantized", codes),
                add_constant(model, f"{base}_scale", scales[:, None]),
            )
        _replace(node, *stored[table])
        changed = True
    return model, changed


def unpack_tables(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write fake-quantized tables as the FP32 numbers that they stand for, for targets without such lookups."""
    changed = False
    for node, table, codes, scales in _lookups(model):
        numbers = codes.astype(np.float32) * scales[:, None]
        node.replace_input_with(0, add_constant(model, f"{table.name}_rounded", numbers))
        changed = True
    return model, changed


def _lookups(model: ir.Model) -> list[tuple[ir.Node, ir.Value, Numbers, Numbers]]:
    """Gathers of rows of a constant table with one scale per row: node, table, codes and scales."""
    opset, found = model.graph.opset_imports.get("", 21), []
    for node in every_node(model) if has_qdq(model) else ():
        table = node.inputs[0] if is_op(node, "Gather") and attribute(node, "axis", 0) == 0 else None
        maker = table.producer() if table is not None else None
        if table is None or maker is None or not is_qdq(maker) or attribute_axis(maker) != 0:
            continue
        known = follow(table, opset)
        rows = constant(maker.inputs[1])
        if known is not None and rows is not None and known[0].ndim == 2:
            found.append((node, table, known[0], rows.astype(np.float32).reshape(-1)))
    return found


def _replace(node: ir.Node, codes: ir.Value, scales: ir.Value) -> None:
    """``Cast(Gather(codes, indices)) * Gather(scales, indices)`` in place of a node."""
    indices, old = node.inputs[1], node.outputs[0]
    name, kind = old.name or "lookup", ir.DataType.FLOAT
    one = insert_before(node, "Gather", [codes, indices], {"axis": 0}, f"{name}_codes", old.shape, ir.DataType.INT8)
    numbers = insert_before(node, "Cast", [one], {"to": int(kind)}, f"{name}_numbers", old.shape, kind)
    two = insert_before(node, "Gather", [scales, indices], {"axis": 0}, f"{name}_scales", None, kind)
    result = insert_before(node, "Mul", [numbers, two], {}, f"{name}_scaled", old.shape, kind)
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
