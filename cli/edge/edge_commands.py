"""The subcommands of `retort edge` that make bundles and read results: bundle, run and pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.artifact import Artifact, load_artifact
from ...core.console import Console
from ...core.context import Place
from ...core.counts import counted
from ...core.errors import MachineError, RetortError, UserError
from ...core.options.edge_options import EdgeOptions
from ...core.options.stage_options import MetricName
from ...core.system.owned_folders import RUNS, claim_file, sha256_file
from ...core.terminal.interruption import noting_what_is_kept
from ..app import Data, DataArgs, Debug, Force, Json, MetricOption, Out, Settings, console, context_of
from ..flags import build_options, with_flags
from .edge_arguments import (
    STORE,
    Bundle,
    Folder,
    Host,
    MeterFile,
    Models,
    Page,
    Python,
    Results,
    SshOptions,
    device_of_bundle,
    edge,
    loaded,
    noise_of,
    prepared,
    started,
    with_wheels,
    write_pages,
)

if TYPE_CHECKING:
    from ...benchmarks.edge.pulled_results import Pulled


def bundle(
    models: Models,
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    out: Out = None,
    archive: Annotated[
        Path | None, typer.Option(help="A further file for the bundle, .tar.gz, to carry it to a device by hand.")
    ] = None,
    force: Force = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Write the folder that measures models on a device, to be sent by `retort edge push` or carried by hand.

    Example: `retort edge bundle fp32.onnx int8.onnx --data digits --out for-the-pi`
    """
    from ...benchmarks.edge.bundle_archive import require_archive_name, write_archive

    screen = console(json)
    if archive is not None:
        require_archive_name(archive)
        claim_file(archive, force=False)
    made = _bundled(models, data, data_arg, build_options(EdgeOptions, flags, set_), out, force, screen)
    if archive is not None:
        write_archive(made, archive)
    written = {"bundle": str(made.path), "key": made.key, "archive": None if archive is None else str(archive)}
    screen.result(written, f"{archive or made.path}\nto run it by hand: see its README.txt")


edge.command("bundle")(with_flags(bundle, EdgeOptions))


