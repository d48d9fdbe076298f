"""Stands in for PyTorch in the worker of a packed model, where an archive has this file as ``torch.py``.

TorchServe's worker imports PyTorch for a single ``isinstance`` check of answers, and ours are bytes. Without the import
a worker starts in a fifth of the time and takes a fifth of the memory (serve.md H1). Standard library only.
``tests/serve/torchserve/test_without_torch.py`` fails if TorchServe uses more of PyTorch than this file has.
"""

from __future__ import annotations


class Tensor:
    """No object is one."""


def __getattr__(name: str) -> object:
    raise AttributeError(f"this worker has no PyTorch (torch.{name}): models packed by Retort run in ONNX Runtime")
