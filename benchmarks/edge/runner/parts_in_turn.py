"""A run on the device: every part in turn, the sensors meanwhile, and what is finished stays finished.

``python3 -m retort_edge`` in the folder of the bundle. A run that was ended goes on where it was; a second one is
refused while the first runs. Nothing outside of the folder is written.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import SCHEMA, write
from .device import available_bytes, described
from .sensors import Recorder, Sensors
from .unpacked_wheels import add, site_of

POLL_S = 0.1
NEEDED = (3, 9)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """The run cannot begin; the message says why and what to do."""


class Ended(Exception):
    """The run was told to end, or reached a limit."""


def main(arguments: list[str]) -> int:
    """Run all parts; 0 when all are finished, 1 when some failed, 2 when it cannot begin, 130 when it was ended."""
    parser = argparse.ArgumentParser(prog="retort_edge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results (default: out)")
    parser.add_argument("--check", action="store_true", help="only say whether the run could begin")
    parser.add_argument("--without", nargs="*", default=[], help="how the names of parts begin that are left out")
    given = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parents[1]
    try:
        if given.check:
            checked(folder)
            sys.stdout.write(json.dumps(described(folder=folder)) + "\n")
            return 0
        with locked(given.out):
            return _alone(folder, given.out, given.without)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _alone(folder: Path, out: Path, without: list[str]) -> int:
    """Check and run; the state is told from the first moment on, also if the disk is full."""
    state = {"state": "running", "done": 0, "of": 1, "part": "checksums", "why": "", "pid": os.getpid()}
    try:
        write(out / "status.json", state)
        return Run(folder, checked(folder), out, without).go()
    except Refused as error:
        why = str(error)
    except OSError as error:
        why = f"{error.strerror}: {error.filename or out}; what is finished stays"
    # a file that is there can still be changed on a full disk
    with contextlib.suppress(OSError, ValueError), (out / "status.json").open("r+") as file:
        state = {**json.load(file), "state": "refused", "why": why}
        file.seek(0)
        file.write(json.dumps(state))
        file.truncate()
    raise Refused(why)


def checked(folder: Path) -> dict[str, Any]:
    """The manifest, after every file was compared with its checksum and the machine with what is needed.

    Raises:
        Refused: a file is missing or altered, or this Python or the runtime does not fit.
    """
    if sys.version_info < NEEDED:
        raise Refused(f"Python {platform.python_version()} is too old; 3.9 is needed")
    try:
        manifest: dict[str, Any] = json.loads((folder / "edge.json").read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"the bundle has no readable edge.json: {error}; push it again") from error
    if manifest.get("schema") != SCHEMA:
        raise Refused(f"the bundle is {manifest.get('schema')!r}, and this program reads {SCHEMA!r}; push it again")
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise Refused(f"{name} is missing; push the bundle again")
        found = sha256(path)
        if found != wanted:
            raise Refused(f"{name} has SHA-256 {found[:16]}…, the manifest says {wanted[:16]}…; push the bundle again")
    if manifest.get("wheels"):
        try:
            add(site_of(folder, manifest["wheels"]))
        except (OSError, ValueError) as error:
            raise Refused(str(error)) from error
    for name in manifest["packages"]:
        try:
            from .models import imported

            imported(name)
        except ImportError as error:
            raise Refused(
                f"{name} is not installed for {sys.executable} ({error}); {sys.executable} -m pip install {name}"
            ) from error
    free, needed = available_bytes(Path("/")), int(manifest["needs_bytes"])
    if free is not None and needed > free:
        raise Refused(f"the models need about {needed >> 20} MB of memory, and {free >> 20} MB are available")
    return manifest


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder of the results for this process alone, as long as it lives."""
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / "lock").open("a+")
    except OSError as error:
        raise Refused(f"{out} cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(f"another run writes to {out}; wait for it, or end it") from error
        yield


class Run:
    """All parts of a manifest, in order; parts, sensors and state are written to ``out``."""

    def __init__(self, folder: Path, manifest: dict[str, Any], out: Path, without: Sequence[str] = ()) -> None:
        self.folder, self.manifest, self.out, self.without = folder, manifest, out, tuple(without)
        self.key = sha256(folder / "edge.json")
        self.sensors = Sensors()
        self.sensors.asks_gpu = any(one.get("gpu") for one in manifest["candidates"])
        self.policy: dict[str, Any] = manifest["policy"]
        self.deadline = time.monotonic() + 60 * float(self.policy["minutes"])
        self.run = time.time_ns()  # the monotonic clock of another run may have begun anew
        self.child: subprocess.Popen[bytes] | None = None

    def go(self) -> int:
        """Do what is left, and say in ``result.json`` what there is."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
                signal.signal(number, self._told)
        parts = self.parts()
        left = [name for name in parts if not self._is_done(name)]
        ended, failed = "", 0
        write(self.out / "device.json", {**described(folder=self.folder), "limits": self.sensors.limits()})
        with Recorder(self.sensors) as recorder:
            try:
                for name in left:
                    self._say("running", parts, name)
                    recorder.mark(name)
                    failed += self._do(name, parts[name])
                    self._keep(recorder)
            except (Ended, KeyboardInterrupt) as error:
                ended = str(error) or "it was told to end"
        self._keep(recorder)
        state = "ended" if ended else "failed" if failed else "finished"
        self._conclude(parts, state, ended)
        self._say(state, parts, "", ended)
        return 130 if ended else 1 if failed else 0

    def parts(self) -> dict[str, dict[str, Any]]:
        """Every part by name with its processors and threads; what this device does not have is left out."""
        clusters, powered = described(folder=self.folder)["cpu"]["clusters"], self.sensors.measures_power()
        found: dict[str, dict[str, Any]] = {}
        for part in self.manifest["parts"]:
            cpus = clusters.get(part["cores"], [])
            if cpus and (powered or not part.get("needs_power")):
                threads = min(part["threads"] or len(cpus), len(cpus))
                own = {"threads": threads, "cpus": cpus if part["pinned"] else [], "manifest": self.key}
                name = part["name"].format(threads=threads)
                if not name.startswith(self.without):
                    found.setdefault(name, {**part, **own})
        return found

    def _do(self, name: str, part: dict[str, Any]) -> int:
        """Do one part in a process of its own; 1 if it failed."""
        described_in, out = self.out / f"{name}.part.json", self.out / f"{name}.json"
        for stale in (out, out.with_suffix(".npz")):  # of another bundle, or of a try that failed
            stale.unlink(missing_ok=True)
        write(described_in, part)
        self.sensors.asks_power = part["kind"] in ("energy", "idle")
        package = __package__ or "retort_edge"
        files = [str(path) for path in (self.folder, described_in.resolve(), out.resolve())]
        command = [sys.executable, "-m", f"{package}.part", *files]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.out / "parts.log").open("ab") as log:
            self.child = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            while (code := self.child.poll()) is None:
                self._check_limits()
                time.sleep(POLL_S)
        finally:
            self._kill()
            described_in.unlink(missing_ok=True)
        if not out.is_file():
            write(out, {**part, "error": _death(code)})
        return int(code != 0)

    def _check_limits(self) -> None:
        if time.monotonic() > self.deadline:
            raise Ended(f"the limit of {self.policy['minutes']} minutes is reached")
        hottest, most = self.sensors.hottest(), self.policy["celsius"]
        if most is not None and hottest is not None and hottest > most:
            raise Ended(f"the device has {hottest:.0f} °C, more than the limit of {most:g} °C")

    def _told(self, number: int, frame: object) -> NoReturn:
        for other in SIGNALS:  # what is finished is written, however often it is told
            signal.signal(other, signal.SIG_IGN)
        raise Ended(f"it got the signal {signal.Signals(number).name}")

    def _kill(self) -> None:
        """End the part and all that it started."""
        if self.child is not None:
            with contextlib.suppress(OSError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def _is_done(self, name: str) -> bool:
        """Whether a part of this manifest was finished before, without an error of the process."""
        found = self._found(name)
        return bool(found) and not found.get("error")

    def _found(self, name: str) -> dict[str, Any]:
        """What a part of this manifest found; empty if there is nothing of it, or that of another manifest."""
        try:
            found = json.loads((self.out / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("manifest") == self.key else {}

    def _keep(self, recorder: Recorder) -> None:
        lines = [json.dumps({**one, "run": self.run}) for one in recorder.taken()]
        with (self.out / "sensors.jsonl").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def _conclude(self, parts: dict[str, dict[str, Any]], state: str, why: str) -> None:
        """The list of all results with their checksums, and the manifest that they belong to."""
        mine = [name for name in parts if self._found(name)]
        present = [path for name in mine for path in (self.out / f"{name}.json", self.out / f"{name}.npz")]
        files = {path.name: sha256(path) for path in present if path.is_file()}
        files.update({name: sha256(self.out / name) for name in ("device.json", "sensors.jsonl")})
        write(
            self.out / "result.json",
            {"schema": SCHEMA, "manifest": self.key, "state": state, "why": why, "files": files, "parts": list(parts)},
        )

    def _say(self, state: str, parts: dict[str, dict[str, Any]], name: str, why: str = "") -> None:
        done = sum(self._is_done(one) for one in parts)
        value = {"state": state, "done": done, "of": len(parts), "part": name, "why": why, "pid": os.getpid()}
        write(self.out / "status.json", value)
        sys.stdout.write(f"{done} of {len(parts)}  {name or state}{f': {why}' if why else ''}\n")
        sys.stdout.flush()


def _death(code: int | None) -> str:
    """Why a process left no result, in words."""
    if code == -signal.SIGKILL:
        return "the kernel killed it, most likely because the memory was used up"
    if code is not None and code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}; see parts.log"
