"""TensorRT's builder in a separate process, so that a crash of the builder does not end Retort."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from ...core import errors
from ...core.console import SILENT, Bar, Console
from ...core.errors import MachineError, RetortError

STOP_SECONDS = 20
Shapes = dict[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class BuildRequest:
    """The request to the build process.

    Attributes:
        onnx: the model.
        plan: path of the plan to write; None to parse only.
        profiles: per profile and input the three shapes.
        timing_cache: folder of timing caches; None for none.
    """

    onnx: str
    plan: str | None
    profiles: tuple[Shapes, ...] = ()
    runtime: str = "auto"
    workspace_mib: int | None = None
    level: int = 3
    tf32: bool = True
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware: str = "this"


def run_build(request: BuildRequest, console: Console = SILENT) -> dict[str, Any]:
    """Build, or only parse, in a separate process; :func:`retort.export.trt.builder.build` describes the result.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the builder stops at its next step.
        MachineError: the builder crashed.
        RetortError: the builder failed.
    """
    label = "engine" if request.plan else "parse"
    command = [sys.executable, "-m", f"{__package__}.builder"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # only this process receives Ctrl-C; it then stops the builder
    )
    assert process.stdin is not None
    with _lines_of_stderr(process.stderr) as noise, console.progress(label, 1) as bar:
        try:
            process.stdin.write(json.dumps(asdict(request)) + "\n")
            process.stdin.flush()
            return _follow(process, console, bar, noise)
        except BrokenPipeError as error:
            raise _crashed(process, noise) from error
        except KeyboardInterrupt as stop:
            stop.add_note("no engine was written")
            raise
        finally:
            _stop(process)


def _follow(process: subprocess.Popen[str], console: Console, bar: Bar, noise: deque[str]) -> dict[str, Any]:
    assert process.stdout is not None
    done, shown = 0, set[str]()
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "done":
            made: dict[str, Any] = event["made"]
            return made
        if event["event"] == "failed":
            kind: type[RetortError] = getattr(errors, event["kind"], RetortError)
            raise kind(event["message"], event["remedy"], **event["facts"])
        if event["event"] == "log":
            if event["text"] not in shown:  # TensorRT repeats some warnings for every layer
                console.warn(event["text"])
            shown.add(event["text"])
            continue
        if "total" in event:
            bar.resize(event["total"])
        forward = max(event.get("done", done) - done, 0)
        done += forward
        bar.advance(forward, event["note"])
    raise _crashed(process, noise)


def _crashed(process: subprocess.Popen[str], noise: deque[str]) -> MachineError:
    code = process.wait(timeout=STOP_SECONDS)
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    last = next((line for line in reversed(noise) if line.strip()), "it printed no message")
    remedy = "the cause is the model or this TensorRT: try another version, and run `retort lint` on the file"
    return MachineError(
        f"TensorRT's builder crashed ({how}): {last[:300]}", remedy, exit_status=code, output=list(noise)
    )


@contextmanager
def _lines_of_stderr(stream: IO[str] | None) -> Iterator[deque[str]]:
    assert stream is not None
    lines: deque[str] = deque(maxlen=40)
    reader = threading.Thread(target=lambda: lines.extend(line.rstrip() for line in stream), daemon=True)
    reader.start()
    yield lines
    reader.join(timeout=1)


def _stop(process: subprocess.Popen[str]) -> None:
    """Close the builder's input, which cancels the build; kill the process if it does not react."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
