"""The process that builds a plan. TensorRT runs only in it, which isolates its crashes, logs and memory.

The request is one line of JSON. Each line of the answer is an event: ``log``, ``progress``, ``failed`` or ``done``. If
the other side closes the input, the build is cancelled at its next step (tensorrt.md 1.4).
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.backends.cuda import find_device
from ...core.backends.trt_versions import Flavor, load_flavor
from ...core.errors import ArtifactError, Interrupted, MachineError, RetortError, UserError, VerificationError
from ...core.system.atomic_files import write_atomically
from .callbacks import Emit, Journal, new_logger, new_monitor
from .engine_layers import describe_layers, describe_tensors
from .timing_cache import CacheKey, locked, read_cache, write_cache

MIB = 1 << 20
_SHOWN_ERRORS = 5


def build(request: dict[str, Any], emit: Emit, cancelled: threading.Event) -> dict[str, Any]:
    """Parse, build and write one plan.

    Args:
        request: the fields of :class:`retort.export.trt.stage.BuildRequest`.
        emit: receives events.
        cancelled: if set, the build stops at its next step.

    Returns:
        Facts about the plan: version, device, layers, tensors, bytes, seconds.

    Raises:
        MachineError: no TensorRT can build on this machine.
        ArtifactError: TensorRT rejects the model; ``facts["errors"]`` lists the nodes.
        UserError: a profile does not fit the model.
        Interrupted: the build was cancelled.
    """
    flavor = load_flavor("build", request["runtime"])
    known = "timing cache" if flavor.builds_without_gpu else ""  # RTX reports each of them as a no-op
    journal, trt = Journal(emit, known), flavor.module
    logger = new_logger(trt, journal)
    started = time.perf_counter()
    builder = trt.Builder(logger)
    network = builder.create_network(flavor.network_flags())
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, Path(request["onnx"]), journal)
    parse_s = time.perf_counter() - started
    made: dict[str, Any] = {"runtime": flavor.name, "version": flavor.version, "device": _device(), "parse_s": parse_s}
    made |= {"layers": describe_layers(network), **describe_tensors(network, trt)}
    if request["plan"] is None:
        return made
    config = _config(builder, flavor, request, new_monitor(trt, emit, cancelled))
    _add_profiles(builder, network, config, request["profiles"], journal)
    with _timing_cache(config, flavor, request, made["device"], emit) as used:
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Interrupted("the build was stopped") if cancelled.is_set() else _no_plan(journal)
    content = bytes(plan)
    write_atomically(Path(request["plan"]), content)
    made["inspector"] = _inspect(trt, logger, content) if made["device"]["name"] else None
    seconds = time.perf_counter() - started
    sizes = {"plan_bytes": len(content), "weights_bytes": journal.weights_bytes, "peak_bytes": _peak_bytes()}
    return made | sizes | {"seconds": seconds, "timing_cache": used}


def _inspect(trt: Any, logger: Any, content: bytes) -> str | None:
    """The description of the layers of a built engine (fusions, kernels, reformats), which needs the GPU."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(content)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _parse(parser: Any, network: Any, path: Path, journal: Journal) -> None:
    accepted = parser.parse_from_file(str(path))
    errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    if not accepted:
        listed = "; ".join(item["shown"] for item in errors[:_SHOWN_ERRORS]) or journal.last()
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        raise ArtifactError(f"TensorRT rejects {path.name}: {listed}{more}", _remedy(errors), errors=errors)
    if network.num_outputs < 1 or network.num_layers < 1:
        raise ArtifactError(
            f"{path.name} contains no network, although the parser accepted it", "export the model again"
        )


def _parser_error(error: Any) -> dict[str, Any]:
    node, op = error.node_name(), error.node_operator()
    # without a GPU each line is followed by an unrelated line about the driver
    lines = [line for line in str(error.desc()).splitlines() if "catchCudaError" not in line]
    reason = " ".join(" ".join(lines).split())
    where = f"node '{node}' ({op})" if node or op else "the model"
    return {
        "code": getattr(error.code(), "name", str(error.code())),
        "node": node,
        "op": op,
        "index": error.node(),
        "reason": reason,
        "shown": f"{where}: {reason}",
    }


REMEDIES = {
    "UNSUPPORTED_NODE": "write that part of the model with other operators, or quantize it with Q/DQ nodes",
    "UNSUPPORTED_NODE_DATATYPE": "convert both inputs to one type, because networks are strongly typed",
    "UNSUPPORTED_NODE_DYNAMIC": "make that axis fixed, or compute the shape from constants",
    "INVALID_NODE": "run `retort lint` on the file to see the rule that the node breaks",
    "MODEL_DESERIALIZE_FAILED": "the file is truncated or is not ONNX; export the model again",
}


