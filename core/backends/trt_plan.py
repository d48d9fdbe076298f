"""Plans on disk. Their manifest decides whether they can run here, before TensorRT reads them.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..signature import Signature
from ..tensors import BATCH
from .cuda import Device
from .trt_versions import Flavor, same_line

MANIFEST = "manifest.json"
SIGNATURE_FILE = "signature.json"
Shape = tuple[int, ...]
NEEDED = {"BF16": 8.0, "FP8": 8.9, "FP4": 10.0}
"""The first compute capability with products of a type; TensorRT would reject the plan, or compute in another type."""


@dataclass(frozen=True)
class Plan:
    """A plan whose bytes agree with its manifest.

    Attributes:
        content: the bytes that were hashed and that TensorRT reads.
        built: the manifest's ``engine`` facts.
        types: the types in which its layers compute, such as ``FP16``; empty if they are not known.
    """

    path: Path
    content: bytes
    signature: Signature
    built: dict[str, Any]
    types: frozenset[str] = frozenset()

    @property
    def runtime(self) -> str:
        """The package that built it."""
        return str(self.built["runtime"])

    @property
    def requirement(self) -> str:
        """The package that runs it, as pip reads it, such as ``tensorrt==10.13.3.*``."""
        numbers = ".".join(str(self.built["version"]).split(".")[:3])
        name = self.runtime.replace("_", "-")
        return f"{name}>={numbers}" if self.version_compatible else f"{name}=={numbers}.*"

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

    @property
    def batches(self) -> list[tuple[int, int, int]]:
        """The smallest, usual and largest batch of each profile; empty if the batch axis is not free."""
        axes = {spec.name: spec.shape.index(BATCH) for spec in self.signature.inputs if BATCH in spec.shape}
        found = []
        for profile in self.profiles:
            bounds = next((profile[name] for name in axes if name in profile), None)
            if bounds is not None:
                axis = next(axes[name] for name in axes if name in profile)
                found.append((bounds[0][axis], bounds[1][axis], bounds[2][axis]))
        return found

    @property
    def largest_batch(self) -> int | None:
        """The largest batch up to which every size from 1 on is in a profile; None if the batch axis is not free.

        It is 0 if a single sample is in no profile.
        """
        found, largest = self.batches, 0
        while more := [high for low, _, high in found if low <= largest + 1 <= high]:
            largest = max(more)
        return largest if found else None

    def signed(self, signature: Signature) -> Plan:
        """The plan with what another signature says besides inputs and outputs, such as names of classes.

        Raises:
            ArtifactError: its inputs or outputs are others.
        """
        own, given = (_ports(one) for one in (self.signature, signature))
        if own != given:
            raise self.refusal(f"has {own}; the signature beside the settings says {given}")
        return replace(self, signature=signature)

    def served(self) -> str:
        """The allowed shapes of all profiles, for error messages."""
        listed = (", ".join(f"{name} {text}" for name, text in profile.items()) for profile in self.built["profiles"])
        shown = " or ".join(listed) or "fixed shapes"
        return f"the engine accepts {shown} (smallest:usual:largest); build it with a wider range"

    def refusal(self, message: str) -> ArtifactError:
        """The error that states why this plan cannot run, and how to build one that can."""
        return ArtifactError(f"{self.path.name} {message}", f"build it here: {self.built['rebuild']}")


def read_plan(path: Path, read: Callable[[str], bytes] | None = None) -> Plan:
    """Read a plan and compare it with its manifest.

    Args:
        read: reads a file of the plan's folder by its name, where the files must be compared with checksums.

    Raises:
        ArtifactError: the plan has no manifest, or differs from it; its profiles contradict its signature.
    """
    manifest = path.parent / MANIFEST
    again = "build it here with `retort engine MODEL.onnx`, and keep the files of its folder together"
    if read is None and not manifest.is_file():
        raise ArtifactError(
            f"{path.name} has no {MANIFEST}: a plan runs only on the GPU and TensorRT that it was built for", again
        )
    take = read or (lambda name: (path.parent / name).read_bytes())
    content = take(path.name)
    try:
        raw = json.loads(take(MANIFEST))
        built, entry = dict(raw["facts"]["engine"]), raw["files"][path.name]
        types = frozenset(str(layer).rpartition(" ")[2] for layer in raw["facts"].get("layers", ()))
        plan = Plan(path, content, Signature.from_json(take(SIGNATURE_FILE)), built, types)
        _ = plan.runtime, plan.version_compatible, plan.profiles, built["rebuild"], built["version"], built["device"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ArtifactError(f"{manifest} is not the manifest of an engine: {error!r}", again) from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise plan.refusal("was altered or truncated since it was built")
    _require_profiles(plan)
    return plan


def _require_profiles(plan: Plan) -> None:
    """Reject a plan whose profiles are for other inputs than its signature has."""
    shapes = {spec.name: spec.shape for spec in plan.signature.inputs}
    for number, profile in enumerate(plan.profiles):
        for name, bounds in profile.items():
            axes = shapes.get(name)
            # a profile of a tensor whose values are a shape has one number per value, and not per axis
            if name in plan.built.get("shape_inputs", ()) and axes is not None:
                continue
            if axes is None or any(len(one) != len(axes) for one in bounds) or not _ascends(axes, bounds):
                told = "no such input" if axes is None else f"shape {list(axes)}"
                shown = plan.built["profiles"][number][name]
                raise plan.refusal(f"has a profile {shown} for '{name}', but its signature has {told}")


def _ascends(axes: tuple[int | str, ...], bounds: tuple[Shape, Shape, Shape]) -> bool:
    return all(
        low <= usual <= high and (isinstance(axis, str) or low == high == axis)
        for axis, low, usual, high in zip(axes, *bounds, strict=True)
    )


def _ports(signature: Signature) -> str:
    return ", ".join(spec.describe() for spec in (*signature.inputs, *signature.outputs))


def require_home(plan: Plan, flavor: Flavor, device: Device) -> None:
    """Reject a plan that was built for another TensorRT or another GPU.

    Raises:
        ArtifactError: the plan does not fit; the message names both sides and the command that builds it again.
    """
    if told := misfit(plan, flavor, device):
        raise plan.refusal(told)


def misfit(plan: Plan, flavor: Flavor, device: Device, where: str = "here") -> str:
    """Why a plan does not run in a TensorRT on a GPU; empty if it does.

    Args:
        where: the machine in words.
    """
    version, built_for = str(plan.built["version"]), plan.built["device"]
    if not same_line(version, flavor.version) and not _later(plan, flavor):
        return f"was built by {plan.runtime} {version}; {where} is {flavor.version}"
    hardware = plan.built.get("hardware", "this")
    own, found = str(built_for["compute_capability"]), device.compute_capability
    for kind in sorted(plan.types.intersection(NEEDED)):
        if float(found) < NEEDED[kind]:
            return f"computes in {kind}, which needs compute capability {NEEDED[kind]}; {device.name} has {found}"
    if not own:  # built in advance, for every GPU that RTX supports
        return ""
    if hardware == "ampere+" and float(found) >= 8.0:
        return ""
    if own != found:
        return f"was built for compute capability {own}; {device.name} has {found}"
    if hardware == "this" and built_for["name"] != device.name:
        return f"was built for {built_for['name']}; {where} is {device.name}"
    return ""


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
