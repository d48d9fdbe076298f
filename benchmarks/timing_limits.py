"""What limits the meaning of times that are measured on this machine: too many threads, and files made for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.artifact import load_artifact
from ..core.counts import counted, listed
from ..core.cpu_targets import has_arm_processor
from ..core.errors import RetortError
from ..core.facts.any_facts import AnyFacts
from ..core.system.owned_folders import MANIFEST
from .machine import usable_cores


def time_limits(files: Mapping[str, Path], threads: Sequence[int]) -> list[str]:
    """Sentences for people about times of these files here; none if nothing limits them.

    Args:
        files: by the name of the model.
        threads: numbers of threads with which they run.
    """
    return [*thread_limits(threads), *target_limits(files)]


def thread_limits(threads: Sequence[int]) -> list[str]:
    """The sentence about more threads than processors, which wait for each other."""
    cores, most = usable_cores(), max(threads, default=0)
    if most <= cores:
        return []
    return [
        f"{counted(most, 'thread')} ran on {cores:g} usable {'processor' if cores == 1 else 'processors'}, as asked: "
        "they wait for each other, so these are not the times of a machine with as many processors"
    ]


def target_limits(files: Mapping[str, Path]) -> list[str]:
    """The sentence about files that were made for the target arm, on a machine with another processor."""
    made = [name for name, path in files.items() if target_of(path) == "arm"]
    if not made or has_arm_processor():
        return []
    verb = "was" if len(made) == 1 else "were"
    return [
        f"{listed([repr(name) for name in made])} {verb} made for the target arm: times on this processor say nothing "
        "about Arm (time it there with `retort edge run`, or with `--timer edge:HOST`)"
    ]


def target_of(path: Path) -> str | None:
    """The target that a file was made for, as the artifact in its folder says; None for a file without one."""
    folder = path.resolve().parent
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return load_artifact(folder, verify=False).facts_as(AnyFacts).target
    except RetortError:  # a folder of something else
        return None
