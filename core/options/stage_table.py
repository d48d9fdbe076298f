"""The table of stages: their order, options, input and output kinds, and what determines their results."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..kinds import Kind
from .serving_options import BundleOptions, PackOptions
from .stage_options import (
    BenchOptions,
    CaptureOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    Options,
    PruneOptions,
    QuantizeOptions,
    ReportOptions,
    ServeOptions,
    SparsifyOptions,
    TrainOptions,
)

Factor = Literal["data", "seed", "task", "metric", "target", "tensorrt"]
"""What determines a result in addition to the options, the parents and the code: the data, the seed, the task, the
recipe's metric, the target that the context or the options name, or this machine's TensorRT version and GPU."""
TRAINING: tuple[Factor, ...] = ("data", "seed", "task")


@dataclass(frozen=True)
class StageEntry:
    """One stage of a run.

    Attributes:
        name: in recipes, on the command line and in folders.
        options: the class of its options.
        takes: the kind of artifact it reads; `model` for the user's own model, None if it reads the whole run.
        makes: the kind of artifact it writes.
        depends_on: what else determines its result.
        after: the stage that must come before it in a recipe; None if there is none.
        purpose: one sentence for `--help`.
        example: a command line.
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
        purpose="Capture a PyTorch model as a program, a .pt2 file that can be trained and opened without your "
        "source code.",
        example="retort capture my_net:build --weights net.safetensors --data digits",
    ),
    StageEntry(
        "train",
        TrainOptions,
        "program",
        "program",
        TRAINING,
        purpose="Train a program on the training split. An interrupted run resumes from its last checkpoint.",
        example="retort train runs/capture-… --data digits --epochs 10",
    ),
    StageEntry(
        "distill",
        DistillOptions,
        "program",
        "program",
        TRAINING,
        purpose="Train a smaller student model on the outputs of a program and on what happens inside it.",
        example="retort distill runs/train-… --data digits --student my_net:small --losses kd:0.7 --losses features",
    ),
    StageEntry(
        "prune",
        PruneOptions,
        "program",
        "program",
        TRAINING,
        purpose="Remove coupled channels, prove that the cut is correct, and recover accuracy by training.",
        example="retort prune runs/train-… --data digits --latency 0.5x --batch 1 --set recover.epochs=5",
    ),
    StageEntry(
        "sparsify",
        SparsifyOptions,
        "program",
        "program",
        TRAINING,
        purpose="Set weights to zero in the 2:4 pattern of sparse tensor cores, or anywhere, and recover accuracy by "
        "training.",
        example="retort sparsify runs/train-… --data digits --pattern 2:4",
    ),
    StageEntry(
        "quantize",
        QuantizeOptions,
        "program",
        "program",
        (*TRAINING, "metric", "target"),
        purpose="Quantize a trained program to INT8 and calibrate it on real samples.",
        example="retort quantize runs/prune-… --data digits --method percentile",
    ),
    StageEntry(
        "export",
        ExportOptions,
        "program",
        "graph",
        ("data", "target"),
        purpose="Write a program as an ONNX file for a target, and reject the file if its outputs differ from PyTorch.",
        example="retort export runs/quantize-… --data digits --target cpu",
    ),
    StageEntry(
        "engine",
        EngineOptions,
        "graph",
        "engine",
        ("tensorrt",),
        after="export",
        purpose="Build a TensorRT plan from an ONNX graph for this machine's GPU and TensorRT version.",
        example="retort engine runs/export-…/model.onnx --axis sequence=8:128:512",
    ),
    StageEntry(
        "bundle",
        BundleOptions,
        "graph",
        "bundle",
        (),
        after="export",
        purpose="Write an ONNX graph or a TensorRT plan as a bundle: a folder with its own runtime, for any Python "
        "server.",
        example="retort bundle runs/export-… --name digits",
    ),
    StageEntry(
        "pack",
        PackOptions,
        "graph",
        "archive",
        (),
        after="export",
        purpose="Pack an ONNX graph, a TensorRT plan or a bundle for TorchServe or another server, with its runtime.",
        example="retort pack runs/export-… --name digits",
    ),
    StageEntry("serve", ServeOptions, None, "measurement", ("data",), after="pack"),
    StageEntry("bench", BenchOptions, None, "measurement", ("data", "seed")),
    StageEntry("report", ReportOptions, None, "report", (), after="bench"),
)
STAGES: dict[str, StageEntry] = {entry.name: entry for entry in _ENTRIES}
"""The stages by name, in the order of a run."""


def kind_made(name: str, options: Options) -> Kind:
    """The kind of artifact that a stage writes with these options."""
    deploys = isinstance(options, PackOptions) and options.target != "torchserve"
    return "deployment" if deploys else STAGES[name].makes


def stages_that(*, take: Kind | None = None, make: Kind | None = None) -> tuple[str, ...]:
    """Names of the stages that read or write a kind of artifact, in order."""
    return tuple(
        entry.name
        for entry in STAGES.values()
        if (take is None or entry.takes == take) and (make is None or entry.makes == make)
    )


PROGRAM_STAGES = stages_that(make="program")


def reference_among(names: Collection[str]) -> str:
    """The stage with which the others of a recipe are compared: ``train`` if it has that stage, else ``capture``."""
    return "train" if "train" in names else "capture"
