"""The folder that goes to a device: models, real samples, what is to be measured, checksums, and the program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.backends.trt_plan import MANIFEST, SIGNATURE_FILE, Plan, read_plan
from ...core.console import Console
from ...core.context import Place
from ...core.counts import counted
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Splits
from ...core.errors import DataError, UserError
from ...core.formats.weights_beside import files_beside, model_sha256
from ...core.options.edge_options import EdgeOptions
from ...core.session import SessionOptions, naming_model, open_session
from ...core.signature import Signature
from ...core.system.owned_folders import sha256_file
from ...core.tensors import BATCH, Array, Feeds, TensorSpec
from ..footprint import precision_in_file
from ..timing.statistics import rounds_needed
from .device_runtimes import in_each, packages_of, precision_of_plan, run_by_tensorrt
from .device_wheels import fetch_wheels, wheel_target
from .planned_parts import ACCURACY_ROWS, planned_parts, rows_at_once
from .runner import SCHEMA

DESCRIPTION = "edge.json"
"""Name of the file that says what is measured, and has the checksums of all others."""
PROGRAM = "retort_edge"
README, DATA, MODELS = "README.txt", "data", "models"
"""Names of the other entries of the folder."""
RUNNER = Path(__file__).with_name("runner")
PLANS = "plans.py"
"""The file of the program that goes along only with a plan."""
_LOADED = 2.5
"""Memory of an opened model as a multiple of its file: its weights, packed once more for the kernels, and its graph."""
_BASE_BYTES = 96 << 20
"""Memory of Python, numpy and the runtime before a model is opened."""
_README = """\
This folder measures models on this device. It needs Python 3.9 or newer with numpy and onnxruntime, no network, and no
rights besides those to write here:

    python3 -m {program}

The results are written to the folder `out`. Ctrl-C ends it; the same command goes on where it was. Bring `out` back,
and read it with `retort edge pull {name} --by-hand out`.
"""


@dataclass(frozen=True)
class Measured:
    """A model that goes to the device.

    Attributes:
        plan: what TensorRT runs; None for other files.
    """

    name: str
    artifact: Artifact
    signature: Signature
    plan: Plan | None = None


def write_device_bundle(
    models: Mapping[str, Artifact], splits: Splits, options: EdgeOptions, place: Place, console: Console
) -> Artifact:
    """Write the folder for a device.

    Args:
        models: by name; the first is the reference.
        splits: the samples of the test split go along, with their targets.

    Raises:
        ArtifactError: a model is no file of ONNX, OpenVINO or TensorRT.
        UserError: the models take different inputs, or a plan does not take the batch sizes.
        DataError: the samples do not fit the models.
        StorageError: the disk is full or not writable.
    """
    opened = [_opened(name, model) for name, model in models.items()]
    _raise_if_other_inputs(opened)
    with new_artifact(place, "edge", "edge", options=options) as draft:
        folder = draft.folder
        entries = [candidate_of(folder, index, one) for index, one in enumerate(opened)]
        data, feeds = _samples(folder, opened, splits, options.rows)
        for one, entry in zip(opened, entries, strict=True):
            _fixed_batches(entry, options)
            if one.plan is not None:
                entry["batches"] = [(low, high) for low, _, high in one.plan.batches]
                rows = [rows_at_once(entry, wanted) for wanted in (1, ACCURACY_ROWS)]
                entry.update(run_by_tensorrt(one.plan, one.signature, [*rows, *options.batch_sizes], feeds))
        candidates = [one for entry in entries for one in in_each(entry, options.runtimes)]
        (folder / README).write_text(_README.format(program=PROGRAM, name=place.directory.name), encoding="utf-8")
        more = {
            "data": {**data, "fingerprint": splits.fingerprint()},
            "wheels": _wheels(folder, candidates, options, console),
        }
        describe(folder, candidates, options, more)
    made = load_artifact(place.directory)
    console.stage("edge", f"{counted(len(opened), 'model')} and {counted(int(data['rows']), 'sample')} in {made.path}")
    return made


def describe(
    folder: Path, candidates: Sequence[Mapping[str, Any]], options: EdgeOptions, more: Mapping[str, Any]
) -> None:
    """Put the program into a folder that has all models and samples, and say what is measured and what belongs to it.

    Args:
        more: further entries, such as ``data``.
    """
    planless = () if any("plan" in one for one in candidates) else (PLANS,)
    shutil.copytree(RUNNER, folder / PROGRAM, ignore=shutil.ignore_patterns("__pycache__", *planless))
    policy = _policy(options)
    described = {
        "schema": SCHEMA,
        "candidates": candidates,
        "reference": candidates[0]["name"],
        "packages": packages_of(candidates),
        "policy": policy,
        "parts": planned_parts(candidates, policy),
        "needs_bytes": _needed_bytes(folder, candidates),
        **more,
        "files": _checksums(folder),
    }
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _wheels(
    folder: Path, candidates: Sequence[Mapping[str, Any]], options: EdgeOptions, console: Console
) -> dict[str, Any] | None:
    """The entry of the wheels that go along; None if none do. TensorRT is part of a board's own system."""
    if not options.wheels:
        return None
    target = wheel_target(options.wheels, options.wheels_python, options.wheels_glibc)
    packages = packages_of([one for one in candidates if "plan" not in one])
    return fetch_wheels(target, packages, folder, console)


