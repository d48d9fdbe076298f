"""The command `retort bench import`: results of other tools in one schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...core.errors import UserError
from ..app import Debug, ForceFile, Json, console
from .bench_models import benching

FromTool = Literal[
    "auto", "trtexec", "loadgen", "perf_analyzer", "hyperfine", "pyperf", "ort-perf-test", "ort-profile",
    "benchmark_app", "benchmark_model",
]  # fmt: skip


@benching.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File of another tool, or an imported result with --original.")],
    from_: Annotated[
        FromTool, typer.Option("--from", help="The tool that wrote it. By default this is found out from its text.")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="File for the imported result, .json.")] = None,
    original: Annotated[
        Path | None, typer.Option(help="Write the tool's own file, which an imported result has inside, to this path.")
    ] = None,
    force: ForceFile = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Import the result of trtexec, LoadGen, perf_analyzer, hyperfine, pyperf, ONNX Runtime, OpenVINO or LiteRT.

    Every number keeps its name and unit, and the file itself is kept inside bit for bit.

    Example: `retort bench import mlperf_log_detail.txt --out loadgen.json`
    """
    from ...benchmarks.peers.peer_formats import import_file
    from ...benchmarks.peers.peer_result import PEER_SCHEMA, read_peer, write_peer
    from ...benchmarks.report.peer_table import print_peer
    from ...core.system.atomic_files import write_atomically
    from ...core.system.owned_folders import claim_file

    screen = console(json)
    for path in (out, original):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    if out is not None and out.suffix != ".json":
        raise UserError(f"{out} does not end in .json, the form of this result", "give a path that ends in .json")
    claim_file(out, force, mark=PEER_SCHEMA)
    claim_file(original, force)
    result = read_peer(file) if original is not None else import_file(file, from_)
    print_peer(result, screen)
    if original is not None:
        write_atomically(original, result.original_bytes())
        screen.say(f"wrote {original}")
    if out is not None:
        write_peer(result, out)
        screen.say(f"wrote {out}")
    screen.result(result.model_dump(mode="json", by_alias=True, exclude={"original"}))
