"""Devices: conversion between numpy and tensors, and moving a graph from one device to another."""

from __future__ import annotations

import torch

from ...core.tensors import Array
from .train_eval_mode import graphs


def as_tensor(value: Array, device: torch.device | str = "cpu") -> torch.Tensor:
    """A tensor of an array's values; on the CPU it shares memory with the array if numpy allows writing."""
    return torch.from_numpy(value if value.flags.writeable else value.copy()).to(device)


def as_array(value: torch.Tensor) -> Array:
    """A numpy array of a tensor's values; bfloat16, which numpy does not have, becomes float32."""
    value = value.detach().cpu()
    array: Array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return array


def move_module(module: torch.nn.Module, device: torch.device | str) -> None:
    """Move parameters and buffers, and change the devices in the graph's arguments."""
    module.to(device)
    for graph in graphs(module):
        for node in graph.graph.nodes:
            if node.kwargs.get("device") is not None:
                node.update_kwarg("device", torch.device(device))
            if node.target is torch.ops.aten.to.device:
                node.update_arg(1, torch.device(device))
        graph.recompile()
