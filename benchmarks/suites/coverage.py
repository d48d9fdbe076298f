"""Coverage of pruning: half of the multiply-accumulates of each architecture are removed, proven, exported and trained.

    python -m retort.benchmarks.suites.coverage --out coverage.jsonl

Every model goes through two stages of `retort.pipeline.stages`: capture, and prune to the requested share, or to the
smallest share that its locked channels allow, with the proof in PyTorch and in ONNX Runtime at two batch sizes, and a
step of recovery training on random targets. One line per model is appended to the file; a model that is already in the
file without a fault is not run again.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.splits import ArraySplit, Splits
from ...core.errors import RetortError, UserError
from ...core.facts.prune_facts import PruneFacts
from ...core.formats.program_file import read_signature
from ...core.options.stage_options import CaptureOptions, DataSpec, ModelSpec, PruneOptions, RecoverOptions
from ...pipeline import stages

ZOOS = ("retort.examples.transformers_zoo", "retort.examples.networks", "retort.examples.awkward")
TOLERANCE = 1e-9
_MARGIN = 0.005


def models(wanted: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Module and name of every model of the suite, or of the given names.

    Raises:
        UserError: the suite has no such model.
    """
    from ...core.data.references import resolve

    found = [(zoo, name) for zoo in ZOOS for name in resolve(f"{zoo}:names", Path.cwd())()]
    unknown = sorted(set(wanted) - {name for _, name in found})
    if unknown:
        raise UserError(f"the suite has no model '{unknown[0]}'", f"one of {', '.join(name for _, name in found)}")
    return [item for item in found if not wanted or item[1] in wanted]


