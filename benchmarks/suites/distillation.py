"""Which losses of distillation help: a CNN, an RNN and a Transformer, each student alone and with every loss.

    python -m retort.benchmarks.suites.distillation --store results.json --minutes 5

Every student is trained with the same budget and the same seeds: alone (plain and with label smoothing), and with each
loss. Accuracies are those of the test split, and differences to the student alone are paired by seed and sample: one
interval is over the seeds (Student's t), the other over the samples. A difference is real if
both exclude zero, with three seeds or more. Trainings
that the store has are not repeated, so that a run may be cut into pieces.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ...core.artifact import Artifact
from ...core.console import SILENT, Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.model_inputs import fit_to
from ...core.facts.program_facts import ProgramFacts
from ...core.metrics.task_metrics import sample_scores
from ...core.options.stage_options import CaptureOptions, DataSpec, DistillOptions, ModelSpec, TrainOptions
from ...core.session import open_session
from ...core.system.atomic_files import write_atomically
from ...core.tensors import Array
from ...pipeline import stages
from ..accuracy import predict, prediction_of
from ..machine import fingerprint

NETS = "retort.examples.pruning_nets"
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95 % by degrees of freedom, from 1."""
ALONE = "alone"
LEAST_SEEDS = 3
"""With fewer seeds their spread says nothing, and no difference is called real."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        source: the factory of both.
        data: the samples.
        teacher: arguments of the teacher.
        student: arguments of the student.
        own: losses that only this kind of net has.
    """

    source: str
    data: str
    teacher: dict[str, Any]
    student: dict[str, Any]
    own: tuple[str, ...] = ()


PAIRS = {
    "cnn": Pair("retort.examples.digits:ResidualNet", "digits", {"width": 32, "blocks": 2}, {"width": 4, "blocks": 1}),
    "rnn": Pair(f"{NETS}:Recurrent", f"{NETS}:digit_rows", {"width": 64}, {"width": 10}),
    "transformer": Pair(
        f"{NETS}:Vision",
        "digits",
        {"width": 64, "depth": 3},
        {"width": 16, "depth": 1, "heads": 2, "inner": 32},
        ("kd+minilm",),
    ),
}
LOSSES: dict[str, dict[str, Any]] = {
    ALONE: {"alpha": 0.0},
    "alone, smoothed": {"alpha": 0.0, "label_smoothing": 0.1},
    "kd": {"losses": ["kd"]},
    "kd, standardised": {"losses": [{"kd": {"weight": 0.7, "standardize": True, "temperature": 2}}]},
    "dkd": {"losses": [{"dkd": {"weight": 1, "beta": 2}}]},
    "dist": {"losses": [{"dist": {"weight": 2, "temperature": 2}}]},
    "mse": {"losses": ["mse"]},
    "kd+features": {"losses": ["kd", "features"]},
    "kd+attention": {"losses": ["kd", "attention"]},
    "kd+similarity": {"losses": ["kd", {"similarity": 0.1}]},
    "kd+rkd": {"losses": ["kd", "rkd"]},
    "kd+minilm": {"losses": ["kd", "minilm"]},
    "self": {"losses": ["self"]},
}
ONLY = {"kd+minilm": ("transformer",)}
"""Losses that only some nets can have."""


def tasks(nets: Sequence[str], seeds: int) -> Iterator[tuple[str, int, str]]:
    """Net, seed and loss of every training, all losses of a seed together."""
    for seed in range(seeds):
        for net in nets:
            for loss in LOSSES:
                if net in ONLY.get(loss, (net,)):
                    yield net, seed, loss


