"""The runtime half: the modules that an archive carries import nothing that it does not carry."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from retort.serve.bundles.runtime_half import HANDLER, SERVERS, runtime_half

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_HALF = runtime_half(HANDLER + SERVERS)


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else None
            module = (node.module or "").split(".")
            names.add(str((base / "/".join(module)).relative_to(ROOT)) if base else module[0])
    return names


@pytest.mark.parametrize("name", [name for name in RUNTIME_HALF if not name.endswith("__init__.py")])
def test_the_runtime_half_is_closed(name: str) -> None:
    """At module level, each file that is carried imports only the standard library, numpy and others of them."""
    carried = {other.removesuffix(".py") for other in RUNTIME_HALF}
    outside = _imports(ROOT / name) - sys.stdlib_module_names - {"numpy"} - carried
    assert not outside


def test_an_archive_carries_no_toolkit() -> None:
    """What an archive carries is the same without the servers of bundles, and has no stage, command or client."""
    assert set(runtime_half()) < set(RUNTIME_HALF)
    rooms = {Path(name).parent.as_posix() for name in RUNTIME_HALF}
    assert not {room for room in rooms if room.split("/")[0] not in (".", "core", "serve")}
    assert not {"serve/client.py", "serve/connection.py", "core/artifact.py"} & set(RUNTIME_HALF)
    assert not [name for name in RUNTIME_HALF if Path(name).stem == "stage"]
