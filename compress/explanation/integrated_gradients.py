"""Integrated gradients (Sundararajan et al. 2017): the gradients along the path from the baseline to the sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from ...core.aten_names import operator_name
from ...core.errors import InputError
from ...core.explanation.input_forms import Form
from ...core.tensors import Array
from ..graph.devices import as_tensor
from .scored_module import ScoredModule, Steps

MOST_POINTS = 128
"""Points of the path; more change nothing that a person sees."""


def integrated_gradients(scored: ScoredModule, forms: Sequence[Form], points: int) -> dict[str, Array]:
    """The attributions of every cell, by input; they add up to the score minus that of the baseline.

    Gradients are taken in the middles of equal steps. Tokens have none, so that the path of an input of tokens runs
    from the embeddings of the baseline to those of the sample.

    Args:
        points: number of points of the path.

    Raises:
        InputError: an input has no gradients, and no embedding that has.
    """
    ends = [_ends(scored, form) for form in forms]
    sums = [torch.zeros_like(start) for start, _, _ in ends]
    shares = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    for part in shares.split(scored.rows):
        leaves = [_between(start, stop, part).requires_grad_() for start, stop, _ in ends]
        changed = {form.name: leaf for form, leaf, (_, _, node) in zip(forms, leaves, ends) if node is None}
        replaced = {node: leaf for leaf, (_, _, node) in zip(leaves, ends) if node is not None}
        scores = scored.scores(changed, Steps(replaced))
        gradients = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
        for total, gradient in zip(sums, gradients):
            if gradient is not None:
                total += gradient.sum(dim=0)
    products = [(stop - start) * total / points for total, (start, stop, _) in zip(sums, ends)]
    return {form.name: _cells(form, product) for form, product in zip(forms, products)}


def _between(start: torch.Tensor, stop: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    weights = shares.to(start).reshape(-1, *[1] * start.dim())
    return (start + weights * (stop - start)).detach()


def _ends(scored: ScoredModule, form: Form) -> tuple[torch.Tensor, torch.Tensor, fx.Node | None]:
    """Both ends of the path, and the node whose value runs along it; None for an input itself."""
    sample, baseline = scored.sample(form.name), scored.sample(form.name).clone()
    index = form.index(form.whole)
    baseline[index] = as_tensor(form.baseline, baseline.device)[index]
    if sample.is_floating_point():
        return baseline, sample, None
    node = embedding_of(scored.program.module, _placeholder(scored, form.name))
    if node is None:
        message = f"the input '{form.name}' has whole numbers, and the program looks them up in no table"
        raise InputError(message, "use the method occlusion")
    values = []
    for tokens in (baseline, sample):
        steps = Steps(watched=(node,))
        scored.scores({form.name: tokens[None]}, steps)
        values.append(steps.seen[node].detach()[0])
    return values[0], values[1], node


def _placeholder(scored: ScoredModule, name: str) -> fx.Node:
    nodes = [node for node in scored.program.module.graph.nodes if node.op == "placeholder"]
    found: fx.Node = nodes[[spec.name for spec in scored.program.signature.inputs].index(name)]
    return found


def embedding_of(module: fx.GraphModule, start: fx.Node) -> fx.Node | None:
    """The first node that looks the values of an input up in a table, with at most casts and moves between."""
    waiting, seen = [start], set[fx.Node]()
    while waiting:
        node = waiting.pop(0)
        for user in node.users:
            if operator_name(user) == "embedding" and user.args[1] is node:
                return user
            if len(user.all_input_nodes) == 1 and user not in seen:
                seen.add(user)
                waiting.append(user)
    return None


def _cells(form: Form, products: torch.Tensor) -> Array:
    """Products of all values of a cell, added up, as float64 in the sizes of the form's axes."""
    values = products.detach().double().cpu().numpy()
    others = tuple(axis for axis in range(values.ndim) if axis not in form.axes)
    return np.asarray(values.sum(axis=others))
