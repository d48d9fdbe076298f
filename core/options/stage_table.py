"""The one table of stages: their order, their options, what they take and make, and what determines their result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..artifact import Kind
from .stage_options import (
    BenchOptions,
    CaptureOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    Options,
    PackOptions,
    PruneOptions,
    QuantizeOptions,
    ReportOptions,
    ServeOptions,
    SparsifyOptions,
    TrainOptions,
)

Factor = Literal["data", "seed", "task", "target", "tensorrt"]
"""What determines a result beside the options, the parents and the code: the data, the seed, the task, the target
that the context or the options name, and the TensorRT and the GPU of this machine."""
TRAINING: tuple[Factor, ...] = ("data", "seed", "task")


@dataclass(frozen=True)
class StageEntry:
    """One stage of the line.

    Attributes:
        name: in recipes, on the command line and in folders.
        options: what a recipe may say of it.
        takes: the kind of artifact it works on; `model` for the user's own, None where it looks at the whole line.
        makes: the kind of artifact it leaves.
        depends_on: what else determines its result.
        after: the stage that must stand before it in a recipe; None for none.
        purpose: one sentence for `--help`.
        example: a command.
    """

    name: str
    options: type[Options]
    takes: Kind | Literal["model"] | None
    makes: Kind
    depends_on: tuple[Factor, ...]
    after: str | None = None
    purpose: str = ""
    example: str = ""


_ENTRIES = (
    StageEntry(
        "capture",
        CaptureOptions,
        "model",
        "program",
        ("data", "seed"),
        purpose="Capture a model as a program: a .pt2 that trains, opens anywhere and needs none of your code.",
        example="retort capture my_net:build --weights net.safetensors --data digits",
    ),
    StageEntry(
        "train",
        TrainOptions,
        "program",
        "program",
        TRAINING,
        purpose="Train a program on the train split; a killed run goes on at its last checkpoint.",
        example="retort train runs/capture-… --data digits --epochs 10",
    ),
    StageEntry(
        "distill",
        DistillOptions,
        "program",
        "program",
        TRAINING,
        purpose="Train a smaller student on the soft targets of a program.",
        example="retort distill runs/train-… --data digits --student my_net:small --epochs 20",
    ),
    StageEntry(
        "prune",
        PruneOptions,
        "program",
        "program",
        TRAINING,
        purpose="Remove coupled channels, prove the cut, and recover by training.",
        example="retort prune runs/train-… --data digits --latency 0.5x --batch 1 --set recover.epochs=5",
    ),
    StageEntry(
        "sparsify",
        SparsifyOptions,
        "program",
        "program",
        TRAINING,
        purpose="Zero weights in the 2:4 pattern of sparse tensor cores, or anywhere, and recover by training.",
        example="retort sparsify runs/train-… --data digits --pattern 2:4",
    ),
    StageEntry(
        "quantize",
        QuantizeOptions,
        "program",
        "program",
        (*TRAINING, "target"),
        purpose="Quantize a program to INT8 after training, calibrated on real samples.",
        example="retort quantize runs/prune-… --data digits --method percentile",
    ),
    StageEntry(
        "export",
        ExportOptions,
        "program",
        "graph",
        ("data", "target"),
        purpose="Write a program as ONNX for a target, and refuse it unless it agrees with PyTorch.",
        example="retort export runs/quantize-… --data digits --target cpu",
    ),
    StageEntry(
        "engine",
        EngineOptions,
        "graph",
        "engine",
        ("tensorrt",),
        after="export",
        purpose="Build the TensorRT plan of an ONNX graph, for the GPU and the TensorRT of this machine.",
        example="retort engine runs/export-…/model.onnx --axis sequence=8:128:512",
    ),
    StageEntry(
        "pack",
        PackOptions,
        "graph",
        "archive",
        (),
        after="export",
        purpose="Pack an ONNX graph into a TorchServe archive that carries its own runtime.",
        example="retort pack runs/export-… --name digits",
    ),
    StageEntry("serve", ServeOptions, None, "measurement", ("data",), after="pack"),
    StageEntry("bench", BenchOptions, None, "measurement", ("data", "seed")),
    StageEntry("report", ReportOptions, None, "report", (), after="bench"),
)
STAGES: dict[str, StageEntry] = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order of the line."""


def stages_that(*, take: Kind | None = None, make: Kind | None = None) -> tuple[str, ...]:
    """Names of the stages that take or make a kind of artifact, in order."""
    return tuple(
        entry.name
        for entry in STAGES.values()
        if (take is None or entry.takes == take) and (make is None or entry.makes == make)
    )


PROGRAM_STAGES = stages_that(make="program")
