"""Results on disk: writing as JSON or HTML, and reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.artifact import load_artifact, raise_if_not, require_unaltered, sha256_file
from ...core.counts import counted
from ...core.errors import UserError
from ...core.system.owned_folders import claim_file

if TYPE_CHECKING:
    from ..result import Result


FORMS = (".json", ".html", ".md")


def write_result(result: Result, path: Path, faults: Sequence[str] = ()) -> None:
    """Write a result as ``.json``, as an HTML report or as Markdown.

    Args:
        faults: figures that do not follow from the raw times, of which a page tells.

    Raises:
        UserError: the suffix is none of these.
    """
    from ..result import save_result
    from .html_report import write_report
    from .markdown_report import write_markdown

    require_form(path)
    if path.suffix == ".json":
        save_result(result, path)
    elif path.suffix == ".md":
        write_markdown(result, path, faults)
    else:
        write_report(result, path, faults=faults)


def claim_result(path: Path | None, force: bool) -> None:
    """Fail before any work if a result may not be written to a file.

    Raises:
        UserError: the suffix is none of ``.json``, ``.html`` and ``.md``, the file exists and is none of ours (without
            ``force``), or its folder does not exist.
    """
    if path is None:
        return
    require_form(path)
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    claim_file(path, force, mark="retort.result/")


def require_form(path: Path) -> None:
    """Fail if the form of a result does not follow from the ending of a path.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in FORMS:
        raise UserError(
            f"{path} has no ending that says the form of the result", f"give a path that ends in {' or '.join(FORMS)}"
        )


def device_files(folder: Path) -> list[Path]:
    """The results that were made of what a device wrote into a folder; none in other folders."""
    return sorted(folder.glob("result-*.json")) if (folder / "result.json").is_file() else []


def device_file(folder: Path) -> Path | None:
    """The one result in a folder of a device; None in other folders.

    Raises:
        UserError: there are several, such as one for each number of threads.
    """
    found = device_files(folder)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:6])
        raise UserError(f"{folder} contains {counted(found, 'result')}: {names}", "give one of the files")
    return found[0] if found else None


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
