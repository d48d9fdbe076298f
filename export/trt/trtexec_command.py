"""The trtexec commands that build and measure the same engine, for TensorRT 10.x and 11.x (tensorrt.md 1.11)."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...core.options.stage_options import EngineOptions
from .optimization_profiles import Profile, Range

LINES = ("10.x", "11.x")
HARDWARE = {"this": "none", "ampere+": "ampere+", "same-capability": "sameComputeCapability"}
_ONLY_10 = ("--stronglyTyped",)
_LIKE_11 = ("--useCudaGraph", "--useSpinWait", "--noDataTransfers")
"""Options of 10.x for what 11.x does by default; without them, times of the two are not comparable."""


def commands(model: Path, profiles: tuple[Profile, ...], options: EngineOptions) -> dict[str, tuple[str, str]]:
    """For each release line of TensorRT: the command that builds the plan, and the one that times it.

    Args:
        profiles: as :func:`retort.export.trt.optimization_profiles.plan_profiles` gives them.
    """
    plan = model.with_suffix(".plan").name
    return {line: (_build(model, plan, profiles, options, line), _measure(plan, profiles, line)) for line in LINES}


def _build(model: Path, plan: str, profiles: tuple[Profile, ...], options: EngineOptions, line: str) -> str:
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={plan}", "--skipInference"]
    words += _ONLY_10 if line == "10.x" else ()
    for number, profile in enumerate(profiles):
        if not profile:
            continue
        words += [f"--profile={number}"] if len(profiles) > 1 else []
        words += [f"--{name}Shapes={_shapes(profile, name)}" for name in ("min", "opt", "max")]
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}M")
    words.append(f"--builderOptimizationLevel={options.level}")
    if options.timing_cache not in (None, "off"):
        words.append(f"--timingCacheFile={Path(str(options.timing_cache)) / 'trtexec.timing'}")
    words += [] if options.tf32 else ["--noTF32"]
    words += ["--versionCompatible"] if options.version_compatible else []
    if options.hardware != "this":
        words.append(f"--hardwareCompatibilityLevel={HARDWARE[options.hardware]}")
    words += ["--profilingVerbosity=detailed", "--exportLayerInfo=layers.json"]
    return shlex.join(words)


def _measure(plan: str, profiles: tuple[Profile, ...], line: str) -> str:
    words = ["trtexec", f"--loadEngine={plan}"]
    words += [f"--shapes={_shapes(profiles[0], 'opt')}"] if profiles[0] else []
    words += ["--warmUp=200", "--duration=10", "--iterations=100", "--avgRuns=10", "--percentile=50,90,95,99"]
    words += _LIKE_11 if line == "10.x" else ()
    return shlex.join([*words, "--exportTimes=times.json"])


def _shapes(profile: Profile, which: str) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, _one(found, which)))}" for name, found in profile.items())


def _one(found: Range, which: str) -> tuple[int, ...]:
    return {"min": found.min, "opt": found.opt, "max": found.max}[which]
