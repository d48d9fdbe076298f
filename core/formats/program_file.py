"""Metadata of a ``.pt2`` file, read without torch: its signature and its quantization target."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..context import Context
from ..data.model_inputs import fit_to
from ..errors import ArtifactError
from ..options.stage_options import Target
from ..signature import Signature

_SIGNATURE, _STORED = "retort.signature", "retort.program"


def read_signature(path: Path) -> Signature:
    """The signature in a ``.pt2`` file.

    Raises:
        ArtifactError: the file is truncated, or was not written by Retort.
    """
    try:
        content = _member(path, _SIGNATURE)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ArtifactError(f"{path} is truncated, or is not a program: {error}", "run its stage again") from error
    if content is None:
        raise ArtifactError(f"{path} has no signature of Retort", "capture the model with `retort capture`")
    return Signature.from_json(content)


def stored_target(path: Path) -> Target | None:
    """The target that a ``.pt2`` file is quantized for; None if it is not quantized or cannot be read.

    The next function that opens a damaged file raises the error about it.
    """
    try:
        content = _member(path, _STORED)
        stored: dict[str, Any] = json.loads(content) if content is not None else {}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        return None
    found: Target | None = stored.get("meta", {}).get("quantization", {}).get("target")
    return found


def fit_context(context: Context, program: Path) -> Context:
    """A copy of a context in which the data have the names of a program's inputs.

    Raises:
        ArtifactError: as :func:`read_signature`.
        DataError: the data do not fit the inputs.
    """
    return replace(context, data=fit_to(context.data, read_signature(program)))


def _member(path: Path, ending: str) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(ending)]
        return archive.read(names[0]) if names else None
