"""The rules of the repository: allowed imports, modules that load quickly, and the contents of the package."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "compress", "export", "serve", "benchmarks", "handlers", "pipeline", "cli", "examples")
ROOT_MODULES = {"__init__.py", "__main__.py", "api.py"}
REPEATED = {"__init__.py", "__main__.py", "stage.py", "explain.py", "workarounds.py"}
"""Base names of files that mean the same in every room; any other name stands once."""
MAY_IMPORT = {
    "core": {"core"},
    "compress": {"compress", "core"},
    "export": {"export", "core"},
    "serve": {"serve", "core"},
    "benchmarks": {"benchmarks", "core", "serve", "pipeline"},
    "handlers": {"handlers", "serve", "core"},
    "pipeline": {"pipeline", "core", "compress", "export", "serve", "benchmarks"},
    "cli": {"cli", "pipeline", "core", "compress", "export", "serve", "benchmarks"},
    "examples": {"examples"},
}
TORCH_MAY = (
    "compress/",
    "export/",
    "core/backends/eager.py",
    "core/backends/fake_quantize.py",
    "examples/",
)
RUNTIME_HALF = (
    "core/session.py",
    "core/tensors.py",
    "core/system/cache.py",
    "core/counts.py",
    "core/errors.py",
    "core/backends/ort.py",
    "core/backends/ort_tensorrt.py",
    "core/backends/cuda.py",
    "core/backends/trt.py",
    "core/backends/trt_buffers.py",
    "core/backends/trt_plan.py",
    "core/backends/trt_versions.py",
    "serve/inference.py",
)


def sources(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the rooms with its syntax tree."""
    for room in rooms:
        yield from sources_of(room)


@functools.cache
def sources_of(room: str) -> list[tuple[str, ast.Module]]:
    """Every module of a room with its syntax tree, which is read once."""
    paths = sorted((ROOT / room).rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths]


def reached(where: str, tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, folder and module of every import of the package, anywhere in the file."""
    depth = where.count("/")
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == depth + 1:
            targets = [module] if module else [alias.name for alias in node.names]
            yield from ((node.lineno, target.split(".")[0], target) for target in targets)
        elif node.level == 0 and module.startswith("retort."):
            yield node.lineno, module.split(".")[1], module.removeprefix("retort.")


def outside(tree: ast.Module) -> set[str]:
    """Top-level packages that a module imports when it is itself imported."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_rooms_import_only_what_they_may() -> None:
    """Folders communicate by artifacts: no folder imports another one unless the rules allow it."""
    broken = [
        f"{where}:{line} imports {module}"
        for where, tree in sources(*ROOMS)
        for line, room, module in reached(where, tree)
        if room in ROOMS and room not in MAY_IMPORT[where.split("/")[0]]
    ]
    assert broken == []


def test_benchmarks_use_only_the_client_of_serve() -> None:
    """Load tests use an endpoint like any client: benchmarks import only the client of serve and its connections."""
    used = {
        module for where, tree in sources("benchmarks") for _, room, module in reached(where, tree) if room == "serve"
    }
    assert used <= {"serve.client", "serve.connection"}


def test_only_suites_drive_the_line() -> None:
    """The suites of benchmarks run recipes, so only they import the pipeline in benchmarks."""
    broken = [
        f"{where}:{line} imports {module}"
        for where, tree in sources("benchmarks")
        for line, room, module in reached(where, tree)
        if room == "pipeline" and not where.startswith("benchmarks/suites/")
    ]
    assert broken == []


def test_the_root_holds_three_modules() -> None:
    """Every module except the public interface and the two entry points is in a folder."""
    assert {path.name for path in ROOT.glob("*.py")} <= ROOT_MODULES


def test_a_name_stands_for_one_thing() -> None:
    """No two modules have one name, except those that mean the same in every folder."""
    places: dict[str, list[str]] = {}
    for where, _ in sources(*(room for room in ROOMS if room != "examples")):
        places.setdefault(where.rpartition("/")[2], []).append(where)
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in REPEATED} == {}


