"""The files of weights that a model file reads besides itself, and the hash that changes when any of them does."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..system.owned_folders import sha256_file
from .onnx_side_files import side_files


def files_beside(model: Path) -> list[Path]:
    """The files of weights of an ONNX file, whether they are there or not, or of a file of OpenVINO; else none.

    Raises:
        ArtifactError: an ONNX file is none.
    """
    if model.suffix == ".onnx":
        return [model.parent / name for name in sorted(side_files(model.read_bytes()))]
    weights = model.with_suffix(".bin")
    return [weights] if model.suffix == ".xml" and weights.is_file() else []


def model_sha256(model: Path) -> str:
    """The SHA-256 of a model file; of one with files of weights, a hash of the hashes of all.

    Raises:
        ArtifactError: an ONNX file is none.
    """
    beside = [path for path in files_beside(model) if path.is_file()]
    if not beside:
        return sha256_file(model)
    return hashlib.sha256("".join(map(sha256_file, (model, *beside))).encode()).hexdigest()
