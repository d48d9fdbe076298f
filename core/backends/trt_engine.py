"""A checked plan becomes an engine: the step in which TensorRT reads it, and what is compared afterwards.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .trt_plan import Plan
from .trt_reports import error_recorder, last, logger
from .trt_versions import Flavor, call_if_there


@dataclass(frozen=True)
class Loaded:
    """An engine that TensorRT read, and the objects that must live as long.

    Attributes:
        errors: the recorder of its errors; see :func:`retort.core.backends.trt_reports.error_recorder`.
    """

    runtime: Any
    engine: Any
    errors: Any


def deserialize(plan: Plan, flavor: Flavor) -> Loaded:
    """Let TensorRT read a plan that was checked, and compare what it found with the manifest and the signature.

    Raises:
        ArtifactError: TensorRT cannot read it, or it has other tensors or another number of profiles.
    """
    runtime = flavor.module.Runtime(logger(flavor.module))
    runtime.error_recorder = errors = error_recorder(flavor.module)
    if plan.version_compatible:
        runtime.engine_host_code_allowed = True  # the manifest describes exactly these bytes
    validity = call_if_there(runtime, "get_engine_validity", plan.content)
    if validity is not None and getattr(validity[0], "name", "") == "INVALID":
        raise plan.refusal(f"is not valid on this GPU (diagnostics {validity[1]})")
    engine = runtime.deserialize_cuda_engine(plan.content)
    if engine is None:
        raise plan.refusal(f"cannot be loaded: {last()}")
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    known = {spec.name for spec in (*plan.signature.inputs, *plan.signature.outputs)}
    if names != known:
        raise plan.refusal(f"has tensors that differ from its signature: {', '.join(sorted(names ^ known))}")
    told = sum(bool(profile) for profile in plan.profiles)  # a network of fixed shapes has none of its own
    if told and engine.num_optimization_profiles != told:
        raise plan.refusal(f"has {engine.num_optimization_profiles} profiles; its manifest says {told}")
    errors.clear()  # what deserialising reported and survived is told by the checks above
    return Loaded(runtime, engine, errors)
