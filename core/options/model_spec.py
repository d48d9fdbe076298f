"""The source of a model, as a recipe gives it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .option_types import Options


class ModelSpec(Options):
    """The source of a model."""

    source: str = Field(
        description="The model: `package.module:factory`, a .pt2 file, an .onnx file, or a directory written by "
        "`save_pretrained`."
    )
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments for the factory. A `save_pretrained` directory takes `task`.",
    )
    weights: str | None = Field(
        default=None,
        description="File of trained weights: .safetensors, or a checkpoint that torch.save wrote. The state dict is "
        "found below wrappers and prefixes; `file.ckpt#ema` chooses one of several by its key.",
    )
