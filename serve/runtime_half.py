"""The runtime half: the modules that an archive or a bundle carries, so that a serving host needs no toolkit."""

from __future__ import annotations

from pathlib import Path

RUNTIME_HALF = (
    "__init__.py",
    "core/__init__.py",
    "core/system/__init__.py",
    "core/system/cache.py",
    "core/system/garbage.py",
    "core/system/installation.py",
    "core/counts.py",
    "core/errors.py",
    "core/tensors.py",
    "core/session.py",
    "core/postprocessing.py",
    "core/preprocessing/__init__.py",
    "core/preprocessing/fitting.py",
    "core/preprocessing/decode_images.py",
    "core/preprocessing/image_guards.py",
    "core/preprocessing/sample_reader.py",
    "core/preprocessing/decode_sounds.py",
    "core/preprocessing/specs.py",
    "core/preprocessing/symbols.py",
    "core/preprocessing/tokens.py",
    "core/explanation/__init__.py",
    "core/explanation/explanation.py",
    "core/explanation/explained_value.py",
    "core/explanation/input_forms.py",
    "core/explanation/evaluations.py",
    "core/explanation/refinement.py",
    "core/explanation/occlusion.py",
    "core/explanation/evidence.py",
    "core/explanation/explain.py",
    "core/backends/__init__.py",
    "core/backends/ort.py",
    "core/backends/ort_tensorrt.py",
    "serve/__init__.py",
    "serve/settings.py",
    "serve/allowance.py",
    "serve/integrity.py",
    "serve/workarounds.py",
    "serve/wire.py",
    "serve/bodies.py",
    "serve/content_types.py",
    "serve/json_text.py",
    "serve/raw_samples.py",
    "serve/v2.py",
    "serve/checked_inputs.py",
    "serve/request.py",
    "serve/hook.py",
    "serve/replies.py",
    "serve/batching.py",
    "serve/explanations.py",
    "serve/multipart.py",
    "serve/engine.py",
    "serve/inference.py",
)
"""What TorchServe's handler needs. The imports in it are relative, so that it can have any package name."""
OF_BUNDLES = ("serve/bundled.py", "serve/array_requests.py", "serve/async_engine.py", "serve/routes.py")
"""What a bundle carries in addition, for servers that are written in Python."""
ROOT = Path(__file__).resolve().parents[1]
_FACE = (
    '"""The runtime of this bundle: it needs Python 3.11, numpy and onnxruntime, and no installed toolkit."""\n\n'
    "from .serve.async_engine import AsyncEngine\n"
    "from .serve.bundled import open_bundle\n"
    "from .serve.request import Incoming\n"
    "from .serve.routes import Application\n\n"
    '__all__ = ["Application", "AsyncEngine", "Incoming", "open_bundle"]\n'
)


def carried(package: str) -> dict[str, bytes]:
    """The runtime half for an archive: content by path, in a package of this name."""
    return {f"{package}/{name}": (ROOT / name).read_bytes() for name in RUNTIME_HALF}


def carried_by_bundles(package: str) -> dict[str, bytes]:
    """The runtime half for a bundle: as :func:`carried`, with servers of its own and a face that names them."""
    more = {f"{package}/{name}": (ROOT / name).read_bytes() for name in OF_BUNDLES}
    return carried(package) | more | {f"{package}/__init__.py": _FACE.encode()}
