"""A candidate on the device: its session in a runtime, and the real samples that it is given."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Run = Callable[[Mapping[str, Any]], Callable[[], Any]]


def imported(module: str) -> Any:
    """Import a runtime without its telemetry."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module(module)


class Model:
    """An opened candidate; the calling thread counts among ``threads``.

    Raises:
        RuntimeError: the runtime cannot open it; the message has the runtime's words.
    """

    def __init__(self, folder: Path, candidate: Mapping[str, Any], threads: int) -> None:
        self.axes: dict[str, int] = candidate["batch_axis"]
        path, module = str(folder / candidate["file"]), candidate["module"]
        opened: tuple[list[str], Run]
        try:
            if module.startswith("tensorrt"):
                from .plans import in_tensorrt

                opened = in_tensorrt(path, candidate, imported(module))
            else:
                opened = (_in_openvino if module == "openvino" else _in_ort)(path, candidate, threads)
        except Exception as error:  # the classes of the runtimes derive from Exception alone
            raise RuntimeError(f"{candidate['name']} cannot be opened: {str(error)[:500]}") from error
        self.names, self.call = opened

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs, in the order of :attr:`names`."""
        return [np.array(value) for value in self.call(feeds)()]


def _in_ort(path: str, candidate: Mapping[str, Any], threads: int) -> tuple[list[str], Run]:
    """Names of the outputs, and how ONNX Runtime is called; a GPU's provider that does not start is an error."""
    runtime, wanted = imported("onnxruntime"), candidate["providers"][0]
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=candidate["providers"])
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"it would run in {session.get_providers()[0]}, and {wanted} is asked for")
    return [output.name for output in session.get_outputs()], lambda feeds: partial(session.run, None, feeds)


def _in_openvino(path: str, candidate: Mapping[str, Any], threads: int) -> tuple[list[str], Run]:
    """Names of the outputs, and how OpenVINO is called."""
    options = {**candidate["options"], "INFERENCE_NUM_THREADS": str(threads)}
    compiled = imported("openvino").Core().compile_model(path, "CPU", options)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.outputs]
    known = {name: at for at, port in enumerate(compiled.inputs) for name in port.get_names()}

    def called(feeds: Mapping[str, Any]) -> Callable[[], Any]:
        given = {known[name]: np.require(value, requirements="W") for name, value in feeds.items() if name in known}
        return lambda: request.infer(given, share_inputs=True).to_tuple()

    return names, called


class Samples:
    """The samples of the bundle, or a candidate's own ones; they are read from the disk when they are needed.

    Attributes:
        rows: how many there are.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], candidate: Mapping[str, Any]) -> None:
        data = candidate.get("data") or manifest["data"]
        self.rows = int(data["rows"])
        self._arrays = {name: np.load(folder / file, mmap_mode="r") for name, file in data["inputs"].items()}

    def feeds(self, axes: Mapping[str, int], rows: Any) -> Arrays:
        """The inputs for these rows; an input without a batch axis is always the same.

        Args:
            axes: the batch axis of each input that has one.
            rows: numbers of samples; beyond the last one, the first ones come again.
        """
        chosen = np.asarray(rows) % self.rows
        return {
            name: np.ascontiguousarray(np.take(array, chosen, axes[name])) if name in axes else np.array(array)
            for name, array in self._arrays.items()
        }
