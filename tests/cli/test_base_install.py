"""A base installation, without any extra: every command works, or names what it needs and how to install it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import KEPT, base_arguments, callbacks

CODE = """
import contextlib, importlib.machinery, io, json, os, sys
from retort.core.system.installation import EXTRA_OF

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in {*EXTRA_OF, "tensorrt", "tensorrt_rtx"}:
            return None
        return super().find_spec(fullname, path, target)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = Without
from retort.__main__ import main
found = {}
for name, given in json.loads(sys.stdin.read()).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*name.split(), *given])
        except SystemExit as stopped:
            code = stopped.code
    found[name] = [code, out.getvalue() + err.getvalue()]
sys.__stdout__.write(json.dumps(found))
"""
NEED = ("train", "distill", "prune", "sparsify", "quantize", "export", "lint", "bench run", "predict", "capture")
"""Commands that need a package of an extra."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit code and output of every command in a process in which no package of an extra can be found."""
    folder = Path(shutil.copytree(KEPT, tmp_path_factory.mktemp("base") / "old"))
    given = {name: base_arguments(name, folder) for name in callbacks()}
    given["serve"] = [str(folder / "archive" / "model.mar")]
    # functions of a user's module that imports torch would name torch as their own fault
    given = {name: [text.replace("nets:images", "images.npz") for text in words] for name, words in given.items()}
    code = "import nets, numpy as np; x, y = nets.images(); np.savez('images.npz', x=x, y=y)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(given), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_command_fails_with_an_internal_error(told: dict[str, Any]) -> None:
    """Every command ends with success or with one sentence."""
    assert set(told) == set(callbacks())
    wrong = {name: text for name, (code, text) in told.items() if code == 1 or "internal error" in text}
    assert wrong == {}


@pytest.mark.parametrize("command", NEED)
def test_what_needs_an_extra_names_it(command: str, told: dict[str, Any]) -> None:
    """The package is named, with the command that installs its extra."""
    code, text = told[command]
    assert code in (2, 7), text
    assert "pip install" in text, text


@pytest.mark.parametrize("command", ["init", "schema", "show", "runs", "clean", "compare", "doctor"])
def test_what_needs_none_works(command: str, told: dict[str, Any]) -> None:
    """Commands that only read and write files of Retort need no extra."""
    code, text = told[command]
    assert code == 0, text
