"""The table of ATen names agrees with PyTorch's operators and their schemas."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from retort.compress.quantization.operator_classes import is_qdq
from retort.core import aten_names
from retort.core.aten_names import OPERANDS, SYNONYMS, name_of, operator_name

aten = torch.ops.aten


def _calls(target: Any) -> fx.Node:
    return fx.Graph().create_node("call_function", target)


def _families() -> list[str]:
    lists = [value for value in vars(aten_names).values() if isinstance(value, tuple)]
    return sorted({name for family in lists for name in family} | {aten_names.ATTENTION, *SYNONYMS.values()})


def test_names_of_nodes_follow_the_operator_and_not_its_overload() -> None:
    """``name_of`` reads only ATen operators, and keeps the underscore of in-place operators."""
    assert name_of(_calls(aten.conv2d.default)) == name_of(_calls(aten.conv2d.padding)) == "conv2d"
    assert name_of(_calls(aten.relu_.default)) == "relu_"
    others = (torch.ops.retort.qdq.default, operator.getitem, aten.conv2d, torch.relu)
    assert [name_of(_calls(target)) for target in others] == [""] * len(others)
    assert name_of(fx.Graph().placeholder("conv2d")) == name_of(None) == name_of(3) == ""


def test_every_call_has_an_operator_name() -> None:
    """``operator_name`` drops the underscore of in-place operators and names functions of all libraries."""
    names = [operator_name(_calls(target)) for target in (aten.relu_.default, aten.__and__.Tensor, operator.getitem)]
    assert names == ["relu", "__and__", "getitem"]
    assert operator_name(_calls(torch.ops.retort.qdq.default)) == "retort::qdq"
    assert is_qdq(_calls(torch.ops.retort.qdq.default))
    assert operator_name(fx.Graph().placeholder("image")) == "image"


@pytest.mark.parametrize("name", _families())
def test_every_name_is_an_operator_of_pytorch(name: str) -> None:
    """A name that PyTorch does not have would be a rule that never applies."""
    assert hasattr(aten, name)


@pytest.mark.parametrize("name", sorted(OPERANDS))
def test_operands_are_arguments_of_the_operator(name: str) -> None:
    """Data, weight and bias are arguments of every overload, without a bias if the operator adds none."""
    for overload in getattr(aten, name).overloads():
        arguments = {item.name for item in getattr(getattr(aten, name), overload)._schema.arguments}
        assert {item for item in OPERANDS[name] if item} <= arguments
