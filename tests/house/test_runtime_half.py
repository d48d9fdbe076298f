"""The runtime half: the modules that an archive carries import nothing that it does not carry."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from retort.serve.runtime_half import OF_BUNDLES, RUNTIME_HALF

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("name", [name for name in (*RUNTIME_HALF, *OF_BUNDLES) if not name.endswith("__init__.py")])
def test_the_runtime_half_is_closed(name: str) -> None:
    """At module level, each file that is carried imports only the standard library, numpy and others of them."""
    carried = {other.removesuffix(".py") for other in (*RUNTIME_HALF, *OF_BUNDLES)}
    outside = _imports(ROOT / name) - sys.stdlib_module_names - {"numpy"} - carried
    assert not outside
