"""The subcommands of `retort edge` for a device alone: push, status, stop, doctor and clean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.counts import counted
from ...core.errors import MachineError
from ...core.terminal.interruption import noting_what_is_kept
from ..app import Debug, Json, console
from .edge_arguments import (
    STORE,
    Bundle,
    Folder,
    Host,
    Python,
    SshOptions,
    device_of_bundle,
    edge,
    loaded,
    prepared,
    started,
)

if TYPE_CHECKING:
    from ...benchmarks.edge.store import Row


@edge.command("push")
def push(
    bundle: Bundle,
    host: Host,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start the run as soon as all has arrived.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a bundle to a device and start it there; it runs on when the connection ends.

    Example: `retort edge push for-the-pi pi@raspberrypi.local`
    """
    screen, made = console(json), loaded(bundle)
    device = device_of_bundle(host, folder, ssh_option, python, made)
    with noting_what_is_kept(lambda: f"what has arrived on {host} stays, and `retort edge clean` deletes it"):
        sent = prepared(device, made, screen)
        if start:
            started(device, made)
    where = f"{host}:{device.folder}"
    text = f"sent {counted(sent, 'file')} to {where}" + ("; it measures now" if start else "")
    screen.result({"device": host, "folder": device.folder, "sent": sent, "started": start}, text)


