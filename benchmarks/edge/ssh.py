"""A device behind the user's own OpenSSH: commands, files that arrive whole or go on where they were, and faults.

Nothing is installed on the device. Files are sent through ``cat``; what is there already is compared by its SHA-256, by
a few lines of Python that the device runs from its standard input.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.errors import MachineError, UserError
from ...core.system.owned_folders import sha256_file

LOCAL = "local"
"""The name of this machine, which needs no ssh."""
CONNECT_S, ALIVE_S = 10, 15
CHUNK = 1 << 18
QUESTIONS = Path(__file__).with_name("questions")
_LOST = 255
"""Exit code of ssh where the connection itself failed."""
_FAULTS = (
    ("permission denied", "the key or the user is refused", "try `ssh {host}` by hand; the key must need no password"),
    ("host key verification failed", "its key is not the known one", "connect once by hand with `ssh {host}`"),
    ("could not resolve", "there is no host of this name", "check the name, or write it into ~/.ssh/config"),
    ("name or service not known", "there is no host of this name", "check the name, or write it into ~/.ssh/config"),
    ("connection refused", "nothing listens there", "start sshd on the device, or give its port in ~/.ssh/config"),
    ("timed out", "it does not answer", "check that the device is on and in the network"),
    ("no route to host", "it does not answer", "check that the device is on and in the network"),
)
Progress = Callable[[int], None]
"""Is told the number of bytes that were sent or received."""


class LinkLost(MachineError):
    """The connection was cut; what has arrived stays, and the same command goes on."""


@dataclass(frozen=True)
class Device:
    """A device that is reached by ssh.

    Attributes:
        host: as ssh takes it, such as ``pi@192.0.2.7`` or a name of the user's configuration; :data:`LOCAL` for this
            machine.
        folder: the folder on the device in which everything lies.
        options: further arguments of ssh, such as ``-p 2222``.
        python: the interpreter on the device.
        made: whether the folder was made by :meth:`absolute`.
    """

    host: str
    folder: str
    options: tuple[str, ...] = ()
    python: str = "python3"
    made: bool = False

    def command(self, script: str) -> list[str]:
        """The command that runs a line of a POSIX shell on the device."""
        if self.host == LOCAL:
            return ["sh", "-c", script]
        keep = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", f"ServerAliveInterval={ALIVE_S}"]
        return ["ssh", *keep, "-o", "ServerAliveCountMax=3", *self.options, self.host, script]

    def run(self, script: str, given: bytes = b"", timeout_s: float = 120.0) -> bytes:
        """What a line of a POSIX shell prints on the device.

        Raises:
            LinkLost: the device cannot be reached, or the connection was cut.
            MachineError: the line failed; the message has the end of what it said.
        """
        try:
            done = subprocess.run(
                self.command(script), input=given, capture_output=True, timeout=timeout_s, check=False
            )
        except FileNotFoundError as error:
            raise MachineError("there is no program `ssh` here", "install OpenSSH's client") from error
        except subprocess.TimeoutExpired as error:
            raise LinkLost(f"{self.host} did not answer within {timeout_s:.0f} s", "try again") from error
        self.raise_if_failed(done.returncode, done.stderr)
        return done.stdout

    def raise_if_failed(self, code: int | None, said: bytes) -> None:
        """Say why a command on the device failed.

        Raises:
            LinkLost: the connection failed.
            MachineError: the command did.
        """
        if not code:
            return
        told = said.decode("utf-8", "replace").strip()
        last = told.splitlines()[-1] if told else f"exit code {code}"
        if code == _LOST:
            for words, what, remedy in _FAULTS:
                if words in told.lower():
                    raise LinkLost(f"{self.host} cannot be reached: {what}", remedy.format(host=self.host))
            raise LinkLost(f"the connection to {self.host} failed: {last}", "try again; what has arrived stays")
        if "No space left on device" in last or "Disk quota exceeded" in last:
            told = f"the disk of {self.host} is full: {last}"
            raise MachineError(told, "free some space there, or choose another --folder; the same command goes on")
        raise MachineError(f"{self.host}: {last}", "see what it says")

    def ask(self, question: str, given: bytes = b"", timeout_s: float = 600.0) -> Any:
        """The answer to a question about the folder.

        Args:
            question: a module of :mod:`.questions`, without its ending.

        Raises:
            MachineError: it fails, or prints something else.
        """
        code = (QUESTIONS / f"{question}.py").read_text(encoding="utf-8")
        line = f"{self.interpreter} {shlex.join(['-c', code, self.folder])}"
        printed = self.run(line, given, timeout_s).decode("utf-8", "replace")
        try:
            return json.loads(printed.strip().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise MachineError(
                f"{self.host} answered {printed[:80]!r}", "a login script may print something"
            ) from error

    @property
    def here(self) -> str:
        """The folder as a word of a shell, in which only a leading ``~`` means something."""
        return _word(self.folder)

    @property
    def interpreter(self) -> str:
        """The interpreter as a word of a shell."""
        return _word(self.python)

    def absolute(self) -> Device:
        """The same device with the whole path of the folder, which is made.

        Raises:
            MachineError: it cannot be made.
        """
        known = f"test -d {self.here} && echo there || echo new"
        said = self.run(f"{known}; mkdir -p -- {self.here} && cd -- {self.here} && pwd").decode(
            "utf-8", "surrogateescape"
        )
        before, _, found = said.strip("\n").rpartition("\n")
        return Device(self.host, found, self.options, self.python, before.endswith("new"))

    def found(self) -> Device:
        """The same device with the whole path of the folder, which must be there.

        Raises:
            UserError: it is not.
        """
        said = self.run(f"if test -d {self.here}; then cd -- {self.here} && pwd; fi").decode("utf-8", "surrogateescape")
        if not said.strip("\n"):
            raise UserError(f"{self.host} has no folder {self.folder}", "nothing was sent there, or it was deleted")
        return replace(self, folder=said.strip("\n"))

    def present(self, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Size and SHA-256 of those files that are there, also of unfinished ones, whose names end in ``.part``."""
        found = self.ask("files_there", json.dumps(list(names)).encode())
        return {str(name): (int(size), str(digest)) for name, (size, digest) in found.items()}

    def push(self, folder: Path, files: Mapping[str, str], progress: Progress) -> int:
        """Send those files that are not there yet; an unfinished one goes on where it was.

        Args:
            files: SHA-256 by name below ``folder``.

        Returns:
            The number of files that were sent.

        Raises:
            LinkLost: the connection was cut; what has arrived stays.
            MachineError: the disk of the device is full, or a file arrived damaged.
        """
        there, sent = self.present(list(files)), 0
        for name, digest in files.items():
            size = (folder / name).stat().st_size
            if there.get(name) == (size, digest):
                progress(size)
                continue
            begun, part = there.get(f"{name}.part", (0, ""))
            begun = begun if 0 < begun <= size and _prefix(folder / name, begun) == part else 0
            progress(begun)
            self._send(folder / name, name, begun, progress)
            sent += 1
        if sent:
            arrived = self.present(list(files))
            for name, digest in files.items():
                if arrived.get(name, (0, ""))[1] != digest:
                    raise MachineError(f"{name} arrived damaged on {self.host}", "send it again")
        return sent

    def _send(self, path: Path, name: str, begun: int, progress: Progress) -> None:
        target = shlex.quote(f"{self.folder}/{name}")
        parent = shlex.quote(f"{self.folder}/{name}".rpartition("/")[0])
        write = ">>" if begun else ">"
        # the end of a cut link looks like the end of a file
        whole = f'test "$(wc -c <{target}.part)" -eq {path.stat().st_size}'
        script = f"mkdir -p {parent} && cat {write} {target}.part && {whole} && mv {target}.part {target}"
        process = subprocess.Popen(self.command(script), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with path.open("rb") as file:
                file.seek(begun)
                while block := file.read(CHUNK):
                    process.stdin.write(block)
                    progress(len(block))
            process.stdin.close()
        except BrokenPipeError:
            pass  # the other side says why
        except BaseException:
            process.kill()
            raise
        said = process.stderr.read()
        self.raise_if_failed(process.wait(), said)

    def pull(self, out: Path, names: Mapping[str, str], progress: Progress) -> None:
        """Bring files back; an unfinished one goes on where it was.

        Args:
            names: SHA-256 by name in the folder ``out`` on the device.

        Raises:
            LinkLost: the connection was cut; what has arrived stays.
            MachineError: a file arrived damaged.
        """
        out.mkdir(parents=True, exist_ok=True)
        for name, digest in names.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise MachineError(f"{self.host} offers a file called {name[:60]!r}", "pull the results by hand")
            path = out / name
            if path.is_file() and sha256_file(path) == digest:
                continue
            self._receive(path, name, progress)
            if sha256_file(path) != digest:
                path.unlink()
                raise MachineError(f"{name} arrived damaged from {self.host}", "pull it again")

    def _receive(self, path: Path, name: str, progress: Progress) -> None:
        part = path.with_name(f"{path.name}.part")
        begun = part.stat().st_size if part.exists() else 0
        source = shlex.quote(f"{self.folder}/out/{name}")
        process = subprocess.Popen(
            self.command(f"tail -c +{begun + 1} {source}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with part.open("ab") as file:
            while block := process.stdout.read(CHUNK):
                file.write(block)
                progress(len(block))
        said = process.stderr.read()
        self.raise_if_failed(process.wait(), said)
        part.replace(path)


def _word(path: str) -> str:
    """A path as a word of a shell, in which only a leading ``~`` means something."""
    if path == "~":
        return path
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") and path[2:] else shlex.quote(path)


def _prefix(path: Path, size: int) -> str:
    """The SHA-256 of the first bytes of a file."""
    import hashlib

    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def device_of(host: str, folder: str, ssh_options: Sequence[str], python: str) -> Device:
    """The device of a command line.

    Raises:
        UserError: the name begins like an option of ssh, or a quote in an option is not closed.
    """
    if not host or host.startswith("-") or any(letter.isspace() for letter in host):
        raise UserError(f"'{host}' is no name of a device", "write it as ssh takes it, such as pi@raspberrypi.local")
    try:
        words = tuple(word for option in ssh_options for word in shlex.split(option))
    except ValueError as error:
        raise UserError(f"--ssh-option cannot be read: {error}", "close every quote") from error
    return Device(host, folder, words, python)
