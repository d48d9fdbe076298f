"""Compares OpenVINO with ONNX Runtime on the same files, in interleaved blocks.

    python -m retort.benchmarks.suites.cpu_runtimes runs/*/*export*/model.onnx

The files are those of `retort export`, whose golden inputs lie beside them. Each is opened in both runtimes as servers
open it. The table has, for each batch size, how many times faster OpenVINO is, with the interval of the ratio, and the
largest difference of the outputs relative to their range. It is followed by one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.console import Console
from ...core.errors import MissingFileError
from ...core.metrics.ratio import Ratio
from ...core.options.stage_options import BenchOptions
from ...core.session import PROVIDERS, Session, SessionOptions, open_session
from ...core.tensors import Array
from ..machine import describe, fingerprint
from ..timing.latency import compare_sessions

REFERENCE, OTHER = "ONNX Runtime", "OpenVINO"


def measure(model: Path, options: BenchOptions) -> tuple[dict[int, Ratio], float]:
    """Compare the runtimes on one file.

    Returns:
        The speed-up of OpenVINO by batch size, and the largest difference of its outputs, relative to their range.

    Raises:
        MissingFileError: there are no golden inputs beside the file.
    """
    feeds = golden_inputs(model)
    named = {REFERENCE: PROVIDERS["cpu"], OTHER: PROVIDERS["openvino"]}

    def opened(providers: tuple[str, ...]) -> Session:
        return open_session(model, SessionOptions(threads=options.threads, providers=providers))

    sessions = {name: opened(providers) for name, providers in named.items()}
    one, two = (session.run(feeds) for session in sessions.values())
    apart = max(float(np.abs(two[name] - array).max() / max(np.abs(array).max(), 1e-12)) for name, array in one.items())
    for session in sessions.values():
        session.close()
    openers = {name: lambda given=providers: opened(given) for name, providers in named.items()}
    timed = compare_sessions(openers, feeds, options)
    return {batch: found.ratio_of(OTHER) for batch, found in timed.items()}, apart


def golden_inputs(model: Path) -> dict[str, Array]:
    """The golden inputs of a file that `retort export` wrote.

    Raises:
        MissingFileError: there are none.
    """
    beside = model.parent / "golden.npz"
    if not beside.is_file():
        raise MissingFileError(f"{model} has no golden.npz beside it", "give a file in a folder of `retort export`")
    with np.load(beside) as stored:
        return {name[3:]: stored[name] for name in stored.files if name.startswith("in.")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.cpu_runtimes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("models", nargs="+", type=Path, help="ONNX files of `retort export`")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for one comparison")
    parser.add_argument("--threads", type=int, default=1, help="threads of each runtime")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8], help="rows of one call")
    given = parser.parse_args(arguments)
    options = BenchOptions(budget_s=given.budget, threads=given.threads, batch_sizes=tuple(given.batch_sizes))
    console, machine = Console("text"), describe(fingerprint())
    found = {model: measure(model, options) for model in console.track(given.models, "files")}
    sizes = [f"batch {size}" for size in given.batch_sizes]
    rows = [
        [_shown(model), *(ratio.text for ratio in ratios.values()), f"{apart:.1e}"]
        for model, (ratios, apart) in found.items()
    ]
    console.table(f"times faster in OpenVINO on {machine}", ["file", *sizes, "largest difference"], rows)
    entries: list[dict[str, Any]] = [
        {"file": _shown(model), "batch": batch, "difference": apart, **ratio.to_dict()}
        for model, (ratios, apart) in found.items()
        for batch, ratio in ratios.items()
    ]
    line = {"machine": machine, "threads": given.threads, "rows": entries}
    console.result({}, json.dumps(line, allow_nan=False))


def _shown(model: Path) -> str:
    return "/".join(model.parts[-3:-1]) or model.name


if __name__ == "__main__":
    main()
