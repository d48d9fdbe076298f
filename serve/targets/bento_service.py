"""The BentoML service of the bundle beside this file, the ``service.py`` of the deployment."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import bentoml

HERE = Path(__file__).resolve().parent
TOLD = json.loads((HERE / "deployment.json").read_bytes())
_opened: list[Any] = []


async def application(scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answer with the application that the service of this process has opened."""
    answered: Awaitable[None] = _opened[0](scope, receive, send)
    await answered


class Model:
    """A worker: it is ready when the bundle is verified and its golden outputs are reproduced."""

    def __init__(self) -> None:
        bundle = HERE / TOLD["bundle"]
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(bundle))
        from retort_runtime import Application

        _opened.append(Application(bundle, TOLD["p99_ms"]))


Service = bentoml.asgi_app(application, path="/")(
    bentoml.service(name="model", workers=TOLD["workers"], traffic={"timeout": TOLD["timeout_s"]})(Model)
)
