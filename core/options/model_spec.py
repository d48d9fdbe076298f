"""The source of a model, as a recipe gives it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .option_types import Options


class ModelSpec(Options):
    """The source of a model."""

    source: str = Field(
        description="The model: `package.module:factory`, a .pt2 file, an .onnx file, a directory written by "
        "`save_pretrained`, or a model of PyTorch Hub that is on this machine, as `hub:owner/repo:name`."
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
    weights_fit: Literal["all", "matching"] = Field(
        default="all",
        description="Whether every weight of the model must be in the file with its shape (all), or only those are "
        "loaded that are (matching), for transfer to another task. The others start anew, and a report lists them.",
    )
    weights_names: dict[str, str] = Field(
        default_factory=dict,
        description="Other names of the file's weights, as patterns with one `*`, such as `{encoder.*: backbone.*}`. "
        "The first pattern that fits a name is used; an empty new name leaves the weight out.",
    )
