"""One call of an operator: its values and its attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...core.errors import ModelError
from .reader import Body, Node
from .shape_arithmetic import objects, whole

Operator = Callable[["Call"], Any]


@dataclass(frozen=True)
class Call:
    """The inputs of an operator.

    Attributes:
        values: tensors, host values (see :mod:`retort.compress.onnx_import.shape_arithmetic`), or None for omitted
            inputs.
        opset: version of the standard operators.
        training: whether the module is in training mode.
        batch: the fixed batch size of the file, or None if it is dynamic.
        rows: the size of the batch now, or None if it is not known.
        negative: outputs of nodes whose indices were below 0 on samples.
        run_body: runs a branch or the body of a loop on the given values of its inputs.
    """

    node: Node
    values: tuple[Any, ...]
    opset: int
    training: bool = False
    batch: int | None = None
    rows: Any = None
    negative: set[str] = field(default_factory=set)
    run_body: Callable[[Body, Sequence[Any]], list[Any]] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return self.node.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether an input is present."""
        return index < len(self.values) and self.values[index] is not None

    def tensor(self, index: int) -> torch.Tensor:
        """An input as a tensor; sizes and numbers become constants."""
        value = self.values[index]
        return value if isinstance(value, torch.Tensor) else as_tensor(value)

    def tensors(self) -> list[torch.Tensor]:
        """All inputs as tensors."""
        return [self.tensor(index) for index in range(len(self.values))]

    def optional(self, index: int) -> torch.Tensor | None:
        """An input as a tensor, or None if it is omitted."""
        return self.tensor(index) if self.has(index) else None

    def host(self, index: int, attribute: str = "", default: Any = None) -> Any:
        """Sizes and numbers: an input, or in older opsets an attribute with the given name.

        Raises:
            ModelError: the sizes are computed from data.
        """
        if not self.has(index):
            return self.get(attribute, default) if attribute else default
        value = self.values[index]
        if isinstance(value, torch.Tensor):
            raise ModelError(
                f"{self.node.describe()} uses sizes that are computed from data instead of shapes",
                "export the model without data-dependent sizes, because such a graph has no fixed form",
                operator=self.node.operator,
            )
        return value

    def axes(self, index: int, default: Any = None) -> list[int] | None:
        """Axes, which moved from an attribute to an input at opset 13 and 18."""
        found = self.host(index, "axes", default)
        return None if found is None else [int(axis) for axis in whole(found)]

    def refuse(self, what: str) -> ModelError:
        """The error that this operator cannot be imported, with the reason."""
        return ModelError(
            f"{self.node.describe()} cannot be imported: {what}",
            "capture the PyTorch model instead, or export it with another operator there",
        )


def as_tensor(value: Any) -> torch.Tensor:
    """A host value as a tensor; symbolic sizes stay symbolic."""
    array = objects(value)
    items = array.reshape(-1).tolist()
    if any(isinstance(item, torch.SymInt | torch.SymFloat | torch.SymBool) for item in items):
        kind = torch.float32 if any(isinstance(item, float | torch.SymFloat) for item in items) else torch.int64
        parts = torch.stack([torch.scalar_tensor(item, dtype=kind) for item in items])
        return parts.reshape(array.shape)
    kinds = {type(item) for item in items}
    dtype = torch.float32 if float in kinds else torch.bool if kinds == {bool} else torch.int64
    return torch.tensor(array.tolist(), dtype=dtype).reshape(array.shape)