def run(
    host: Host,
    models: Models,
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    results: Results = None,
    metric: MetricOption = None,
    meter: MeterFile = None,
    report: Page = None,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the folder on the device, also after Ctrl-C: the same command goes on."),
    ] = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Measure models on a device: look whether it can, send, measure, bring back, clean up, and print the table.

    The link may be cut: the same command goes on where it was. Ctrl-C ends the run, and leaves nothing on the device.

    Example: `retort edge run pi@raspberrypi.local fp32.onnx int8.onnx --data digits`
    """
    from ...benchmarks.edge import device_run
    from ...benchmarks.edge.device_wheels import AUTO
    from ...benchmarks.report.result_files import claim_result

    screen = console(json)
    claim_result(report, force=False)
    options = build_options(EdgeOptions, flags, set_)
    made = _given_bundle(models, data, options)
    if made is None:
        options = options.model_copy(update={"energy": "on"}) if meter and options.energy == "auto" else options
        if options.wheels == AUTO:
            named = [load_artifact(path) for path in models]
            options = with_wheels(options, named, device_of_bundle(host, folder, ssh_option, python, None))
        made = _bundled(models, data, data_arg, options, None, False, screen)
    device = device_of_bundle(host, folder, ssh_option, python, made)
    with noting_what_is_kept(lambda: device_run.abandon(device, keep)):
        home = _home(made, host, ssh_option, results)
        prepared(device, made, screen)
        started(device, made, keep)
        ended = device_run.wait(device, screen)
        if ended["state"] == "refused":
            raise MachineError(f"{host} cannot measure: {ended['why']}", "correct it, and run the command again")
        out = device_run.pull(device, home, screen)
        if not keep and ended["state"] == "finished":  # all of it is at home, whatever can be told by it
            device_run.clean(device)
        elif not keep:
            screen.say(f"{device.folder} stays on {host}: the same command goes on, and `retort edge clean` deletes it")
    shown = _shown(made, out, host, metric, screen, meter)
    write_pages(report, shown["files"], screen)
    _conclude(shown, screen)


edge.command("run")(with_flags(run, EdgeOptions))


@edge.command("pull")
def pull(
    bundle: Bundle,
    host: Annotated[str, typer.Argument(help="Device as for `retort edge push`; none with --by-hand.")] = "",
    by_hand: Annotated[
        Path | None, typer.Option(help="Folder out that was brought back by hand, instead of a device.")
    ] = None,
    results: Results = None,
    metric: MetricOption = None,
    meter: MeterFile = None,
    report: Page = None,
    folder: Folder = None,
    ssh_option: SshOptions = [],  # noqa: B006
    python: Python = "python3",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Bring the results of a run home, verify them, and print the table.

    Example: `retort edge pull for-the-pi pi@raspberrypi.local`; `retort edge pull for-the-pi --by-hand /media/usb/out`
    """
    from ...benchmarks.edge import device_run
    from ...benchmarks.report.result_files import claim_result

    screen, made = console(json), loaded(bundle)
    claim_result(report, force=False)
    if bool(host) == bool(by_hand):
        raise UserError("give either a device or --by-hand", "retort edge pull BUNDLE pi@raspberrypi.local")
    if by_hand is not None and results is not None:
        raise UserError("--results is the folder for what a device sends, and --by-hand names one", "give one of them")
    if by_hand is None:
        device = device_of_bundle(host, folder, ssh_option, python, made)
        with noting_what_is_kept(lambda: f"nothing is changed on {host}, and what has arrived is kept"):
            by_hand = device_run.pull(device, _home(made, host, ssh_option, results), screen)
    shown = _shown(made, by_hand, host, metric, screen, meter)
    write_pages(report, shown["files"], screen)
    _conclude(shown, screen)


def _given_bundle(models: list[Path], data: str, options: EdgeOptions) -> Artifact | None:
    """The bundle that was named instead of models.

    Raises:
        UserError: what it measures was given, too.
    """
    if len(models) != 1 or not models[0].is_dir():
        return None
    made = load_artifact(models[0])
    if made.kind != "edge":
        return None
    if data or options != EdgeOptions():
        raise UserError(f"{models[0]} says itself what is measured", "give the options to `retort edge bundle`")
    return made


def _bundled(
    models: list[Path],
    data: str,
    data_arg: list[str],
    options: EdgeOptions,
    out: Path | None,
    force: bool,
    screen: Console,
) -> Artifact:
    """The bundle of models; one of the same inputs that is there already is used again."""
    from ...benchmarks.compare_models import by_name
    from ...benchmarks.edge.device_bundle import write_device_bundle
    from ...core.artifact import is_finished, stable_hash
    from ...core.formats.weights_beside import model_sha256
    from ...core.system.owned_folders import claim

    named = by_name([load_artifact(path) for path in models])
    context = context_of(data, data_arg, "classification", "cpu", options.seed, screen, "test")
    parents = tuple(one.key if one.path.is_dir() else model_sha256(one.main) for one in named.values())
    key = stable_hash([list(named), parents, context.data.fingerprint(), options.model_dump(mode="json")])
    place = Place(out or RUNS / f"edge-{key[:12]}", key, parents)
    if out is not None:
        claim(out, "edge", key, models, force)
    if is_finished(place.directory) and (made := load_artifact(place.directory)).key == key:
        screen.stage("edge", f"{made.path} is there already")
        return made
    return write_device_bundle(named, context.data, options, place, screen)


