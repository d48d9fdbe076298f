"""One suite for every server of one model: the same requests, the same answers, and a table of what differs.

``python -m retort.benchmarks.suites.conformance --write-model conformance.onnx`` writes the model. Pack it with the
name ``conformance``, start the servers, and give their addresses: ``… torchserve=http://127.0.0.1:8080 triton=…``
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.console import Console
from ...core.errors import ServingError
from ...core.session import open_session
from ...core.tensors import Array
from ...serve.connection import Connections
from .conformance_cases import KINDS, Case, cases
from .conformance_model import write_model

MODEL = "conformance"
_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}
_WAIT_S = 60


@dataclass(frozen=True)
class Outcome:
    """What a server answered to a case.

    Attributes:
        text: the status, or ``wrong outputs``, ``no answer``; this is what the table shows.
        right: whether it is what the case expects.
        dangerous: whether a client is misled: outputs that are wrong, or an answer where there is none to give.
    """

    text: str
    right: bool
    dangerous: bool = False


def run(url: str) -> dict[tuple[str, str], Outcome]:
    """Ask a server all cases.

    Args:
        url: the address of the server, such as ``http://127.0.0.1:8080``.

    Returns:
        The outcome of each case, by its group and name.
    """
    found: dict[tuple[str, str], Outcome] = {}
    with ThreadPoolExecutor(16) as pool:
        for case in all_cases():
            together = (case, *case.beside)
            for one, outcome in zip(together, pool.map(lambda one: ask(url, one), together), strict=True):
                found[one.group, one.name] = outcome
    return found


def all_cases() -> list[Case]:
    """All cases, with the outputs of a session on this machine."""
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        write_model(Path(folder) / "model.onnx")
        session = open_session(Path(folder) / "model.onnx")
        return cases(session)


def ask(url: str, case: Case) -> Outcome:
    """Send one case and judge the answer."""
    path = case.path[1:] if case.path.startswith("^") else f"/v2/models/{MODEL}{case.path}"
    connections = Connections(url, _WAIT_S)
    try:
        method = "GET" if case.body is None else "POST"
        status, _, body = connections.request(method, path, case.body, {"Content-Type": "application/json"})
        return judged(case, status, body)
    except ServingError:
        return Outcome("no answer", False)
    finally:
        connections.close()


def judged(case: Case, status: int, body: bytes) -> Outcome:
    """Compare an answer with what the case expects."""
    if status != case.status:
        return Outcome(str(status), False, dangerous=status == 200)
    if case.outputs is None:
        return Outcome(str(status), True)
    try:
        given = json.loads(body)["outputs"]
        same = {item["name"] for item in given} == set(case.outputs) and all(
            _equal(item, case.outputs[item["name"]]) for item in given
        )
    except (ValueError, KeyError, TypeError):
        same = False
    return Outcome("200" if same else "wrong outputs", same, dangerous=not same)


def _equal(item: Mapping[str, Any], wanted: Array) -> bool:
    array = np.array(item["data"], _DTYPES[item["datatype"]]).reshape(item["shape"])
    return array.dtype == wanted.dtype and array.shape == wanted.shape and array.tobytes() == wanted.tobytes()


Outcomes = Mapping[str, Mapping[tuple[str, str], Outcome]]


def counts(found: Outcomes) -> tuple[list[str], list[list[str]]]:
    """A table with a row per group: how many cases each server answers as expected."""
    flat = list(_flat(all_cases()))
    rows = []
    for group in dict.fromkeys(case.group for case in flat):
        keys = [(case.group, case.name) for case in flat if case.group == group]
        right = [str(sum(outcomes[key].right for key in keys)) for outcomes in found.values()]
        rows.append([group, str(len(keys)), *right])
    total = [str(sum(outcome.right for outcome in outcomes.values())) for outcomes in found.values()]
    return ["group", "cases", *found], [*rows, ["all", str(len(flat)), *total]]


def differences(found: Outcomes) -> tuple[list[str], list[list[str]]]:
    """A table of the cases that a server answers otherwise; those of a group with equal answers share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for case in _flat(all_cases()):
        outcomes = [outcomes[case.group, case.name] for outcomes in found.values()]
        if not all(outcome.right for outcome in outcomes):
            texts = (outcome.text for outcome in outcomes)
            rows.setdefault((case.group, str(case.status), *texts), []).append(case.name)
    return ["group", "cases", "expected", *found], [[key[0], "; ".join(names), *key[1:]] for key, names in rows.items()]


def _flat(found: Sequence[Case]) -> Iterator[Case]:
    for case in found:
        yield case
        yield from case.beside


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write-model", type=Path, help="write the model to this .onnx file, and stop")
    parser.add_argument("servers", nargs="*", help="NAME=URL of each server")
    given = parser.parse_args(arguments)
    if given.write_model is not None:
        write_model(given.write_model)
        return
    screen = Console("text")
    found = {name: run(url) for name, _, url in (text.partition("=") for text in given.servers)}
    for title, (columns, rows) in {"as expected": counts(found), "otherwise": differences(found)}.items():
        screen.table(title, columns, rows, words=True)


if __name__ == "__main__":
    main()
