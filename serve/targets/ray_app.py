"""The Ray Serve application of the bundle beside this file, the ``serve_app.py`` of the deployment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

HERE = Path(__file__).resolve().parent


class Model:
    """A replica: it is ready when the bundle is verified and its golden outputs are reproduced."""

    def __init__(self) -> None:
        told = json.loads((HERE / "deployment.json").read_bytes())
        bundle = HERE / told["bundle"]
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(bundle))
        from retort_runtime import Application

        self.application = Application(bundle, told["p99_ms"])

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        answer = await self.application.respond(request.method, path, headers, await request.body())
        return Response(answer.body, answer.status, {"Content-Type": answer.content_type, **answer.headers})

    async def check_health(self) -> None:
        """Let Ray replace this replica if it no longer computes what it did when the model was exported.

        Raises:
            RuntimeError: the golden outputs are not reproduced.
        """
        answer = await self.application.model.health()
        if answer.status != 200:
            raise RuntimeError(answer.body.decode())


app = serve.deployment(Model).bind()
