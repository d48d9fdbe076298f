"""Faults of a plan that TensorRT runs itself, with doubles of TensorRT and of the driver of a GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ....core.session import open_session
from ....core.signature import Signature
from ....core.tensors import BATCH, TensorSpec
from .fault_cases import PLAN, Case, flip
from .runtime_doubles import Driver, gpu_with_tensorrt

VERSION = "11.4.0.106"
"""Of the TensorRT that plans are built by, and that is there."""
_SIGNATURE = Signature((TensorSpec("x", "float32", (BATCH, 4)),), (TensorSpec("y", "float32", (BATCH, 4)),))
_MANIFEST = "manifest.json"


def of_plans(folder: Path) -> Iterator[Case]:
    """All of them.

    Args:
        folder: where plans are written.
    """

    def case(what: str, cause: str, driver: Driver | None = None, version: str = VERSION, **built: Any) -> Case:
        def load() -> object:
            path = plan(folder / what.replace(" ", "-"), **built)
            with gpu_with_tensorrt(driver or Driver(), version):
                return open_session(path)

        return Case(what, PLAN, cause, load)

    yield case("a plan of another TensorRT", "was built by tensorrt 10.3.0; here is 11.4.0", by="10.3.0")
    yield case("a plan for another capability", "for compute capability 8.6; Double 9000 has 9.0", capability="8.6")
    yield case("a plan for another GPU", "was built for NVIDIA L4; here is Double 9000", gpu="NVIDIA L4")
    yield case("a plan that TensorRT cannot read", "cannot be loaded: Magic tag does not match")
    yield case("an altered plan", "altered or truncated", spoil=flip)
    bare = lambda path: path.with_name(_MANIFEST).unlink()  # noqa: E731
    yield case("a plan without its manifest", f"has no {_MANIFEST}", spoil=bare)
    other = lambda path: path.with_name(_MANIFEST).write_text("{}")  # noqa: E731
    yield case("a manifest of something else", "is not the manifest of an engine", spoil=other)
    yield case("a driver that does not start", "does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", Driver(error=803))
    yield case("a driver without a GPU", "the driver sees no GPU", Driver(0))
    yield case("a TensorRT that is too old", "TensorRT 8.6.1 is older than 10.3", version="8.6.1")


def plan(
    folder: Path,
    by: str = VERSION,
    capability: str = "9.0",
    gpu: str = "Double 9000",
    spoil: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write a plan with its manifest.

    Args:
        by: version of the TensorRT that built it.
        spoil: changes it afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, content = folder / "model.plan", b"a plan"
    built = {
        "runtime": "tensorrt",
        "version": by,
        "device": {"name": gpu, "compute_capability": capability},
        "version_compatible": False,
        "profiles": [],
        "rebuild": "retort engine model.onnx",
    }
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    path.write_bytes(content)
    (folder / "signature.json").write_text(_SIGNATURE.to_json())
    (folder / _MANIFEST).write_text(json.dumps({"facts": {"engine": built}, "files": {path.name: entry}}))
    spoil(path)
    return path
