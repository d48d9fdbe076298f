"""A captured program as a differentiable function of one sample: the explained score of changed copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ...core.errors import InputError
from ...core.explanation.evaluations import Evaluations, batch_axis_of
from ...core.explanation.explained_value import Explained
from ...core.tensors import TensorSpec
from ..graph.devices import as_tensor
from ..program import Program, device_of, set_training

ROWS = 16
"""Copies that are differentiated at once."""
_EDGE = 1e-7


@dataclass(frozen=True)
class ScoredModule:
    """A program in evaluation form, and one sample of which it scores changed copies.

    Attributes:
        evaluations: have the sample, and count what is computed.
    """

    program: Program
    evaluations: Evaluations
    explained: Explained

    def scores(self, changed: Mapping[str, torch.Tensor], steps: Steps) -> torch.Tensor:
        """The score of each copy as ``[N]``, with its gradients.

        Args:
            changed: inputs of the copies, with the batch axis first; the sample has the others.
            steps: how the nodes of the graph are run.
        """
        count = max([1, *(len(value) for value in changed.values()), *map(len, steps.replaced.values())])
        given = [self._joined(spec, changed, count) for spec in self.program.signature.inputs]
        set_training(self.program, False)
        with torch.enable_grad():
            outputs = _Steps(self.program.module, steps).run(*given)
            at = [spec.name for spec in self.program.signature.outputs].index(self.explained.output)
            spec = self.program.signature.outputs[at]
            axis = batch_axis_of(self.program.signature, spec)
            rows = outputs[at][None] if axis is None else outputs[at].movedim(axis, 0)
            found = torch_scores(self.explained, rows)[:count]
        self.evaluations.used += count
        self.evaluations.done(count)
        return found

    def sample(self, name: str) -> torch.Tensor:
        """An input of the sample on the device of the program."""
        return as_tensor(self.evaluations.sample[name], device_of(self.program))

    @property
    def rows(self) -> int:
        """Copies that may be run at once."""
        signature = self.program.signature
        return signature.fixed_batch or (ROWS if signature.batch_invariant else 1)

    def _joined(self, spec: TensorSpec, changed: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
        axis = batch_axis_of(self.program.signature, spec)
        if axis is None:
            value = changed.get(spec.name)
            return self.sample(spec.name) if value is None else value[0]
        rows = self.program.signature.fixed_batch or count
        value = changed.get(spec.name, self.sample(spec.name)[None])
        index = torch.arange(rows, device=value.device) % len(value)
        return value[index].movedim(0, axis)


@dataclass(frozen=True)
class Steps:
    """How the nodes of a graph are run.

    Attributes:
        replaced: values of nodes that are not computed.
        watched: nodes whose values are kept in ``seen``, with gradients.
    """

    replaced: Mapping[fx.Node, torch.Tensor] = field(default_factory=dict)
    watched: Sequence[fx.Node] = ()
    seen: dict[fx.Node, Any] = field(default_factory=dict)


class _Steps(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, steps: Steps) -> None:
        super().__init__(module)
        self._steps = steps

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, or take its replacement."""
        value = self._steps.replaced[n] if n in self._steps.replaced else super().run_node(n)
        if n in self._steps.watched:
            if isinstance(value, torch.Tensor) and not value.requires_grad and value.is_floating_point():
                value = value.detach().requires_grad_()
            self._steps.seen[n] = value
        return value


def torch_scores(explained: Explained, outputs: torch.Tensor) -> torch.Tensor:
    """The same number as :meth:`retort.core.explanation.explained_value.Explained.scores`, with gradients.

    Raises:
        InputError: the output does not depend on numbers that can be differentiated.
    """
    if not outputs.is_floating_point():
        raise InputError(f"the output '{explained.output}' has no gradients", "use the method occlusion")
    values = outputs.double()
    if explained.kind == "similarity":
        return _likeness(explained, values)
    axis, index = (explained.axis or 0) + 1, explained.index or 0
    picked = values if explained.axis is None else values.select(axis, index)
    if not explained.odds:
        return picked.reshape(len(picked), -1).mean(dim=1)
    if explained.normed:
        chance = picked.clamp(_EDGE, 1 - _EDGE)
        found = chance if explained.kind == "mask" else chance.log() - (1 - chance).log()
    else:
        others = [number for number in range(values.shape[axis]) if number != index]
        rest = values.index_select(axis, torch.tensor(others, device=values.device)).logsumexp(dim=axis)
        found = picked - rest
        found = found.sigmoid() if explained.kind == "mask" else found
    return found.reshape(len(found), -1).mean(dim=1) if explained.kind == "mask" else found


def _likeness(explained: Explained, values: torch.Tensor) -> torch.Tensor:
    assert explained.reference is not None
    wanted = torch.as_tensor(explained.reference, dtype=torch.float64, device=values.device)[None]
    rows, whole = (array.reshape(len(array), -1, array.shape[-1]).mean(dim=1) for array in (values, wanted))
    return torch.cosine_similarity(rows, whole, dim=1, eps=1e-30)
