"""The pages of docs/ are complete: links have targets, and references in the code can be resolved."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from retort.core.options.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".venv", ".types", "build", "runs", "docs", "tests"}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WIDEST = 120
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"\b([a-z]+)\.md\b((?:,? (?:sections? )?(?:to |and )?(?:[A-Z]?\d+(?:\.\d+)*\b|placement))*)")
"""Such as ``serve.md H15 to H18``: a page of docs/specs and the sections or requirements that follow its name."""


def of_page(path: Path) -> str:
    """The name of a page in test ids."""
    return path.relative_to(ROOT).as_posix()


def modules() -> Iterator[Path]:
    """Every Python file of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        if not SKIPPED & set(path.relative_to(ROOT).parts) and not path.name.endswith(".egg-info"):
            yield path


def anchors(page: Path) -> set[str]:
    """Targets of references in a page of docs/specs: numbers of headings, requirements and rules, and headings."""
    text = page.read_text()
    numbers = re.findall(r"^#+ (\d+(?:\.\d+)*)\b", text, re.M)
    requirements = re.findall(r"^(?:\* \*\*|\| )([A-Z]\d+)\b", text, re.M)
    names = [name.lower() for name in re.findall(r"^#+ ([A-Za-z]+)$", text, re.M)]
    return {*numbers, *requirements, *names}


def named(tail: str) -> list[str]:
    """The sections after the name of a page, such as both ends of ``H15 to H18`` and all between them."""
    found: list[str] = []
    for word in re.findall(r"to|[A-Z]?\d+(?:\.\d+)*|placement", tail):
        if found and found[-1] == "to":
            first, last = found[-2], word
            found[-1:] = [f"{word[0]}{number:02}" for number in range(int(first[1:]) + 1, int(last[1:]) + 1)]
        else:
            found.append(word)
    return found


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file of the repository."""
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=of_page)
def test_lines_can_be_read(page: Path) -> None:
    """Lines outside tables and code have at most 120 characters, in pages that a person wrote."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > WIDEST] == []


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in page.read_text()], ids=of_page)
def test_recipes_in_pages_are_valid(page: Path) -> None:
    """Every complete recipe in a page passes the check."""
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)]
    recipes = [block for block in blocks if "stages" in block]
    assert all(parse_recipe(recipe).stages for recipe in recipes)
    assert recipes


def test_what_the_code_refers_to_is_written_down() -> None:
    """Each reference of a comment to a page of docs/specs, and to its sections, resolves."""
    specs = {page.name.removesuffix(".md"): anchors(page) for page in (ROOT / "docs/specs").glob("*.md")}
    broken, seen = [], 0
    for path in modules():
        for line in path.read_text().splitlines():
            for page, tail in REFERENCE.findall(line):
                seen += 1
                wanted = [re.sub(r"(?<=^H)0", "", section) for section in named(tail)]
                if page not in specs or not specs[page].issuperset(wanted):
                    broken.append(f"{path.relative_to(ROOT)}: {page}.md{tail}")
    assert broken == []
    assert seen > 30


def test_no_page_is_lost() -> None:
    """Every page of docs/ can be reached from the README by links."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page.resolve())
        for target in LINK.findall(page.read_text()):
            found = (page.parent / target.partition("#")[0]).resolve()
            if found.suffix == ".md" and found.is_file() and found not in reached:
                waiting.append(found)
    assert [of_page(page) for page in PAGES if page.resolve() not in reached] == []


def test_reference_is_current() -> None:
    """The pages of docs/reference agree with the code."""
    command = [sys.executable, "-m", "retort.docs.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_reference_leaves_no_key_unexplained() -> None:
    """Every key of a recipe, option of a command and field of a file has a description."""
    pages = sorted((ROOT / "docs/reference").glob("*.md"))
    empty = [
        f"{page.name}: {line}" for page in pages for line in page.read_text().splitlines() if line.endswith("|   |")
    ]
    assert empty == []


def test_environment_variables_are_listed() -> None:
    """Every environment variable that the code reads or sets by name is in the reference."""
    page = (ROOT / "docs/reference/environment.md").read_text()
    found = {name for path in modules() for name in environment_names(ast.parse(path.read_text()))}
    assert {"JAVA_HOME", "ORT_DISABLE_TELEMETRY"} <= found
    assert sorted(name for name in found if f"`{name}`" not in page) == []


def environment_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module reads from or writes to `os.environ`, as literals."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("os.environ.") and node.args:
            asked = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            asked = node.slice
        else:
            continue
        if isinstance(asked, ast.Constant):
            yield str(asked.value)
