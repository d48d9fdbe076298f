"""A TorchServe process: it is started by a watchdog, and stopped with all its child processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from ...core.errors import MachineError
from ...core.system.installation import install_command

GRACE_S = 5.0
_WATCHDOG = Path(__file__).with_name("watchdog.py")
# settings of other TorchServe servers on this machine, which would override our configuration
_FOREIGN = ("TS_", "LOG_LOCATION", "METRICS_LOCATION")
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Process:
    """A running command whose whole process group ends when it or this process ends.

    Args:
        command: what to run.
        scratch: working folder, removed when the command has ended, by the watchdog or else by :meth:`stop`.
        log: file that takes its stdout and stderr.
        extra: further environment variables.
        grace_s: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        scratch: Path,
        log: Path,
        extra: Mapping[str, str] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        watchdog = [sys.executable, "-I", "-S", _WATCHDOG, scratch, str(grace_s), *command]
        self.scratch, self._grace_s = scratch, grace_s
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                watchdog,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env={**clean_environment(os.environ), **(extra or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the watchdog, the parent of all others."""
        return self._popen.pid

    def alive(self) -> bool:
        """Whether the command still runs."""
        return self._popen.poll() is None

    @property
    def ended_by_itself(self) -> bool:
        """Whether the command has ended in its own way, after SIGTERM or without: not killed, and no crash."""
        return self._popen.poll() in (0, 1, 128 + signal.SIGTERM)

    def stop(self) -> None:
        """End the command: SIGTERM, some seconds of grace, then SIGKILL to the group.

        Where the watchdog was killed, workers end by themselves a little later, and may still write until then.
        """
        if self._popen.stdin:
            with suppress(OSError):
                self._popen.stdin.close()
        try:
            self._popen.wait(self._grace_s + GRACE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        end = time.monotonic() + GRACE_S
        shutil.rmtree(self.scratch, ignore_errors=True)
        while self.scratch.exists() and time.monotonic() < end:
            time.sleep(0.05)
            shutil.rmtree(self.scratch, ignore_errors=True)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This environment without the settings of other servers, and with single-threaded BLAS in the workers.

    Entries of PYTHONPATH that contain a ``retort`` package are removed: TorchServe puts PYTHONPATH before the archive,
    and a worker has to use the archive's own copy.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(_FOREIGN)}
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if path]
    if paths := [path for path in paths if not (Path(path) / "retort" / "__init__.py").exists()]:
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return {**dict.fromkeys(_SINGLE_THREADED, "1"), **kept}


def torchserve_home(python: Path | None = None) -> Path:
    """The folder that contains the ``ts`` package of a Python, by default of this Python.

    Raises:
        MachineError: TorchServe is not installed there.
    """
    code = "import importlib.util as u; print(u.find_spec('ts').origin)"
    if python is None:
        spec = find_spec("ts")
        origin = spec.origin if spec else None
    else:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        origin = done.stdout.strip() or None
    home = Path(origin).parent.parent if origin else None
    if home is None or not list(home.glob("ts/frontend/*.jar")):
        where = python or sys.executable
        raise MachineError(f"TorchServe is not installed for {where}", install_command("serve"))
    return home