@edge.command("status")
def status(
    bundle: Bundle,
    host: Host,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how far a run on a device is.

    Example: `retort edge status for-the-pi pi@raspberrypi.local`
    """
    from ...benchmarks.edge import device_run

    found = device_run.status(device_of_bundle(host, folder, ssh_option, python, loaded(bundle), make=False))
    why = f": {found['why']}" if found.get("why") else ""
    part = f", now {found['part']}" if found.get("part") else ""
    done = f"{found['done']} of {counted(int(found['of']), 'part')}{part}" if "of" in found else "nothing has begun"
    console(json).result({"device": host, **found}, f"{host}: {found['state']}{why}, {done}")


@edge.command("stop")
def stop(
    bundle: Bundle,
    host: Host,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """End a run on a device; what is finished stays, and another start goes on.

    Example: `retort edge stop for-the-pi pi@raspberrypi.local`
    """
    from ...benchmarks.edge import device_run

    ran = device_run.stop(device_of_bundle(host, folder, ssh_option, python, loaded(bundle), make=False))
    console(json).result({"device": host, "ran": ran}, "it is ended" if ran else "nothing runs there")


@edge.command("doctor")
def doctor(
    host: Host,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look whether a device can measure: reachable, Python, packages, memory and disk.

    Example: `retort edge doctor pi@raspberrypi.local`
    """
    from ...benchmarks.edge import device_readiness

    screen = console(json)
    found = device_readiness.look_alone(device_of_bundle(host, folder, ssh_option, python, None))
    answers = found.answers
    rows = [
        ("machine", f"{answers['system']} on {answers['machine']}, {answers['libc']}"),
        ("Python", f"{answers['python']} ({answers['executable']})"),
        ("packages", f"numpy {answers['numpy'] or 'missing'}, onnxruntime {answers['onnxruntime'] or 'missing'}"),
        ("free disk", f"{answers['free'] / 1e9:.1f} GB"),
        ("free memory", "unknown" if answers["available"] is None else f"{answers['available'] / 1e9:.1f} GB"),
    ]
    screen.table(host, ["what", "found"], rows, words=True)
    for fault in found.faults:
        screen.warn(fault)
    told = f"{host} cannot measure" if found.faults else f"{host} can measure"
    screen.result({"device": host, **answers, "faults": list(found.faults)}, told)
    if found.faults:
        raise typer.Exit(MachineError.exit_code)


@edge.command("table")
def table(
    store: Annotated[Path, typer.Option(help="The store of all results.")] = STORE,
    device: Annotated[str, typer.Option(help="Only devices whose name contains this text.")] = "",
    model: Annotated[str, typer.Option(help="Only models whose name contains this text.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every measurement, and not the newest of each kind.")] = False,
    html: Annotated[Path | None, typer.Option(help="File for the table as a page, .html.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for the table as Markdown, .md.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what was measured on all devices: device, model, precision, threads and batch size.

    Example: `retort edge table --device raspberry`; `retort edge table --html devices.html`
    """
    from ...benchmarks.edge.store import Store, newest
    from ...benchmarks.report.device_table import (
        claim_table,
        device_table,
        ratio_text,
        write_table_markdown,
        write_table_page,
    )

    claim_table(html, ".html")
    claim_table(markdown, ".md")
    found = Store(store).rows()
    kept = [
        row
        for row in (found if all_ else newest(found))
        if device.lower() in row.device.lower() and model.lower() in row.model.lower()
    ]
    floors, screen = Store(store).floors(), console(json)

    def floor(row: Row) -> float:
        known = floors.get((row.fingerprint, row.runtime, row.cores, row.threads))
        return known.value if known else 0.0

    for path, write in ((html, write_table_page), (markdown, write_table_markdown)):
        if path is not None:
            write(device_table(kept, floor), path)
            screen.say(f"wrote {path}")
    if kept:
        screen.table(
            "measured on devices", *_terminal_table(kept, [ratio_text(row, floor) for row in kept]), words=True
        )
    screen.result({"rows": [asdict(row) for row in kept]}, "" if kept else "nothing in the store fits")


def _terminal_table(rows: Sequence[Row], ratios: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and lines; a column in which all are equal only takes room.

    Args:
        ratios: how many times faster each row is than its reference, with its judgement.
    """
    empty = "–"
    columns: dict[str, list[str]] = {
        "device": [row.device for row in rows],
        "model": [row.model for row in rows],
        "precision": [row.precision for row in rows],
        "runtime": [row.runtime for row in rows],
        "threads": [f"{row.threads}{'' if row.cores == 'all' else f' ({row.cores})'}" for row in rows],
        "batch": [str(row.batch) for row in rows],
        "median": [f"{row.median_ms:.3g} ms" for row in rows],
        "p99": [empty if row.p99_ms is None else f"{row.p99_ms:.3g} ms" for row in rows],
        "times faster": [ratio or empty for ratio in ratios],
        "metric": [empty if row.value is None else f"{row.metric} {row.value:.4g}" for row in rows],
        "mJ": [empty if row.energy_mj is None else f"{row.energy_mj:.3g}" for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    if len(set(columns["runtime"]) - {""}) < 2:
        del columns["runtime"]
    if {*columns["mJ"]} <= {empty}:
        del columns["mJ"]
    return list(columns), list(zip(*columns.values(), strict=True))


@edge.command("compare")
def compare(
    first: Annotated[str, typer.Argument(help="Part of the name of a device in the store.")],
    second: Annotated[str, typer.Argument(help="Part of the name of another device.")],
    store: Annotated[Path, typer.Option(help="The store of all results.")] = STORE,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two devices by the files that were measured on both, in the same way.

    Example: `retort edge compare raspberrypi jetson`
    """
    from ...benchmarks.edge.device_comparison import on_both
    from ...benchmarks.edge.store import Store

    found = on_both(Store(store).rows(), first, second)
    names = [found[0].first.device, found[0].second.device]
    columns = ["model", "runtime", "threads", "batch", *names, "second is", "verdict"]
    lines = [
        (
            one.second.model,
            one.second.runtime,
            f"{one.second.threads}{'' if one.second.cores == 'all' else f' ({one.second.cores})'}",
            str(one.second.batch),
            f"{one.first.median_ms:.3g} ms",
            f"{one.second.median_ms:.3g} ms",
            f"{one.factor:.2f}×" + (f" [{one.low:.2f}, {one.high:.2f}]" if one.low and one.high else ""),
            f"{one.judgement}: {one.why}" if one.why else one.judgement,
        )
        for one in found
    ]
    screen = console(json)
    screen.table("two devices; × faster: how many times as fast the second one is", columns, lines, words=True)
    screen.result({"compared": [asdict(one) for one in found]})


@edge.command("clean")
def clean(
    bundle: Bundle,
    host: Host,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete a bundle and its results on a device; what was brought home stays.

    Example: `retort edge clean for-the-pi pi@raspberrypi.local`
    """
    from ...benchmarks.edge import device_run

    device = device_of_bundle(host, folder, ssh_option, python, loaded(bundle), make=False)
    device_run.clean(device)
    console(json).result({"device": host, "folder": device.folder}, f"deleted {device.folder} on {host}")
