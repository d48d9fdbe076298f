"""Plans on disk. Their manifest decides whether they can run here, before TensorRT reads them.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..signature import Signature
from .cuda import Device
from .trt_versions import Flavor, same_line

MANIFEST = "manifest.json"
SIGNATURE_FILE = "signature.json"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A plan whose bytes agree with its manifest.

    Attributes:
        content: the bytes that were hashed and that TensorRT reads.
        built: the manifest's ``engine`` facts.
    """

    path: Path
    content: bytes
    signature: Signature
    built: dict[str, Any]

    @property
    def runtime(self) -> str:
        """The package that built it."""
        return str(self.built["runtime"])

    @property
    def version_compatible(self) -> bool:
        """Whether later versions may run it; such a plan contains code that runs on this machine."""
        return bool(self.built["version_compatible"])

    @property
    def profiles(self) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
        """The smallest, usual and largest shape of each input in each profile."""
        return [{name: _shapes(text) for name, text in profile.items()} for profile in self.built["profiles"]]

    def nearest_profile(self, shapes: dict[str, Shape]) -> int | None:
        """The profile that allows the shapes and whose usual shapes are closest; None if no profile allows them."""
        distances = {}
        for index, profile in enumerate(self.profiles):
            pairs = [(profile[name], shape) for name, shape in shapes.items() if name in profile]
            if all(_holds(bounds, shape) for bounds, shape in pairs):
                distances[index] = sum(_distance(bounds[1], shape) for bounds, shape in pairs)
        return min(distances, key=lambda index: distances[index]) if distances else None

    def served(self) -> str:
        """The allowed shapes of all profiles, for error messages."""
        listed = (", ".join(f"{name} {text}" for name, text in profile.items()) for profile in self.built["profiles"])
        shown = " or ".join(listed) or "fixed shapes"
        return f"the engine accepts {shown} (smallest:usual:largest); build it with a wider range"

    def refusal(self, message: str) -> ArtifactError:
        """The error that states why this plan cannot run, and how to build one that can."""
        return ArtifactError(f"{self.path.name} {message}", f"build it here: {self.built['rebuild']}")


def read_plan(path: Path) -> Plan:
    """Read a plan and compare it with its manifest.

    Raises:
        ArtifactError: the plan has no manifest, or differs from it.
    """
    manifest = path.parent / MANIFEST
    again = "build it here with `retort engine MODEL.onnx`, and keep the files of its folder together"
    if not manifest.is_file():
        raise ArtifactError(
            f"{path.name} has no {MANIFEST}: a plan runs only on the GPU and TensorRT that it was built for", again
        )
    content = path.read_bytes()
    try:
        raw = json.loads(manifest.read_text())
        built, entry = dict(raw["facts"]["engine"]), raw["files"][path.name]
        signature = Signature.from_json((path.parent / SIGNATURE_FILE).read_bytes())
        plan = Plan(path, content, signature, built)
        _ = plan.runtime, plan.version_compatible, plan.profiles, built["rebuild"], built["version"], built["device"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ArtifactError(f"{manifest} is not the manifest of an engine: {error!r}", again) from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise plan.refusal("was altered or truncated since it was built")
    return plan


def require_home(plan: Plan, flavor: Flavor, device: Device) -> None:
    """Reject a plan that was built for another TensorRT or another GPU.

    Raises:
        ArtifactError: the plan does not fit; the message names both sides and the command that builds it again.
    """
    version, built_for = str(plan.built["version"]), plan.built["device"]
    if not same_line(version, flavor.version) and not _later(plan, flavor):
        raise plan.refusal(f"was built by {plan.runtime} {version}; here is {flavor.version}")
    hardware = plan.built.get("hardware", "this")
    own, here = str(built_for["compute_capability"]), device.compute_capability
    if not own:  # built in advance, for every GPU that RTX supports
        return
    if hardware == "ampere+" and float(here) >= 8.0:
        return
    if own != here:
        raise plan.refusal(f"was built for compute capability {own}; {device.name} has {here}")
    if hardware == "this" and built_for["name"] != device.name:
        raise plan.refusal(f"was built for {built_for['name']}; here is {device.name}")


def _later(plan: Plan, flavor: Flavor) -> bool:
    if not plan.version_compatible:
        return False
    one, two = (tuple(int(part) for part in text.split(".")[:3]) for text in (plan.built["version"], flavor.version))
    return one[0] >= 10 and two >= one


def _holds(bounds: tuple[Shape, Shape, Shape], shape: Shape) -> bool:
    low, _, high = bounds
    return len(low) == len(shape) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _distance(usual: Shape, shape: Shape) -> float:
    return sum(abs(log(size / best)) for best, size in zip(usual, shape, strict=True))


def _shapes(text: str) -> tuple[Shape, Shape, Shape]:
    low, usual, high = (tuple(int(size) for size in part.split("x")) for part in text.split(":"))
    return low, usual, high