def _opened(name: str, model: Artifact) -> Measured:
    raise_if_not(model, "graph", "openvino", "engine")
    if model.kind == "engine":
        plan = read_plan(model.main)
        return Measured(name, model, plan.signature, plan)
    with closing(open_session(model.main, SessionOptions(threads=1))) as session:
        return Measured(name, model, session.signature)


def _raise_if_other_inputs(models: Sequence[Measured]) -> None:
    first = models[0]
    wanted = _inputs(first)
    for other in models[1:]:
        if _inputs(other) != wanted:
            ours, theirs = (one.signature.describe_inputs() for one in (first, other))
            raise UserError(
                f"'{first.name}' takes {ours}, and '{other.name}' takes {theirs}",
                "measure models with the same inputs, so that they get the same samples",
            )


def _inputs(model: Measured) -> list[tuple[str, str, int, int]]:
    """Name, dtype, rank and batch axis of each input; -1 for an input without a batch axis."""
    signature = model.signature
    axes = _axes(signature.inputs, signature.fixed_batch)
    return sorted((spec.name, spec.dtype, len(spec.shape), axes.get(spec.name, -1)) for spec in signature.inputs)


def candidate_of(folder: Path, index: int, model: Measured) -> dict[str, Any]:
    """The entry of a model, whose files are copied."""
    home = folder / MODELS / str(index)
    home.mkdir(parents=True)
    main, signature = model.artifact.main, model.signature
    file = home / f"model{main.suffix}"
    shutil.copyfile(main, file)
    if model.plan is not None:  # a machine with this GPU and TensorRT can compare the outputs
        for beside in (MANIFEST, SIGNATURE_FILE):
            shutil.copyfile(main.with_name(beside), home / beside)
    for path in files_beside(main):
        # OpenVINO finds the weights by the name of the model
        place = file.with_suffix(path.suffix) if main.suffix == ".xml" else home / path.relative_to(main.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return {
        "name": model.name,
        "file": file.relative_to(folder).as_posix(),
        "original": main.name,
        "sha256": model_sha256(main),
        "precision": precision_in_file(main) if model.plan is None else precision_of_plan(model.plan),
        "batch_axis": _axes(signature.inputs, signature.fixed_batch),
        "output_axis": _axes(signature.outputs, signature.fixed_batch),
        "fixed_batch": signature.fixed_batch or 0,
    }


def _axes(specs: Sequence[TensorSpec], fixed: int | None) -> dict[str, int]:
    """The batch axis of each tensor that has one; of a model for one batch size, the first axis of that size."""
    named = {spec.name: spec.shape.index(BATCH) for spec in specs if BATCH in spec.shape}
    return named or {spec.name: 0 for spec in specs if fixed and spec.shape and spec.shape[0] == fixed}


def _samples(folder: Path, models: Sequence[Measured], splits: Splits, most: int) -> tuple[dict[str, Any], Feeds]:
    """The inputs of the test samples as files, and their targets; and the inputs.

    Raises:
        InputError: the samples do not fit a model, which is named.
    """
    model = models[0]
    with naming_model(model.name):
        test = fit_to(splits, model.signature).test
    rows = min(len(test), most)
    feeds, targets = test.read(range(rows))
    checked: dict[str, Array] = {}
    for each in reversed(models):  # those of the first one are kept
        with naming_model(each.name):
            checked = each.signature.validate(_first_batch(feeds, each))
    (folder / DATA).mkdir()
    inputs = {}
    for index, (name, array) in enumerate(feeds.items()):
        inputs[name] = f"{DATA}/input-{index}.npy"
        np.save(folder / inputs[name], np.ascontiguousarray(array, checked[name].dtype))
    if targets is not None:
        _require_classes(np.asarray(targets), model)
        np.save(folder / f"{DATA}/targets.npy", np.asarray(targets))
    return {"inputs": inputs, "targets": None if targets is None else f"{DATA}/targets.npy", "rows": rows}, feeds


def _require_classes(targets: Array, model: Measured) -> None:
    """Refuse classes that the scores of a model do not have, which would be told only after the measurement.

    Raises:
        DataError: there is one.
    """
    spec = next((one for one in model.signature.outputs if one.dtype.startswith("float")), None)
    if spec is None or len(spec.shape) != 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return
    classes = spec.shape[1]
    if isinstance(classes, int) and classes > 1 and targets.size and not 0 <= targets.min() <= targets.max() < classes:
        bad = int(targets.max() if targets.max() >= classes else targets.min())
        raise DataError(
            f"target class {bad} does not exist: '{model.name}' knows 0 to {classes - 1}",
            "check the labels, or the model's outputs",
        )


def _first_batch(feeds: Mapping[str, Array], model: Measured) -> dict[str, Array]:
    """As many rows as the model takes at once, to compare them with its signature."""
    signature = model.signature
    rows, axes = signature.fixed_batch or 1, _axes(signature.inputs, signature.fixed_batch)
    return {
        name: np.take(array, np.arange(rows) % array.shape[axes[name]], axes[name]) if name in axes else array
        for name, array in feeds.items()
    }


def _fixed_batches(entry: Mapping[str, Any], options: EdgeOptions) -> None:
    size = entry["fixed_batch"]
    if size and options.batch_sizes != (size,):
        raise UserError(
            f"'{entry['name']}' was made for a batch size of {size}, and {list(options.batch_sizes)} are asked for",
            f"give --batch-sizes {size}, or export it with a dynamic batch axis",
        )


def _policy(options: EdgeOptions) -> dict[str, Any]:
    asked = options.model_dump(mode="json", exclude={"wheels", "wheels_python", "wheels_glibc"})
    asked["batches"] = asked.pop("batch_sizes")
    needed = rounds_needed(options.confidence)
    return {**asked, "needed": needed, "cold_file_starts": min(options.cold_file_starts, options.starts // 2)}


def _needed_bytes(folder: Path, candidates: Sequence[Mapping[str, Any]]) -> int:
    """Memory that the timing needs, in which all models are open."""
    homes = [(folder / one["file"]).parent for one in candidates]
    sizes = sum(path.stat().st_size for home in homes for path in home.rglob("*") if path.is_file())
    return int(_LOADED * sizes) + _BASE_BYTES


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}
