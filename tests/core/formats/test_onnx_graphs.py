"""Iteration over ONNX graphs, on a loop with a branch inside it."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from retort.core.formats.onnx_graphs import all_nodes, bodies, captured, nested


@pytest.fixture
def graph() -> onnx.GraphProto:
    """``Scan`` over rows, whose body reads ``outer`` and has two branches: one adds ``deep``, one has a weight."""
    row, flag = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("row", "flag"))
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [2.0])
    first = helper.make_graph([helper.make_node("Add", ["sum", "deep"], ["one"])], "then", [], [result])
    second = helper.make_graph([helper.make_node("Mul", ["sum", "weight"], ["two"])], "else", [], [result], [weight])
    inner = [
        helper.make_node("Add", ["row", "outer"], ["sum"]),
        helper.make_node("If", ["flag"], ["result"], then_branch=first, else_branch=second),
    ]
    body = helper.make_graph(inner, "body", [row, flag], [result])
    scan = helper.make_node("Scan", ["rows"], ["results"], body=body, num_scan_inputs=1)
    return helper.make_graph([helper.make_node("Relu", ["input"], ["rows"]), scan], "main", [], [])


def test_nodes_come_with_those_of_their_bodies_behind_them(graph: onnx.GraphProto) -> None:
    """The order is that of the file, at every depth, with attributes sorted by name."""
    assert [node.op_type for node in all_nodes(graph)] == ["Relu", "Scan", "Add", "If", "Mul", "Add"]
    assert [part.name for part in nested(graph)] == ["main", "body", "else", "then"]
    assert [body.name for body in bodies(graph.node[0])] == []


def test_functions_are_visited_like_graphs(graph: onnx.GraphProto) -> None:
    """A function of a model has nodes with subgraphs, too."""
    function = helper.make_function("local", "f", ["input"], ["results"], list(graph.node), [])
    assert sum(1 for _ in all_nodes(function)) == 6


def test_graphs_in_a_list_are_bodies(graph: onnx.GraphProto) -> None:
    """An attribute may have several graphs."""
    node = helper.make_node("Switch", [], ["y"], domain="own", cases=[graph, graph])
    assert [body.name for body in bodies(node)] == ["main", "main"]


def test_bodies_read_what_they_do_not_make(graph: onnx.GraphProto) -> None:
    """Names of outer graphs count at any depth; inputs, weights and results of a body do not."""
    assert set(captured(graph.node[1])) == {"outer", "deep"}
    assert list(captured(graph.node[0])) == []
