"""What users read: counts agree with their nouns, and names have the right article."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "compress", "export", "serve", "pipeline", "cli", "handlers", "benchmarks")
VERBS = {"is", "has", "was", "does", "gives", "takes", "reads", "needs", "differs", "as", "times", "this", "ms", "us"}
MANY = {
    ("core/backends/trt_buffers.py", "bytes"),
    ("core/backends/fake_quantize.py", "scales"),  # of an internal operator
    ("core/data/class_labels.py", "classes"),  # a classification has at least two
    ("core/data/files/listed_files.py", "files"),  # one file has words of its own
    ("core/options/recipe_faults.py", "faults"),  # one fault has words of its own
    ("compress/program.py", "batches"),  # more than one
    ("compress/quantization/rescue.py", "samples"),  # more than one
    ("serve/batching.py", "rows"),  # more than allowed
    ("serve/requests/bodies.py", "axes"),  # more than allowed
    ("serve/requests/raw_samples.py", "rows"),  # more than allowed
    ("serve/requests/v2.py", "axes"),  # more than allowed
    ("serve/requests/wire.py", "axes"),  # more than allowed
    ("serve/requests/wire.py", "members"),  # more than allowed
    ("serve/requests/wire.py", "bytes"),
    ("benchmarks/timing/latency.py", "rounds"),  # a note beside a progress bar
    ("benchmarks/report/html_report.py", "gates"),  # one gate has words of its own
}
"""Counts that are never one where they are shown, by file and noun."""
NOUNS = {"pairs", "clamps", "layers", "nodes", "classes", "faults", "gates", "epochs"}
"""Nouns before which every number is a count, also one that is not a length."""
NAMES_OF_KINDS = re.compile(r"\b[Aa] $")


def texts(*also: str) -> Iterator[tuple[str, int, ast.JoinedStr]]:
    """Every f-string of the package and of the folders ``also``, with its file and line."""
    for where, line, node in all_texts():
        if not where.startswith("benchmarks/suites/") or where.startswith(also):
            yield where, line, node


@functools.cache
def all_texts() -> list[tuple[str, int, ast.JoinedStr]]:
    """Every f-string of the rooms; the files are read once."""
    found = []
    for path in [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]:
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.JoinedStr)]
        found += [(path.relative_to(ROOT).as_posix(), node.lineno, node) for node in nodes]
    return found


def pairs(node: ast.JoinedStr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Neighbouring parts of an f-string."""
    yield from zip(node.values, node.values[1:], strict=False)


def test_counts_agree_with_their_nouns() -> None:
    """A length before a plural is written with `counted`, which knows the singular, unless it is never one."""
    wrong = []
    for where, line, node in texts():
        for count, words in pairs(node):
            if not isinstance(count, ast.FormattedValue) or not isinstance(words, ast.Constant):
                continue
            noun = re.match(r" ([a-z]+s)\b", str(words.value))
            length = ast.unparse(count.value).startswith("len(")
            length = length or (noun is not None and noun[1] in NOUNS and count.format_spec is None)
            if noun and length and noun[1] not in VERBS and (where, noun[1]) not in MANY:
                wrong.append(f"{where}:{line}: {{{ast.unparse(count.value)}}} {noun[1]}")
    assert not wrong, "\n".join(wrong)


def test_kinds_have_their_article() -> None:
    """A kind of artifact or of object after `a` is written with `with_article`, because it may be an archive."""
    wrong = []
    for where, line, node in texts():
        for words, name in pairs(node):
            if not isinstance(name, ast.FormattedValue) or not isinstance(words, ast.Constant):
                continue
            shown = ast.unparse(name.value)
            if NAMES_OF_KINDS.search(str(words.value)) and re.search(r"kind\b|__name__$|op_type$", shown):
                wrong.append(f"{where}:{line}: a {{{shown}}}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", ["README.md", *sorted(path.name for path in (ROOT / "docs").glob("guides/*.md"))])
def test_pages_have_no_wrong_plural(page: str) -> None:
    """Pages have neither `1 gates` nor `this needs a archive`."""
    path = ROOT / page if page == "README.md" else ROOT / "docs/guides" / page
    assert not re.findall(
        r"(?<![\d.,×])\b1 (?:gates|samples|stages|layers|faults|outputs)\b|\ba (?:archive|engine)\b", path.read_text()
    )


def test_ratios_have_one_sign() -> None:
    """A ratio is written as 1.07×; the letter x stands only in what users type, such as 0.5x."""
    wrong = []
    for where, line, node in texts("benchmarks/suites/"):
        for number, words in pairs(node):
            if isinstance(number, ast.FormattedValue) and isinstance(words, ast.Constant):
                form = ast.unparse(number.format_spec) if number.format_spec else ""
                if re.search(r"[0-9][fg]", form) and re.match(r"x\b", str(words.value)):
                    wrong.append(f"{where}:{line}: {{{ast.unparse(number.value)}}}x")
    assert not wrong, "\n".join(wrong)
