"""Plans for the double of TensorRT, as `retort engine` lays them down, and a machine that runs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trt_double import Driver, TensorRT

from retort.core.backends import cuda, trt, trt_reports
from retort.core.backends.cuda import find_device
from retort.core.backends.trt_versions import Flavor
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))
DEVICE = {"name": "Double 9000", "compute_capability": "9.0", "driver": "13.2", "memory_bytes": 0}


def plan(folder: Path, content: bytes = b"a plan", **built: Any) -> Path:
    """A plan with its manifest, which says that it doubles its input on the GPU of the double."""
    layers = {f"CONVOLUTION {kind}": 1 for kind in built.pop("types", ["FP32"])}
    facts = {
        "runtime": "tensorrt",
        "version": "11.4.0.106",
        "device": DEVICE,
        "hardware": "this",
        "version_compatible": False,
        "profiles": [{"x": "1x4:1x4:2x4"}, {"x": "1x4:8x4:16x4"}],
        "rebuild": "retort engine model.onnx --level 5",
        **built,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.plan").write_bytes(content)
    (folder / "signature.json").write_text(SIGNATURE.to_json())
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    entries = {name: (folder / name).read_bytes() for name in names}
    manifest = {
        "kind": "engine",
        "stage": "engine",
        "key": hashlib.sha256(content).hexdigest(),
        "parents": [],
        "facts": {"engine": facts, "layers": layers},
        "files": {
            name: {"sha256": hashlib.sha256(found).hexdigest(), "size_bytes": len(found)}
            for name, found in entries.items()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "model.plan"


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int = 1) -> Driver:
    """Let this machine have GPUs and TensorRT 11.4."""
    library = TensorRT.driver = Driver(gpus)
    monkeypatch.setattr(cuda, "_library", lambda: library)
    monkeypatch.setattr(trt, "find_device", lambda index: find_device(index, lambda: library))
    monkeypatch.setattr(trt, "load_flavor", lambda *_: Flavor("tensorrt", TensorRT.__version__, TensorRT))
    trt_reports.logger.cache_clear()
    return library


def feeds(rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of positive and negative numbers."""
    return {"x": (np.arange(rows * 4, dtype=np.float32) - 5).reshape(rows, 4)}