def _remedy(errors: list[dict[str, Any]]) -> str:
    known = [REMEDIES[item["code"]] for item in errors if item["code"] in REMEDIES]
    return known[0] if known else "run `retort lint` on the file to see the rule that the node breaks"


def _config(builder: Any, flavor: Flavor, request: dict[str, Any], monitor: Any) -> Any:
    trt, config = flavor.module, builder.create_builder_config()
    config.progress_monitor = monitor
    config.builder_optimization_level = request["level"]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request["workspace_mib"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_mib"] * MIB)
    (config.set_flag if request["tf32"] else config.clear_flag)(trt.BuilderFlag.TF32)
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if request["hardware"] != "this":
        name = {"ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}[request["hardware"]]
        level = flavor.member("HardwareCompatibilityLevel", name)
        if level is None:
            raise UserError(f"{flavor.shown} has no hardware compatibility '{request['hardware']}'", "use ampere+")
        config.hardware_compatibility_level = level
    return config


def _add_profiles(builder: Any, network: Any, config: Any, profiles: list[Any], journal: Journal) -> None:
    tensors = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    for number, ranges in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            if name not in tensors:
                raise UserError(f"the network has no input '{name}'", f"its inputs are {', '.join(tensors)}")
            put = profile.set_shape_input if tensors[name].is_shape_tensor else profile.set_shape
            put(name, *shapes)
        # set_shape reports no errors: a bad profile is detected here, or no plan is built
        if config.add_optimization_profile(profile) < 0:
            raise UserError(f"TensorRT rejects profile {number}: {journal.last()}", "see --profile and --axis")


def _no_plan(journal: Journal) -> RetortError:
    reason = journal.last()
    if "profile" in reason.lower():
        return UserError(
            f"TensorRT cannot build an engine: {reason}", "give a range for every dynamic axis with --axis or --profile"
        )
    if "workspace" in reason.lower() or "memory" in reason.lower():
        return MachineError(f"TensorRT cannot build an engine: {reason}", "increase --workspace-mib, or free memory")
    return VerificationError(
        f"TensorRT cannot build an engine: {reason}", "run `retort lint` on the file; it may name the cause"
    )


class _timing_cache:  # noqa: N801 (a context manager)
    """Give the build the measurements of earlier builds, and merge its own measurements into the file."""

    def __init__(
        self, config: Any, flavor: Flavor, request: dict[str, Any], device: dict[str, Any], emit: Emit
    ) -> None:
        self.config, self.emit = config, emit
        key = CacheKey(
            flavor.name,
            flavor.version,
            device["name"],
            device["compute_capability"],
            device["driver"],
            request["level"],
        )
        self.path = Path(request["timing_cache"]) / key.file_name if request["timing_cache"] else None

    def __enter__(self) -> dict[str, Any]:
        self.used: dict[str, Any] = {"file": self.path.name if self.path else None, "read_bytes": 0}
        if self.path is not None:
            body, warning = read_cache(self.path)
            if warning:
                self.emit({"event": "log", "text": warning})
            self.used["read_bytes"] = len(body)
            self.config.set_timing_cache(self._load(body), False)
        return self.used

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.path is None or kind is not None:
            return
        with locked(self.path):
            cache = self.config.get_timing_cache()
            newer, _ = read_cache(self.path)
            if newer:
                cache.combine(self._load(newer), True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                body = bytes(cache.serialize())
            write_cache(self.path, body)
            self.used["written_bytes"] = len(body)

    def _load(self, body: bytes) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RTX: "timing cache operations are no-ops"
            return self.config.create_timing_cache(body)


def _peak_bytes() -> int:
    """Largest memory of this process; getrusage would count what its parent held when it was started."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device() -> dict[str, Any]:
    device = find_device()
    if device is None:
        return {"name": "", "compute_capability": "", "driver": "", "memory_bytes": 0}
    return {key: value for key, value in vars(device).items() if key != "index"}


def _until_closed(cancelled: threading.Event) -> None:
    sys.stdin.read()
    cancelled.set()


def main() -> None:
    """Serve one request on the standard streams."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not mix with the events
    lock, cancelled = threading.Lock(), threading.Event()

    def emit(event: dict[str, Any]) -> None:
        """One line; threads of TensorRT may call at once."""
        with lock, suppress(BrokenPipeError):
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_until_closed, args=(cancelled,), daemon=True).start()
    try:
        emit({"event": "done", "made": build(request, emit, cancelled)})
    except RetortError as error:
        facts = {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy, "facts": error.facts}
        emit({"event": "failed", **facts})
    answers.close()
    os._exit(0)  # the reader thread holds standard input; destructors of TensorRT need not run


if __name__ == "__main__":
    main()
