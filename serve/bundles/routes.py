"""An ASGI application of one bundle: the paths of TorchServe and of KServe V1 and V2, for any asyncio server.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ...core.errors import InputError, LimitError
from ..monitoring.exposition import CONTENT_TYPE, exposition
from ..monitoring.recorder import own_recorder
from ..monitoring.request_age import START_HEADER
from ..requests.allowance import allowance
from ..requests.content_types import mime_of
from ..requests.json_text import dump
from ..requests.multipart import MULTIPART, read_form
from ..requests.replies import Answer, Operation, refuse
from ..requests.request import Incoming
from ..requests.v2 import EXTENSIONS, metadata
from .async_engine import GOAL_MS, AsyncEngine

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
DRAINED_BYTES = 1 << 23
"""Up to this size the body of a refused request is received, and dropped: a client that is still sending when its
connection ends sees a broken connection instead of the refusal."""
_VERSION = r"(?:/versions/(?P<version>[^/]+))?"
_ROUTES = {
    "live": r"/v2/health/live",
    "ready": r"/v2/health/ready|/ping|/healthz",
    "server": r"/v2/?",
    "model_ready": rf"/v2/models/(?P<model>[^/]+){_VERSION}/ready",
    "model": rf"/v2/models/(?P<model>[^/]+){_VERSION}",
    "models": r"/models",
    "metrics": r"/(?:v2/)?metrics",  # BentoML keeps the first for its own
    "model_v1": r"/v1/models/(?P<model>[^/:]+)",
    "health": r"/predictions/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?/healthcheck",
}
_PREDICTIONS = (
    rf"/v2/models/(?P<model>[^/]+){_VERSION}/infer",
    r"/v1/models/(?P<model>[^/:]+):predict",
    r"/predictions/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?",
    r"/invocations",
)
_EXPLANATIONS = (
    r"/explanations/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?",
    r"/v1/models/(?P<model>[^/:]+):explain",
)
# TorchServe's own ways to tell a handler what to do: from another server's client they mean nothing
_DROPPED = {"url_path", "explain", "describe"}
_NOTHING: Mapping[str, str] = {}


class Application:
    """An ASGI application that answers for one bundle; it is ready as soon as it exists.

    Args:
        folder: the bundle; it is verified and opened at once.
        goal_ms: as of :class:`retort.serve.bundles.async_engine.AsyncEngine`.

    Raises:
        RetortError: the bundle is damaged, or cannot be served on this machine.
    """

    def __init__(self, folder: str | Path, goal_ms: float = GOAL_MS) -> None:
        self.model = AsyncEngine.open(folder, goal_ms)
        self.settings = self.model.engine.settings
        self.model.engine.record(own_recorder(self.settings.name, self.settings.version))
        self.largest = allowance(self.model.engine.signature, self.settings.limits).body_bytes

    async def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a whole HTTP request.

        Args:
            path: the decoded path, without its query.
            headers: with lower-case names.
        """
        request_id = headers.get("x-request-id", "")[:128]
        operation: Operation = "other"
        try:
            for name, pattern in _ROUTES.items():
                if (found := _match(path, (pattern,))) is not None:
                    self._require(found, method, "GET", *(["POST"] if name == "health" else []))
                    return self._counted(await self._state(name), operation)
            if (found := _match(path, _PREDICTIONS)) is not None:
                operation = "predict"
                self._require(found, method, "POST")
                return await self.model.answer(self._incoming(headers, body, request_id))
            if (found := _match(path, _EXPLANATIONS)) is not None:
                operation = "explain"
                self._require(found, method, "POST")
                return await self.model.answer(self._incoming(headers, body, request_id, {"explain": "true"}))
            raise InputError("there is nothing at this path", f"ask at /predictions/{self.settings.name}", status=404)
        except Exception as error:  # a fault of one request must not reach the server
            return self._counted(refuse(error, request_id), operation)

    def _counted(self, answer: Answer, operation: Operation) -> Answer:
        """An answer that the model did not give."""
        self.model.engine.recorder.answered(replace(answer, operation=operation))
        return answer

    def _require(self, found: Mapping[str, str | None], method: str, *allowed: str) -> None:
        model, version = found.get("model"), found.get("version")
        if model not in (None, self.settings.name) or version not in (None, self.settings.version):
            known = f"{self.settings.name} {self.settings.version}"
            raise InputError("there is no such model or version", f"this server has {known}", status=404)
        if method not in allowed:
            raise InputError(f"the method {method[:16]} is not allowed here", f"use {allowed[0]}", status=405)

    def _incoming(
        self, headers: Mapping[str, str], body: bytes, request_id: str, told: Mapping[str, str] = _NOTHING
    ) -> Incoming:
        """The request for the engine; a multipart form is read here, which TorchServe does by itself."""
        self._check_size(len(body))
        kept = {START_HEADER: f"{time.time():.6f}"}  # where no proxy says it, the time begins here
        kept |= {name: value for name, value in headers.items() if name not in _DROPPED} | {**told}
        kind = headers.get("content-type", "")
        parts, types = read_form(body, kind) if mime_of(kind) == MULTIPART else ({"body": body}, {})
        return Incoming(parts, types, kept, request_id)

    def _check_size(self, size: int) -> None:
        if size > self.largest:
            raise LimitError("the request is too large", f"at most {self.largest} bytes are allowed")

    async def _state(self, name: str) -> Answer:
        model, version = self.settings.name, self.settings.version
        if name in ("ready", "model_ready", "health"):
            answer = await self.model.health()
            if name == "health" or answer.status != 200:
                return answer
            value: dict[str, Any] = {"status": "Healthy", "ready": True, "name": model}
        elif name == "metrics":
            return Answer(200, exposition(self.model.engine.recorder.counts()), CONTENT_TYPE)
        elif name == "live":
            value = {"live": True}
        elif name == "server":
            value = {"name": "retort", "version": version, "extensions": list(EXTENSIONS)}
        elif name == "models":
            value = {"models": [{"modelName": model, "modelUrl": version}]}
        elif name == "model_v1":
            value = {"name": model, "ready": True}
        else:
            value = metadata(self.settings, self.model.engine.signature, self.model.engine.session.backend)
        return Answer(200, dump(value))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            body = await self._body(headers, receive)
            if body is None:
                return
            answer = body if isinstance(body, Answer) else await self.respond(scope["method"], path, headers, body)
            await _send(answer, send)

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | Answer | None:
        """The whole body; a refusal as soon as it is longer than any legal one; None if the client hung up."""
        declared = headers.get("content-length", "0")
        size = int(declared) if declared.isdigit() and len(declared) < 19 else 0
        parts: list[bytes] = []
        received, more = 0, True
        while more and max(size, received) <= max(self.largest, DRAINED_BYTES):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            received += len(piece)
            if max(size, received) <= self.largest:
                parts.append(piece)
            more = message.get("more_body", False)
        try:
            self._check_size(max(size, received))
        except LimitError as error:
            refused = self._counted(refuse(error, headers.get("x-request-id", "")[:128]), "other")
            return Answer(refused.status, refused.body, headers={"Connection": "close"})
        return b"".join(parts)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    def close(self) -> None:
        """Free the model."""
        self.model.close()


def _match(path: str, patterns: tuple[str, ...]) -> dict[str, str | None] | None:
    found = next((match for pattern in patterns if (match := re.fullmatch(pattern, path))), None)
    return None if found is None else found.groupdict()


async def _send(answer: Answer, send: Send) -> None:
    headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
    encoded = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})
