"""The runtime half: the modules that an archive or a bundle carries, so that a serving host needs no toolkit.

They are found from the imports: what the entry modules import within Retort, at any level, and what those import.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

HANDLER = ("serve/inference.py", "core/backends/ort.py", "core/backends/openvino.py")
"""What TorchServe's handler enters by; a session opens a backend by its name, so no import tells of it.

The imports within the runtime half are relative, so that it can have any package name.
"""
SERVERS = (
    "serve/bundles/bundled.py",
    "serve/requests/array_requests.py",
    "serve/bundles/async_engine.py",
    "serve/bundles/routes.py",
)
"""What servers that are written in Python enter by, in addition."""
ROOT = Path(__file__).resolve().parents[2]
_FACE = (
    '"""The runtime of this bundle: what it needs is in bundle.json, and no installed toolkit."""\n\n'
    "from .serve.bundles.async_engine import AsyncEngine\n"
    "from .serve.bundles.bundled import open_bundle\n"
    "from .serve.bundles.routes import Application\n"
    "from .serve.requests.array_requests import answer_arrays\n"
    "from .serve.requests.request import Incoming\n\n"
    '__all__ = ["Application", "AsyncEngine", "Incoming", "answer_arrays", "open_bundle"]\n'
)


@cache
def runtime_half(entries: tuple[str, ...] = HANDLER) -> tuple[str, ...]:
    """The paths below the package's root of all modules that these need, with the ``__init__.py`` of their rooms."""
    found: set[str] = set()
    left = list(entries)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _imported(ROOT / name)
    # those of rooms import nothing; that of the package imports the toolkit only when it is asked for it
    rooms = {(room / "__init__.py").as_posix() for name in found for room in Path(name).parents}
    return tuple(sorted(found | rooms))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            file = module.with_suffix(".py")
            members = [module / f"{alias.name}.py" for alias in node.names]
            named = [file] if file.is_file() else [member for member in members if member.is_file()]
            yield from (other.relative_to(ROOT).as_posix() for other in named)


def carried(package: str) -> dict[str, bytes]:
    """The runtime half for an archive: content by path, in a package of this name."""
    return _contents(package, runtime_half())


def carried_by_bundles(package: str) -> dict[str, bytes]:
    """The runtime half for a bundle: as :func:`carried`, with servers of its own and a face that names them."""
    return _contents(package, runtime_half(HANDLER + SERVERS)) | {f"{package}/__init__.py": _FACE.encode()}


def _contents(package: str, names: Iterable[str]) -> dict[str, bytes]:
    return {f"{package}/{name}": (ROOT / name).read_bytes() for name in names}
