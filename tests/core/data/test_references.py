"""References to the user's code: faults in it are told with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.core.data.references import resolve
from retort.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "line"),
    [("def broken(:\n", 1), ("x = 1\nif x:\ny = 2\n", 3), ("x = 1\n\n1 / 0\n", 3), ("eval('1 +')\n", 1)],
)
def test_a_fault_in_a_module_is_told_with_its_own_line(tmp_path: Path, text: str, line: int) -> None:
    """Neither Python's frames that import a module nor a text that it evaluates is the place."""
    module = tmp_path / f"faulty_{abs(hash(text))}.py"
    module.write_text(text)
    with pytest.raises(UserError) as caught:
        resolve(f"{module.stem}:model", tmp_path)
    assert f"fix the error in {module}, line {line}" in str(caught.value)
