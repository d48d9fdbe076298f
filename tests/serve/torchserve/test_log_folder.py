"""The logs of servers that run at the same time: each has a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.core.errors import StorageError
from retort.serve.torchserve.log_folder import log_folder


def test_servers_in_one_folder_share_no_logs(tmp_path: Path) -> None:
    """The first has the folder, others a numbered one in it; a folder is taken again when its server has ended."""
    wanted = tmp_path / "logs"
    with log_folder(wanted) as first:
        with log_folder(wanted) as second, log_folder(wanted) as third:
            assert (first, second, third) == (wanted, wanted / "2", wanted / "3")
            (second / "server.log").write_text("mine")
        with log_folder(wanted) as again:
            assert again == second
            assert (again / "server.log").read_text() == "mine"
    with log_folder(wanted) as after:
        assert after == wanted


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in its place is an error of storage."""
    (tmp_path / "logs").write_text("")
    with pytest.raises(StorageError), log_folder(tmp_path / "logs"):
        pass
