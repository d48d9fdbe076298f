"""A suite that is told to end: what it started ends with it, and in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SUITE = """
import subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from retort.benchmarks.suites.stopping import stoppable

@contextmanager
def served():
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        Path("pid").write_text(str(server.pid))
        yield
    finally:
        time.sleep(0.5)  # a second signal comes now
        server.terminate()
        server.wait()
        Path("ended").touch()

@stoppable()
def main():
    with served():
        time.sleep(600)

main()
"""


def waited(path: Path) -> None:
    """Return when a file has content, within a minute."""
    end = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_with_its_suite(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and Ctrl-C stop the server of a suite, a second signal meanwhile does not hinder it; the code is 130."""
    suite = subprocess.Popen([sys.executable, "-c", SUITE], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    waited(tmp_path / "pid")
    suite.send_signal(number)
    time.sleep(0.2)
    suite.send_signal(number)
    _, told = suite.communicate(timeout=30)
    assert suite.returncode == 130
    assert told == "stopped; what was started has ended\n"
    assert (tmp_path / "ended").exists()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_busy_processes_end_with_a_killed_suite(tmp_path: Path) -> None:
    """Where a suite is killed and can end nothing, the processes that load the machine end by themselves."""
    code = (
        "import time; from pathlib import Path; from retort.benchmarks.suites.repetition import busy\n"
        "import psutil\n"
        "with busy(1):\n"
        "    Path('pid').write_text(str(psutil.Process().children()[0].pid)); time.sleep(600)\n"
    )
    suite = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    waited(tmp_path / "pid")
    loader = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(suite.pid, signal.SIGKILL)
    suite.wait()
    assert psutil.wait_procs([loader], timeout=30)[1] == []
