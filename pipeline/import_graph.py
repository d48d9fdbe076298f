"""The code of the package that a function can run: its part of its module, and everything imported from there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TYPE_CHECKING = re.compile(r"^if TYPE_CHECKING:[^\n]*\n(?:[ \t]+[^\n]*\n|[ \t]*\n)+", re.MULTILINE)
_FROM = re.compile(r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^\n#]+)", re.MULTILINE)
_BY_NAME = re.compile(r"""import_module\(\s*(f?)["']([^"']+)["']""")
_PROCESS = re.compile(r"""f["']\{__package__\}\.([\w.]+)["']""")
_FILE = re.compile(r"""["']((?:\w+/)*\w+\.py)["']""")
_FOLDER = re.compile(r"""f["']((?:\w+/)*\w+)/\{""")
_PACKAGE = "{__package__}."
_COMMENT = re.compile(r"#[^\n]*")
PRESENTATION = (
    "core/console.py",
    "core/terminal/__init__.py",
    "core/terminal/heartbeat.py",
    "core/terminal/interruption.py",
    "core/terminal/text_tables.py",
)
"""Console output does not affect the result of a stage."""
KINDS = (".py", ".jinja")


@dataclass(frozen=True)
class Imports:
    """The imports of a module at run time, without imports for type checkers only.

    Attributes:
        ours: level (1 for the module's own folder, 0 for an absolute import of the package), module, names.
        foreign: top-level names of other packages.
        folders: folders whose modules are imported by computed names, relative to the module's folder.
        paths: files and folders of the package that are read by their path from its root.
        processes: modules in the same folder that are started as processes.
    """

    ours: tuple[tuple[int, str, tuple[str, ...]], ...]
    foreign: frozenset[str]
    folders: tuple[str, ...]
    paths: tuple[str, ...]
    processes: tuple[str, ...]


@cache
def imports_of(text: str, package: str = "retort") -> Imports:
    """All imports in a module's source, also inside functions.

    Regular expressions find them, because parsing every file of the package takes more than a second. A test compares
    the result with the syntax trees of all modules.
    """
    text = _TYPE_CHECKING.sub("", text)
    ours: list[tuple[int, str, tuple[str, ...]]] = []
    foreign: set[str] = set()
    for dots, module, names in _FROM.findall(text):
        first, _, rest = module.partition(".")
        if dots or first == package:
            ours.append((len(dots), module if dots else rest, _names(names)))
        else:
            foreign.add(first)
    for listed in _IMPORT.findall(text):
        for name in listed.split(","):
            first, _, rest = name.split(" as ")[0].strip().partition(".")
            if first == package:
                ours.append((0, rest, ()))
            else:
                foreign.add(first)
    folders = []
    for computed, name in _BY_NAME.findall(text):
        if computed and name.startswith(_PACKAGE):
            folders.append(name.removeprefix(_PACKAGE).partition(".{")[0].replace(".", "/"))
        elif not computed:
            foreign.add(name.partition(".")[0])
    paths = (*_FILE.findall(text), *_FOLDER.findall(text))
    return Imports(tuple(ours), frozenset(foreign), tuple(folders), paths, tuple(_PROCESS.findall(text)))


def _names(listed: str) -> tuple[str, ...]:
    plain = _COMMENT.sub("", listed).strip("() \n")
    return tuple(name.split(" as ")[0].strip() for name in plain.split(",") if name.strip())


@dataclass(frozen=True)
class Reached:
    """The code that a function can run.

    Attributes:
        files: paths relative to the package's root, in order.
        foreign: top-level names of the other packages that are imported.
        source: the function's own part of its module.
    """

    files: tuple[str, ...]
    foreign: frozenset[str]
    source: str


def reach(root: Path, entry: str) -> Reached:
    """Everything that a function can run, found without importing anything.

    Args:
        root: folder of the package.
        entry: a module and a function at its top level, such as ``pipeline/stages.py:prune``. In that module, only the
            function, what it refers to, and their imports are used; in other modules, everything is.
    """
    where, _, name = entry.partition(":")
    source = _own_part((root / where).read_text(), name)
    present, files, foreign = _present(root), set[str](), set[str]()
    beside = [file for file in present if not file.endswith(".py")]
    queue: list[tuple[str, Imports]] = [(where, imports_of(source))]
    while queue:
        module, found = queue.pop()
        foreign |= found.foreign
        for target in _targets(present, module, found):
            if target not in files and target not in PRESENTATION and target != where:
                files.add(target)
                text = (root / target).read_text()
                queue.append((target, imports_of(text)))
                files |= {file for file in _siblings(beside, target) if file.rpartition("/")[2] in text}
    return Reached(tuple(sorted(files)), frozenset(foreign), source)


def _siblings(files: list[str], module: str) -> list[str]:
    """The files that are next to a module."""
    folder = module.rpartition("/")[0]
    return [file for file in files if file.rpartition("/")[0] == folder]


def _own_part(text: str, name: str) -> str:
    """A top-level definition of a module with everything it refers to there: definitions, constants and imports."""
    bound: dict[str, ast.stmt] = {}
    loose: list[ast.stmt] = []  # statements without names, which run on every import of the module
    for node in ast.parse(text).body:
        names = list(_bound(node))
        bound |= dict.fromkeys(names, node)
        loose += [node] if not names and not _is_idle(node) else []
    wanted: dict[int, ast.stmt] = {}
    queue: list[ast.stmt] = [*loose, bound[name]]
    while queue:
        node = queue.pop()
        if node.lineno not in wanted:
            wanted[node.lineno] = node
            used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            queue += [bound[name] for name in used if name in bound]
    return "\n".join(ast.get_source_segment(text, wanted[line]) or "" for line in sorted(wanted)) + "\n"


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds in its module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _is_idle(node: ast.stmt) -> bool:
    """A docstring, or imports for type checkers."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _targets(present: frozenset[str], module: str, found: Imports) -> Iterator[str]:
    """Files that a module's imports run: the modules, and the ``__init__`` of every package on the way."""
    here = module.split("/")[:-1]
    for level, name, names in (*found.ours, *((1, process, ()) for process in found.processes)):
        base = here[: len(here) - level + 1] if level else []
        parts = [*base, *filter(None, name.split("."))]
        for target in (parts, *([*parts, one] for one in names)):
            yield from _files(present, target)
    folders = ["/".join([*here, folder]) for folder in found.folders] + list(found.paths)
    if folders:
        yield from (file for file in present if file.rpartition("/")[0] in folders and file.endswith(".py"))
    yield from (path for path in found.paths if path in present)


def _files(present: frozenset[str], parts: list[str]) -> Iterator[str]:
    path = "/".join(parts)
    if f"{path}.py" in present:
        yield f"{path}.py"
    elif f"{path}/__init__.py" not in present:
        return
    for depth in range(1, len(parts) + 1):
        package = "/".join(parts[:depth]) + "/__init__.py"
        if package in present:
            yield package


@cache
def _present(root: Path) -> frozenset[str]:
    """The files of a package, relative to its root: its own modules, and its folders of modules."""
    packages = [path for path in root.iterdir() if (path / "__init__.py").is_file() and path.name != "tests"]
    files = [*root.glob("*.py"), *(file for package in packages for file in package.rglob("*") if file.suffix in KINDS)]
    return frozenset(file.relative_to(root).as_posix() for file in files)
