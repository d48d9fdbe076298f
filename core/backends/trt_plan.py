"""Plans on disk: whether one may run here is decided from its manifest, before TensorRT sees a byte of it.

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
from ..tensors import Signature
from .cuda import Device
from .trt_versions import Flavor, same_line

MANIFEST = "manifest.json"
SIGNATURE_FILE = "signature.json"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A plan whose bytes are those of its manifest.

    Attributes:
        content: the bytes that were hashed, and that are handed to TensorRT.
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
        """Whether later versions may run it; it then carries code that runs on this machine."""
        return bool(self.built["version_compatible"])

    @property
    def profiles(self) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
        """Per profile and input the smallest, usual and largest shape."""
        return [{name: _shapes(text) for name, text in profile.items()} for profile in self.built["profiles"]]

    def nearest_profile(self, shapes: dict[str, Shape]) -> int | None:
        """The profile that holds the shapes and whose usual shapes are nearest; None when none holds them."""
        distances = {}
        for index, profile in enumerate(self.profiles):
            pairs = [(profile[name], shape) for name, shape in shapes.items() if name in profile]
            if all(_holds(bounds, shape) for bounds, shape in pairs):
                distances[index] = sum(_distance(bounds[1], shape) for bounds, shape in pairs)
        return min(distances, key=lambda index: distances[index]) if distances else None

    def served(self) -> str:
        """What the profiles allow, for error messages."""
        listed = (", ".join(f"{name} {text}" for name, text in profile.items()) for profile in self.built["profiles"])
        shown = " or ".join(listed) or "fixed shapes"
        return f"the engine serves {shown} (smallest:usual:largest); build it with a wider range"

    def refusal(self, message: str) -> ArtifactError:
        """The error that says why this plan does not run, and how to make one that does."""
        return ArtifactError(f"{self.path.name} {message}", f"build it here: {self.built['rebuild']}")


def read_plan(path: Path) -> Plan:
    """Read a plan and compare it with its manifest.

    Raises:
        ArtifactError: it has no manifest, or is not the file that the manifest describes.
    """
    manifest = path.parent / MANIFEST
    again = "build it here with `retort engine MODEL.onnx`, and keep the files of its folder together"
    if not manifest.is_file():
        raise ArtifactError(f"{path.name} has no {MANIFEST}: a plan runs only where it was built for", again)
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
    """Refuse a plan that was built for another TensorRT or another GPU.

    Raises:
        ArtifactError: naming both sides, with the command that builds it again.
    """
    version, built_for = str(plan.built["version"]), plan.built["device"]
    if not same_line(version, flavor.version) and not _later(plan, flavor):
        raise plan.refusal(f"was built by {plan.runtime} {version}; here is {flavor.version}")
    hardware = plan.built.get("hardware", "this")
    own, here = str(built_for["compute_capability"]), device.compute_capability
    if not own:  # built ahead of time, for every GPU that RTX knows
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
