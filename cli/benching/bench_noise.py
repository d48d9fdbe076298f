"""The command `retort bench noise`: how much a file differs from itself on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ...core.artifact import load_artifact
from ...core.counts import counted
from ...core.errors import MachineError
from ...core.options.option_types import Provider
from ...core.options.stage_options import BenchOptions
from ..app import Debug, Json, console
from .bench_models import benching


@benching.command("noise")
def noise(
    model: Annotated[
        Path | None,
        typer.Argument(help="Model file or artifact folder. By default a small convolutional network."),
    ] = None,
    comparisons: Annotated[int, typer.Option(min=8, help="Number of comparisons of the file with itself.")] = 20,
    budget_s: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds of one comparison.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Batch size (rows per call).")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Number of runtime threads.")] = 1,
    provider: Annotated[Provider, typer.Option(help="The execution provider, as of `retort bench`.")] = "cpu",
    show: Annotated[bool, typer.Option("--show", help="Print the stored floor, and measure nothing.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a file with itself repeatedly, and store the largest difference as the noise floor of this machine.

    `retort bench` then says "cannot tell" for differences within the floor. It holds for this machine, this version of
    the runtime and this number of threads. An interrupted measurement goes on where it stopped.

    Example: `retort bench noise`; `retort bench noise model.onnx --threads 2 --comparisons 40`
    """
    from ...benchmarks.repeatability.noise_floor import floors_of, store
    from ...benchmarks.repeatability.self_comparison import measure_floor
    from ...benchmarks.small_networks import make_nets

    screen = console(json)
    options = BenchOptions(threads=threads, provider=provider, budget_s=budget_s, batch_sizes=(batch,))
    with tempfile.TemporaryDirectory() as folder:
        measured = load_artifact(model or make_nets(Path(folder))[0])
        if show:
            known = floors_of([measured], options)
            if not known:
                raise MachineError(
                    f"the noise of this machine with {counted(threads, 'thread')} is not known",
                    f"measure it: `retort bench noise --threads {threads}`",
                )
            found = known[0]
        else:
            with screen.working("noise"):
                found = measure_floor(measured, options, comparisons, screen, batch)
            store(found)
    rows = [
        ["largest difference", f"{found.floor:.2%}"],
        ["comparisons", str(len(found.ratios))],
        ["of them called different", str(found.alarms)],
        ["NOISY, not counted", str(found.noisy)],
        ["seconds of each", f"{found.budget_s:g}"],
        ["runtime", f"{found.runtime}, {counted(found.threads, 'thread')}"],
        ["model", f"{found.model} at batch {found.batch}"],
    ]
    screen.table("noise floor", ["what", "value"], rows)
    screen.result(found.to_dict(), f"{found.text}; `retort bench` calls no smaller difference real")
