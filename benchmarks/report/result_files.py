"""Results on disk: writing as JSON or HTML, and reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.artifact import load_artifact, raise_if_not, require_unaltered, sha256_file
from ...core.errors import UserError
from ...core.system.owned_folders import claim_file

if TYPE_CHECKING:
    from ..result import Result


def write_result(result: Result, path: Path) -> None:
    """Write a result as ``.json`` or as an HTML report.

    Raises:
        UserError: the suffix is neither.
    """
    from ..result import save_result
    from .html_report import write_report

    _require_form(path)
    (save_result if path.suffix == ".json" else write_report)(result, path)


def claim_result(path: Path | None, force: bool) -> None:
    """Fail before any work if a result may not be written to a file.

    Raises:
        UserError: the suffix is neither ``.json`` nor ``.html``, the file exists and is no result of Retort (without
            ``force``), or its folder does not exist.
    """
    if path is None:
        return
    _require_form(path)
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    claim_file(path, force, mark="retort.result/")


def _require_form(path: Path) -> None:
    if path.suffix not in {".json", ".html"}:
        raise UserError(
            f"{path} has no ending that says the form of the result", "give a path that ends in .json or .html"
        )


def find_result(source: Path) -> Result:
    """The result in a file or in a bench artifact.

    Raises:
        ArtifactError: the result was altered after it was measured.
    """
    from ..result import load_result

    if source.is_file():
        require_unaltered(source, sha256_file(source))
    if source.is_dir():
        artifact = load_artifact(source)
        raise_if_not(artifact, "measurement")
        return load_result(artifact.main)
    return load_result(source)
