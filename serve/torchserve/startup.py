"""Why TorchServe did not start, read from its logs and stated in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import ArtifactError, MachineError, RetortError, ServingError, VerificationError
from ..inference import LOAD_FAILED

_CLASSES: dict[str, type[RetortError]] = {
    kind.__name__: kind for kind in (ArtifactError, MachineError, VerificationError)
}
_WORKER_DIED = ("Backend worker error", "Backend worker process died", "Worker stopped", "Load model failed")
_PORT_TAKEN = ("Address already in use", "Failed to bind")
_CAUSE = re.compile(r"(Invalid configuration: .*|(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt): .*)")
_LOGS = ("worker.log", "server.log", "console.log")


def startup_failure(logs: Path, alive: bool) -> RetortError | None:
    """The reason why a starting server will never become ready, or None if it still can."""
    lines = [line for name in _LOGS for line in read_lines(logs / name)]
    for line in lines:
        if LOAD_FAILED in line:
            return load_failure_in(line, logs)
    died = any(sign in line for line in lines for sign in _WORKER_DIED)
    if alive and not died:
        return None
    what = "a TorchServe worker died during its start" if died else "TorchServe ended during its start"
    if port_taken(logs):
        what = "TorchServe could not bind its port"
    return ServingError(f"{what}: {_cause(lines)}", f"see {logs}", log=lines[-20:])


def has_started(logs: Path) -> bool:
    """Whether the server has bound all its ports; before that, another server may answer on them."""
    return any("Model server started" in line for line in read_lines(logs / "console.log"))


def port_taken(logs: Path) -> bool:
    """Whether the server stopped because another process uses one of its ports."""
    return any(sign in line for name in _LOGS for line in read_lines(logs / name) for sign in _PORT_TAKEN)


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a log that may not exist yet."""
    if path.is_file():
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def load_failure_in(line: str, logs: Path) -> RetortError:
    """The error that a worker reported in a line of its log."""
    try:
        facts = json.loads(line.partition(LOAD_FAILED)[2])
        kind = _CLASSES.get(str(facts["code"]), ServingError)
        message = f"the worker cannot serve this archive: {facts['message']} (its python: {facts['python']})"
        return kind(message, str(facts["remedy"]) or f"see {logs}")
    except (ValueError, KeyError):
        return ServingError("the worker cannot serve this archive", f"see {logs}")


def _cause(lines: list[str]) -> str:
    found = [match[1] for line in lines if (match := _CAUSE.search(line))]
    # the first error is the cause, later errors are its consequences
    return found[0][:300] if found else (lines[-1][:300] if lines else "it wrote no log")
