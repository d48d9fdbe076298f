"""The stand-in for PyTorch in the worker: TorchServe uses nothing else of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from retort.serve.torchserve.archives import without_torch
from retort.serve.torchserve.archives.contents import stand_in
from retort.serve.torchserve.archives.mar import STAND_IN, lint_names

BEHIND_THE_CHECK = {"save"}
"""What the worker calls only for an answer that is a tensor of PyTorch."""
IMPORTS = """
import json, sys
import ts.model_service_worker, ts.model_loader, ts.service, ts.context
loaded = [m for n, m in sys.modules.items() if n == "ts" or n.startswith("ts.")]
print(json.dumps([sys.modules["torch"].__file__, [m.__file__ for m in loaded if m.__file__]]))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The file that a worker imports as PyTorch, and the files of TorchServe that it imports."""
    pytest.importorskip("ts", reason="TorchServe is not installed")
    folder = tmp_path_factory.mktemp("worker")
    (folder / STAND_IN).write_bytes(stand_in())
    environment = {"PYTHONPATH": str(folder), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    torch, files = json.loads(done.stdout.splitlines()[-1])
    return Path(torch), [Path(file) for file in files]


def test_a_worker_imports_the_stand_in(worker: tuple[Path, list[Path]]) -> None:
    """The archive is searched before the installed packages."""
    torch, files = worker
    assert torch.name == STAND_IN
    assert torch.read_bytes() == stand_in()
    assert {"model_service_worker.py", "otf_message_handler.py"} <= {file.name for file in files}


def test_torchserve_uses_nothing_else_of_pytorch(worker: tuple[Path, list[Path]]) -> None:
    """Every attribute of PyTorch in the modules of a worker is known; one of them is needed, or the file is not."""
    used, imported = set(), False
    for file in worker[1]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not [name for name in node.names if name.name.startswith("torch.")], file
                imported |= any(name.name == "torch" for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("torch"), file
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                used.add(node.attr)
    assert imported, "the stand-in is not needed any more"
    assert used - BEHIND_THE_CHECK == {"Tensor"}


def test_nothing_is_a_tensor_and_other_names_are_told() -> None:
    """Bytes are no tensor, and code that needs PyTorch says which part it lacks."""
    assert not isinstance(b"", without_torch.Tensor)
    with pytest.raises(AttributeError, match=r"this worker has no PyTorch \(torch.cuda\)"):
        _ = without_torch.cuda


def test_only_our_stand_in_may_hide_a_package(tmp_path: Path) -> None:
    """Any other module that hides PyTorch is refused, also under the same name."""
    assert lint_names([STAND_IN]) == []
    assert lint_names(["torch/__init__.py"]) == ["'torch/__init__.py': it hides the module 'torch'"]
    assert lint_names(["numpy.py"]) == ["'numpy.py': it hides the module 'numpy'"]
