"""Magika, a classifier of file contents, from the ONNX file of its package, on files of the Python installation.

Fratantonio et al., "Magika: AI-powered content-type detection", ICSE 2025. The network reads the first and the last
1024 bytes of a file, without white space at the ends. The files come from the standard library and from the folder of
installed packages, at most 24 of each type; the suffix is the truth. Other packages give other files.
"""

from __future__ import annotations

import json
import os
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .packages import Outputs, Scores, each, package_folder

FOLDER, EDGE, BLOCK, PADDING = "models/standard_v3_3", 1024, 4096, 256
SUFFIXES = {
    ".py": "python",
    ".so": "elf",
    ".txt": "txt",
    ".pyc": "pythonbytecode",
    ".png": "png",
    ".ttf": "ttf",
    ".h": "c cpp",
    ".hpp": "cpp",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".c": "c",
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".npz": "npz zip",
    ".svg": "svg",
    ".css": "css",
    ".js": "javascript",
    ".html": "html",
    ".gz": "gzip",
    ".yaml": "yaml",
    ".toml": "toml",
    ".rst": "rst",
    ".pdf": "pdf",
    ".pem": "pem",
    ".wav": "wav",
    ".pyi": "python",
    ".cmake": "cmake",
    ".exe": "pebin",
    ".jpg": "jpeg",
    ".jinja": "jinja",
    ".npy": "npy",
}
"""The types that a suffix stands for."""
PER_SUFFIX = 24
SHARES = {"train": 0.1, "validation": 0.15, "calibration": 0.3, "test": 0.45}


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("magika", "magika") / FOLDER / "model.onnx"


def splits(name: str = "") -> dict[str, dict[str, NDArray[np.int32]]]:
    """The bytes at both ends of files ``[N, 2048]``, with 256 for none, in four splits."""
    return {split: {"bytes": np.array([ends_of(path) for path in paths], np.int32)} for split, paths in files().items()}


@cache
def files() -> dict[str, list[Path]]:
    """The files of each split, in random order."""
    found: dict[str, list[Path]] = {suffix: [] for suffix in SUFFIXES}
    for top in (sysconfig.get_path("stdlib"), str(package_folder("numpy", "numpy").parent)):
        for folder, folders, names in os.walk(top):
            folders[:] = [] if folder.count(os.sep) - top.count(os.sep) > 5 else sorted(folders)
            for name in sorted(names):
                if os.path.splitext(name)[1] in found and not name.startswith("__init__"):
                    found[os.path.splitext(name)[1]].append(Path(folder, name))
    draw = np.random.default_rng(0)
    chosen: list[Path] = []
    for paths in found.values():
        large = [path for path in draw.permutation(np.array(paths, object))[: 4 * PER_SUFFIX] if _size(path) > 256]
        chosen += large[:PER_SUFFIX]
    chosen = list(draw.permutation(np.array(chosen, object)))
    marks = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(chosen)).astype(int)
    return {split: chosen[start:end] for split, start, end in zip(SHARES, marks, marks[1:], strict=False)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def ends_of(path: Path) -> list[int]:
    """The first and the last 1024 bytes without white space at the ends, filled up with 256."""
    content = path.read_bytes()
    first = list(content[:BLOCK].lstrip()[:EDGE])
    last = list(content[-BLOCK:].rstrip()[-EDGE:])
    return [*first, *[PADDING] * (EDGE - len(first)), *[PADDING] * (EDGE - len(last)), *last]


def labels() -> list[str]:
    """The names of the classes."""
    config = json.loads(model("").with_name("config.min.json").read_text())
    return [str(label) for label in config["target_labels_space"]]


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether the type of each file is one that its suffix stands for."""
    names, paths = labels(), files()["test"]
    found = [names[label] for label in decisions(name, outputs)]
    return each(np.array([label in SUFFIXES[path.suffix].split() for label, path in zip(found, paths, strict=True)]))


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The class of each file ``[N]``."""
    best: NDArray[np.int64] = next(iter(outputs.values())).argmax(1)
    return best
