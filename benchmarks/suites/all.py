"""All suites for this commit, in a short or a full form, with one page of results that a later one is compared with.

``python -m retort.benchmarks.suites.all [--full] [--out FOLDER] [--compare OLD]``, or ``make bench`` and ``make
bench-full``. Each suite is a process of its own; the page is written after each, so that Ctrl-C loses nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...core.console import Console
from ...core.counts import counted, listed
from ...core.errors import RetortError, UserError
from ...core.system.java import find_java
from ...core.system.owned_folders import claim_file
from ..build_result import tool
from ..machine import fingerprint
from .stopping import stoppable
from .suite_page import (
    JSON_NAME,
    MARKDOWN_NAME,
    PAGE_SCHEMA,
    SuiteEntry,
    SuitePage,
    changes,
    changes_markdown,
    figures_of,
    read_page,
    write_page,
)

ROOT = Path(__file__).resolve().parents[2]
SUITES = "retort.benchmarks.suites"
LEAST = 0.05
"""Smallest change of a figure that a comparison tells, as a share: runs of different times differ by less (B9)."""
MISSED = 1
"""The exit code of a suite whose goal was missed."""


@dataclass(frozen=True)
class Part:
    """One suite of a page.

    Attributes:
        arguments: of the Python interpreter.
        minutes: when it is ended.
        needs: what it cannot run without: ``java``, or a module.
    """

    name: str
    arguments: tuple[str, ...]
    minutes: float
    needs: str = ""


def suite(name: str, *given: str, minutes: float = 3.0, needs: str = "", module: str = "") -> Part:
    """A suite of this package by its module."""
    return Part(name, ("-m", f"{SUITES}.{module or name}", *given), minutes, needs)


RECIPE = Part("recipe", ("-m", "retort", "run", str(ROOT / "examples/resnet.yaml"), "--json"), 6.0)
SHORT = (
    RECIPE,
    suite("harness_cost", "--rounds", "300"),
    suite("integer_kernels", "--budget", "0.3"),
    suite("onnx_node_tests", "Relu", "Conv", "Gemm", "LSTM", "Softmax"),
    suite("quantization_memory", "small"),
    suite("ab_simulation", "--comparisons", "10", "--budget", "2", "--minutes", "1", "--simulations", "300"),
    suite("serving latency", "latency", "--seconds", "5", "--model", "light", needs="java", module="serving"),
)
"""At most ten minutes on two cores."""
FULL = (
    RECIPE,
    suite("harness_cost"),
    suite("integer_kernels", minutes=60),
    suite("onnx_node_tests", minutes=120),
    suite("quantization_memory", minutes=60),
    suite("ab_simulation", minutes=60),
    suite("calibration", minutes=60),
    suite("coverage", minutes=240),
    suite("exporting", minutes=600),
    suite("pruning_cost", minutes=120),
    suite("pruning_latency", minutes=120),
    suite("repetition", minutes=240),
    suite("training", "--processes", minutes=60),
    suite("distillation", minutes=240),
    *(
        suite(f"serving {name}", name, minutes=60, needs="java", module="serving")
        for name in ("cost", "latency", "fuzz", "isolation", "kills", "swaps", "bits", "cold-start", "logs")
    ),
    suite("serving loadgen", "loadgen", minutes=60, needs="mlperf_loadgen", module="serving"),
)
"""All suites that need no environments of other tools; each with its own defaults."""
FORMS = {"short": SHORT, "full": FULL}


def missing(needs: str) -> str:
    """Why a suite cannot run here; empty if it can."""
    if needs == "java":
        try:
            find_java()
        except RetortError as error:
            return error.message
    elif needs and find_spec(needs) is None:
        return f"{needs} is not installed"
    return ""


def run_part(part: Part, folder: Path) -> SuiteEntry:
    """Run one suite in an empty folder; what it prints is kept in ``folder`` as text and log."""
    shown = shlex.join([argument.replace(f"{ROOT}/", "") for argument in ("python", *part.arguments)])
    if why := missing(part.needs):
        return SuiteEntry(name=part.name, command=shown, status="left out", why=why, seconds=0.0)
    file = folder / f"{part.name.replace(' ', '-')}.txt"
    began, timed_out = time.monotonic(), False
    with tempfile.TemporaryDirectory() as work, file.open("wb") as out, file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *part.arguments], cwd=work, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(60 * part.minutes)
        except subprocess.TimeoutExpired:
            timed_out, code = True, 0
        finally:
            _end(process)
    seconds = time.monotonic() - began
    printed = file.read_text(errors="replace")
    figures, text = figures_of(printed)
    if timed_out:
        why = f"it took longer than {part.minutes:g} min"
        return SuiteEntry(name=part.name, command=shown, status="timed out", why=why, seconds=seconds, text=text)
    if code and not (code == MISSED and figures):
        last = file.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
        why = f"exit code {code}: {' '.join(last)[:200]}"
        return SuiteEntry(name=part.name, command=shown, status="failed", why=why, seconds=seconds, text=text)
    status = "missed" if code else "finished"
    return SuiteEntry(name=part.name, command=shown, status=status, seconds=seconds, figures=figures, text=text)  # type: ignore[arg-type]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a suite and all that it started, if it still runs; an interruption lets it stop its servers first."""
    for number, wait_s in ((signal.SIGINT, 60.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)


def run_all(parts: Sequence[Part], kind: str, folder: Path, console: Console, against: SuitePage | None) -> SuitePage:
    """Run all suites, and write the page after each.

    Args:
        kind: ``short`` or ``full``.
        against: an earlier page to compare with.
    """
    page = SuitePage(
        kind="full" if kind == "full" else "short",
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tool=tool(),
        env=fingerprint(),
        suites=(),
    )
    with console.progress("suites", len(parts)) as bar:
        for part in parts:
            console.stage(part.name, f"for at most {part.minutes:g} min")
            entry = run_part(part, folder)
            page = page.model_copy(update={"suites": (*page.suites, entry)})
            write_page(page, folder, _compared(page, against))
            console.stage(part.name, f"{entry.status} after {entry.seconds:.0f} s{f': {entry.why}' * bool(entry.why)}")
            bar.advance()
    return page


def _compared(page: SuitePage, against: SuitePage | None) -> str:
    return "" if against is None else changes_markdown(*changes(against, page, LEAST), against.commit)


@stoppable()
def main(arguments: Sequence[str] | None = None, parts: Mapping[str, Sequence[Part]] = FORMS) -> int:
    """Run the suites, or compare two pages; 1 if a suite failed.

    Args:
        parts: the suites by form.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help="all suites with their own defaults, which takes hours")
    parser.add_argument("--out", type=Path, help="folder of the page; runs/bench-COMMIT by default")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="an earlier page, or its folder")
    parser.add_argument("--only", nargs="+", default=[], metavar="SUITE", help="names of suites; all by default")
    parser.add_argument("--page", type=Path, metavar="NEW", help="compare this page with OLD, and run nothing")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder")
    given, console = parser.parse_args(arguments), Console("text")
    try:
        against = read_page(given.compare) if given.compare is not None else None
        page = read_page(given.page) if given.page is not None else _made(given, parts, console, against)
    except RetortError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if against is not None:
        rows, notes = changes(against, page, LEAST)
        console.table(f"{against.commit} → {page.commit}", ["suite", "figure", "before", "after", "change"], rows)
        for note in notes:
            console.say(note)
    bad = [one.name for one in page.suites if one.status in ("failed", "timed out")]
    if bad:
        console.warn(f"{counted(bad, 'suite')} did not finish: {', '.join(bad)}")
    return 1 if bad else 0


def _made(
    given: argparse.Namespace, parts: Mapping[str, Sequence[Part]], console: Console, against: SuitePage | None
) -> SuitePage:
    """A new page in its folder.

    Raises:
        UserError: a suite is not known, or the folder has files of something else.
    """
    kind = "full" if given.full else "short"
    names = [one.name for one in parts[kind]]
    if unknown := [name for name in given.only if name not in names]:
        raise UserError(f"there is no suite {listed(unknown, 'or')}", f"the {kind} form has {listed(names)}")
    folder = given.out or Path("runs") / f"bench-{tool().get('git', 'unknown')}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, mark in ((JSON_NAME, PAGE_SCHEMA), (MARKDOWN_NAME, "# Results of the suites at")):
        claim_file(folder / name, given.force, mark=mark)
    chosen = [one for one in parts[kind] if one.name in (given.only or names)]
    page = run_all(chosen, kind, folder, console, against)
    console.say(f"wrote {folder / MARKDOWN_NAME} and {folder / JSON_NAME}")
    return page


if __name__ == "__main__":
    raise SystemExit(main())
