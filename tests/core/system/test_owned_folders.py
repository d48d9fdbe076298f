"""Nothing that Retort did not write is ever replaced or deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from retort.core.artifact import load_artifact, new_artifact
from retort.core.context import Place
from retort.core.errors import RetortError, StorageError, UserError
from retort.core.system.owned_folders import (
    MANIFEST,
    claim,
    claim_file,
    is_scratch,
    remove_artifact,
    scratch_of,
    why_kept,
)


def write(folder: Path, content: bytes = b"weights", key: str = "k") -> Path:
    """A finished artifact of two files."""
    with new_artifact(Place(folder, key), "graph", "export") as draft:
        (draft.folder / "model.onnx").write_bytes(content)
        (draft.folder / "more").mkdir()
        (draft.folder / "more" / "weights.data").write_bytes(content * 2)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file (and link, by its target) below a folder, and every folder as None."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def grow(folder: Path, draw: np.random.Generator, depth: int = 0) -> None:
    """A random tree of files, folders, links, artifacts, and artifacts that were changed, extended or cut."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(int(draw.integers(0, 4))):
        path = folder / draw.choice(["a", "out", "model.onnx", MANIFEST, "notes.txt", ".hidden", f"x{index}"])
        kind = draw.integers(0, 8)
        if path.exists() or path.is_symlink():
            continue
        if kind < 2:
            path.write_bytes(draw.bytes(int(draw.integers(0, 40))))
        elif kind == 2 and depth < 3:
            grow(path, draw, depth + 1)
        elif kind == 3:
            path.symlink_to(draw.choice(["nowhere", ".", "../.."]))
        else:
            write(path, draw.bytes(8), key=str(draw.integers(0, 3)))
            if kind == 4:
                (path / "model.onnx").write_bytes(b"edited by hand")
            elif kind == 5:
                (path / "more" / "notes.txt").write_text("mine")
            elif kind == 6:
                (path / MANIFEST).unlink()


def foreign(folder: Path) -> dict[str, bytes | None]:
    """What below a folder Retort did not write: all but the files of artifacts that are complete and unchanged."""
    own: set[Path] = set()
    for manifest in folder.rglob(MANIFEST):
        if manifest.is_symlink() or not manifest.is_file() or why_kept(manifest.parent):
            continue
        try:
            names = load_artifact(manifest.parent).manifest.files
        except RetortError:
            continue
        own |= {manifest, *(manifest.parent / name for name in names)}
    return {name: value for name, value in contents(folder).items() if value is not None and folder / name not in own}


@pytest.mark.parametrize("seed", range(60))
def test_random_trees_keep_every_file_that_is_not_of_retort(tmp_path: Path, seed: int) -> None:
    """Writing, replacing with and without --force, and deleting at any place lose no such file and no artifact part."""
    draw = np.random.default_rng(seed)
    grow(tmp_path / "tree", draw)
    places = [*(tmp_path / "tree").rglob("*"), tmp_path / "tree", tmp_path / "tree" / "new"]
    for place in places:
        before = foreign(tmp_path)
        try:
            claim(place, "graph", "9", [], force=bool(draw.integers(0, 2)))
            write(place, b"result", key="9")
        except RetortError:
            pass
        if draw.integers(0, 3) == 0:
            remove_artifact(place)
        after = contents(tmp_path)
        lost = {name for name, value in before.items() if after.get(name) != value}
        assert not lost, f"{place} took {lost}"
        assert not [path for path in tmp_path.rglob("*") if is_scratch(path)]