def _home(made: Artifact, host: str, ssh_option: list[str], results: Path | None) -> Path:
    """Where the results of a device go: as the user wants, or below the runs.

    Raises:
        UserError: something else is there.
    """
    from ...benchmarks.edge.device_bundle import DESCRIPTION
    from ...benchmarks.edge.pulled_results import claim_results
    from ...core.artifact import stable_hash

    name = "".join(letter if letter.isalnum() else "-" for letter in host)
    if ssh_option or name != host:  # such as several devices behind ports of one name
        name += f"-{stable_hash([host, ssh_option])[:6]}"
    home = results or RUNS / f"edge-{made.key[:12]}-{name}"
    claim_results(home, sha256_file(made.path / DESCRIPTION))
    return home


def _shown(
    made: Artifact, out: Path, host: str, metric: MetricName | None, screen: Console, meter: Path | None
) -> dict[str, Any]:
    """Read results, print their tables, and write them beside the raw numbers; the same for ``--json``."""
    from ...benchmarks.device_evidence import with_evidence
    from ...benchmarks.edge.device_machine import device_name
    from ...benchmarks.edge.device_result import results_of
    from ...benchmarks.edge.device_summary import COLUMNS, lines_of_device, rows_of_models
    from ...benchmarks.edge.energy import COLUMNS as ENERGY
    from ...benchmarks.edge.energy import energies, rows_of_energy
    from ...benchmarks.edge.meter import read_meter
    from ...benchmarks.edge.pulled_results import read_results
    from ...benchmarks.edge.store import Store, rows_of
    from ...benchmarks.edge.sustained import lines_of, sustained
    from ...benchmarks.report.result_files import write_result
    from ...benchmarks.report.table import print_table

    pulled: Pulled = read_results(made.path, out)
    refused: RetortError | None = None
    try:
        found = energies(pulled, read_meter(meter, pulled) if meter else None)
    except RetortError as error:  # the other results are told all the same
        found, refused = [], error
    written, key = [], sha256_file(out / "result.json")
    for plain in results_of(pulled, metric, host, found, noise_of(pulled, key, screen)):
        one = with_evidence(plain, pulled)
        print_table(one, screen)
        run = one.runs[0] if one.runs else None
        cores = str(one.data["cores"])
        path = out / (f"result-{cores}-t{run.threads}.json" if run else "result-without-times.json")
        write_result(one, path)
        written.append((path, one))
    if meter is not None and found:  # rows with the energy are others than those without
        key = f"{key}-{sha256_file(meter)[:8]}"
    precisions = {one["name"]: str(one["precision"]) for one in pulled.described["candidates"]}
    try:
        for _, made_of in written:
            Store(STORE).add(rows_of(made_of, key, str(made_of.data["cores"]), precisions))
    except RetortError as error:  # what was measured is at home all the same
        screen.warn(f"the results are not in the store: {error.message}; {error.remedy}")
    rows, lines = rows_of_models(pulled), [*lines_of(sustained(pulled)), *lines_of_device(pulled)]
    if pulled.of_kind("cold") or pulled.of_kind("accuracy"):
        screen.table(f"starts on {device_name(pulled.device, host)}", list(COLUMNS), rows, words=True)
    if found:
        screen.table(f"energy on {device_name(pulled.device, host)}", list(ENERGY), rows_of_energy(found), words=True)
    for line in lines:
        screen.say(line)
    files = [str(path) for path, _ in written]
    screen.say("\n".join(f"wrote {file}" for file in files))
    if refused is not None:
        raise refused
    values = [one.model_dump(mode="json", by_alias=True) for _, one in written]
    failed = [part.name for part in pulled.parts.values() if part.error]
    return {"device": host, "state": pulled.state, "files": files, "failed": failed, "results": values}


def _conclude(shown: dict[str, Any], screen: Console) -> None:
    """Print the result; a run of which parts failed does not exit as one that measured all, whatever it has told."""
    failed = shown["failed"]
    if failed:
        screen.warn(f"{counted(failed, 'part')} of the run failed; the notes of the results say why")
    screen.result(shown)
    if failed:
        raise typer.Exit(MachineError.exit_code)
