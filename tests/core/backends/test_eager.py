"""Programs on disk and in a Session: equal outputs, no code in the file, and clear errors for bad files."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from retort.compress.capture.capture_program import capture
from retort.compress.graph import train_eval_mode
from retort.compress.program import Program, load_program, predict, save_program, set_training
from retort.core.backends.eager import load_exported
from retort.core.data.splits import ArraySplit
from retort.core.errors import ArtifactError, InputError, MachineError, MissingFileError, StorageError
from retort.core.session import SessionOptions, open_session

torch.set_num_threads(1)

USER_MODULE = """
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

class Secret(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
    def forward(self, x):
        return self.norm(self.layer(x))
"""


def small() -> Program:
    """A program with a mode, two outputs and an additional fact."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = self.norm(self.layer(x))
            return {"scores": self.drop(x), "best": x.argmax(1)}

    torch.manual_seed(0)
    program = capture(Model(), {"x": torch.randn(4, 4)})
    program.meta["scheme"] = {"target": "cpu"}
    return program


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    """A program and its file."""
    program = small()
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    save_program(program, path)
    return program, path


def test_session_equals_the_program(saved: tuple[Program, Path]) -> None:
    """A Session on the file gives the program's outputs bit for bit, by name, at any batch size."""
    program, path = saved
    session = open_session(path)
    assert (session.backend, session.signature, session.providers) == ("eager", program.signature, ("cpu",))
    for rows in (1, 2, 9):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        x.flags.writeable = False
        got, wanted = session.run({"x": x}), predict(program, ArraySplit({"x": x}))
        assert list(got) == ["scores", "best"]
        assert all(np.array_equal(got[name], wanted[name]) and got[name].dtype == wanted[name].dtype for name in got)
    with pytest.raises(InputError, match="size 5 on axis 1"):
        session.run({"x": np.zeros((2, 5), np.float32)})
    session.close()


class _Threads(TorchDispatchMode):
    """Records PyTorch's number of threads at every operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(torch.get_num_threads())
        return func(*args, **(kwargs or {}))


def test_session_keeps_to_its_threads_and_gives_them_back(saved: tuple[Program, Path]) -> None:
    """A Session runs with the requested number of threads, and restores PyTorch's setting."""
    before = torch.get_num_threads()
    for wanted in (1, 2):
        session = open_session(saved[1], SessionOptions(threads=wanted))
        with _Threads() as spy:
            session.run({"x": np.zeros((1, 4), np.float32)})
        assert (spy.seen, torch.get_num_threads()) == ({wanted}, before)


def test_gpu_session_without_a_gpu_is_refused(saved: tuple[Program, Path]) -> None:
    """Requesting CUDA on a machine without it is a MachineError; the CPU is not used silently."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match="sees no GPU"):
        open_session(saved[1], SessionOptions(providers=("CUDAExecutionProvider",)))


def test_file_is_the_same_bytes_every_time_and_loads_whole(saved: tuple[Program, Path], tmp_path: Path) -> None:
    """Saving again, or saving a loaded program, writes the same bytes; example and meta are kept."""
    program, path = saved
    set_training(program, True)
    save_program(program, tmp_path / "again.pt2")
    assert program.module.training
    set_training(program, False)
    loaded = load_program(path)
    owners = [[train_eval_mode.owner(node) for node in each.module.graph.nodes] for each in (program, loaded)]
    assert owners[0] == owners[1]
    assert {"layer", "norm", "drop"} <= set(owners[0])
    save_program(loaded, tmp_path / "loaded.pt2")
    assert path.read_bytes() == (tmp_path / "again.pt2").read_bytes() == (tmp_path / "loaded.pt2").read_bytes()
    assert loaded.meta == {"scheme": {"target": "cpu"}}
    assert torch.equal(loaded.example["x"], program.example["x"])


def test_file_needs_nothing_of_the_users_code(tmp_path: Path) -> None:
    """A program from a user's module opens in a process in which that module does not exist."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "secret_module.py").write_text(USER_MODULE)
    sys.path.insert(0, str(code))
    try:
        import secret_module  # type: ignore[import-not-found]

        program = capture(secret_module.Secret(), {"x": torch.randn(2, 4)})
    finally:
        sys.path.remove(str(code))
        sys.modules.pop("secret_module")
    save_program(program, tmp_path / "model.pt2")
    shutil.rmtree(code)
    x = np.ones((3, 4), np.float32)
    np.savez(tmp_path / "io.npz", x=x, y=predict(program, ArraySplit({"x": x}))["output"])
    script = (
        "import numpy as np, sys; from retort.core.session import open_session;"
        "io = np.load(sys.argv[2]); got = open_session(sys.argv[1]).run({'x': io['x']})['output'];"
        "assert np.array_equal(got, io['y'])"
    )
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "model.pt2", tmp_path / "io.npz"], check=True, cwd=tmp_path
    )
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert content.count(b"secret_module") == content.count(
        b'File \\"secret_module.py\\", line '
    )  # where ops come from
    assert str(tmp_path).encode() not in content