class Store:
    """Which test samples every training got right, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, key: str, right: Array, **facts: Any) -> None:
        """Write the result of one training."""
        self.found[key] = {"right": [int(value) for value in right], **facts}
        write_atomically(self.path, json.dumps(self.found).encode())

    def right(self, net: str, loss: str) -> Array | None:
        """``[seeds, samples]``; None without any."""
        rows = [self.found[key]["right"] for key in sorted(self.found) if key.split("|")[::2] == [net, loss]]
        return np.array(rows, dtype=np.float64) if rows else None


def run(store: Store, arguments: argparse.Namespace, folder: Path, console: Console) -> None:
    """Do the trainings that the store does not have, until the minutes are over."""
    started, teachers = time.monotonic(), {}
    for net, seed, loss in tasks(arguments.nets, arguments.seeds):
        key = f"{net}|{seed}|{loss}"
        if key in store.found or time.monotonic() - started > 60 * arguments.minutes:
            continue
        pair, place = PAIRS[net], folder / f"{net}-{seed}"
        scratch = place / "scratch"
        data = load_data(DataSpec(source=pair.data), Path.cwd())
        context = Context(data, Path.cwd(), seed=seed, console=SILENT, scratch=scratch)
        if (net, seed) not in teachers:
            teachers[net, seed] = _teacher(pair, place, context, arguments)
            right, facts = _judged(teachers[net, seed], context)
            store.add(f"{net}|{seed}|teacher", right, **facts)
        given = {"learning_rate": arguments.rate, **LOSSES[loss]}
        options = DistillOptions(
            student=ModelSpec(source=pair.source, args=pair.student), epochs=arguments.epochs, **given
        )
        at = time.monotonic()
        made = stages.distill(options, teachers[net, seed], Place(place / f"{len(store.found)}"), context)
        right, facts = _judged(made, context)
        store.add(key, right, seconds=time.monotonic() - at, **facts)
        console.say(f"{key}: {100 * float(right.mean()):.2f} %")


def _teacher(pair: Pair, folder: Path, context: Context, arguments: argparse.Namespace) -> Artifact:
    model = ModelSpec(source=pair.source, args=pair.teacher)
    captured = stages.capture(CaptureOptions(), model, Place(folder / "capture"), context)
    options = TrainOptions(epochs=arguments.teacher_epochs, learning_rate=arguments.rate)
    return stages.train(options, captured, Place(folder / "train"), context)


def _judged(made: Artifact, context: Context) -> tuple[Array, dict[str, Any]]:
    """Which test samples a program gets right, and its parameters."""
    session = open_session(made.main)
    found = predict(session, fit_to(context.data, session.signature).test)
    assert found.targets is not None
    scores = sample_scores("accuracy", found.outputs[prediction_of(found.outputs)], found.targets)
    return np.asarray(scores), {"parameters": made.facts_as(ProgramFacts).parameters}


def compared(one: Array, other: Array) -> dict[str, Any]:
    """The mean difference of two losses in percent points, with its intervals over the seeds and over the samples."""
    gains = 100 * (one - other)
    by_seed, by_sample = gains.mean(axis=1), gains.mean(axis=0)
    middle, count = float(by_seed.mean()), len(by_seed)
    reach = T_975[min(count - 1, len(T_975)) - 1] * stdev(by_seed) / math.sqrt(count) if count > 1 else math.inf
    noise = 1.96 * float(by_sample.std(ddof=1)) / math.sqrt(len(by_sample))
    return {
        "gain": middle,
        "over_seeds": [middle - reach, middle + reach],
        "over_samples": [middle - noise, middle + noise],
        "real": count >= LEAST_SEEDS and abs(middle) > max(reach, noise),
    }


def table(store: Store, nets: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of every loss, and its gain over the student alone (the better of both) and over soft targets."""
    rows = []
    for net in nets:
        found = {loss: store.right(net, loss) for loss in ("teacher", *LOSSES)}
        alone = {loss: right.mean() for loss, right in found.items() if loss.startswith(ALONE) and right is not None}
        best = max(alone, key=alone.__getitem__, default=None)
        for loss, right in found.items():
            if right is None:
                continue
            row: dict[str, Any] = {"net": net, "loss": loss, "seeds": len(right), "accuracy": 100 * float(right.mean())}
            for name in (best, "kd"):
                base = found[name] if name is not None else None
                if base is not None and name != loss and loss != "teacher":
                    seeds = min(len(base), len(right))
                    row["over alone" if name == best else "over kd"] = compared(right[:seeds], base[:seeds])
            rows.append(row)
    return rows


def _shown(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    low, high = gain["over_seeds"]
    few, many = gain["over_samples"]
    return f"{gain['gain']:+.2f} [{low:+.2f}, {high:+.2f}] [{few:+.2f}, {many:+.2f}]{' real' * gain['real']}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="Epochs of every student.")
    parser.add_argument("--teacher-epochs", type=int, default=15, help="Epochs of the teachers.")
    parser.add_argument("--rate", type=float, default=5e-3, help="Learning rate of all trainings.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="No training begins after this time.")
    parser.add_argument("--store", type=Path, default=None, help="File of results, which a later run goes on with.")
    arguments = parser.parse_args()
    console = Console("text")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(arguments.store or Path(folder) / "results.json")
        run(store, arguments, Path(folder), console)
        rows = table(store, arguments.nets)
    header = ["net", "loss", "seeds", "accuracy", "over alone [seeds] [samples]", "over kd [seeds] [samples]"]
    lines = [
        (
            row["net"],
            row["loss"],
            str(row["seeds"]),
            f"{row['accuracy']:.2f} %",
            _shown(row.get("over alone")),
            _shown(row.get("over kd")),
        )
        for row in rows
    ]
    console.table("losses of distillation", header, lines)
    seconds = [item["seconds"] for item in store.found.values() if "seconds" in item]
    summary = {"machine": fingerprint(), "mean_seconds": mean(seconds) if seconds else None, "rows": rows}
    Console("json").result({"suite": "distillation", **summary})


if __name__ == "__main__":
    main()
