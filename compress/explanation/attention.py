"""The attention of a transformer to the tokens of its input, through all layers (Abnar and Zuidema 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ...core.aten_names import operator_name
from ...core.errors import InputError
from ...core.explanation.input_forms import Form
from ...core.tensors import Array
from .scored_module import ScoredModule, Steps

FUSED = "scaled_dot_product_attention"
SOFTMAX = ("softmax", "_softmax")


def attention_rollout(scored: ScoredModule, form: Form) -> Array:
    """How much every token of an input is attended to, over all layers; not negative, and relative.

    The mean over the heads of each layer, with half of the weight on the token itself for the path around the layer, is
    multiplied through the layers, and averaged over the tokens that have content.

    Raises:
        InputError: the program has no attention over the tokens of this input.
    """
    nodes = [node for node in scored.program.module.graph.nodes if operator_name(node) == FUSED]
    watched = [node.all_input_nodes for node in nodes]
    softmaxes = [node for node in scored.program.module.graph.nodes if operator_name(node) in SOFTMAX]
    steps = Steps(watched=tuple({node for inputs in watched for node in inputs} | set(softmaxes)))
    scored.scores({}, steps)
    with torch.no_grad():
        layers = [_weights(node, steps) for node in nodes] or [steps.seen[node] for node in softmaxes]
        length = form.sample.shape[0]
        fitting = [layer for layer in layers if layer.dim() == 4 and layer.shape[-2:] == (length, length)]
        if form.kind != "tokens" or not fitting:
            message = f"the program has no attention over the tokens of '{form.name}'"
            raise InputError(message, "use the method integrated-gradients, or occlusion")
        rolled = torch.eye(length, dtype=torch.float64, device=fitting[0].device)
        for layer in fitting:
            mean = layer[0].double().mean(dim=0)
            mixed = (mean + torch.eye(length, dtype=mean.dtype, device=mean.device)) / 2
            rolled = (mixed / mixed.sum(dim=-1, keepdim=True)) @ rolled
        used = form.used[0]
        values = rolled[:used].mean(dim=0)
        values[used:] = 0
    found: Array = values.cpu().numpy()
    return found


def _weights(node: fx.Node, steps: Steps) -> torch.Tensor:
    """The weights of a fused attention ``[N, heads, T, T]``, computed again from its inputs."""

    def value(argument: Any) -> Any:
        return steps.seen.get(argument, argument) if isinstance(argument, fx.Node) else argument

    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    given = {**dict(zip(names, node.args)), **node.kwargs}
    query, key = value(given["query"]), value(given["key"])
    if query.dim() != 4 or key.dim() != 4:
        return torch.zeros(0)
    if key.shape[1] != query.shape[1]:  # grouped queries
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale = value(given.get("scale")) or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-1, -2) * scale
    mask = value(given.get("attn_mask"))
    if given.get("is_causal"):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    found: torch.Tensor = scores.softmax(dim=-1)
    return found
