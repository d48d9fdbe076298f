"""A run on a device: send, start, wait, bring back, and clean up.

The program runs by itself on the device: a link that is cut ends nothing, and the same command goes on.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.console import Console
from ...core.counts import counted
from ...core.errors import MachineError, UserError
from ...core.system.owned_folders import sha256_file
from .device_bundle import DATA, DESCRIPTION, MODELS, PROGRAM, README
from .device_wheels import WHEELS
from .pulled_results import RESULT
from .runner.unpacked_wheels import SITE
from .ssh import Device, LinkLost

POLL_S, LOST_S = 2.0, 600.0
"""Seconds between two looks at a run, and how long a lost device is waited for."""
END_S = 30.0
"""Seconds in which a run that is told to end writes what it has found."""
STARTING = 60
"""Looks at a run that was begun and has not said so."""
CHECKING = "checksums"
"""What the program calls its work before the first part."""
HOME = "retort-edge"
"""Folder of all bundles in the home of a user on a device."""
MARKER = ".retort-edge"
"""File in a folder on a device that says that the folder is ours."""
OURS = (DESCRIPTION, README, DATA, MODELS, PROGRAM, WHEELS, SITE, "out", MARKER)
"""All that is written into the folder on a device."""


def claim(device: Device) -> None:
    """Make the folder on the device ours, which is empty or was ours before.

    Raises:
        UserError: it contains files of others.
    """
    ours = f'test -f {MARKER} || test -z "$(ls -A)"'
    script = f"cd {shlex.quote(device.folder)} && if {ours}; then : >{MARKER}; else ls -A; fi"
    if others := device.run(script).decode("utf-8", "replace").split("\n")[0]:
        told = f"{device.folder} on {device.host} contains {others}, which is not of Retort, so nothing is sent"
        raise UserError(told, "choose an empty folder with --folder")


def push(device: Device, bundle: Path, console: Console) -> int:
    """Send a bundle; the number of files that were sent.

    Raises:
        UserError: the folder on the device contains files of others.
        LinkLost: the connection was cut; what has arrived stays.
        MachineError: another bundle is measured in the folder.
    """
    claim(device)
    described = json.loads((bundle / DESCRIPTION).read_bytes())
    files = {**described["files"], DESCRIPTION: sha256_file(bundle / DESCRIPTION)}
    there = device.present([DESCRIPTION]).get(DESCRIPTION, (0, ""))[1]
    if there != files[DESCRIPTION] and status(device)["state"] == "running":
        told = f"{device.host} measures another bundle in {device.folder} now"
        raise MachineError(told, "wait until it has ended, or choose another folder with --folder")
    total = sum((bundle / name).stat().st_size for name in files)
    with console.progress(f"send to {device.host}", total) as bar:
        return device.push(bundle, files, bar.advance)


def start(device: Device, known: Callable[[Mapping[str, Any]], Sequence[str]] = lambda facts: ()) -> None:
    """Start the run on the device, apart from this connection; one that runs already goes on.

    Args:
        known: how the names of parts begin that need not be measured on a device with these facts.

    Raises:
        MachineError: it cannot begin; the message is that of the device.
    """
    if status(device)["state"] == "running":
        return
    here, program = shlex.quote(device.folder), f"{device.interpreter} -m {PROGRAM}"
    told = device.run(f"cd {here} && {program} --check", timeout_s=600).decode("utf-8", "replace").strip()
    try:
        without = known(json.loads(told.rpartition("\n")[2]))
    except ValueError as error:
        raise MachineError(f"{device.host} answered {told[-80:]!r}", "a login script may print something") from error
    program += shlex.join(["", "--without", *without]) if without else ""
    # the log is there before this command ends, so that an end that is asked for at once knows of the run
    fresh = f"cd {here} && mkdir -p out && rm -f out/status.json out/{RESULT} && : >out/run.log"
    device.run(f"{fresh} && (nohup setsid {program} >out/run.log 2>&1 </dev/null &)")


def status(device: Device) -> dict[str, Any]:
    """How far a run is: ``state``, ``done``, ``of``, ``part`` and ``why``; the state is ``absent`` before it began.

    A run whose process has vanished is ``vanished``.
    """
    found: dict[str, Any] = device.ask("run_state", timeout_s=60)
    return found


def wait(device: Device, console: Console, poll_s: float = POLL_S) -> dict[str, Any]:
    """Wait until a run has ended, and show how far it is; a link that is lost meanwhile is tried again for minutes.

    Args:
        poll_s: seconds between two looks.

    Raises:
        LinkLost: the device did not come back.
        MachineError: its process vanished, as after a restart of the device.
    """
    shown, lost, absent = 0, 0.0, 0
    with console.progress(f"measure on {device.host}", 1) as bar:
        while True:
            try:
                found = status(device)
                lost = 0.0
            except LinkLost:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > LOST_S:
                    raise
                bar.advance(0, note="the device does not answer; it is tried again")
                time.sleep(poll_s)
                continue
            absent = absent + 1 if found["state"] in ("absent", "vanished") else 0
            if absent > 5:
                log = device.run(f"tail -n 3 {shlex.quote(device.folder)}/out/run.log || true").decode(
                    "utf-8", "replace"
                )
                told = log.strip().splitlines()[-1:] or ["it says nothing"]
                raise MachineError(f"the run on {device.host} has vanished: {told[0]}", "the same command goes on")
            if "of" in found:
                bar.resize(int(found["of"]))
                bar.advance(int(found["done"]) - shown, note=str(found.get("part", "")))
                shown = int(found["done"])
            if found["state"] not in ("running", "absent", "vanished"):
                return found
            time.sleep(poll_s)


def stop(device: Device) -> bool:
    """End a run, and wait until it has ended; whether there was one."""
    found = status(device)
    out = f"{shlex.quote(device.folder)}/out"
    started = f"test -e {out}/run.log && echo yes || true"
    for _ in range(STARTING):  # it was begun, and cannot say yet that it is ended: a signal would only kill it
        if found["state"] == "absent":
            begins = device.run(started).strip() == b"yes"
        else:
            begins = found["state"] == "running" and found.get("part") == CHECKING
        if not begins:
            break
        time.sleep(POLL_S / 4)
        found = status(device)
    if found["state"] != "running":
        return False
    device.run(f"kill -TERM {int(found['pid'])}")
    begun = time.monotonic()
    while status(device)["state"] == "running" and time.monotonic() - begun < END_S:
        time.sleep(POLL_S / 4)
    return True


def pull(device: Device, out: Path, console: Console) -> Path:
    """Bring the results back.

    Raises:
        MachineError: there are none yet, or a file arrived damaged.
        LinkLost: the connection was cut; what has arrived stays.
    """
    try:
        described = device.run(f"cat {shlex.quote(device.folder)}/out/{RESULT}")
        files = json.loads(described)["files"]
    except LinkLost:
        raise
    except (MachineError, ValueError, LookupError) as error:
        raise MachineError(f"{device.host} has no results in {device.folder}/out", "wait for the run to end") from error
    with console.progress(f"bring back from {device.host}", 1) as bar:
        received = 0

        def told(size: int) -> None:
            nonlocal received
            received += size
            bar.resize(max(1, received))
            bar.advance(size)

        device.pull(out, files, told)
    (out / RESULT).write_bytes(described)
    console.say(f"            {counted(len(files), 'file')} of {device.host} in {out}")
    return out


def clean(device: Device) -> None:
    """Delete the bundle and its results on the device, and the folder if nothing else is in it.

    Raises:
        UserError: it is no folder of ours.
        MachineError: a run is measuring in it.
    """
    here = shlex.quote(device.folder)
    if device.run(f"test -f {here}/{MARKER} && echo ours || true").strip() != b"ours":
        raise UserError(f"{device.folder} on {device.host} is no folder of ours, so it stays", "delete it by hand")
    try:
        measures = status(device)["state"] == "running"
    except LinkLost:
        raise
    except MachineError:  # without its Python nothing can run there
        measures = False
    if measures:
        raise MachineError(f"{device.host} measures in {device.folder} now", "end it with `retort edge stop`")
    device.run(f"cd {here} && rm -rf {' '.join(OURS)} && cd .. && (rmdir {here} 2>/dev/null || true)")
    leave(device)


def abandon(device: Device, keep: bool = False) -> str:
    """End what was begun on a device and delete it; a clause that says what is left there.

    Args:
        keep: only end it.
    """
    try:
        ran = stop(device)
        if keep:
            return f"the run on {device.host} is ended, and what is finished there is kept"
        if device.run(f"test -f {device.here}/{MARKER} && echo ours || true").strip() == b"ours":
            clean(device)
        else:
            leave(device)
    except (MachineError, UserError) as error:
        return f"{device.host} could not be cleaned up ({error.message}), and {device.folder} there stays"
    ended = f"the run on {device.host} is ended, and " if ran else ""
    return f"{ended}nothing is left on {device.host}"


def leave(device: Device) -> None:
    """Delete the folder on the device, and the one of all bundles, if nothing is in them."""
    parent, _, _ = device.folder.rpartition("/")
    above = f" && rmdir {shlex.quote(parent)} 2>/dev/null" if parent.endswith(f"/{HOME}") else ""
    device.run(f"(rmdir {device.here} 2>/dev/null; true{above}) || true")
