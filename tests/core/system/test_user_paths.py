"""Paths of a user: what is there, and whether a folder can be written, in words with a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from retort.core.errors import MissingFileError, StorageError
from retort.core.system.atomic_files import storage_errors
from retort.core.system.user_paths import REMEDIES, remedy_of, require_file, require_utf8, require_writable, what_is_at


def test_what_is_at_a_path_is_told(tmp_path: Path) -> None:
    """Nothing, a folder, a pipe, a device, broken links and names that cannot be."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert what_is_at(tmp_path / "file") == ""
    assert what_is_at(tmp_path) == "is a folder"
    assert what_is_at(tmp_path / "none") == "does not exist"
    assert "pipe or a device" in what_is_at(tmp_path / "fifo")
    assert "pipe or a device" in what_is_at(Path("/dev/null"))
    assert "link to something" in what_is_at(tmp_path / "broken")
    for name in ("loop", "n" * 300, "a\0b", "file/below"):
        assert what_is_at(tmp_path / name).startswith("cannot be opened")
    with pytest.raises(MissingFileError, match="no such recipe"):
        require_file(tmp_path / "none", "recipe", "write one")


def test_folders_that_cannot_be_written_have_their_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on the way, a missing permission and a read-only disk."""
    require_writable(tmp_path / "new" / "deep")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        require_writable(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="choose a shorter name"):
        require_writable(tmp_path / ("n" * 300))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(StorageError, match="may read and write"):
            require_writable(tmp_path)
    real = os.statvfs(tmp_path)
    read_only = os.statvfs_result([*real[:8], real.f_flag | os.ST_RDONLY, *real[9:]])
    monkeypatch.setattr(os, "statvfs", lambda path: read_only)
    with pytest.raises(StorageError, match="this disk is read-only"):
        require_writable(tmp_path)


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """ONNX's checker takes no such path; letters beyond ASCII are no problem."""
    require_utf8(tmp_path / "für uns")
    for path in (tmp_path / "a\udcffb.onnx", tmp_path / "a\udcffb" / "model.onnx"):
        with pytest.raises(StorageError, match=r"a\ufffdb.* not UTF-8"):
            require_utf8(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_errors_while_writing_have_the_remedy_of_their_kind(code: int) -> None:
    """Only a full disk asks for space."""
    with pytest.raises(StorageError) as caught, storage_errors("x"):
        raise OSError(code, os.strerror(code), "x")
    assert ("free some space" in caught.value.remedy) == (code == errno.ENOSPC)
    assert all(remedy_of(known) for known in (*REMEDIES, None, 12345))
