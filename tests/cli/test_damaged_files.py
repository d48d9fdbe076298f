"""Files of artifacts that were damaged: every command that reads a model notices, in one sentence."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retort.__main__ import _app, main
from retort.core.artifact import load_artifact, new_artifact
from retort.core.context import Place
from retort.core.facts.record import Record
from retort.core.kinds import KINDS
from retort.serve.signing.private_key import make_pair

KEPT = Path(__file__).resolve().parents[1] / "old_files" / "fabcb72"
FOLDERS = {"program": "cnn", "graph": "int8-onnx", "archive": "archive"}
MORE = {
    "predict": ["--input", "x.npy"],
    "explain": ["--input", "x.npy"],
    "bench": ["--data", "data.npz"],
    **{f"bench {name}": ["--data", "data.npz"] for name in ("load", "sweep", "sustain")},
    "bench gate": ["--data", "data.npz", "--baseline", "baseline.json"],
    "doctor": ["--data", "data.npz"],
    "sign": ["--key", "signing.key"],
    "deploy": ["--host", "models.example", "--certificate", "tls.pem", "--key", "tls.key"],
}
SAYS = ("altered", "damaged", "truncated", "lost its file", "cannot be read", "not an artifact")
NEEDED = {
    *("capture", "train", "distill", "prune", "sparsify", "quantize", "export", "pack", "engine", "lint", "serve"),
    *("predict", "explain", "bench", "doctor", "show", "deploy"),
}


def reads_models() -> list[str]:
    """The commands whose first argument is a model or an artifact, by the help of that argument."""
    found = []
    app = _app()
    group = next(group.typer_instance for group in app.registered_groups if group.name == "bench")
    inside = {f"bench {one.name}".removesuffix(" run"): one for one in group.registered_commands}
    for name, command in {**{one.name: one for one in app.registered_commands}, **inside}.items():
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
            argument = next(
                (m for m in getattr(parameter.annotation, "__metadata__", ()) if "Arg" in type(m).__name__), None
            )
            words = ("artifact folder", "model file", ".mar", ".onnx", ".pt2")
            if argument is not None and any(word in argument.help.lower() for word in words):
                found.append(name)
    return found


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A whole artifact of each kind, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    make_pair(tmp_path, "signing")
    shutil.copyfile(KEPT / "result.json", "baseline.json")
    np.save("x.npy", draw.normal(size=(2, 1, 8, 8)).astype(np.float32))
    splits = {name: draw.normal(size=(8, 1, 8, 8)).astype(np.float32) for name in ("x_train", "x_validation", "x_test")}
    np.savez("data.npz", allow_pickle=False, **splits)
    made = {kind: Path(shutil.copytree(KEPT / name, tmp_path / kind)) for kind, name in FOLDERS.items()}
    with new_artifact(Place(tmp_path / "engine"), "engine", "engine") as draft:
        (draft.folder / "model.plan").write_bytes(bytes(range(256)) * 40)
        draft.facts = Record()
    return {**made, "engine": tmp_path / "engine"}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def assert_refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    """The command fails with one sentence about the damage, its remedy, and nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    sentences = [line for line in shown.err.splitlines() if line.startswith("retort: ")]
    assert ended.value.code not in (0, None), arguments
    assert len(sentences) == 1, (arguments, shown.err)
    assert any(word in sentences[0] for word in SAYS), (arguments, shown.err)
    assert "internal error" not in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.torch
def test_every_command_that_reads_a_model_is_known() -> None:
    """The list of commands is found by itself, and is not empty by mistake."""
    assert set(reads_models()) >= NEEDED


@pytest.mark.torch
@pytest.mark.parametrize("kind", [*FOLDERS, "engine"])
@pytest.mark.parametrize("damage", [_flip, _cut])
def test_a_damaged_main_file_is_noticed(
    kind: str, damage: Callable[[Path], None], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command, whether the folder or the file in it is given."""
    main_file = load_artifact(folders[kind]).main
    damage(main_file)
    for command in reads_models():
        if command != "capture":
            assert_refused(capsys, *command.split(), kind, *MORE.get(command, []))
        if command != "capture" or kind in ("program", "graph"):
            more = ["--data", "data.npz"] if command == "capture" else MORE.get(command, [])
            assert_refused(capsys, *command.split(), str(main_file.relative_to(Path.cwd())), *more)


@pytest.mark.torch
@pytest.mark.parametrize("kind", [*FOLDERS, "engine"])
def test_a_damaged_manifest_is_noticed(kind: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """By every command that is given the folder or the manifest, whatever is wrong with it."""
    manifest = folders[kind] / "manifest.json"
    manifest.write_bytes(b"{")
    for command in reads_models():
        if command != "capture":
            assert_refused(capsys, *command.split(), kind, *MORE.get(command, []))
    for content in (b"", b"[]", b'{"kind": "graph"}', b'{"kind": "odd", "files": {}}', b"\xff\xfe"):
        manifest.write_bytes(content)
        assert_refused(capsys, "show", kind)
        assert_refused(capsys, "show", f"{kind}/manifest.json")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "name"), [("graph", "golden.npz"), ("graph", "signature.json"), ("archive", "bundle/model.onnx")]
)
def test_other_files_of_the_folder_count(
    kind: str, name: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged or lost file beside the main one is noticed where the folder is given, and itself where it is."""
    file = folders[kind] / name
    _flip(file)
    for command in reads_models():
        if command != "capture":
            assert_refused(capsys, *command.split(), kind, *MORE.get(command, []))
    if file.suffix == ".onnx":
        assert_refused(capsys, "predict", f"{kind}/{name}", "--input", "x.npy")
    file.unlink()
    assert_refused(capsys, "show", kind)


def test_results_are_compared_with_their_manifest(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """`report` and `compare` refuse a measurement that was changed, given its run, its folder or its file."""
    run = Path(shutil.copytree(KEPT / "run", "run"))
    (bench,) = run.rglob("*-bench-*")
    measured = load_artifact(bench).main
    measured.write_text(measured.read_text().replace("1", "2", 1))
    for source in (bench.parent, bench, measured):
        assert_refused(capsys, "report", str(source), "--out", "r.html")
        assert_refused(capsys, "compare", str(source), str(source))
    assert folders
    assert not Path("r.html").exists()


def test_a_file_beside_another_manifest_is_free(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A copy elsewhere, and a file beside another program's manifest.json, are read as they are."""
    for manifest in ("{}", "[1]", '{"files": {"m.onnx": 3}}', '{"kind": "graph", "parents": [], "files": {}}'):
        Path("own").mkdir(exist_ok=True)
        Path("own/manifest.json").write_text(manifest)
        shutil.copy(folders["graph"] / KINDS["graph"].main_file, "own/m.onnx")
        with pytest.raises(SystemExit) as ended:
            main(["show", "own/m.onnx"])
        assert ended.value.code in (0, None), capsys.readouterr().err
