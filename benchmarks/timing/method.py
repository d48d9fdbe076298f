"""The version of the statistics of a timing, so that a result is recomputed only by the code that computed it."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODE = (
    *(f"benchmarks/timing/{name}.py" for name in (
        "blocks", "dependence", "drift_and_spikes", "holm", "latency", "statistics", "timed_rounds",
    )),
    "core/metrics/intervals.py", "core/metrics/ratio.py",
)  # fmt: skip
"""The files that compute the figures."""


@cache
def method() -> str:
    """A hash of the code that computes the figures, without its comments and docstrings; empty if it cannot be read."""
    digest = hashlib.sha256()
    for name in CODE:
        try:
            text = (HERE.parents[1] / name).read_text(encoding="utf-8")
        except OSError:
            return ""
        digest.update(ast.unparse(without_docstrings(ast.parse(text))).encode())
    return digest.hexdigest()[:12]


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without texts that stand alone, which are docstrings and change no figure."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree
