"""Facts of the engine stage: where a TensorRT plan can run, the types of its layers, and the cost of its build."""

from __future__ import annotations

from ..options.stage_options import Target
from .export_facts import HalfPrecision
from .record import Record


class BuildDevice(Record):
    """The GPU for which a plan was built; the texts are empty if it was built without one.

    Attributes:
        name: name of the GPU, such as ``NVIDIA H200``.
        compute_capability: its compute capability, such as ``9.0``.
        driver: newest CUDA version that the driver supports, such as ``13.2``.
        memory_bytes: its total memory in bytes.
    """

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int


class PlanSource(Record):
    """The file from which a plan was built.

    Attributes:
        file: name of the file.
        sha256: its hash, in hex.
    """

    file: str
    sha256: str


class PlanFacts(Record):
    """Where a plan can run, and how to build it again.

    Attributes:
        runtime: the package that built it: ``tensorrt`` or ``tensorrt_rtx``.
        version: version of that package.
        device: the GPU for which it was built.
        hardware: ``this``, ``same-capability`` or ``ampere+``.
        version_compatible: whether later versions of TensorRT may run it.
        profiles: per profile and input the smallest, usual and largest shape, such as ``1x3x8x8:4x3x8x8:8x3x8x8``.
        shape_inputs: names of the inputs whose values are shapes.
        source: the file from which it was built.
        rebuild: the command line that builds it again.
    """

    runtime: str
    version: str
    device: BuildDevice
    hardware: str
    version_compatible: bool
    profiles: tuple[dict[str, str], ...]
    shape_inputs: tuple[str, ...]
    source: PlanSource
    rebuild: str


class TimingCache(Record):
    """The use of the timing cache.

    Attributes:
        file: name of the cache's file; None without one.
        read_bytes: bytes that were read from it.
        written_bytes: bytes that were written to it, if it was used.
    """

    file: str | None
    read_bytes: int
    written_bytes: int | None = None


class BuildTiming(Record):
    """Durations of a build.

    Attributes:
        seconds: duration of the whole build.
        parse_s: duration of parsing the ONNX file, in seconds.
    """

    seconds: float
    parse_s: float


class GraphOrigin(Record):
    """Facts that an engine copies from the manifest of its graph, which may be a bare file without one.

    Attributes:
        parameters: number of trainable values of the program.
        macs: multiply-accumulates of the program for one sample.
        target: the target of the graph.
    """

    parameters: int | None = None
    macs: int | None = None
    target: Target | None = None


class EngineFacts(GraphOrigin):
    """Facts of the engine stage.

    Attributes:
        engine: where the plan can run.
        layers: number of layers by kind and type, such as ``CONVOLUTION INT8``.
        plan_bytes: bytes of the plan.
        weights_bytes: bytes of the weights, if TensorRT reports them.
        peak_bytes: largest memory of the build process.
        timing_cache: the use of the timing cache.
        timing: durations.
        half: which nodes are in half precision, if the engine stage converted them.
    """

    engine: PlanFacts
    layers: dict[str, int]
    plan_bytes: int
    weights_bytes: int | None
    peak_bytes: int
    timing_cache: TimingCache
    timing: BuildTiming
    half: HalfPrecision | None = None
