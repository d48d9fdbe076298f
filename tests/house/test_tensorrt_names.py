"""Every TensorRT name in the code exists in all supported versions, or has a guard."""

from __future__ import annotations

import ast
import builtins
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.core.backends.cuda import Cuda
from retort.core.backends.trt_versions import NOT_EVERYWHERE, Flavor

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "core/backends/trt.py",
    "core/backends/trt_buffers.py",
    "core/backends/trt_versions.py",
    "export/trt/builder.py",
    "export/trt/callbacks.py",
    "export/trt/engine_layers.py",
)
MODULE_NAMES = ("trt", "module")
GUARDS = {"member", "call_if_there", "getattr", "hasattr"}
needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
LIVE = [name for name in ("tensorrt_rtx", "tensorrt_lean", "tensorrt") if importlib.util.find_spec(name) is not None]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """The modules that use objects of TensorRT."""
    for name in FILES:
        if (ROOT / name).is_file():
            yield name, ast.parse((ROOT / name).read_text())


def chain(node: ast.Attribute) -> tuple[str, ...]:
    """``("trt", "BuilderFlag", "TF32")`` for ``trt.BuilderFlag.TF32``; empty if it begins with a call."""
    parts: list[str] = []
    item: ast.expr = node
    while isinstance(item, ast.Attribute):
        parts.append(item.attr)
        item = item.value
    return (item.id, *reversed(parts)) if isinstance(item, ast.Name) else ("", *reversed(parts))


def attributes() -> Iterator[tuple[str, ast.Attribute, tuple[str, ...]]]:
    """Every attribute that the modules read."""
    for where, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                yield f"{where}:{node.lineno}", node, chain(node)


def module_chains() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names that are read from the module itself: classes, enums and their members."""
    for where, _, parts in attributes():
        for start, part in enumerate(parts[:-1]):
            if part in MODULE_NAMES and parts[start + 1][0].isupper():
                yield where, parts[start + 1 :]
                break


def own_names() -> set[str]:
    """Attributes of Retort's classes, of numpy's arrays and of Python's own objects."""
    names: set[str] = set()
    for one in (str, bytes, dict, list, set, tuple, int, float, Path, np.ndarray, Cuda, Flavor, Any, builtins):
        names |= set(dir(one))
    for path in [*ROOT.glob("core/**/*.py"), *ROOT.glob("export/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def surface(module: Any) -> set[str]:
    """Every name of a module and of its classes and enums."""
    names = set(dir(module))
    for item in list(vars(module).values()):
        if isinstance(item, type):
            names |= set(dir(item))
    return names


def test_no_name_is_used_that_some_version_lacks() -> None:
    """A name that is missing in some version is never read as an attribute, only with a guard."""
    used = [f"{where} {node.attr}" for where, node, _ in attributes() if node.attr in NOT_EVERYWHERE]
    assert used == []


def test_guarded_names_are_in_the_table() -> None:
    """Names with a guard are missing in some version, or are enum members that every version has."""
    everywhere = {"STRONGLY_TYPED", "AMPERE_PLUS", "__version__"}
    for where, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [item.value for item in node.args[1:2] if isinstance(item, ast.Constant)]
            if name in {"member", "call_if_there"} and texts:
                assert set(texts) <= set(NOT_EVERYWHERE) | everywhere, f"{where}:{node.lineno}"


@pytest.mark.trt
@needs_trt
@pytest.mark.parametrize("package", LIVE)
def test_names_of_the_module_exist(package: str) -> None:
    """Classes, enums and members in the code exist in each TensorRT that is installed here."""
    module = importlib.import_module(package)
    lacking = []
    for where, parts in module_chains():
        if package == "tensorrt_lean" and not where.startswith("core/"):
            continue  # it has no builder
        found: Any = module
        for part in parts:
            found = getattr(found, part, None)
            if found is None:
                lacking.append(f"{where} {'.'.join(parts)}")
                break
    assert lacking == []


@pytest.mark.trt
@needs_trt
def test_methods_exist() -> None:
    """Every other attribute exists in some class of the installed module."""
    import tensorrt_rtx

    live, own = surface(tensorrt_rtx), own_names()
    stdlib = {"environ", "dup", "dup2", "fdopen", "stdin", "stdout", "perf_counter", "getrusage", "RUSAGE_SELF"}
    stdlib |= {"ru_maxrss", "Thread", "Lock", "Event", "readline", "flush", "catch_warnings", "simplefilter", "cache"}
    stdlib |= {"loads", "dumps", "search", "compile", "group", "findall", "cache_clear", "partial", "c_ubyte", "_exit"}
    stdlib |= {
        "from_address",
        "ctypeslib",
        "as_array",
        "dtype",
        "asarray",
        "PackageNotFoundError",
        "is_set",
        "deque",
        "move_to_end",
    }
    unknown = sorted({f"{w} {n.attr}" for w, n, p in attributes() if n.attr not in live | own | stdlib})
    unknown = [item for item in unknown if not item.split()[1].startswith("__")]
    assert unknown == []


@pytest.mark.trt
@needs_trt
def test_the_table_agrees_with_what_is_installed() -> None:
    """Removed names are missing from the installed module, and names of RTX exist in it."""
    import tensorrt_rtx

    live = surface(tensorrt_rtx)
    datatypes = {"BF16", "FP8", "INT8", "INT4", "FP4"}  # members of DataType as well, which stay
    removed = {name for name, versions in NOT_EVERYWHERE.items() if versions == "10 only"} - datatypes
    assert sorted(removed & live) == []
    assert {name for name, versions in NOT_EVERYWHERE.items() if versions == "RTX only"} <= live
    assert {name for name, versions in NOT_EVERYWHERE.items() if versions == "not in RTX"} & live == set()
