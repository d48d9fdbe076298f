"""The targets whose files ONNX Runtime runs on a CPU, and on which machine they can be timed."""

from __future__ import annotations

import platform

from .options.stage_options import Target

CPU_TARGETS: tuple[Target, ...] = ("cpu", "arm")
"""``cpu`` stands for x86 processors, ``arm`` for 64-bit Arm processors."""
ARM_MACHINES = ("aarch64", "arm64")
NOT_TIMED = "not timed: this machine has no Arm processor; name the device with `timer`, or use `retort edge run`"


def is_for_cpu(target: Target) -> bool:
    """Whether the files of a target run in ONNX Runtime on a CPU."""
    return target in CPU_TARGETS


def has_arm_processor() -> bool:
    """Whether this machine has a 64-bit Arm processor."""
    return platform.machine().lower() in ARM_MACHINES


def can_be_timed(target: Target, timer: str | None = None) -> bool:
    """Whether times may decide about a target: those of a device, or of this CPU, but those of x86 not about Arm.

    Args:
        timer: the device that is named; None for this machine.
    """
    if timer is not None:
        return is_for_cpu(target)
    return target == "cpu" or (target == "arm" and has_arm_processor())


def why_not_timed(target: Target, timer: str | None = None) -> str:
    """Why INT8 files of a CPU target are not timed; empty if they are, and for other targets."""
    return NOT_TIMED if is_for_cpu(target) and not can_be_timed(target, timer) else ""
