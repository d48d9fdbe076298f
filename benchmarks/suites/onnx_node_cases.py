"""The node tests of the onnx package as cases, alone or side by side in one graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...core.errors import UserError
from ...core.tensors import Array

FLOATS = ("float16", "float32", "float64", "bfloat16")
_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *FLOATS)


@dataclass(frozen=True, eq=False)
class NodeTest:
    """One test of ONNX: a model, its inputs, and the outputs that it must have."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    @property
    def operator(self) -> str:
        """The operator that is tested; a definition that is expanded has the name of its test."""
        if "_expanded" in self.name or len(self.model.graph.node) != 1:
            return _expanded(self.name)
        return str(self.model.graph.node[0].op_type)

    @property
    def floating(self) -> bool:
        """Whether it computes floating-point numbers from tensors of numbers."""
        values = [*self.inputs.values(), *self.outputs.values()]
        plain = all(isinstance(value, np.ndarray) and value.dtype.name in _NUMBERS for value in values)
        return plain and any(value.dtype.name in FLOATS for value in self.outputs.values())


def _expanded(name: str) -> str:
    return "definition of " + name.removeprefix("test_").partition("_expanded")[0].partition("_")[0]


def node_tests(wanted: Sequence[str]) -> list[NodeTest]:
    """All node tests, or those with the given names or operators.

    Raises:
        UserError: there is no such test.
    """
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    found = [item for case in cases for item in _of_case(case)]
    if not wanted:
        return found
    chosen = [test for test in found if test.name in wanted or test.operator in wanted]
    unknown = sorted(set(wanted) - {test.name for test in chosen} - {test.operator for test in chosen})
    if unknown:
        raise UserError(f"the onnx package has no node test '{unknown[0]}'", "give a name of a test or an operator")
    return chosen


def _of_case(case: Any) -> Iterator[NodeTest]:
    graph = case.model.graph
    for inputs, outputs in case.data_sets[:1]:
        names = [[item.name for item in ports] for ports in (graph.input, graph.output)]
        given, expected = (
            {name: _array(value) for name, value in zip(part, values, strict=False)}
            for part, values in zip(names, (inputs, outputs))
        )
        yield NodeTest(case.name, case.model, given, expected)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | float | int | bool) else value


def sizes_of(test: NodeTest) -> tuple[str, ...]:
    """Inputs that are constants in the files of exporters: integers and few numbers, but never the main input."""
    arrays = {name: value for name, value in test.inputs.items() if isinstance(value, np.ndarray)}
    wide = [name for name, value in arrays.items() if value.dtype.name in FLOATS and value.ndim]
    main = wide[0] if wide else next(iter(arrays), "")
    return tuple(
        name for name, value in arrays.items() if name != main and (value.dtype.kind in "iub" or value.size <= 8)
    )


def joined(group: Sequence[NodeTest]) -> NodeTest:
    """Several tests side by side in one graph, with a prefix before all their names."""
    graph = onnx.GraphProto(name="joined")
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    for index, test in enumerate(group):
        prefix = f"t{index}_"
        part = onnx.compose.add_prefix(test.model, prefix).graph
        for kind in ("node", "input", "output", "initializer"):
            getattr(graph, kind).extend(getattr(part, kind))
        inputs |= {prefix + name: value for name, value in test.inputs.items()}
        outputs |= {prefix + name: value for name, value in test.outputs.items()}
    first = group[0].model
    model = onnx.helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    return NodeTest("joined", model, inputs, outputs)


def joined_sizes(group: Sequence[NodeTest]) -> tuple[str, ...]:
    """The inputs of a joined graph that are constants."""
    return tuple(f"t{index}_{name}" for index, test in enumerate(group) for name in sizes_of(test))


def groups(chosen: Sequence[NodeTest], most: int) -> list[list[NodeTest]]:
    """Tests that one file can hold: of the same opset, of tensors of numbers, without branches and functions."""
    found: list[list[NodeTest]] = []
    open_groups: dict[str, list[NodeTest]] = {}
    for test in chosen:
        simple = not test.model.functions and not any(
            item.type == onnx.AttributeProto.GRAPH for node in test.model.graph.node for item in node.attribute
        )
        key = str(sorted((item.domain, item.version) for item in test.model.opset_import)) + str(test.model.ir_version)
        if most < 2 or not simple or not test.floating:
            found.append([test])
            continue
        group = open_groups.get(key)
        if group is None or len(group) == most:
            group = open_groups[key] = []
            found.append(group)
        group.append(test)
    return found


def with_constants(test: NodeTest, constants: Sequence[str]) -> onnx.ModelProto:
    """The model of a test with some of its inputs as constants."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    kept = [item for item in model.graph.input if item.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(test.inputs[name], name) for name in constants)
    return model
