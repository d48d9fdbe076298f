"""Predictions for images, texts and recordings: the same reading of files and outputs as behind an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import load_artifact
from ...core.console import Console
from ...core.counts import counted
from ...core.data.files.images import IMAGES
from ...core.data.files.sounds import SOUNDS
from ...core.data.files.text_files import TEXTS
from ...core.errors import InputError, MissingFileError, UserError
from ...core.postprocessing import Reading, guessed_reading, read_outputs
from ...core.preprocessing.sample_reader import Raw
from ...core.session import SessionOptions, model_faults
from ...core.tensors import Array
from ...serve.client import Client

SHOWN = 20
"""Number of samples whose predictions are printed."""


def raw_input(path: Path | None, texts: Sequence[str]) -> list[Raw] | None:
    """The raw samples of a file or of the command line: a file is one sample, a line of a ``.txt`` too.

    Returns:
        None for files of arrays.

    Raises:
        MissingFileError: there is no such file.
        InputError: it has no text.
    """
    if path is None:
        return list(texts)
    suffix = path.suffix.lower()
    if suffix not in IMAGES | SOUNDS | TEXTS:
        return None
    if not path.is_file():
        raise MissingFileError(f"no such input: {path}", "check the path of --input")
    if suffix not in TEXTS:
        return [path.read_bytes()]
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8", "save it as UTF-8") from error
    found: list[Raw] = [line for line in lines if line]
    if not found:
        raise InputError(f"{path} has no text", "write one text per line")
    return found


def raw_inputs(paths: Sequence[Path], texts: Sequence[str]) -> list[Raw] | None:
    """The raw samples of several files, or of the command line; None for a single file of arrays, or for nothing.

    Raises:
        UserError: there are several files, and one of them has arrays.
        MissingFileError: as :func:`raw_input`.
        InputError: as :func:`raw_input`.
    """
    if not paths:
        return list(texts) or None
    each = [(path, raw_input(path, ())) for path in paths]
    arrays = [path for path, found in each if found is None]
    if arrays and len(paths) > 1:
        raise UserError(f"{arrays[0]} is no image, recording or text", "give a file of arrays alone")
    return None if arrays else [one for _, found in each for one in found or ()]


def local_predictions(
    model: str, samples: Sequence[Raw], settings: SessionOptions, top_k: int, screen: Console
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """What a model in a file says about raw samples, and its outputs.

    Raises:
        UserError: the model takes only arrays, or its tokenizer is not beside it.
        InputError: a sample cannot be read.
    """
    from ...pipeline.local_models import open_local, reader_of

    opened = open_local(load_artifact(Path(model)), settings)
    signature = opened.session.signature
    field, reader = reader_of(model, opened.artifact, signature)
    if opened.hook:
        screen.warn("the functions of its packer are called only by its server, so that its answers may differ")
    with model_faults(model):
        found = reader.read({field: samples})
        outputs = opened.session.run(signature.validate(found.feeds))
    scores = opened.scores or guessed_reading(signature, outputs)
    return read_outputs(outputs, signature, found, Reading(scores, top_k)), dict(outputs)


def remote_predictions(
    client: Client, samples: Sequence[Raw], top_k: int, arrays: bool
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """What a served model says about raw samples, and its outputs if ``arrays`` asks for them."""
    said = client.say(samples, top_k)
    return said, client.classify_raw({"": list(samples)})[0] if arrays else {}


def told(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Predictions as lines for people, one per sample."""
    lines = [_row(row) for row in said[:SHOWN]]
    return [*lines, f"and {counted(len(said) - SHOWN, 'further sample')}"] if len(said) > SHOWN else lines


def _row(row: Mapping[str, Any]) -> str:
    if "labels" in row:
        labels = row["labels"]
        return "  ".join(f"{one['label']} {float(one['score']):.4f}" for one in labels) or "no label (NaN)"
    if "tokens" in row:
        return "  ".join(f"{one['text']}/{one['label']}" for one in row["tokens"])
    if "boxes" in row:
        return "  ".join(f"{one['label']} {float(one['score']):.2f} {one['box']}" for one in row["boxes"]) or "no box"
    if "mask" in row:
        return "  ".join(f"{name} {100 * share:.1f} %" for name, share in row["mask"]["shares"].items())
    return "  ".join(f"{name}: {np.array2string(np.asarray(v), precision=5, threshold=8)}" for name, v in row.items())
