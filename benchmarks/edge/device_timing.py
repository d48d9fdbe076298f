"""Times of files on a device for those who decide by them: pruning to a latency, and INT8 that is never slower."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact, load_artifact, new_artifact
from ...core.console import SILENT, Console
from ...core.context import Place
from ...core.counts import counted, with_article
from ...core.errors import MachineError, UserError
from ...core.options.edge_options import EdgeOptions, EdgeRuntime
from ...core.options.named_inputs import DEVICE
from ...core.options.stage_options import BenchOptions
from ...core.session import SessionOptions, open_session
from ...core.signature import Signature
from ...core.tensors import Feeds
from ..timing.candidates import repeat_rows
from ..timing.latency import LatencyComparison, above_floor
from . import device_readiness, device_run
from .device_bundle import DATA, Measured, candidate_of, describe
from .device_machine import machine_of
from .device_noise import floor_of
from .device_runtimes import WORDS, run_by
from .device_times import comparison_of
from .pulled_results import read_results
from .ssh import Device, device_of
from .store import DEFAULT, Store

FOLDER = "~/retort-edge"
_KEYS = ("python", "folder")
_POLL_S = 0.5
_ATTEMPTS = 3
SEED = 0


@dataclass(frozen=True)
class TimedFile:
    """A model for a device, with its inputs.

    Attributes:
        model: the ONNX file, or its bytes.
        feeds: real inputs, which are repeated to the batch size.
        signature: what it takes; by default what the file says.
    """

    model: bytes | Path
    feeds: Feeds
    signature: Signature | None = None


def device_named(name: str) -> Device:
    """The device of a timer, such as ``edge:pi@raspberrypi.local`` or ``edge:board,python=/opt/python/bin/python3``.

    Raises:
        UserError: it names no host, or something else than ``python`` and ``folder``.
    """
    host, *given = name.removeprefix(DEVICE).split(",")
    said = {key: value for key, _, value in (word.partition("=") for word in given)}
    if unknown := [key for key in said if key not in _KEYS or not said[key]]:
        raise UserError(
            f"the timer '{name}' says {unknown[0]!r}", "write edge:HOST, edge:HOST,python=PATH or edge:HOST,folder=PATH"
        )
    return device_of(host, said.get("folder", FOLDER), (), said.get("python", "python3"))


def description_of(device: Device) -> str:
    """A device in words, with the version of its runtime; times of another one are not mixed with its times.

    Raises:
        LinkLost: it cannot be reached.
        MachineError: it cannot measure.
    """
    found = device_readiness.look_alone(device.absolute())
    device_readiness.require_ready(device, found)
    answers = found.answers
    return f"{device.host} ({answers['board'] or answers['machine']}), onnxruntime {answers['onnxruntime']}"


@dataclass(frozen=True)
class TimedThere:
    """A timing on a device.

    Attributes:
        device: what the device said of itself.
    """

    comparison: LatencyComparison
    device: Mapping[str, Any]


RUNTIMES: Mapping[str, EdgeRuntime] = {"cpu": "ort", "cuda": "cuda", "tensorrt": "tensorrt", "openvino": "openvino"}
"""The runtime on a device for each provider of a measurement here."""


def require_timable(models: Mapping[str, Artifact], options: BenchOptions) -> None:
    """Refuse what cannot be timed on the device of the options, before anything is computed.

    Raises:
        UserError: the device is named wrongly, or a model is no ONNX file.
        LinkLost: the device cannot be reached.
        MachineError: it cannot measure.
    """
    if options.timer is None:
        return
    device = device_named(options.timer)
    for name, model in models.items():
        if model.kind != "graph":
            raise UserError(
                f"'{name}' is {with_article(model.kind)}, and {device.host} times ONNX files",
                "export it first with `retort export`, and give the exported file",
            )
    description_of(device)


def compare_on_device(
    files: Mapping[str, bytes | Path],
    samples: Feeds,
    options: BenchOptions,
    console: Console = SILENT,
    *,
    reference: str | None = None,
) -> tuple[dict[int, LatencyComparison], dict[str, Any]]:
    """Compare files on the device that the options name, as :func:`retort.benchmarks.timing.latency.compare_sessions`.

    Args:
        reference: the file that the others are compared with; the first one by default.

    Returns:
        The comparisons by batch size, and the device as the machine of a result.

    Raises:
        UserError: no device is named, or it is named wrongly.
        LinkLost: it cannot be reached, or did not come back.
        MachineError: it cannot measure.
    """
    device = device_named(options.timer or "")
    description_of(device)
    first = reference or next(iter(files))
    ordered = {name: TimedFile(files[name], samples) for name in (first, *(name for name in files if name != first))}
    found = {}
    for batch in options.batch_sizes:
        asked = EdgeOptions(
            batch_sizes=(batch,),
            threads=(options.threads,),
            block_ms=options.block_ms,
            seconds=options.budget_s,
            precision=options.precision,
            confidence=options.confidence,
            runtimes=(RUNTIMES[options.provider],),
        )
        console.stage("bench", f"{counted(files, 'model')} on {device.host}, at batch {batch}")
        found[batch] = time_on_device(device, ordered, asked, console)
    machine = machine_of(next(iter(found.values())).device)
    return {batch: one.comparison for batch, one in found.items()}, machine


def time_on_device(
    device: Device, files: Mapping[str, TimedFile], options: EdgeOptions, console: Console = SILENT
) -> TimedThere:
    """Time files on a device in interleaved blocks, as ``retort bench`` does here; the first is the reference.

    A timing that is NOISY is repeated, at most three times in all.

    Args:
        options: one batch size and one number of threads; only the timing is done.

    Raises:
        LinkLost: the device did not come back.
        MachineError: it cannot measure, or the timing failed there.
    """
    only = {
        "starts": 0,
        "cold_file_starts": 0,
        "accuracy": False,
        "energy": "off",
        "noise": "off",
        "sustain_minutes": 0.0,
    }
    asked = options.model_copy(update=only)
    found = None
    for attempt in range(_ATTEMPTS):
        found = _once(device, files, asked.model_copy(update={"seed": SEED + attempt}), console)
        if found.comparison.noise.status == "VALID":
            break
    assert found is not None
    return found


def _once(device: Device, files: Mapping[str, TimedFile], options: EdgeOptions, console: Console) -> TimedThere:
    with tempfile.TemporaryDirectory() as name:
        bundle = write_timing_bundle(Path(name) / "bundle", files, options)
        base = device.absolute()
        here = replace(base, folder=f"{base.folder}/timer-{uuid.uuid4().hex[:8]}").absolute()
        try:
            device_run.push(here, bundle, SILENT)
            device_run.start(here)
            ended = device_run.wait(here, console, _POLL_S)
            if ended["state"] in ("refused", "ended"):
                raise MachineError(f"{device.host} cannot time the model: {ended['why']}", "see `retort edge doctor`")
            out = device_run.pull(here, Path(name) / "out", SILENT)
        except BaseException:
            _quietly(lambda: device_run.stop(here))
            _quietly(lambda: device_run.clean(here))
            _quietly(lambda: device_run.leave(base))
            raise
        device_run.clean(here)
        if base.made:
            device_run.leave(base)
        pulled = read_results(bundle, out)
        (part,) = pulled.of_kind("latency")
        if part.error:
            raise MachineError(
                f"{device.host} cannot time the model: {part.error}", "measure it with `retort edge run`"
            )
        comparison = comparison_of(pulled, part, options.confidence, options.seed)
        words = [WORDS[one] for one in options.runtimes]
        noise = floor_of(Store(DEFAULT).floors(), pulled.device, words, "all", int(part.said["threads"]))
        return TimedThere(above_floor(comparison, noise.at) if noise else comparison, pulled.device)


def _quietly(end: Callable[[], object]) -> None:
    """Tidy up after a failure, whose own message is the one that counts."""
    try:
        end()
    except (MachineError, UserError):
        return


def write_timing_bundle(folder: Path, files: Mapping[str, TimedFile], options: EdgeOptions) -> Path:
    """Write a bundle in which each model has inputs of its own, repeated to the batch size."""
    (batch,) = options.batch_sizes
    with new_artifact(Place(folder), "edge", "edge", options=options) as draft:
        candidates = []
        for index, (name, file) in enumerate(files.items()):
            path = draft.folder / f"{index}.onnx" if isinstance(file.model, bytes) else file.model
            if isinstance(file.model, bytes):
                path.write_bytes(file.model)
            with closing(open_session(path, SessionOptions(threads=1), file.signature)) as session:
                entry = candidate_of(draft.folder, index, Measured(name, load_artifact(path), session.signature))
                arrays = repeat_rows(file.feeds, session, batch)
            home = draft.folder / DATA / str(index)
            home.mkdir(parents=True)
            inputs = {}
            for number, (key, array) in enumerate(arrays.items()):
                inputs[key] = f"{DATA}/{index}/input-{number}.npy"
                np.save(draft.folder / inputs[key], np.ascontiguousarray(array))
            # the inputs are whole batches, so nothing is taken along an axis on the device
            own = {"batch_axis": {}, "data": {"inputs": inputs, "rows": 1}, **run_by(options.runtimes[0])}
            candidates.append({**entry, **own})
            if isinstance(file.model, bytes):
                path.unlink()
        describe(draft.folder, candidates, options, {"data": {"targets": None, "rows": batch, "inputs": {}}})
    return folder
