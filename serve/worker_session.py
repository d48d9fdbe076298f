"""How a worker opens its model: from checked bytes, and on its GPU.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.backends.trt import open_plan
from ..core.backends.trt_plan import read_plan
from ..core.session import Session, SessionOptions, open_session
from ..core.signature import Signature
from .integrity import check_file, read_checked
from .settings import ENGINE, MODEL, PLAN, Settings


def session_options(settings: Settings, device: int = 0) -> SessionOptions:
    """How a worker opens its model.

    Args:
        device: number of the GPU that the server gives to the worker.
    """
    return SessionOptions(
        settings.threads,
        settings.providers,
        dict.fromkeys(settings.providers[:1], settings.provider_options),
        spinning=settings.spinning,
        ranges=settings.ranges,
        device=device,
    )


def open_checked(
    folder: Path, sums: Mapping[str, str], settings: Settings, signature: Signature, device: int
) -> Session:
    """Open the model of a bundle, after its bytes were compared with their checksums.

    Args:
        device: number of the GPU that the server gives to the worker.

    Raises:
        ArtifactError: a file is missing or altered, is no model, or a plan was built for another TensorRT or GPU.
        MachineError: the runtime or the required provider is missing.
    """
    options = session_options(settings, device)
    if settings.engine:
        plan = read_plan(folder / PLAN, lambda name: read_checked(folder, f"{ENGINE}/{name}", sums))
        return open_plan(plan, options, signature)
    if not settings.external:
        return open_session(read_checked(folder, MODEL, sums), options, signature)
    for name in (MODEL, *settings.external):
        check_file(folder, name, sums)
    return open_session(folder / MODEL, options, signature)
