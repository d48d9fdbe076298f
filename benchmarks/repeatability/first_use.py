"""The self-test at a machine's first comparison: a short A/A comparison whose noise floor is stored."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, load_artifact
from ...core.console import Console
from ...core.counts import counted
from ...core.errors import MachineError, StorageError
from ...core.options.stage_options import BenchOptions
from ..machine import fingerprint, identity
from .noise_floor import NoiseFloor, runtime_of, store, stored
from .self_comparison import FEWEST, measure_floor

VARIABLE = "RETORT_SELF_TEST"
"""With the value ``off`` in the environment, no self-test begins by itself."""
BUDGET_S, BLOCK_MS, LIMIT_S = 0.5, 2.0, 20.0
HOPELESS = 3
"""So many comparisons that are all NOISY show that this machine is too busy for a self-test."""


def known_floors(models: Iterable[Artifact], options: BenchOptions, console: Console) -> list[NoiseFloor]:
    """The floors of the runtimes that will run these models on this machine; an unknown one is measured and stored.

    A small network stands for all ONNX files. What has been measured is kept if it is interrupted.

    Args:
        options: threads and provider; whether unknown floors are measured at all.
    """
    facts, given = fingerprint(), list(models)
    machine, runtimes = identity(facts), dict[str, Artifact]()
    for model in given:
        runtimes.setdefault(runtime_of(model.main, options.provider, facts), model)
    wanted = options.self_test and os.environ.get(VARIABLE) != "off" and len(given) > 1
    found = []
    for runtime in sorted(runtimes):
        floor = stored(machine, runtime, options.threads)
        if floor is None and wanted:
            floor = _measured(runtimes[runtime], runtime, options, console)
        found += [floor] if floor is not None else []
    return found


def _measured(model: Artifact, runtime: str, options: BenchOptions, console: Console) -> NoiseFloor | None:
    """The floor of a runtime, which is stored; None, with the reason in one line, if it cannot be measured now."""
    short = options.model_copy(update={"budget_s": BUDGET_S, "block_ms": BLOCK_MS, "batch_sizes": (1,), "seed": 0})
    first = f"first comparison on this machine with {runtime} and {counted(options.threads, 'thread')}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = measure_floor(_tested(model, Path(folder)), short, FEWEST, console, given_up=_given_up())
        store(found)
    except (MachineError, StorageError) as error:
        console.say(f"            {first}: its noise could not be measured ({error.message})")
        return None
    console.say(
        f"            {first}: {found.model} differs from itself by up to {found.floor:.2%} in "
        f"{counted(found.ratios, 'comparison')} of {found.seconds:.1f} s; smaller differences are not called real"
    )
    return found


def _tested(model: Artifact, folder: Path) -> Artifact:
    """A small network for an ONNX file, and else the model itself."""
    if model.main.suffix != ".onnx" or importlib.util.find_spec("onnx") is None:
        return model
    from ..small_networks import make_nets

    return load_artifact(make_nets(folder)[0])


def _given_up() -> Callable[[list[dict[str, Any]]], str]:
    ends = time.monotonic() + LIMIT_S

    def reason(rows: list[dict[str, Any]]) -> str:
        if len(rows) >= FEWEST:
            return ""
        if time.monotonic() > ends:
            return f"only {counted(rows, 'comparison')} of the model with itself fit into {LIMIT_S:g} s"
        if len(rows) >= HOPELESS and all(row["noisy"] for row in rows):
            return f"comparisons are NOISY: {rows[-1]['noisy'][0]}"
        return ""

    return reason