def test_no_module_imports_in_a_circle() -> None:
    """No module imports itself indirectly, including imports inside functions and for type checkers."""
    modules = {
        where.removesuffix(".py").replace("/", "."): (where, tree)
        for where, tree in sources(*ROOMS)
        if not where.endswith("__init__.py")
    }
    left = {name: imported(where, tree) & modules.keys() - {name} for name, (where, tree) in modules.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert {name: sorted(targets & left.keys()) for name, targets in left.items()} == {}


def imported(where: str, tree: ast.Module) -> set[str]:
    """Possible dotted names of the relative imports of a module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = where.split("/")[: -node.level]
            base = ".".join([*folder, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def test_torch_stays_in_its_rooms() -> None:
    """Torch is imported at module level only in folders that handle programs."""
    found = [where for where, tree in sources(*ROOMS) if "torch" in outside(tree) and not where.startswith(TORCH_MAY)]
    assert found == []


def test_facts_are_read_as_fields() -> None:
    """No room reads what a stage found out by a string key: `artifact.facts_as(kind)` has fields that mypy checks."""
    found = [
        f"{where}:{node.lineno}"
        for where, tree in sources(*ROOMS)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Subscript) and is_facts(node.value))
        or (
            isinstance(node, ast.Attribute) and node.attr in ("get", "items", "keys", "values") and is_facts(node.value)
        )
    ]
    assert found == []


def is_facts(node: ast.expr) -> bool:
    """Whether an expression is the facts of an artifact; those of an error are arguments of its class."""
    of_error = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "error"
    return isinstance(node, ast.Attribute) and node.attr == "facts" and not of_error


def test_runtime_half_needs_only_numpy() -> None:
    """Modules that an archive contains import only the standard library and numpy at module level."""
    allowed = {*sys.stdlib_module_names, "numpy", "retort"}
    found = {where: outside(ast.parse((ROOT / where).read_text())) - allowed for where in RUNTIME_HALF}
    assert {where: extra for where, extra in found.items() if extra} == {}


def test_package_list_is_complete() -> None:
    """The package list of pyproject.toml has every folder with an __init__.py, and no other."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert listed == {
        "retort",
        *(f"retort.{folder.relative_to(ROOT).as_posix().replace('/', '.')}" for folder in folders),
    }


def test_top_level_is_what_users_ordered() -> None:
    """The folders that users requested are at the top level under their names."""
    assert {"pyproject.toml", "README.md", "compress", "export", "serve", "handlers", "benchmarks", "tests"} <= {
        path.name for path in ROOT.iterdir()
    }


@pytest.mark.parametrize("command", ["import retort", "import runpy; runpy.run_module('retort', run_name='x')"])
def test_importing_loads_nothing_heavy(command: str) -> None:
    """Importing the package loads no runtime."""
    assert heavy_after(command) == ""


def test_help_loads_nothing_heavy() -> None:
    """`retort --help` works without loading torch, onnx or a runtime."""
    code = "from retort.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert heavy_after(code) == ""


def heavy_after(code: str) -> str:
    """Names of heavy packages that are loaded after ``code`` ran in a new interpreter."""
    names = "('torch', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib')"
    probe = f"import sys; print(*[m for m in {names} if m in sys.modules], file=sys.stderr)"
    command = [sys.executable, "-c", f"{code}\n{probe}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr.strip()


def is_overload(node: ast.AST) -> bool:
    """Whether a function only declares argument types and results to type checkers."""
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(item, ast.Name) and item.id == "overload" for item in decorators)


def test_public_functions_say_what_they_do() -> None:
    """Every public function and class has a docstring, and so has every module."""
    silent = []
    for where, tree in sources(*ROOMS):
        if tree.body and not ast.get_docstring(tree):
            silent.append(where)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(member for one in classes for member in one.body)]:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not is_overload(node):
                silent.append(f"{where}:{node.lineno} {node.name}")
    assert silent == []


@pytest.mark.torch
@pytest.mark.parametrize("package", ["compress.quantization", "core.artifact", "compress.program"])
def test_public_names_exist(package: str) -> None:
    """Every name that a module publishes exists and is documented."""
    module = importlib.import_module(f"retort.{package}")
    published = module.__all__
    assert published == sorted(published, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert all(getattr(module, name, None) is not None for name in published)


def test_root_hands_on_lazily() -> None:
    """The root package imports only the standard library, so that importing it is fast."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    inner = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
    assert inner == []
    assert outside(tree) <= set(sys.stdlib_module_names)