def _rewritten(path: Path, target: Path, change: dict[str, bytes]) -> Path:
    """A copy of a zip file in which parts are replaced or added, by the end of their names."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        names = source.namelist()
        for name in names:
            new = next((content for end, content in change.items() if name.endswith(end)), None)
            copy.writestr(name, source.read(name) if new is None else new)
        for end, content in change.items():
            if not any(name.endswith(end) for name in names):
                copy.writestr(f"{names[0].split('/')[0]}/{end}", content)
    return target


class _Payload:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_damaged_and_foreign_files_are_refused_in_one_line(saved: tuple[Program, Path], tmp_path: Path) -> None:
    """Missing, empty, truncated, altered and foreign files each give one clear line with the file's name."""
    _, path = saved
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b'"graph_module"') + 40] ^= 1
    bad = {
        "empty.pt2": b"",
        "text.pt2": b"not a program at all",
        "half.pt2": whole[: len(whole) // 2],
        "flipped.pt2": bytes(flipped),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"a": torch.ones(2)}, tmp_path / "state.pt2")
    _rewritten(
        path,
        tmp_path / "modes.pt2",
        {"retort.program": b'{"modes": [{"ordinal": 9, "op": "x", "train": 1}], "meta": {}}'},
    )
    _rewritten(path, tmp_path / "json.pt2", {"retort.program": b"{"})
    _rewritten(path, tmp_path / "signature.pt2", {"retort.signature": b'{"inputs": [], "outputs": []}'})
    for name in (*bad, "state.pt2", "modes.pt2", "json.pt2", "signature.pt2"):
        with pytest.raises(ArtifactError, match=name) as caught:
            load_program(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 2, name
    with pytest.raises(MissingFileError):
        load_program(tmp_path / "absent.pt2")


def test_file_cannot_run_code(saved: tuple[Program, Path], tmp_path: Path) -> None:
    """A file with a pickled object, a library or a formula that calls Python is rejected, and no code runs."""
    _, path = saved
    marker = tmp_path / "ran"
    torch.save((_Payload(marker),), tmp_path / "payload", pickle_module=pickle)
    with zipfile.ZipFile(path) as archive:
        graph = next(archive.read(name) for name in archive.namelist() if name.endswith("models/model.json"))
    evil = graph.replace(b'"expr_str": "Symbol(', b'"expr_str": "__import__(\'os\').getpid() or Symbol(', 1)
    assert evil != graph
    attacks = {
        "pickle.pt2": {"sample_inputs/model.pt": (tmp_path / "payload").read_bytes()},
        "library.pt2": {"data/aotinductor/model/evil.so": b"\x7fELF"},
        "formula.pt2": {"models/model.json": evil},
    }
    for name, change in attacks.items():
        with pytest.raises(ArtifactError, match=name):
            load_exported(_rewritten(path, tmp_path / name, change))
    assert not marker.exists()


def test_program_exported_by_somebody_else_opens(tmp_path: Path) -> None:
    """A plain torch.export file gets names and shapes from its graph, and is converted to evaluation form."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model, (torch.randn(2, 4),), dynamic_shapes=shapes), tmp_path / "other.pt2")
    program = load_program(tmp_path / "other.pt2")
    assert program.signature.describe_inputs() == "input: float32[batch, 4]"
    assert program.signature.outputs[0].describe() == "output: float32[batch, 3]"
    x = torch.randn(5, 4)
    torch.testing.assert_close(program.module(x)[0], model.eval()(x))


def test_full_disk_is_said_and_leaves_nothing(saved: tuple[Program, Path], tmp_path: Path) -> None:
    """Saving to a full disk is a StorageError, and no part of a file is left."""
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(small_disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(StorageError, match=r"No space left.*"):
            save_program(saved[0], small_disk / "model.pt2")
        assert list(small_disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
