"""Saving never loses a model, and never replaces what Retort did not write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import retort
from retort.core.errors import MissingFileError, StorageError, UserError
from retort.pipeline.live.objects.model_files import Graph
from retort.pipeline.live.objects.programs import Program

X = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))


def program(seed: int = 0) -> Program:
    """A small program."""
    torch.manual_seed(seed)
    return retort.capture(nn.Linear(40, 30), X)


def with_side_file(folder: Path, seed: int, name: str = "model.onnx") -> Graph:
    """An ONNX file that stores its weights in a separate file, as large exports do."""
    folder.mkdir()
    exported = retort.export(program(seed), folder / name)
    model = onnx.load(exported.path)
    onnx.save(model, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    found = retort.load(folder / name)
    assert isinstance(found, Graph)
    return found


def test_a_model_that_is_saved_to_its_own_place_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving an artifact to its own folder, or a file to its own path, through links too, changes nothing."""
    made = program()
    expected = made(X)
    made.save(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    kept = retort.load(tmp_path / "kept")
    for path in (kept.path, tmp_path / "link", kept.path / "model.pt2"):
        assert kept.save(path) == path
        assert torch.equal(retort.load(tmp_path / "kept")(X), expected)
    monkeypatch.chdir(tmp_path)
    retort.export(made, "net.onnx")
    before = Path("net.onnx").read_bytes()
    os.link("net.onnx", "same.onnx")
    for name in ("net.onnx", "same.onnx"):
        assert retort.load("net.onnx").save(name) == Path(name)
        assert Path("net.onnx").read_bytes() == before


def test_a_folder_is_replaced_only_if_retort_wrote_it(tmp_path: Path) -> None:
    """Saving replaces an artifact, but no folder with other files, a foreign manifest or changes, or around it."""
    old, new = program(0), program(1)
    old.save(tmp_path / "net")
    new.save(tmp_path / "net")
    assert torch.equal(retort.load(tmp_path / "net")(X), new(X))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    (tmp_path / "net" / "notes.txt").write_text("mine")
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web page"}')
    kept = retort.load(tmp_path / "net")
    edited = old.save(tmp_path / "edited")
    (edited / "model.pt2").write_bytes(b"mine")
    for source, path in (
        (old, tmp_path / "net"),
        (old, site),
        (new, edited),
        (kept, kept.path / "inner"),
        (kept, tmp_path),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(
            UserError, match=r"which Retort did not write|no artifact|changed|inside the artifact"
        ) as caught:
            source.save(path)
        assert "folder" in caught.value.remedy
        assert sorted(tmp_path.rglob("*")) == before


def test_the_files_of_an_artifact_are_not_replaced(tmp_path: Path) -> None:
    """A file cannot be saved over a file of another artifact, whose hash would be wrong, or over a folder."""
    old = program(0)
    kept = retort.load(old.save(tmp_path / "net"))
    with pytest.raises(UserError, match="is a file of the artifact"):
        program(1).save(kept.path / "model.pt2")
    assert torch.equal(retort.load(kept.path)(X), old(X))
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        old.save(tmp_path / "folder.pt2")


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """A parent that is a file, and a name that is too long, are storage errors; a deleted source is a missing file."""
    made = program()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "net.pt2", tmp_path / "file" / "net", tmp_path / f"{'n' * 300}.pt2"):
        with pytest.raises(StorageError, match="cannot write"):
            made.save(path)
    graph = retort.load(retort.export(made, tmp_path / "net.onnx").path)
    graph.path.unlink()
    with pytest.raises(MissingFileError, match="was deleted"):
        graph.save(tmp_path / "other.onnx")


def test_files_in_one_folder_keep_their_own_weights(tmp_path: Path) -> None:
    """ONNX files with external weights that are saved into one folder each have their own file of weights."""
    graphs = {name: with_side_file(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
    for _ in range(2):
        for name, graph in graphs.items():
            graph.save(tmp_path / "out" / f"{name}.onnx")
    files = ["first.onnx", "first.onnx.data", "second.onnx", "second.onnx.data"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    for name, graph in graphs.items():
        np.testing.assert_array_equal(retort.load(tmp_path / "out" / f"{name}.onnx")(X), graph(X))


def test_the_weights_of_another_file_are_not_replaced(tmp_path: Path) -> None:
    """A file of weights that the replaced ONNX file does not name may belong to another model, and is kept."""
    kept = with_side_file(tmp_path / "out", 0, "net.onnx")
    renamed = kept.path.rename(tmp_path / "out" / "renamed.onnx")
    expected = retort.load(renamed)(X)
    with pytest.raises(UserError, match="may contain the weights of another model"):
        with_side_file(tmp_path / "other", 1).save(tmp_path / "out" / "net.onnx")
    np.testing.assert_array_equal(retort.load(renamed)(X), expected)
