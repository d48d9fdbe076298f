"""The installed TensorRT and its missing features. Only this module imports TensorRT (10.3 to 11.x, and RTX).

Part of the runtime half: standard library only at module level. The names were read from the modules of 10.16, 11.4
(lean) and RTX 1.7; names that only the full builder has are from NVIDIA's documentation of 8.6, 10.x and 11.x
(tensorrt.md 1.2).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Literal

from ..errors import MachineError
from .cuda import driver_fault

Runtime = Literal["tensorrt", "tensorrt_lean", "tensorrt_rtx"]
BUILDERS: tuple[Runtime, ...] = ("tensorrt", "tensorrt_rtx")
RUNNERS: tuple[Runtime, ...] = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
OLDEST = (10, 3)
INSTALL = "pip install tensorrt (with a GPU), or tensorrt-rtx (builds without one)"

NOT_EVERYWHERE: dict[str, str] = {
    # builder flags and enum members that TensorRT 11 removed
    **dict.fromkeys(("FP16", "BF16", "FP8", "INT8", "INT4", "FP4", "WEIGHTLESS"), "10 only"),
    **dict.fromkeys(("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"), "10 only"),
    **dict.fromkeys(("REJECT_EMPTY_ALGORITHMS", "EXPLICIT_BATCH"), "10 only"),
    **dict.fromkeys(("CUBLAS", "CUBLAS_LT", "CUDNN", "PROFILE_SHARING_0806"), "10 only"),
    # calibrators, dynamic ranges and layer precisions
    **dict.fromkeys(("int8_calibrator", "set_calibration_profile", "get_calibration_profile"), "10 only"),
    **dict.fromkeys(("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IInt8Calibrator"), "10 only"),
    **dict.fromkeys(("CalibrationAlgoType", "QuantizationFlag", "algorithm_selector"), "10 only"),
    **dict.fromkeys(("dynamic_range", "set_dynamic_range", "reset_dynamic_range", "get_dynamic_range"), "10 only"),
    **dict.fromkeys(("precision", "precision_is_set", "reset_precision", "compute_precision"), "10 only"),
    **dict.fromkeys(("set_output_type", "output_type_is_set", "reset_output_type"), "10 only"),
    **dict.fromkeys(("platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32"), "10 only"),
    # engines and contexts
    **dict.fromkeys(("create_execution_context_without_device_memory", "device_memory_size"), "10 only"),
    **dict.fromkeys(("get_device_memory_size_for_profile", "has_implicit_batch_dimension"), "10 only"),
    **dict.fromkeys(("weight_streaming_budget", "minimum_weight_streaming_budget"), "10 only"),
    **dict.fromkeys(("all_shape_inputs_specified", "IStreamReader"), "10 only"),
    **dict.fromkeys(("get_plugin_creator", "plugin_creator_list"), "10 only"),
    # parser
    **dict.fromkeys(("supports_model", "parse_with_weight_descriptors", "SubGraphCollection"), "10 only"),
    # the full package alone
    **dict.fromkeys(("build_engine_with_config", "remote_auto_tuning_config", "add_plugin_v2"), "not in RTX"),
    **dict.fromkeys(("add_plugin_v3", "add_plugin"), "not in RTX"),
    # newer than 10.3, or RTX alone
    **dict.fromkeys(("build_serialized_network_to_stream", "IStreamWriter"), "since 10.12"),
    **dict.fromkeys(("release_refit_resources", "dla_workspace_allocation_strategy", "profile_stream"), "since 11"),
    **dict.fromkeys(("build_route", "all_build_routes", "set_builder_config"), "since 11.1"),
    **dict.fromkeys(("tiling_optimization_level", "l2_limit_for_tiling", "max_num_tactics"), "since 10.8"),
    **dict.fromkeys(("DISTRIBUTIVE_INDEPENDENCE", "EDITABLE_TIMING_CACHE", "queryKeys"), "since 10.10"),
    **dict.fromkeys(("SAME_COMPUTE_CAPABILITY", "get_engine_stat", "REFIT_INDIVIDUAL"), "since 10.8"),
    **dict.fromkeys(("get_engine_validity", "set_compute_capability", "ComputeCapability"), "RTX only"),
    **dict.fromkeys(("create_runtime_cache", "is_stream_capturable", "CudaGraphStrategy"), "RTX only"),
}
"""Names that some supported version lacks. Use them only through :meth:`Flavor.member` or :func:`call_if_there`."""


@dataclass(frozen=True)
class Flavor:
    """One installed TensorRT.

    Attributes:
        name: name of its package.
        version: version that the package reports, such as ``11.4.0.106``.
        module: the imported package.
    """

    name: Runtime
    version: str
    module: Any

    @property
    def builds_without_gpu(self) -> bool:
        """Whether its builder works without a GPU."""
        return self.name == "tensorrt_rtx"

    @property
    def shown(self) -> str:
        """``TensorRT 11.4.0.106`` or ``TensorRT-RTX 1.7.1.116``."""
        return f"{'TensorRT-RTX' if self.name == 'tensorrt_rtx' else 'TensorRT'} {self.version}"

    def network_flags(self) -> int:
        """Flags for a strongly typed network: 11.x knows only this type, 10.x needs a flag."""
        typed = self.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
        return 0 if typed is None else 1 << int(typed)

    def member(self, enum: str, name: str) -> Any | None:
        """A member of one of its enums; None if this version does not have it."""
        return getattr(getattr(self.module, enum, None), name, None)


def call_if_there(owner: Any, name: str, *arguments: Any) -> Any | None:
    """Call a method that not every version has; return None if it is missing."""
    method = getattr(owner, name, None)
    return None if method is None else method(*arguments)


def load_flavor(purpose: Literal["build", "run"], wanted: str = "auto") -> Flavor:
    """Import the TensorRT that can build, or run, on this machine.

    Args:
        wanted: a package name, or ``auto`` for the first package that is installed and usable.

    Raises:
        MachineError: no TensorRT is installed, its libraries are missing, or it needs a GPU and there is none.
    """
    names = BUILDERS if purpose == "build" else RUNNERS
    if wanted != "auto" and wanted not in names:
        raise MachineError(f"{wanted} cannot {purpose} an engine", f"choose one of {', '.join(names)}")
    chosen = names if wanted == "auto" else (wanted,)
    refusals = []
    for name in chosen:
        fault = _fault(name, purpose)
        if fault is None:
            return _import(name)  # type: ignore[arg-type]
        refusals.append(fault)
    raise MachineError(f"no TensorRT can {purpose} here: {'; '.join(refusals)}", _remedy(refusals))


def installed() -> dict[str, str]:
    """Versions of the installed TensorRT packages, by name; nothing is imported."""
    return {name: _version(name) for name in RUNNERS if find_spec(name) is not None}


def same_line(one: str, other: str) -> bool:
    """Whether a plan of one version runs in the other: their numbers are equal except for the build number."""
    return one.split(".")[:3] == other.split(".")[:3]


def _fault(name: str, purpose: str) -> str | None:
    """Why a package cannot be used. It creates none of the package's objects, which crash without a driver."""
    if find_spec(name) is None:
        return f"{name} is not installed"
    if purpose == "run" or name != "tensorrt_rtx":
        driver = driver_fault()
        if driver is not None:
            return f"{name} needs an NVIDIA GPU ({driver})"
    try:
        flavor = _import(name)  # type: ignore[arg-type]
    except MachineError as error:
        return error.message
    numbers = tuple(map(int, re.findall(r"\d+", flavor.version)[:2]))
    if name != "tensorrt_rtx" and numbers < OLDEST:
        return f"{flavor.shown} is older than {'.'.join(map(str, OLDEST))}"
    return None


def _import(name: Runtime) -> Flavor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = import_module(name)
        except Exception as error:  # a package without its libraries raises ImportError, OSError or its own class
            text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise MachineError(f"{name} is installed but cannot be imported: {text}", INSTALL) from error
    needed = "Builder" if name == "tensorrt_rtx" else "Runtime"
    if not hasattr(module, needed):
        raise MachineError(f"{name} is incomplete: it has no {needed}", f"pip install --force-reinstall {name}")
    return Flavor(name, str(getattr(module, "__version__", "") or _version(name)), module)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "0"


def _remedy(refusals: list[str]) -> str:
    if any("needs an NVIDIA GPU" in text for text in refusals) and not any("older" in text for text in refusals):
        return f"use a machine with a GPU and its driver, or {INSTALL}"
    return INSTALL
