"""Installation: the Python versions, the packages, and the pins of CI."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME: str = PROJECT["project"]["name"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
RUNTIMES = {"onnxruntime", "onnxruntime-gpu", "tensorrt"}

NAMED_OTHERWISE = {
    "PIL": "pillow",
    "mlperf_loadgen": "mlcommons-loadgen",
    "sklearn": "scikit-learn",
    "ts": "torchserve",
    "yaml": "pyyaml",
}
"""Modules whose distribution has another name."""

NOT_DECLARED = {
    "bentoml": "what is generated for BentoML imports it, where BentoML is installed",
    "mlcommons-loadgen": "`benchmarks.suites.serving.independent_load` compares with it, where it is installed",
    "modelopt": "a peer that `benchmarks.suites.quantization_peer` compares with, in an environment of its own",
    "nncf": "as modelopt",
    "ray": "what is generated for Ray Serve imports it, where Ray is installed",
    "retort-runtime": "the runtime half under its name in bundles; files for other servers import it",
    "torch-pruning": "a peer that `benchmarks.suites.pruning_peer` compares with, in an environment of its own",
    "starlette": "Ray Serve brings it",
    "triton-python-backend-utils": "Triton's Python backend has it",
}

NOT_IMPORTED = {
    "mypy": "`make check` runs it",
    "onnxruntime-gpu": "imported as onnxruntime",
    "pytest-timeout": "a plugin: `timeout` in pyproject.toml",
    "pytest-xdist": "a plugin: `make test` runs with -n",
    "ruff": "`make check` runs it",
    "tensorrt": "`core/backends/trt_versions.py` imports it by the name that was chosen",
    "types-psutil": "types for mypy",
    "types-pyyaml": "types for mypy",
}

NOT_PINNED = {
    "onnxruntime-gpu": "CI has no GPU",
    "tensorrt": "CI has no GPU",
}

_LOADERS = {"import_module", "find_spec", "importorskip", "version"}


def modules(tests: bool) -> Iterator[Path]:
    """The files of the package, or those of its tests."""
    rooms = [ROOT / "tests"] if tests else [path.parent for path in ROOT.glob("*/__init__.py")]
    yield from () if tests else ROOT.glob("*.py")
    for room in rooms:
        yield from room.rglob("*.py")


@functools.cache
def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere, by statement or by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {str(node.args[0].value)} if called in _LOADERS else set()
    return found


def distributions(tests: bool) -> set[str]:
    """Distributions that the package or its tests import, except the standard library and the package."""
    own = {"retort", "own_net", "secret_module", *(path.stem for path in modules(tests=True))}
    tops = {name.split(".")[0] for path in modules(tests) for name in imported(path)}
    return {canonicalize_name(NAMED_OTHERWISE.get(top, top)) for top in tops - sys.stdlib_module_names - own}


def requirements(*extras: str) -> dict[str, Requirement]:
    """The requirements of the package and some of its extras, by name, with those of nested extras."""
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found: dict[str, Requirement] = {}
    for line in lines:
        one = Requirement(line)
        found |= requirements(*one.extras) if one.name == NAME else {canonicalize_name(one.name): one}
    return found


def test_one_oldest_python_is_promised_everywhere() -> None:
    """pyproject, ruff, mypy, README and CONTRIBUTING have the same oldest Python."""
    oldest = re.fullmatch(r">=(3\.\d+)", PROJECT["project"]["requires-python"])
    assert oldest is not None
    readme = re.findall(r"Python (3\.\d+)", (ROOT / "README.md").read_text())
    contributing = re.findall(r"Python (3\.\d+)", (ROOT / "CONTRIBUTING.md").read_text())
    tools = PROJECT["tool"]
    told = [*readme, *contributing, tools["mypy"]["python_version"]]
    told.append(re.sub(r"py(\d)(\d+)", r"\1.\2", tools["ruff"]["target-version"]))
    told += re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"].get("classifiers", [])))[:1]
    assert readme
    assert contributing
    assert set(told) == {oldest[1]}


def test_what_the_package_imports_is_declared() -> None:
    """Every package that a module imports is installed by an extra for users; those of `dev` are for tests."""
    declared = set(requirements(*(extra for extra in EXTRAS if extra != "dev")))
    missing = distributions(tests=False) - declared - set(NOT_DECLARED)
    assert missing <= {"tensorrt-rtx"}  # used where it is installed, never needed
    assert distributions(tests=True) - set(requirements(*EXTRAS)) == set()


def test_what_is_declared_is_imported() -> None:
    """Every declared package is imported by the package or its tests, or has a reason here."""
    declared, used = set(requirements(*EXTRAS)), distributions(tests=False) | distributions(tests=True)
    assert declared - used == set(NOT_IMPORTED)
    assert used & set(NOT_DECLARED) == set(NOT_DECLARED)


def test_what_every_user_installs_is_imported_by_the_package() -> None:
    """No package that every user installs is needed only by tests."""
    declared = set(requirements(*(extra for extra in EXTRAS if extra != "dev")))
    assert declared - distributions(tests=False) - set(NOT_IMPORTED) == set()


def test_gpu_has_all_that_cpu_has() -> None:
    """The extras `cpu` and `gpu` differ only in the runtime."""
    cpu, gpu = (requirements(extra) for extra in ("cpu", "gpu"))
    assert {name: str(one) for name, one in cpu.items() if name not in RUNTIMES} == {
        name: str(one) for name, one in gpu.items() if name not in RUNTIMES
    }
    assert set(cpu) & RUNTIMES == {"onnxruntime"}
    assert set(gpu) & RUNTIMES == {"onnxruntime-gpu", "tensorrt"}
    assert not set(requirements("serve")) & RUNTIMES


def test_libraries_whose_private_parts_are_used_have_an_upper_bound() -> None:
    """Libraries whose private modules we import or patch have an upper bound: the version that was tested."""
    names = {name for path in modules(tests=False) for name in imported(path)}
    private = {name.split(".")[0] for name in names if re.search(r"\._[a-z]", name)}
    declared = requirements(*EXTRAS)
    assert "torch" in private
    for name in private | {"onnxscript", "transformers"}:
        assert any(bound.operator == "<" for bound in declared[name].specifier), f"{name} has no upper bound"


def test_pins_agree_with_what_is_declared() -> None:
    """Every declared package is pinned to a version in its range, and no other package is pinned."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    declared = requirements(*EXTRAS)
    assert set(declared) - set(pins) == set(NOT_PINNED)
    assert set(pins) - set(declared) == set()
    assert [name for name, version in pins.items() if not declared[name].specifier.contains(version)] == []


def test_each_package_has_one_range() -> None:
    """A package in several extras has the same range in each."""
    ranges: dict[str, set[str]] = {}
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        one = Requirement(line)
        if one.name != NAME:
            ranges.setdefault(canonicalize_name(one.name), set()).add(str(one.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_git_ignores_no_source_file() -> None:
    """A clone has every file that the checkout has: an ignored name would be missing there alone."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    rooms = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    listing = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *rooms, "tests"]
    ignored = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    left = [
        name for name in ignored if not re.search(r"__pycache__/|\.pyc$|(^|/)\.\w+_cache/|(^|/)\.hypothesis/", name)
    ]
    assert left == []
