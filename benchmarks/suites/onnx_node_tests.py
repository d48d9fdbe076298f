"""ONNX's own node tests through import, program and export: right, refused by name, wrong or crashed.

    python -m retort.benchmarks.suites.onnx_node_tests --out onnx_node_tests.jsonl

The `onnx` package has about 1900 graphs of one operator each, or of the definition of one, with inputs and expected
outputs. Each is imported by the stage `capture`, exported by the stage `export`, run in ONNX Runtime and compared with
the expected outputs, at the tolerance of ONNX (a relative error of 1e-3, and 1e-2 for half precision). A graph whose
sizes or axes are inputs is tried a second time with them as constants, because files have them so. One line per test is
appended to the file; a test that is already in the file is not run again. The last lines are the tables of the result
page.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.splits import ArraySplit, Splits
from ...core.errors import RetortError, UserError
from ...core.options.stage_options import CaptureOptions, ExportOptions, ModelSpec
from ...core.session import SessionOptions, open_session
from ...core.tensors import Array
from ...pipeline import stages

VERDICTS = ("right", "refused", "wrong", "crash")
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *_FLOATS)
_REMEDY = "\n  → "


@dataclass(frozen=True)
class NodeTest:
    """One test of ONNX: a model, its inputs, and the outputs that it must have."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    @property
    def operator(self) -> str:
        """The operator that is tested; a definition that is expanded has the name of its test."""
        if "_expanded" in self.name or len(self.model.graph.node) != 1:
            return _expanded(self.name)
        return str(self.model.graph.node[0].op_type)

    @property
    def floating(self) -> bool:
        """Whether it computes floating-point numbers from tensors of numbers."""
        values = [*self.inputs.values(), *self.outputs.values()]
        plain = all(isinstance(value, np.ndarray) and value.dtype.name in _NUMBERS for value in values)
        return plain and any(value.dtype.name in _FLOATS for value in self.outputs.values())


def _expanded(name: str) -> str:
    return "definition of " + name.removeprefix("test_").partition("_expanded")[0].partition("_")[0]


def node_tests(wanted: Sequence[str]) -> list[NodeTest]:
    """All node tests, or those with the given names or operators.

    Raises:
        UserError: there is no such test.
    """
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    found = [item for case in cases for item in _of_case(case)]
    if not wanted:
        return found
    chosen = [test for test in found if test.name in wanted or test.operator in wanted]
    unknown = sorted(set(wanted) - {test.name for test in chosen} - {test.operator for test in chosen})
    if unknown:
        raise UserError(f"the onnx package has no node test '{unknown[0]}'", "give a name of a test or an operator")
    return chosen


def _of_case(case: Any) -> Iterator[NodeTest]:
    graph = case.model.graph
    for inputs, outputs in case.data_sets[:1]:
        names = [[item.name for item in ports] for ports in (graph.input, graph.output)]
        given, expected = (
            {name: _array(value) for name, value in zip(part, values, strict=False)}
            for part, values in zip(names, (inputs, outputs))
        )
        yield NodeTest(case.name, case.model, given, expected)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | float | int | bool) else value


def measure(test: NodeTest) -> dict[str, Any]:
    """Run one test; what goes wrong is recorded in the row and not raised."""
    row: dict[str, Any] = {"test": test.name, "operator": test.operator, "floating": test.floating}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        verdict, reason = _verdict(test, (), Path(folder) / "inputs")
        constants = _sizes(test)
        if verdict == "refused" and constants:
            verdict, other = _verdict(test, constants, Path(folder) / "constants")
            reason, row["constants"] = other, list(constants)
    return row | {"verdict": verdict, "reason": reason, "seconds": round(time.perf_counter() - started, 2)}


def _sizes(test: NodeTest) -> tuple[str, ...]:
    """Inputs that are constants in the files of exporters: integers and few numbers, but never the main input."""
    arrays = {name: value for name, value in test.inputs.items() if isinstance(value, np.ndarray)}
    wide = [name for name, value in arrays.items() if value.dtype.name in _FLOATS and value.ndim]
    main = wide[0] if wide else next(iter(arrays), "")
    return tuple(
        name for name, value in arrays.items() if name != main and (value.dtype.kind in "iub" or value.size <= 8)
    )


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
    onnx.save(_with_constants(test, constants), str(path))
    feeds = {name: value for name, value in test.inputs.items() if name not in constants}
    rows = {name: _widened(np.asarray(value))[None] for name, value in feeds.items() if isinstance(value, np.ndarray)}
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


def _with_constants(test: NodeTest, constants: Sequence[str]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    kept = [item for item in model.graph.input if item.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(test.inputs[name], name) for name in constants)
    return model


def _fault(expected: Array, found: Array | None) -> str:
    """What is wrong with an output, in words; empty if nothing is."""
    if found is None:
        return "is missing"
    if found.shape != expected.shape:
        return f"has the shape {list(found.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind != "f" and expected.dtype.name not in _FLOATS:
        share = float(np.mean(found != expected)) if expected.size else 0.0
        return f"differs in {share:.0%} of its values" if share else ""
    tolerance = 1e-2 if expected.dtype.name in ("float16", "bfloat16") else 1e-3
    wide = expected.astype(np.float64)
    if np.allclose(found.astype(np.float64), wide, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True):
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
    rest = list(missing)
    while rest:
        with ProcessPoolExecutor(jobs) as pool:
            waiting = [(test, pool.submit(_in_process, test.name)) for test in rest]
            for test, future in waiting:
                try:
                    row = future.result()
                except BrokenProcessPool:
                    row = {"test": test.name, "operator": test.operator, "floating": test.floating, "seconds": 0.0}
                    row |= {"verdict": "crash", "reason": "the process ended"}
                rest.remove(test)
                yield row
                if row["reason"] == "the process ended":
                    break


_LOADED: dict[str, NodeTest] = {}


def _in_process(name: str) -> dict[str, Any]:
    if not _LOADED:
        os.environ["OMP_NUM_THREADS"] = "1"
        _LOADED.update({test.name: test for test in node_tests(())})
    return measure(_LOADED[name])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """One line per operator that is not right in every test, and what it is refused for."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["operator"], []).append(row)
    lines = []
    for operator, group in sorted(found.items()):
        counts = Counter(row["verdict"] for row in group)
        reasons = [row["reason"].partition(_REMEDY)[0] for row in group if row["verdict"] != "right"]
        if reasons:
            lines.append([operator, *(str(counts[verdict]) for verdict in VERDICTS), reasons[0][:160]])
    return ["operator", *VERDICTS, "reason"], lines


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by verdict of all tests, and of those that compute floating-point numbers."""
    result: dict[str, Any] = {}
    for key, group in (("all", rows), ("float", [row for row in rows if row["floating"]])):
        counts = Counter(row["verdict"] for row in group)
        result[key] = {"tests": len(group), **{verdict: counts[verdict] for verdict in VERDICTS}}
    return result


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
    given = parser.parse_args(arguments)
    console = Console()
    rows = run(given.tests, given.out, console, given.jobs)
    console.table("ONNX node tests that are not right", *table(rows))
    console.result({}, json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
