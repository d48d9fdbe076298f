"""The version of the statistics changes with their code, and not with words about it."""

from __future__ import annotations

import ast
import re

from retort.benchmarks.timing.method import CODE, HERE, method, without_docstrings


def test_words_do_not_change_the_version() -> None:
    """Docstrings and comments are left out of the code that is hashed, and statements are not."""
    one, two, three = (
        ast.unparse(without_docstrings(ast.parse(text)))
        for text in (
            '"""A."""\ndef f(x):\n    """B."""  # why\n    return x\n',
            "def f(x):\n    return x",
            "def f(x):\n    return 2 * x",
        )
    )
    assert one == two
    assert two != three


def test_all_modules_of_the_statistics_are_in_the_version() -> None:
    """What the summary of a timing imports beside it is hashed, or does not compute figures."""
    assert re.fullmatch("[0-9a-f]{12}", method())
    summary = (HERE / "latency.py").read_text()
    used = {f"benchmarks/timing/{name}.py" for name in re.findall(r"^from \.(\w+) import", summary, re.M)}
    assert used - set(CODE) <= {
        f"benchmarks/timing/{name}.py" for name in ("candidates", "clocks", "machine_noise", "rounds")
    }
