"""A candidate on the device: its session in ONNX Runtime, and the real samples that it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


class Model:
    """An opened candidate.

    Args:
        folder: the bundle.
        candidate: its entry in the manifest.
        threads: threads of the runtime; the calling one counts.

    Raises:
        RuntimeError: the runtime cannot open it; the message has the runtime's words.
    """

    def __init__(self, folder: Path, candidate: Mapping[str, Any], threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(
                str(folder / candidate["file"]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the classes of ONNX Runtime derive from Exception alone
            raise RuntimeError(f"{candidate['name']} cannot be opened: {str(error)[:500]}") from error
        self.axes: dict[str, int] = {**candidate["batch_axis"]}
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs, in the order of :attr:`names`."""
        found: list[Any] = self.session.run(None, feeds)
        return found


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
