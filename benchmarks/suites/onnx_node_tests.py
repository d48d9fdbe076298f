"""ONNX's own node tests through import, program and export: right, refused by name, wrong or crashed.

    python -m retort.benchmarks.suites.onnx_node_tests --out onnx_node_tests.jsonl

The `onnx` package has about 1900 graphs of one operator each, or of the definition of one, with inputs and expected
outputs. Each is imported by the stage `capture`, exported by the stage `export`, run in ONNX Runtime and compared with
the expected outputs, at the tolerance of ONNX (a relative error of 1e-3, and 1e-2 for half precision; 1e-5 of the
largest value is rounding). A graph whose sizes or axes are inputs is tried a second time with them as constants,
because files have them so. One line per test is appended to the file; a test that is already in the file is not run
again. To save time, up to 12 tests of one opset are first tried side by side in one file; if one of them is not right,
each is judged by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.splits import ArraySplit, Splits
from ...core.errors import DataError, RetortError
from ...core.options.stage_options import CaptureOptions, ExportOptions, ModelSpec
from ...core.session import SessionOptions, open_session
from ...core.tensors import Array
from ...pipeline import stages
from .onnx_node_cases import FLOATS, NodeTest, groups, joined, joined_sizes, node_tests, sizes_of, with_constants
from .onnx_node_table import page, summary, table

TOGETHER = 12


def measure(test: NodeTest) -> dict[str, Any]:
    """Run one test; what goes wrong is recorded in the row and not raised."""
    row: dict[str, Any] = {"test": test.name, "operator": test.operator, "floating": test.floating}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        verdict, reason = _verdict(test, (), Path(folder) / "inputs")
        constants = sizes_of(test)
        if verdict == "refused" and constants:
            verdict, other = _verdict(test, constants, Path(folder) / "constants")
            reason, row["constants"] = other, list(constants)
    return row | {"verdict": verdict, "reason": reason, "seconds": round(time.perf_counter() - started, 2)}


def measure_together(group: Sequence[NodeTest]) -> list[dict[str, Any]]:
    """Rows of several tests in one file, which takes the time of one; if one of them is not right, in two files."""
    if len(group) == 1:
        return [measure(group[0])]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        together = joined(group)
        verdict, _ = _verdict(together, joined_sizes(group), Path(folder) / "together")
    if verdict != "right":
        half = len(group) // 2
        return [*measure_together(group[:half]), *measure_together(group[half:])]
    seconds = round((time.perf_counter() - started) / len(group), 2)
    shared = {"verdict": "right", "reason": "", "seconds": seconds, "together": len(group)}
    return [
        {"test": test.name, "operator": test.operator, "floating": test.floating, "constants": sizes_of(test), **shared}
        for test in group
    ]


def _verdict(test: NodeTest, constants: Sequence[str], folder: Path) -> tuple[str, str]:
    try:
        expected, found = test.outputs, _found(test, constants, folder)
    except RetortError as error:
        return "refused", str(error)
    except Exception as error:  # a defect of Retort is a result of this suite and must not end it
        return "crash", f"{type(error).__name__}: {error}"[:300]
    for name, value in expected.items():
        fault = _fault(np.asarray(value), found.get(name))
        if fault:
            return "wrong", f"output '{name}' {fault}"
    return "right", ""


def _found(test: NodeTest, constants: Sequence[str], folder: Path) -> dict[str, Array]:
    """The outputs of the exported file for the inputs of the test."""
    folder.mkdir()
    path = folder / "test.onnx"
    onnx.save(with_constants(test, constants), str(path))
    feeds = {name: value for name, value in test.inputs.items() if name not in constants}
    rows = {name: _widened(np.asarray(value))[None] for name, value in feeds.items() if isinstance(value, np.ndarray)}
    if not rows:
        raise DataError("the test has no input that is a tensor", "it cannot be run with samples")
    split = ArraySplit(rows)
    context = Context(Splits(split, split, split, split), scratch=folder / "scratch")
    program = stages.capture(CaptureOptions(), ModelSpec(source=str(path)), Place(folder / "program"), context)
    options = ExportOptions(batch_sizes=(1,), golden=1)
    graph = stages.export(options, program, Place(folder / "graph"), context)
    session = open_session(graph.main, SessionOptions(threads=1))
    names = [spec.name for spec in session.signature.outputs]
    given = session.run({name: _widened(np.asarray(value)) for name, value in feeds.items()})
    session.close()
    return dict(zip(test.outputs, (given[name] for name in names), strict=True))


def _widened(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value


def _fault(expected: Array, found: Array | None) -> str:
    """What is wrong with an output, in words; empty if nothing is."""
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has the shape {list(found.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind != "f" and expected.dtype.name not in FLOATS:
        share = float(np.mean(found != expected)) if expected.size else 0.0
        return f"differs in {share:.0%} of its values" if share else ""
    tolerance = 1e-2 if expected.dtype.name in ("float16", "bfloat16") else 1e-3
    wide = expected.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    rounding = tolerance * 1e-2 * max(1.0, float(finite.max(initial=0.0)))
    if np.allclose(found.astype(np.float64), wide, rtol=tolerance, atol=rounding, equal_nan=True):
        return ""
    error = np.nanmax(np.abs(found.astype(np.float64) - wide)) if wide.size else 0.0
    return f"is off by {error:.1e}"


def run(wanted: Sequence[str], path: Path, console: Console, jobs: int = 1) -> list[dict[str, Any]]:
    """Measure every test that is not in the file yet, one line each; return all rows in the order of the tests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = node_tests(wanted)
    have = {row["test"]: row for row in _lines(path)}
    missing = [test for test in chosen if test.name not in have]
    with path.open("a") as file, console.progress("node tests", len(missing)) as bar:
        for row in _measured(missing, jobs):
            have[row["test"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.advance(1)
    return [have[test.name] for test in chosen]


def _measured(missing: Sequence[NodeTest], jobs: int) -> Iterator[dict[str, Any]]:
    """Rows as they come; a test that ends its process is a crash, and the others go on."""
    waiting = groups(missing, TOGETHER)
    while waiting:
        with ProcessPoolExecutor(jobs) as pool:
            running = [(group, pool.submit(_in_process, [test.name for test in group])) for group in waiting]
            for group, future in running:
                waiting.remove(group)
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    waiting = [*([test] for test in group if len(group) > 1), *waiting]
                    if len(group) == 1:
                        yield _ended(group[0])
                    break


def _ended(test: NodeTest) -> dict[str, Any]:
    row = {"test": test.name, "operator": test.operator, "floating": test.floating, "seconds": 0.0}
    return row | {"verdict": "crash", "reason": "the process ended"}


_LOADED: dict[str, NodeTest] = {}


def _in_process(names: Sequence[str]) -> list[dict[str, Any]]:
    if not _LOADED:
        os.environ["OMP_NUM_THREADS"] = "1"
        _LOADED.update({test.name: test for test in node_tests(())})
    return measure_together([_LOADED[name] for name in names])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.onnx_node_tests", description=__doc__.splitlines()[0]
    )
    parser.add_argument("tests", nargs="*", help="names of tests or of operators; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/onnx_node_tests.jsonl"), help="file to append to and resume from"
    )
    parser.add_argument("--page", action="store_true", help="print the result page of the rows in the file")
    given = parser.parse_args(arguments)
    console = Console()
    if given.page:
        rows = _lines(given.out)
        Console().result({}, page(rows, len(node_tests(()))))
        return
    rows = run(given.tests, given.out, console, given.jobs)
    console.table("ONNX node tests that are not right", *table(rows))
    console.result({}, json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
