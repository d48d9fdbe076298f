"""The scratch folder of a server is gone when the server has ended, whoever wrote in it last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from retort.serve.torchserve.process import Process

WRITER = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "begun").touch()
end = time.monotonic() + 0.5
while time.monotonic() < end and folder.exists():
    (folder / str(time.monotonic_ns())).touch()
"""


def test_what_is_written_after_a_killed_watchdog_is_deleted(tmp_path: Path) -> None:
    """A worker that still writes when the process that deletes the folder was killed leaves nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    running = Process(["sleep", "60"], scratch, tmp_path / "log")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, scratch], stderr=subprocess.DEVNULL)
    while not (scratch / "begun").exists():
        assert writer.poll() is None
    psutil.Process(running.pid).kill()
    running.stop()
    writer.wait()
    assert not scratch.exists()
