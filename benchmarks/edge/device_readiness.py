"""Whether a device can measure, asked before anything is sent: Python, packages, wheels, GPU, disk and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import MachineError
from .device_run import leave
from .device_runtimes import misfits_of_plan
from .device_wheels import NO_WHEELS, PACKAGES, misfits
from .questions.readiness import TENSORRT
from .ssh import Device, LinkLost

SPARE_BYTES = 256 << 20
"""Free space that the results may need beside the bundle."""


@dataclass(frozen=True)
class Readiness:
    """What a device answered before anything was sent to it.

    Attributes:
        answers: versions, machine, free memory and disk.
        faults: why a run cannot begin, each with its remedy.
    """

    answers: Mapping[str, Any]
    faults: tuple[str, ...] = ()


def look(
    device: Device,
    bundle_bytes: int = 0,
    needed_bytes: int = 0,
    wheels: Mapping[str, Any] | None = None,
    packages: Sequence[str] = PACKAGES,
    plans: Sequence[Mapping[str, Any]] = (),
) -> Readiness:
    """Ask a device whether it can measure; nothing is written but its folder.

    Args:
        bundle_bytes: size of what is to be sent.
        needed_bytes: memory that the models need.
        wheels: the entry of the bundle's wheels; None without.
        packages: what the bundle needs there.
        plans: the candidates that TensorRT runs.

    Raises:
        LinkLost: it cannot be reached.
        MachineError: it has no Python.
    """
    try:
        answers: Mapping[str, Any] = device.ask("readiness", timeout_s=60)
    except LinkLost:
        raise
    except MachineError as error:
        if device.made:
            leave(device)
        remedy = "install Python 3.9 or newer there, or name it with --python"
        raise MachineError(f"{device.host} has no working {device.python}: {error.message}", remedy) from error
    size = bundle_bytes + (int(wheels["bytes"]) if wheels else 0)
    own = [name for name in packages if name in TENSORRT]
    faults = [] if wheels else _missing(answers, [name for name in packages if name not in own])
    faults += misfits(wheels, answers) if wheels else []
    faults += [_no_tensorrt(name, plans) for name in own if not answers.get(name)]
    faults += [told for one in plans for told in misfits_of_plan(one, answers)]
    return Readiness(answers, (*_old(answers), *faults, *_short(answers, size, needed_bytes)))


def look_alone(device: Device) -> Readiness:
    """As :func:`look`, for a device to which nothing is sent: its folder is deleted again if it was not there before.

    Raises:
        LinkLost: it cannot be reached.
        MachineError: it has no Python.
    """
    try:
        return look(device)
    finally:
        if device.made:
            leave(device)


def _old(answers: Mapping[str, Any]) -> list[str]:
    if answers["new"]:
        return []
    return [f"Python {answers['python']} is too old: install 3.9 or newer, and name it with --python"]


def _missing(answers: Mapping[str, Any], packages: Sequence[str]) -> list[str]:
    """The packages that the device does not have, with the way to get them."""
    missing = [name for name in packages if not answers[name]]
    if missing and (answers["machine"] in NO_WHEELS or answers["bits"] == "32bit"):
        return [
            f"{' and '.join(missing)} cannot be installed: there are no wheels for {answers['machine']}; "
            "a 64-bit system on the same board has them"
        ]
    install = f"{answers['executable']} -m pip install {' '.join(missing)}, or add --wheels auto, which sends them"
    verb = "is" if len(missing) == 1 else "are"
    return [f"{' and '.join(missing)} {verb} missing: {install}"] if missing else []


def _no_tensorrt(name: str, plans: Sequence[Mapping[str, Any]]) -> str:
    """TensorRT is missing; no wheel of it is sent."""
    built = next((one["plan"]["built"] for one in plans if one["module"] == name), {"version": ""})
    version = ".".join(str(built["version"]).split(".")[:3])
    return (
        f"the Python package {name} is missing: on a Jetson, sudo apt install python3-libnvinfer (a virtual "
        f"environment needs --system-site-packages); elsewhere, pip install {name.replace('_', '-')}=={version}.*"
    )


def _short(answers: Mapping[str, Any], bundle_bytes: int, needed_bytes: int) -> list[str]:
    """Disk and memory that are too small."""
    told = []
    if answers["free"] < bundle_bytes + SPARE_BYTES:
        free, wanted = answers["free"] >> 20, (bundle_bytes + SPARE_BYTES) >> 20
        told.append(f"{free} MB of the disk are free, and the bundle and its results need {wanted} MB")
    if answers["available"] is not None and answers["available"] < needed_bytes:
        free, wanted = answers["available"] >> 20, needed_bytes >> 20
        told.append(f"{free} MB of memory are free, and the models need about {wanted} MB: measure fewer at once")
    return told


def require_ready(device: Device, found: Readiness) -> None:
    """Raise what :func:`look` found.

    Raises:
        MachineError: the device cannot measure.
    """
    if found.faults:
        first, *others = found.faults
        more = "".join(f"; {one}" for one in others)
        what, _, remedy = f"{first}{more}".partition(": ")
        raise MachineError(f"{device.host} cannot measure: {what}", remedy or "free some, or measure less")
