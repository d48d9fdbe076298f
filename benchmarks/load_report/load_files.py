"""Measurements under load on disk: as JSON, as an HTML page and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import UserError
from ...core.system.owned_folders import claim_file
from ..report.result_files import require_form
from ..scenarios.load_result import LOAD_SCHEMA, LoadResult, write_load
from .load_markdown import write_load_markdown
from .load_page import write_load_page


def claim_load(path: Path | None, force: bool) -> None:
    """Fail before any work if a result may not be written to a file.

    Raises:
        UserError: the suffix is none of ``.json``, ``.html`` and ``.md``, the folder does not exist, or the file exists
            and is no such result.
    """
    if path is None:
        return
    require_form(path)
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    claim_file(path, force, mark=LOAD_SCHEMA)


def write_load_result(result: LoadResult, path: Path, faults: Sequence[str] = ()) -> None:
    """Write a result as ``.json``, or a page of it as ``.html`` or ``.md``.

    Args:
        faults: figures that do not follow from what the result keeps, of which a page tells.

    Raises:
        UserError: the suffix is none of these.
        StorageError: the disk is full or not writable.
    """
    require_form(path)
    forms = {
        ".json": lambda: write_load(result, path),
        ".md": lambda: write_load_markdown(result, path, faults),
        ".html": lambda: write_load_page(result, path, faults),
    }
    forms[path.suffix]()


def is_load(path: Path) -> bool:
    """Whether a file is a measurement under load, of any version, by the schema that it names."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and str(raw.get("schema", "")).startswith(f"{LOAD_SCHEMA.partition('/')[0]}/")
