"""The targets whose files ONNX Runtime runs on a CPU, and on which machine they can be timed."""

from __future__ import annotations

import platform

from .options.stage_options import Target

CPU_TARGETS: tuple[Target, ...] = ("cpu", "arm")
"""``cpu`` stands for x86 processors, ``arm`` for 64-bit Arm processors."""
ARM_MACHINES = ("aarch64", "arm64")
NOT_TIMED = "not timed: this machine has no Arm processor; measure on the device with `retort edge run`"


def is_for_cpu(target: Target) -> bool:
    """Whether the files of a target run in ONNX Runtime on a CPU."""
    return target in CPU_TARGETS


def has_arm_processor() -> bool:
    """Whether this machine has a 64-bit Arm processor."""
    return platform.machine().lower() in ARM_MACHINES


def can_be_timed(target: Target) -> bool:
    """Whether times of this machine's CPU may decide about a target: those of x86 say nothing about Arm."""
    return target == "cpu" or (target == "arm" and has_arm_processor())


def why_not_timed(target: Target) -> str:
    """Why INT8 files of a CPU target are not timed on this machine; empty if they are, and for other targets."""
    return NOT_TIMED if is_for_cpu(target) and not can_be_timed(target) else ""