def measure(zoo: str, name: str, share: float, folder: Path) -> dict[str, Any]:
    """Run the stages on one model; errors are recorded in the row and not raised."""
    row: dict[str, Any] = {"model": name, "asked": share}
    started = time.perf_counter()
    try:
        data = load_data(DataSpec(source=f"{zoo}:samples", args={"name": name}), Path.cwd())
        source = ModelSpec(source=f"{zoo}:build", args={"name": name})
        captured = stages.capture(CaptureOptions(), source, Place(folder / "captured"), Context(data))
        context = Context(_with_targets(data, captured), task="regression", scratch=folder / "scratch")
        row["capture_s"] = time.perf_counter() - started
        started = time.perf_counter()
        pruned = _prune(captured, share, folder, context)
        row |= {"prune_s": time.perf_counter() - started, **_pruned_facts(pruned)}
        row["untrained"] = _without_gradient(pruned, data)
    except RetortError as error:
        row["fault"] = f"{type(error).__name__}: {error.message}"
    except Exception as error:  # a defect of Retort is a result of this suite and must not end it
        row["fault"] = f"crash: {type(error).__name__}: {error}"[:500]
    row["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _with_targets(data: Splits, captured: Artifact) -> Splits:
    """Random targets for the first output of a model."""
    inputs, _ = data.train.read(range(len(data.train)))
    rows = len(next(iter(inputs.values())))
    sizes = read_signature(captured.main).outputs[0].shape
    shape = [size if isinstance(size, int) else rows for size in sizes]
    split = ArraySplit(inputs, np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    return Splits(split, split, split, split)


def _prune(captured: Artifact, share: float, folder: Path, context: Context) -> Artifact:
    training = RecoverOptions(epochs=1, batch_size=len(context.data.train), distill=False)

    def _cut(macs: float) -> Artifact:
        options = PruneOptions(macs=macs, min_channels=2, recover=training, tolerance=TOLERANCE)
        return stages.prune(options, captured, Place(folder / "pruned"), context)

    try:
        return _cut(share)
    except UserError as error:
        least = error.facts.get("least")
        if not isinstance(least, float):
            raise
        return _cut(min(1.0, least + _MARGIN))


def _pruned_facts(pruned: Artifact) -> dict[str, Any]:
    facts = pruned.facts_as(PruneFacts)
    (step,) = facts.steps
    assert step.recovery is not None
    return {
        "macs_before": facts.macs_before,
        "macs_after": facts.macs_after,
        "parameters_before": facts.parameters_before,
        "parameters_after": facts.parameters_after,
        "proof_error": step.proof.relative_error,
        "proof_dtype": step.proof.dtype,
        "file_error": step.file.error,
        "file_reason": step.file.reason,
        "locked": sorted({item.reason for item in facts.locked}),
        "unknown": list(facts.unknown_operators),
        "training_loss": step.recovery.history[-1].loss,
    }


def _without_gradient(pruned: Artifact, data: Splits) -> list[str]:
    """Parameters of the pruned model that get no gradient, or a gradient that is not finite."""
    import torch

    from ...core.backends.eager import load_exported

    exported, signature, _ = load_exported(pruned.main)
    feeds = signature.validate(data.train.read(range(2))[0])
    module = exported.module(check_guards=False)
    values = module(*(torch.from_numpy(np.array(value)) for value in feeds.values()))
    torch.autograd.backward([value.square().mean() for value in values if value.requires_grad])
    weights = dict(module.named_parameters()).items()
    return [name for name, value in weights if value.grad is None or not bool(value.grad.isfinite().all())]


def run(wanted: Sequence[str], share: float, path: Path, console: Console) -> list[dict[str, Any]]:
    """Measure every model that is not in the file yet, one line each; return all rows in the order of the suite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    have = {row["model"]: row for row in _lines(path) if row["asked"] == share and "fault" not in row}
    for zoo, name in models(wanted):
        if name in have:
            continue
        with tempfile.TemporaryDirectory() as folder:
            have[name] = measure(zoo, name, share, Path(folder))
        with path.open("a") as file:
            file.write(json.dumps(have[name]) + "\n")
        console.say(f"{name}: {have[name].get('fault') or _share(have[name])}")
        gc.collect()
    return [have[name] for _, name in models(wanted)]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def is_proven(row: dict[str, Any]) -> bool:
    """Whether the cut is proven in PyTorch and in ONNX Runtime, and the pruned model can be trained."""
    return "fault" not in row and row["file_error"] is not None and math.isfinite(row["training_loss"])


def is_pruned(row: dict[str, Any]) -> bool:
    """Whether at least 40 % of the multiply-accumulates were removed."""
    return is_proven(row) and row["macs_after"] <= 0.6 * row["macs_before"]


def _share(row: dict[str, Any]) -> str:
    return f"{row['macs_after'] / row['macs_before']:.1%} of the MACs left, proof {row['proof_error']:.1e}"


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and one line per model."""
    columns = [
        "model",
        "MACs before",
        "after",
        "left",
        "params left",
        "proof",
        "ONNX",
        "prune s",
        "locked, except outputs",
    ]
    return columns, [_line(row) for row in rows]


def _line(row: dict[str, Any]) -> list[str]:
    if "fault" in row:
        return [row["model"], *["–"] * 7, row["fault"][:90]]
    reasons = [reason for reason in row["locked"] if not reason.startswith("is the output")]
    return [
        row["model"],
        f"{row['macs_before']:,}",
        f"{row['macs_after']:,}",
        f"{row['macs_after'] / row['macs_before']:.1%}",
        f"{row['parameters_after'] / row['parameters_before']:.1%}",
        f"{row['proof_error']:.0e}",
        f"{row['file_error']:.0e}" if row["file_error"] is not None else "none",
        f"{row['prune_s']:.1f}",
        "; ".join(reasons)[:90],
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(prog="retort.benchmarks.suites.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of models; all by default")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the multiply-accumulates to keep")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/coverage.jsonl"), help="file to append to and resume from"
    )
    given = parser.parse_args(arguments)
    console = Console()
    rows = run(given.models, given.keep, given.out, console)
    console.table("Pruning coverage", *table(rows))
    counts = {"models": len(rows), "proven": sum(map(is_proven, rows)), "pruned": sum(map(is_pruned, rows))}
    console.result({}, json.dumps(counts))


if __name__ == "__main__":
    main()
