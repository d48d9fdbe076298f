"""Models of PyTorch Hub that lie in the hub's folder on this machine, written as ``hub:owner/repo:name``.

Nothing is downloaded. The folder is that of ``torch.hub``: ``$TORCH_HOME/hub``, or ``torch/hub`` in the usual folder
of caches. A repository is the folder ``owner_repo_ref`` in it, with a file ``hubconf.py`` whose functions
are the models.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..artifact import sha256_file, stable_hash
from ..errors import MissingFileError, UserError
from ..options.recipe import nearest
from ..system.cache import usual_folder

HUB = "hub:"
"""Beginning of a reference to a model of PyTorch Hub."""
CONFIGURATION = "hubconf.py"
_USUAL = ("main", "master")


def is_hub(reference: str) -> bool:
    """Whether a reference names a model of PyTorch Hub."""
    return reference.startswith(HUB)


def hub_folder() -> Path:
    """The folder in which PyTorch Hub stores repositories and weights."""
    return Path(os.environ.get("TORCH_HOME") or usual_folder() / "torch").expanduser() / "hub"


def hub_model(reference: str) -> Callable[..., Any]:
    """The function of a repository's ``hubconf.py`` that makes a model.

    Args:
        reference: ``hub:owner/repo:name``, or ``hub:owner/repo:ref:name`` for a branch or tag.

    Raises:
        MissingFileError: the repository is not in the hub's folder.
        UserError: the reference has another form, a package that the repository needs is missing, importing it raised,
            or it has no such model.
    """
    folder, name = _located(reference)
    module = _imported(folder)
    missing = [item for item in getattr(module, "dependencies", ()) if importlib.util.find_spec(item) is None]
    if missing:
        raise UserError(f"{folder.name} needs packages that are not installed: {', '.join(missing)}", "install them")
    found = getattr(module, name, None)
    if not callable(found) or name.startswith("_"):
        known = [key for key in dir(module) if callable(getattr(module, key)) and not key.startswith("_")]
        raise UserError(
            f"the hub repository {folder.name} has no model '{name}'{nearest(name, known)}",
            f"give one of {', '.join(known[:12])}",
        )
    result: Callable[..., Any] = found
    return result


def hub_identity(reference: str) -> str:
    """A hash of the Python files of the repository; it imports nothing.

    Raises:
        MissingFileError: the repository is not in the hub's folder.
        UserError: the reference has another form.
    """
    folder, name = _located(reference)
    files = sorted(folder.rglob("*.py"))
    return stable_hash([name, *[[str(file.relative_to(folder)), sha256_file(file)] for file in files]])


def _located(reference: str) -> tuple[Path, str]:
    """The folder of the repository, and the name of the model."""
    repository, _, name = reference.removeprefix(HUB).rpartition(":")
    repository, _, ref = repository.partition(":")
    if repository.count("/") != 1 or not name or not all(repository.split("/")):
        raise UserError(
            f"'{reference}' does not have the form hub:owner/repo:name", "write it as hub:pytorch/vision:resnet18"
        )
    stem = repository.replace("/", "_")
    places = [hub_folder() / f"{stem}_{item.replace('/', '_')}" for item in ([ref] if ref else _USUAL)]
    found = next((place for place in places if (place / CONFIGURATION).is_file()), None)
    if found is None:
        there = sorted(place.parent.name for place in hub_folder().glob(f"{stem}_*/{CONFIGURATION}"))
        wanted = f"{repository}:{ref}" if ref else repository
        raise MissingFileError(
            f"PyTorch Hub's folder {hub_folder()} has no repository {wanted}"
            + (f", but {', '.join(there)}" if there else ""),
            f"fetch it once where there is a network: python -c \"import torch; torch.hub.list('{wanted}')\", and copy "
            f"its folder {places[0].name} here",
        )
    return found, name


def _imported(folder: Path) -> Any:
    """The module ``hubconf`` of a repository, whose own modules can be imported by it."""
    spec = importlib.util.spec_from_file_location(f"hubconf_{folder.name}", folder / CONFIGURATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the repository's code may raise anything while it is imported
        missing = f" (no module '{error.name}')" if isinstance(error, ModuleNotFoundError) else f": {error}"
        raise UserError(
            f"importing {folder / CONFIGURATION} raised {type(error).__name__}{missing}",
            "install what it needs, or correct it",
        ) from error
    finally:
        sys.path.remove(str(folder))
    return module