def test_every_reason_is_named(tmp_path: Path) -> None:
    """Files, links, other folders, changed and extended artifacts, inputs and what contains them."""
    artifact = write(tmp_path / "artifact")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(artifact)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    edited, extended = write(tmp_path / "edited"), write(tmp_path / "extended")
    (edited / "model.onnx").write_bytes(b"mine")
    (extended / "notes.txt").write_text("mine")
    reasons = {
        "file": "is a file",
        "link": "is a link",
        "photos": "is not empty, and no artifact",
        "edited": "contains model.onnx, which was changed after Retort wrote it",
        "extended": "contains notes.txt, which Retort did not write",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            claim(tmp_path / name, "graph", "new", [], force=True)
        with pytest.raises(StorageError, match=reason):
            write(tmp_path / name)
    with pytest.raises(UserError, match="is the input"):
        claim(artifact, "graph", "new", [artifact], force=True)
    with pytest.raises(UserError, match="contains the input"):
        claim(tmp_path, "graph", "new", [artifact], force=True)
    with pytest.raises(UserError, match="is inside the input"):
        claim(artifact / "sub", "graph", "new", [artifact], force=True)
    with pytest.raises(UserError, match="contains a graph, and the result is a program"):
        claim(artifact, "program", "new", [], force=True)
    with pytest.raises(UserError, match="the result of other inputs or options") as caught:
        claim(artifact, "graph", "new", [], force=False)
    assert "--force" in str(caught.value)


def test_what_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New and empty folders, the finished result of the same inputs, and other results with --force."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        claim(folder, "graph", "k", [], force=False)
        write(folder)
    claim(tmp_path / "empty", "graph", "k", [], force=False)
    claim(tmp_path / "empty", "graph", "other", [], force=True)
    write(tmp_path / "empty", b"newer", key="other")
    assert load_artifact(tmp_path / "empty").key == "other"
    monkeypatch.chdir(tmp_path / "new")
    for here in (Path(), Path(".."), tmp_path):
        with pytest.raises(UserError, match="current folder"):
            claim(here, "graph", "k", [], force=True)


def test_siblings_that_are_written_too_are_checked(tmp_path: Path) -> None:
    """Measurements of a result are written beside it."""
    (tmp_path / "int8-speed").mkdir()
    (tmp_path / "int8-speed" / "mine.csv").write_text("1")
    with pytest.raises(UserError, match="int8-speed is not empty"):
        claim(tmp_path / "int8", "program", "k", [], force=True)


def test_a_pipe_is_no_file_to_write(tmp_path: Path) -> None:
    """A pipe is refused at once, also with --force, instead of waiting for a reader."""
    os.mkfifo(tmp_path / "result.json")
    for force in (False, True):
        with pytest.raises(UserError, match="pipe or a device"):
            claim_file(tmp_path / "result.json", force=force)


def test_files_of_a_user_are_not_replaced(tmp_path: Path) -> None:
    """Only files with Retort's own mark, or with --force; never a folder or a link."""
    path = tmp_path / "report.html"
    claim_file(path, force=False)
    path.write_text("my notes")
    with pytest.raises(UserError, match="exists, and is kept"):
        claim_file(path, force=False, mark="retort.result/")
    claim_file(path, force=True)
    path.write_text('<meta name="generator" content="Retort, retort.result/2">')
    claim_file(path, force=False, mark="retort.result/")
    with pytest.raises(UserError, match="is a folder"):
        claim_file(tmp_path, force=True)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match="is a link"):
        claim_file(tmp_path / "link", force=True)


def test_unfinished_work_has_a_name_of_its_own(tmp_path: Path) -> None:
    """It lies beside the result, apart from folders that a user may call scratch."""
    assert scratch_of(tmp_path / "int8") == tmp_path / ".retort-scratch" / "int8"
    assert scratch_of(tmp_path / "int8", "-forms") == tmp_path / ".retort-scratch" / "int8-forms"


def test_only_scratch_folders_of_retort_are_scratch(tmp_path: Path) -> None:
    """A user's hidden files may end in .tmp, too."""
    for name in (".mine.tmp", ".notes.old", "x.0123abcd.tmp", ".x.0123abcg.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".y.0123abcd.tmp").write_text("a file")
    (tmp_path / ".z.0123abcd.tmp").mkdir()
    assert [path.name for path in tmp_path.iterdir() if is_scratch(path)] == [".z.0123abcd.tmp"]
    shutil.rmtree(tmp_path / ".z.0123abcd.tmp")
