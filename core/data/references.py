"""References to the user's code, written as ``package.module:name``: they are found, imported and identified."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..artifact import sha256_file, stable_hash
from ..errors import RetortError, UserError
from ..options.recipe import nearest
from .torch_hub import hub_folder, hub_identity, hub_model, is_hub

_IMPORTED: dict[str, str] = {}
KEY_SEPARATOR = "#"


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Make modules in the recipe's folder and in the current folder importable within this context."""
    added = [str(folder.resolve()) for folder in folders if str(folder.resolve()) not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for entry in added:
            with suppress(ValueError):
                sys.path.remove(entry)


def resolve(reference: str, base: Path) -> Callable[..., Any]:
    """Import ``package.module:name``, also from ``base`` and from the current folder, or a model of PyTorch Hub.

    Raises:
        MissingFileError: the repository of PyTorch Hub is not on this machine.
        UserError: the module cannot be imported, or has no such callable; the message suggests the closest name.
    """
    if is_hub(reference):
        return hub_model(reference)
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UserError(
            f"'{reference}' does not have the form package.module:name", "write it as my_package.my_module:name"
        )
    with importable(base, Path.cwd()):
        _forget_stale(module_name)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"cannot import '{module_name}': no module named '{error.name}'",
                f"run Retort in the folder that contains it, or put it next to the recipe ({base})",
            ) from error
        except Exception as error:  # the user's module may raise anything while it is imported
            raise UserError(
                f"importing '{module_name}' raised {type(error).__name__}: {error}", f"fix the error in {place(error)}"
            ) from error
        origin = _origin(module_name) if "." not in module_name else None
        if origin is not None:
            _IMPORTED[module_name] = sha256_file(origin)
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise UserError(
            f"module '{module_name}' has no callable '{attribute}'{nearest(attribute, known)}",
            "give one of the names in the module",
        )
    result: Callable[..., Any] = found
    return result


def call(reference: str, args: Mapping[str, Any], base: Path, what: str, kind: type[RetortError]) -> Any:
    """Import a function of the user and call it, with its folder importable.

    Args:
        what: the function in words, such as ``model factory``.
        kind: the error to raise.

    Raises:
        RetortError: of the given kind, if the function raised; errors of Retort pass as they are.
    """
    function = resolve(reference, base)
    try:
        with importable(base, Path.cwd()):
            return function(**args)
    except RetortError:
        raise
    except Exception as error:  # the user's function may raise anything
        remedy = f"fix the error in {place(error)}"
        if is_hub(reference) and isinstance(error, OSError):  # its weights are downloaded by the function itself
            remedy = f"copy its weights to {hub_folder() / 'checkpoints'}, or load none in `args` and give `weights`"
        raise kind(f"the {what} '{reference}' raised {type(error).__name__}: {error}", remedy) from error


def _forget_stale(module_name: str) -> None:
    """Forget a module that was imported from another file, or whose file has changed since."""
    known = sys.modules.get(module_name)
    if known is None:
        return
    origin = getattr(known, "__file__", None)
    found = _origin(module_name)
    if found is None or origin is None or "." in module_name:
        return
    changed = _IMPORTED.get(module_name, "") not in ("", sha256_file(found))
    if changed or Path(origin).resolve() != found:
        importlib.invalidate_caches()
        del sys.modules[module_name]


def _origin(module_name: str) -> Path | None:
    """The file from which a top-level module would be imported now, ignoring modules that are imported already."""
    spec = importlib.machinery.PathFinder.find_spec(module_name)
    return Path(spec.origin).resolve() if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def place(error: BaseException) -> str:
    """File, line and function of the user's code in which an exception was raised.

    A fault of syntax is where its message says, and Python's own frames that import a module do not count.
    """
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{error.filename}, line {error.lineno}"
    trace, last = error.__traceback__, error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
            last = trace
        trace = trace.tb_next
    if last is None:
        return "see the message"
    code = last.tb_frame.f_code
    return f"{code.co_filename}, line {last.tb_lineno}, in {code.co_name}"


def file_and_key(path: Path) -> tuple[Path, str]:
    """A path as it is if there is such a file, else the file before the last ``#`` and the key behind it."""
    name, separator, key = path.name.rpartition(KEY_SEPARATOR)
    return (path, "") if path.is_file() or not separator or not name else (path.with_name(name), key)


def source_identity(reference: str, base: Path) -> str:
    """Identify the code of a ``module:name`` or file reference; the result changes when the file changes.

    The module is located but not imported, so that a run which reuses all artifacts loads no heavy package.
    """
    if is_hub(reference):
        return hub_identity(reference)
    path, key = file_and_key(base / reference)
    if path.is_file():
        return sha256_file(path) + f"{KEY_SEPARATOR}{key}" * bool(key)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in {".json", ".safetensors"})
        return stable_hash([[file.name, sha256_file(file)] for file in files])
    module_name = reference.partition(":")[0]
    with importable(base, Path.cwd()), suppress(ImportError, ValueError, AttributeError):
        if "." not in module_name:
            origin = _origin(module_name)
        else:
            spec = importlib.util.find_spec(module_name)
            origin = Path(spec.origin) if spec is not None and spec.origin else None
        if origin is not None and origin.is_file():
            return f"{reference}@{sha256_file(origin)}"
    return reference
