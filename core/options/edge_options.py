"""Options of a measurement on another device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .option_types import Confidence, Count, Options, Positive, Seed

EdgeRuntime = Literal["ort", "cuda", "tensorrt", "openvino"]
Cores = Literal["all", "big", "little"]


class EdgeOptions(Options):
    """Measurement of models on a device: latency, cold start, memory and accuracy."""

    batch_sizes: tuple[Count, ...] = Field(
        default=(1,), min_length=1, description="Batch sizes (rows per call) to time."
    )
    threads: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(1,),
        min_length=1,
        description="Numbers of runtime threads to time. 0 is as many as the device has cores of the kind.",
    )
    cores: tuple[Cores, ...] = Field(
        default=("all",),
        min_length=1,
        description="Cores to time on: all, or the big or the little ones of a processor that has both. A kind that "
        "the device does not have is left out.",
    )
    runtimes: tuple[EdgeRuntime, ...] = Field(
        default=("ort",),
        min_length=1,
        description="What runs the models there: ort is ONNX Runtime on the CPU, cuda and tensorrt are its providers "
        "on a GPU, openvino is another runtime on the CPU. With several, every model is measured in each.",
    )
    seconds: Positive = Field(default=20.0, description="Longest timing of a batch size with a number of threads.")
    block_ms: Positive = Field(default=5.0, description="Length of one timed block, in milliseconds.")
    precision: float = Field(
        default=0.02,
        ge=0,
        description="Half width of the intervals that ends a timing early. 0 uses all the time.",
    )
    starts: int = Field(
        default=10, ge=0, description="Number of new processes per model whose start and memory are measured."
    )
    cold_file_starts: int = Field(
        default=3, ge=0, description="How many of them find the model's file outside of the page cache."
    )
    accuracy: bool = Field(default=True, description="Compute every sample on the device, and compare the outputs.")
    rows: Count = Field(default=1000, description="Largest number of samples in the bundle.")
    sustain_minutes: float = Field(
        default=0.0, ge=0, description="Minutes of a timing without a break, in which a device may become hot."
    )
    energy: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Measure the energy of an inference: each model alone for some seconds, three times, and nothing "
        "between. auto does it where the device counts energy or measures power; on also for a meter of your own.",
    )
    energy_seconds: Positive = Field(default=5.0, description="Duration of each measurement of energy.")
    noise: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compare a model with itself eight times, for at most two seconds each; smaller differences than "
        "found there are no differences. auto does it at the first use of a device and keeps the result in the store, "
        "on does it again.",
    )
    minutes: Positive = Field(default=120.0, description="Longest duration of the whole run on the device.")
    celsius: float | None = Field(
        default=None, gt=0, description="Temperature at which the run ends. The default is the device's own protection."
    )
    wheels: str = Field(
        default="",
        description="Processor for which the wheels of numpy and ONNX Runtime go along, aarch64 or x86_64, for a "
        "device that has neither them nor a network. auto asks the device, and sends them only if they are missing.",
    )
    wheels_python: str = Field(
        default="3.11", description="Version of Python on the device, which the wheels have to fit."
    )
    wheels_glibc: int = Field(
        default=28, ge=17, description="Newest version of glibc, as 28 for 2.28, that the wheels may need."
    )
    confidence: Confidence = Field(default=0.95, description="Confidence level of every interval.")
    seed: Seed = Field(default=0, description="Random seed of the order of blocks and of the bootstrap.")
