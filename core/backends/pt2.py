"""Checks of a ``.pt2`` file before PyTorch reads it: it must contain nothing that could run code."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ArtifactError

REMEDY = "the file is truncated or was not written by Retort: capture the model again"
_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_CODE = ("aotinductor/", "custom_obj_", "opaque_obj_", "executorch/", ".so", ".py", "code/")
_FORMULA = re.compile(rb'"expr_str":\s*"((?:[^"\\]|\\.)*)"')
_MATHS = re.compile(rb"[A-Z]\w*\(|[A-Za-z_]\w*\b(?!\s*\()|\d+(?:\.\d+)?|'[\w.+\-]*'|[\s+\-*/%(),<>=&|~]+")
"""Tokens of a formula as sympy prints it: ``Mul(Integer(2), Symbol('s0', positive=True))``; no function of Python's."""


def check_archive(path: Path) -> None:
    """Reject files that are no ``.pt2``, or that contain libraries, pickled objects or code in formulas.

    PyTorch loads the libraries in such a file, and evaluates its size formulas as Python code.

    Raises:
        ArtifactError: the file is rejected; the message names it and the reason.
    """
    if not zipfile.is_zipfile(path):
        raise ArtifactError(f"{path} is not a captured program (.pt2)", REMEDY)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            bad = archive.testzip()
            suspect = [name for name in names if any(part in name for part in _CODE)]
            if bad is None and len(set(names)) == len(names) and not suspect:
                graphs = [archive.read(name) for name in names if "/models/" in name and name.endswith(".json")]
                suspect = [text.decode(errors="replace") for graph in graphs for text in _formulas(graph)]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise ArtifactError(f"{path} cannot be read as a captured program: {error}", REMEDY) from error
    if bad is not None or len(set(names)) != len(names):
        raise ArtifactError(f"{path} is damaged at its part '{bad or 'names'}'", REMEDY)
    if suspect:
        raise ArtifactError(
            f"{path} was rejected because it contains '{suspect[0][:80]}', which could run code",
            "capture the model again with `retort capture`",
        )


@contextmanager
def tensors_only() -> Iterator[None]:
    """Allow PyTorch to unpickle only tensors within this context."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _formulas(graph: bytes) -> list[bytes]:
    found = [match[1] for match in _FORMULA.finditer(graph)]
    return [text for text in found if b"__" in text or _MATHS.sub(b"", text)]
