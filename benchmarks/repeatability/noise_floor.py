"""The noise floor of a machine: the largest difference between a file and itself, kept in the cache folder.

It holds for one machine, one runtime with its version, and one number of threads. Of ``n`` comparisons of a file with
itself, another one exceeds the largest difference with a probability of 1 / (n + 1), whatever the distribution. That
is a difference of comparisons of a certain length: of longer ones, in which the sessions are opened more often, the
largest difference falls with the root of the length (docs/benchmarks/ab_simulation.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, stable_hash
from ...core.counts import counted
from ...core.options.stage_options import BenchOptions
from ...core.system.atomic_files import storage_errors, write_atomically
from ...core.system.cache import cache_folder
from ..machine import fingerprint, identity, runtime_version
from ..sessions import runtime_name
from ..timing.candidates import Floor

SCHEMA = "retort.noise/2"


@dataclass(frozen=True)
class NoiseFloor:
    """What comparisons of one file with itself found.

    Attributes:
        ratios: one per valid comparison.
        alarms: number of them that called the file faster or slower than itself.
        noisy: number of comparisons that were NOISY; they are not in ``ratios``.
        machine: identity of the machine, see :func:`retort.benchmarks.machine.identity`.
        runtime: with its version, such as ``ONNX Runtime on the CPU 1.31.1``.
        model: name of the file.
        batch: rows per call.
        budget_s: seconds of one comparison.
        clock: the deciding clock.
        pressure_percent: share of the time in which processes waited for a CPU, median; None if it is not counted.
        measured: date and time in UTC.
        seconds: length of a comparison, median.
        openings: how often the sessions were opened in a comparison, median.
    """

    ratios: tuple[float, ...]
    alarms: int
    noisy: int
    machine: Mapping[str, Any]
    runtime: str
    threads: int
    model: str
    batch: int
    budget_s: float
    clock: str
    pressure_percent: float | None
    measured: str
    seconds: float
    openings: int

    @property
    def floor(self) -> float:
        """The largest difference, such as 0.012 for 1.2 %."""
        return max(math.exp(abs(math.log(ratio))) - 1 for ratio in self.ratios)

    def at(self, seconds: float) -> float:
        """The largest difference in comparisons of this length; it does not fall if sessions were opened only once."""
        return at_length(self.floor, self.seconds, self.openings, seconds)

    @property
    def text(self) -> str:
        """One sentence with the floor and where it comes from."""
        times = counted(self.ratios, "comparison")
        return (
            f"on this machine a file differs from itself by up to {self.floor:.2%} ({times} of {self.seconds:.1f} s of "
            f"{self.model} at batch {self.batch}, measured on {self.measured[:10]})"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields and the floor, as JSON-ready values."""
        return {"schema": SCHEMA, "noise_floor": self.floor, **asdict(self), "ratios": list(self.ratios)}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> NoiseFloor:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError: a field is missing.
        """
        known = {field.name: raw[field.name] for field in fields(NoiseFloor)}
        return NoiseFloor(**{**known, "ratios": tuple(float(ratio) for ratio in raw["ratios"])})


def at_length(floor: float, seconds: float, openings: int, wanted_s: float) -> float:
    """A floor of comparisons of some seconds for comparisons of another length; of shorter ones it is as large.

    Args:
        openings: how often the sessions were opened in a comparison; the floor does not fall with one.
    """
    return floor if openings < 2 or wanted_s <= seconds else floor * math.sqrt(seconds / wanted_s)


def largest(floors: Sequence[NoiseFloor]) -> Floor:
    """The largest of several floors, as a function of the length of a comparison in seconds; 0 without floors."""
    return lambda seconds: max((one.at(seconds) for one in floors), default=0.0)


def key_of(machine: Mapping[str, Any], runtime: str, threads: int) -> str:
    """Name of the place of a floor in the cache folder, without its suffix."""
    return stable_hash([machine, runtime, threads])[:16]


def runtime_of(model: Path, provider: str, machine: Mapping[str, Any]) -> str:
    """What runs a file, with its version."""
    name = runtime_name(model, provider)
    return f"{name} {runtime_version(machine, name)}".strip()


def store(found: NoiseFloor) -> Path:
    """Write a floor into the cache folder in place of an older one; return its path.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = cache_folder("noise") / f"{key_of(found.machine, found.runtime, found.threads)}.json"
    with storage_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(found.to_dict(), indent=1) + "\n").encode())
    return path


def stored(machine: Mapping[str, Any], runtime: str, threads: int) -> NoiseFloor | None:
    """The floor of a machine, a runtime and a number of threads; None if it was not measured, or cannot be read.

    Args:
        machine: its identity.
        runtime: with its version.
    """
    path = cache_folder("noise") / f"{key_of(machine, runtime, threads)}.json"
    try:
        raw = json.loads(path.read_bytes())
        found = NoiseFloor.from_dict(raw)
        return found if raw.get("schema") == SCHEMA and found.ratios and min(found.ratios) > 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def known_floor(machine: Mapping[str, Any], runtimes: Iterable[str], threads: Iterable[int]) -> float:
    """The largest stored floor of these runtimes and numbers of threads, on the machine of a result; 0 without one.

    Args:
        machine: the fingerprint in the result.
        runtimes: such as ``ONNX Runtime on the CPU``, without their versions.
    """
    versioned = [f"{name} {runtime_version(machine, name)}".strip() for name in runtimes]
    found = (stored(identity(machine), runtime, count) for runtime in versioned for count in threads)
    return max((one.floor for one in found if one is not None), default=0.0)


def floors_of(models: Iterable[Artifact], options: BenchOptions) -> list[NoiseFloor]:
    """The stored floors of the runtimes that will run these models on this machine, the largest first."""
    facts = fingerprint()
    runtimes = {runtime_of(model.main, options.provider, facts) for model in models}
    found = (stored(identity(facts), runtime, options.threads) for runtime in sorted(runtimes))
    return sorted((one for one in found if one is not None), key=lambda one: -one.floor)
