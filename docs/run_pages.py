"""Runs the commands of pages in a temporary folder: `python docs/run_pages.py [--write] docs/tutorial.md …`.

A page contains files (a code block after `<!-- file: NAME -->`) and commands (lines that begin with `$` in a `console`
block). Each command is followed by its result, by its progress and its result after `<!-- with progress -->`, or by
nothing after `<!-- not shown -->`. With `--write`, the outputs in the page are replaced by the present outputs.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

STEP = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```\w*\n(?P<content>.*?)^```$|"
    r"(?P<mark><!-- (?:not shown|with progress) -->\n)?^```console\n(?P<console>.*?)^```$",
    re.S | re.M,
)
COMMAND = re.compile(r"^\$ (?P<command>.*?(?:\\\n.*?)*)\n(?P<shown>.*?)(?=^\$ |\Z)", re.S | re.M)
PORT = "8080"
"""The port that pages name; a free port is used instead when they are run."""
SECONDS = 1200
READY = "ready:"


@dataclass(frozen=True)
class Done:
    """A command of a page that was run.

    Attributes:
        shown: the output that the page shows.
        mark: the comment before the command's block, which selects what the page shows.
        out: its standard output, which is its result.
        progress: its standard error, which is its progress.
    """

    command: str
    shown: str
    code: int
    out: str
    progress: str
    mark: str = ""

    @property
    def printed(self) -> str:
        """The output as in a terminal, progress first."""
        return "".join(f"{line.rstrip()}\n" for line in (self.progress + self.out).splitlines())

    @property
    def on_page(self) -> str:
        """The part of the output that the page shows."""
        if "not shown" in self.mark:
            return ""
        return self.printed if "progress" in self.mark else replace(self, progress="").printed


@dataclass
class PageRun:
    """A run of a page in ``folder``, with the processes that it started in the background."""

    folder: Path
    port: str = field(default_factory=lambda: free_port())
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, command: str, shown: str) -> Done:
        """Run one command; a command that ends with ``&`` runs until the page ends."""
        given = command.replace(PORT, self.port)
        if given.rstrip().endswith("&"):
            return Done(command, shown, *self._start(given.rstrip().removesuffix("&")), progress="")
        done = subprocess.run(
            ["bash", "-c", given], cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=SECONDS
        )
        out, progress = (self._as_shown(text) for text in (done.stdout, done.stderr))
        return Done(command, shown, done.returncode, out, progress)

    def _start(self, command: str) -> tuple[int, str]:
        log = self.folder / f".{len(self.running)}.log"
        with log.open("w") as stream:
            started = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=environment(), stdout=stream,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self.running.append(started)
        end = time.monotonic() + SECONDS
        while READY not in log.read_text() and started.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        text = log.read_text()
        return 0 if READY in text else 1, self._as_shown(text)

    def _as_shown(self, text: str) -> str:
        """An output with the port of the page, and paths below the folder of the page."""
        return text.replace(self.port, PORT).replace(f"{self.folder}/", "")

    def stop(self) -> None:
        """Stop the processes that still run; a shell's background processes may ignore SIGINT, which Ctrl-C sends."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def free_port() -> str:
    """A port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """The environment of the commands: this Python's commands come first, and output is plain text of a fixed width."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    plain = {"COLUMNS": "112", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **plain, "PATH": path}


@contextmanager
def started(folder: Path) -> Iterator[PageRun]:
    """A run of a page; its background processes are stopped at the end."""
    run = PageRun(folder)
    try:
        yield run
    finally:
        run.stop()


def run_page(text: str, folder: Path) -> Iterator[Done]:
    """Write the files of a page and run its commands, in order; stop after the first command that fails."""
    with started(folder) as run:
        for step in STEP.finditer(text):
            if step["file"]:
                (folder / step["file"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / step["file"]).write_text(step["content"].replace(PORT, run.port))
                continue
            for found in COMMAND.finditer(step["console"]):
                done = run.run(found["command"], found["shown"])
                yield replace(done, mark=step["mark"] or "")
                if done.code:
                    return


def mask(text: str) -> list[str]:
    """The lines of an output without parts that differ between runs: numbers, hashes, units, and lines of tables."""
    plain = re.sub(r"[━─┃│┏┓┗┛┡┩└┘┌┐┳┻╇┴┬┼+|?]", " ", text)
    plain = re.sub(r"\b[0-9a-f]{12,64}\b", "#", plain)
    plain = re.sub(r"[-−+~]?\d[\d.,e]*", "#", plain)
    plain = re.sub(r"# ?(?:µs|ms|s|kB|MB|x|×)\b|# ?[x×]", "#", plain)
    return [line for line in (" ".join(row.split()) for row in plain.splitlines()) if line]


def rewritten(text: str, done: list[Done]) -> str:
    """A page with the present outputs of its commands."""
    printed = iter(done)

    def console(step: re.Match[str]) -> str:
        if step["file"]:
            return step[0]
        now = list(itertools.islice(printed, len(COMMAND.findall(step["console"]))))
        lines = (f"$ {item.command}\n{item.on_page}" for item in now)
        return f"{step['mark'] or ''}```console\n{''.join(lines)}```"

    return STEP.sub(console, text)


def main(arguments: list[str]) -> int:
    """Run pages and print the output of each command; the exit status is that of the first command that failed."""
    for name in (argument for argument in arguments if argument != "--write"):
        page, done = Path(name), []
        text = page.read_text()
        with tempfile.TemporaryDirectory() as folder:
            for item in run_page(text, Path(folder)):
                sys.stdout.write(f"$ {item.command}\n{item.printed}")
                sys.stdout.flush()
                done.append(item)
        if done and done[-1].code:
            return done[-1].code
        if "--write" in arguments:
            page.write_text(rewritten(text, done))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
