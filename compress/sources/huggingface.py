"""Models from a directory written by ``save_pretrained``: its class, its weights, and example inputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core.errors import ArtifactError, MachineError, ModelError, UserError
from ...core.options.recipe import nearest
from ...core.system.installation import install_command
from ...core.tensors import Array

TASKS = {
    "audio-classification": "AutoModelForAudioClassification",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "object-detection": "AutoModelForObjectDetection",
    "question-answering": "AutoModelForQuestionAnswering",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "token-classification": "AutoModelForTokenClassification",
}
ROWS, TOKENS, SAMPLES = 2, 16, 16_000
"""Sizes of the generated example: rows, tokens of a text, samples of a sound (one second)."""


def is_pretrained(folder: Path) -> bool:
    """Whether ``folder`` was written by ``save_pretrained``."""
    return (folder / "config.json").is_file()


def class_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the classes in a model's ``config.id2label``; empty for the placeholders ``LABEL_0`` …"""
    labels = getattr(getattr(model, "config", None), "id2label", None) or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def load_pretrained(folder: Path, task: str | None = None) -> nn.Module:
    """Load the model in a directory, without its cache of past keys.

    Only safetensors are read. No code of the directory is run, and nothing is downloaded.

    Args:
        task: a key of :data:`TASKS`; by default the class with which the directory was saved.

    Raises:
        UserError: the task is unknown.
        MachineError: ``transformers`` is not installed.
        ArtifactError: the directory is incomplete.
        ModelError: the task does not fit the model, or weights are missing.
    """
    transformers = _library()
    if task is not None and task not in TASKS:
        raise UserError(f"unknown task '{task}'{nearest(task, list(TASKS))}", f"give one of {', '.join(TASKS)}")
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{folder} contains no .safetensors file",
            "save it with model.save_pretrained(dir, safe_serialization=True)",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = getattr(transformers, TASKS[task] if task else _saved_class(config, transformers))
        with _no_bars_in_logs(transformers):
            model, loading = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and safetensors' errors alike
        raise ArtifactError(
            f"{folder} cannot be loaded: {_first_line(error)}",
            "check the directory, and that `--task` fits the architecture",
        ) from error
    _require_whole(folder, task, loading)
    return _without_cache(model)


def example_of(model: nn.Module) -> dict[str, Array]:
    """Generated inputs with the right names, shapes and ranges: tokens ``[2, 16]``, images or sounds.

    Raises:
        ModelError: the model has another kind of input, for which real data are needed.
    """
    config, generator = _config(model), np.random.default_rng(0)
    main = getattr(model, "main_input_name", "input_ids")
    if main == "input_ids":
        size = int(config.get_text_config().vocab_size)
        tokens = generator.integers(min(10, size - 1), size, (ROWS, TOKENS))
        return {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    if main == "pixel_values":
        return {main: generator.standard_normal((ROWS, *_image_shape(config))).astype(np.float32)}
    if main == "input_values" and not hasattr(config, "num_mel_bins"):
        return {main: generator.standard_normal((ROWS, SAMPLES)).astype(np.float32)}
    raise ModelError(
        f"no example can be generated for the input '{main}' of {type(model).__name__}", "give real samples with --data"
    )


def free_axes(feeds: Mapping[str, Array | torch.Tensor]) -> dict[str, dict[int, str]]:
    """The axes of tokenised text that vary from batch to batch: axis 1 of every two-dimensional integer input."""
    return {
        name: {1: "sequence"}
        for name, value in feeds.items()
        if value.ndim == 2 and value.shape[1] > 1 and not torch.as_tensor(value).is_floating_point()
    }


@contextmanager
def _no_bars_in_logs(transformers: Any) -> Iterator[None]:
    """Without a terminal, the loading bars of the library would be hundreds of characters in a log."""
    bars = transformers.utils.logging
    if sys.stderr.isatty() or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def _library() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MachineError("this model needs the package `transformers`", install_command("hf")) from error


def _saved_class(config: Any, library: Any) -> str:
    named = (config.architectures or ["AutoModel"])[0]
    if not hasattr(library, named):
        raise ValueError(f"its class {named} is not part of transformers")
    return str(named)


def _require_whole(folder: Path, task: str | None, loading: Mapping[str, Any]) -> None:
    missing = sorted(loading.get("missing_keys", ()))
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        wanted = f"the task '{task}' needs" if task else "its class needs"
        raise ModelError(
            f"{wanted} weights that {folder} does not have: {shown}",
            "train and save the model for that task first, or give the task for which it was saved",
        )


def _without_cache(model: Any) -> nn.Module:
    config = _config(model)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} has an encoder and a decoder, which run in a loop and cannot be one program",
            "capture only its encoder with a factory: `def build(): return Model.from_pretrained(dir).get_encoder()`",
        )
    config.use_cache = False
    config.return_dict = True
    module: nn.Module = model
    return module.eval()


def _config(model: Any) -> Any:
    return model.config


def _image_shape(config: Any) -> tuple[int, int, int]:
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(getattr(config, "num_channels", 3)), int(height), int(width)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
