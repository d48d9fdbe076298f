"""What the commands for other devices share: their group, their arguments, the bundle and the device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.artifact import Artifact, load_artifact, raise_if_not
from ...core.console import Console
from ...core.errors import MachineError, RetortError
from ...core.options.edge_options import EdgeOptions
from ...core.system.owned_folders import RUNS
from ..app import app
from ..interruptible import Interruptible

if TYPE_CHECKING:
    from ...benchmarks.edge.device_noise import Floors
    from ...benchmarks.edge.pulled_results import Pulled
    from ...benchmarks.edge.ssh import Device

edge = typer.Typer(
    cls=Interruptible,
    help="Measure models on a Raspberry Pi, a Jetson or any box that ssh reaches, with the statistics of `bench`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(edge, name="edge")
STORE = RUNS / "edge.db"
"""The store of the results of all devices, as :data:`retort.benchmarks.edge.store.DEFAULT`."""
Host = Annotated[
    str, typer.Argument(help="Device as ssh takes it, such as pi@raspberrypi.local, or local for this machine.")
]
Models = Annotated[
    list[Path],
    typer.Argument(
        help="Files (.onnx, .xml of OpenVINO with its .bin, .plan of `retort engine`) or artifact folders. The first "
        "is the reference."
    ),
]
Bundle = Annotated[Path, typer.Argument(help="Folder that `retort edge bundle` wrote.")]
Folder = Annotated[
    str | None,
    typer.Option(help="Folder on the device. The default is ~/retort-edge with the key of the bundle."),
]
SshOptions = Annotated[
    list[str], typer.Option("--ssh-option", help="Further arguments of ssh, such as '-p 2222'. Repeatable.")
]
Python = Annotated[str, typer.Option(help="Python on the device, 3.9 or newer, with numpy and onnxruntime.")]
Results = Annotated[Path | None, typer.Option(help="Folder for the results. By default it is below runs.")]
MeterFile = Annotated[
    Path | None,
    typer.Option(
        "--meter",
        help="CSV file of a power meter that recorded the run, from which the energy of an inference is computed. Its "
        "clock is found by the rhythm of the run.",
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="File for a page of the result, .html or .md. Further numbers of threads and kinds of cores get files of "
        "their own beside it.",
    ),
]


def loaded(path: Path) -> Artifact:
    """The bundle in a folder.

    Raises:
        ArtifactError: it is another artifact, or was altered.
    """
    made = load_artifact(path)
    raise_if_not(made, "edge")
    return made


def device_of_bundle(
    host: str, folder: str | None, ssh_option: list[str], python: str, bundle: Artifact | None, make: bool = True
) -> Device:
    """The device of a command line, with the whole path of its folder.

    Args:
        make: make the folder if it is not there; otherwise it must be there.

    Raises:
        UserError: the folder is not there, and is not made.
        LinkLost: it cannot be reached.
    """
    from ...benchmarks.edge.ssh import device_of

    default = f"~/retort-edge/{bundle.key[:12]}" if bundle is not None else "~/retort-edge"
    device = device_of(host, folder or default, ssh_option, python)
    return device.absolute() if make else device.found()


def with_wheels(options: EdgeOptions, models: Sequence[Artifact], device: Device) -> EdgeOptions:
    """The options with the wheels for models on a device in place of ``auto``; without any if it has the packages.

    Raises:
        UserError: there are none for it.
        LinkLost: it cannot be reached.
    """
    from ...benchmarks.edge import device_readiness
    from ...benchmarks.edge.device_runtimes import packages_for
    from ...benchmarks.edge.device_wheels import AUTO, target_of

    if options.wheels != AUTO:
        return options
    packages = packages_for(models, options.runtimes)
    target = target_of(device_readiness.look_alone(device).answers, packages)
    if target is None:
        return options.model_copy(update={"wheels": ""})
    named = {"wheels": target.machine, "wheels_python": target.python, "wheels_glibc": target.glibc}
    return options.model_copy(update=named)


def write_pages(page: Path | None, files: Sequence[str], screen: Console) -> None:
    """Write a page for each result; the second and all further ones have a number in their names.

    Raises:
        UserError: a file of that name is not ours.
        StorageError: the disk is full or not writable.
    """
    from ...benchmarks.report.result_files import claim_result, write_result
    from ...benchmarks.result import load_result

    for number, file in enumerate(files if page is not None else (), 1):
        assert page is not None
        path = page if number == 1 else page.with_stem(f"{page.stem}-{number}")
        if number > 1 and path.exists():  # the first was looked at before the run
            screen.warn(f"{path} exists, and is kept: the page of {file} is not written")
            continue
        claim_result(path, force=False)
        write_result(load_result(Path(file)), path)
        screen.say(f"wrote {path}")


def prepared(device: Device, made: Artifact, screen: Console) -> int:
    """Look whether the device can measure a bundle, and send it; the number of files that were sent.

    Raises:
        MachineError: it cannot measure.
        LinkLost: it cannot be reached.
    """
    from ...benchmarks.edge import device_readiness, device_run
    from ...benchmarks.edge.device_bundle import DESCRIPTION
    from ...benchmarks.edge.device_wheels import PACKAGES

    described = json.loads((made.path / DESCRIPTION).read_bytes())
    needed, wheels = int(described["needs_bytes"]), described.get("wheels")
    packages = described.get("packages") or PACKAGES
    size = sum(entry.size_bytes for entry in made.manifest.files.values())
    plans = [one for one in described["candidates"] if "plan" in one]
    found = device_readiness.look(device, size, needed, wheels, packages, plans)
    if found.faults and not device.made:  # a part of it may be there already, and it may be measuring
        there = sum(bytes_there for bytes_there, _ in device.present(list(made.manifest.files)).values())
        runs = device_run.status(device)["state"] == "running"
        found = device_readiness.look(device, max(0, size - there), 0 if runs else needed, wheels, packages, plans)
    if found.faults and device.made:
        device_run.leave(device)
    device_readiness.require_ready(device, found)
    return device_run.push(device, made.path, screen)


def started(device: Device, made: Artifact, keep: bool = True) -> None:
    """Start a bundle on a device, without those comparisons of a model with itself that are in the store.

    Args:
        keep: leave on the device what was sent, also if it cannot begin.

    Raises:
        MachineError: it cannot begin.
        LinkLost: it cannot be reached; what was sent stays.
    """
    from ...benchmarks.edge import device_run
    from ...benchmarks.edge.device_bundle import DESCRIPTION
    from ...benchmarks.edge.device_noise import known_parts
    from ...benchmarks.edge.ssh import LinkLost
    from ...benchmarks.edge.store import Store

    policy = json.loads((made.path / DESCRIPTION).read_bytes())["policy"]
    try:
        device_run.start(device, lambda facts: known_parts(Store(STORE), policy, facts))
    except LinkLost:
        raise
    except MachineError as error:
        if keep:
            raise
        raise MachineError(f"{error.message}; {device_run.abandon(device)}", error.remedy) from error


def noise_of(pulled: Pulled, run: str, screen: Console) -> Floors:
    """The noise of all devices, with that which a run found, which is stored."""
    from ...benchmarks.edge.device_noise import measured_floors
    from ...benchmarks.edge.store import Store

    new = measured_floors(pulled, run)
    if pulled.of_kind("noise") and not new:
        screen.warn("the noise of this device is not known: too few comparisons of a model with itself were valid")
    try:
        if new:
            Store(STORE).add_floors(new)
        known = Store(STORE).floors()
    except RetortError:  # told when the results are added
        known = {}
    return {**known, **{(one.fingerprint, one.runtime, one.cores, one.threads): one for one in new}}
