"""The interface to TorchServe: it returns statuses and bytes, and ``handle`` never raises (serve.md H29).

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ArtifactError, RetortError
from .engine import Engine
from .monitoring.recorder import Recorder, shared_recorder
from .requests.replies import PHRASES, Answer, refuse
from .requests.request import Incoming
from .signing.trust import Trust
from .workarounds import bound_messages

LOAD_FAILED = "RETORT_LOAD_FAILED"
_log = logging.getLogger("retort.serve")


class Endpoint:
    """The implementation of a handler file's ``handle`` function.

    Args:
        version: version of the handler file, shown by the describe operation.
        reads: what the model must read: ``tensor``, which all do, or also ``image``, ``text`` or ``audio``.
    """

    def __init__(self, version: str, reads: str = "tensor") -> None:
        self.version = version
        self.reads = reads
        self.engine: Engine | None = None
        self._warned: dict[str, float] = {}

    def handle(self, data: Sequence[Mapping[str, object]] | None, context: Any) -> list[bytes]:
        """TorchServe's entry: ``data`` is None once at load, then a list of requests.

        Raises:
            RuntimeError: only at load, when the archive cannot be served; TorchServe knows no other error there.
        """
        if data is None:
            self.initialize(context)
            return []
        begin = time.perf_counter()
        try:
            answers = self._answers(data, context)
            bodies = [_send(answer, index, context) for index, answer in enumerate(answers)]
            self._count(begin, answers)
            return bodies
        except (
            Exception
        ) as error:  # the last guard: one failure must not become a 503 without explanation for all requests
            self._warn(f"handler {type(error).__name__}")
            refused = [refuse(error)] * len(data)
            self._count(begin, refused)
            return [_send(answer, index, context) for index, answer in enumerate(refused)]

    def initialize(self, context: Any) -> None:
        """Load the model next to the handler; it can be called again.

        Raises:
            RuntimeError: with the reason, which is also logged as one line that the launcher reads.
        """
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        try:
            properties = context.system_properties
            device, folder = gpu_of(properties.get("gpu_id")), Path(properties["model_dir"])
            self.engine = Engine.load(folder, device, trust=Trust.chosen())
            if self.reads not in {"tensor"} | {spec.kind for spec in self.engine.signature.preprocessing}:
                message = f"the handler reads {self.reads}, and the signature does not say how it becomes an input"
                raise ArtifactError(message, "pack the model again")
        except Exception as error:
            raise load_failure(error) from error
        settings = self.engine.settings
        self.engine.record(shared_recorder(settings.name, settings.version) or Recorder())
        self.engine.handler_version = self.version
        bound_messages()
        sizes = sorted(self.engine.executor.plan.sizes)
        _log.info("retort serves with %d threads, exact batch sizes %s", self.engine.settings.threads, sizes)

    def _answers(self, data: Sequence[Mapping[str, object]], context: Any) -> list[Answer]:
        if self.engine is None:
            return [Answer(503, b'{"code":"NotReady","status":503,"message":"the model is not loaded"}') for _ in data]
        answers = self.engine.answer([_incoming(parts, index, context) for index, parts in enumerate(data)])
        for answer in answers:
            if answer.status >= 500 and answer.status != 501:
                self._warn(f"{answer.status} {answer.cause}")
        return answers

    def _count(self, begin: float, answers: Sequence[Answer]) -> None:
        if self.engine is not None:
            self.engine.recorder.handled(time.perf_counter() - begin, answers)

    def _warn(self, signature: str) -> None:
        # one line per kind of failure and minute, and never the content of a request (serve.md H28)
        now = time.monotonic()
        if now - self._warned.get(signature, -60.0) >= 60.0:
            self._warned[signature] = now
            _log.warning("retort: requests fail: %s", signature)


def gpu_of(given: object) -> int:
    """The number of the GPU that TorchServe gives to a worker; 0 where it gives none."""
    return given if isinstance(given, int) and given > 0 else 0


def load_failure(error: BaseException) -> RuntimeError:
    """Log in one line why the model cannot be served, and return the error that TorchServe reports."""
    message = error.message if isinstance(error, RetortError) else f"{type(error).__name__}: {error}"
    remedy = error.remedy if isinstance(error, RetortError) else ""
    facts = {"code": type(error).__name__, "message": message, "remedy": remedy, "python": sys.executable}
    _log.error("%s %s", LOAD_FAILED, json.dumps(facts))
    return RuntimeError(f"{message} (python: {sys.executable})")


def _incoming(parts: Mapping[str, object], index: int, context: Any) -> Incoming:
    headers: dict[str, str] = {}
    types: dict[str, str] = {}
    for name, value in context.get_all_request_header(index).items():
        if isinstance(value, Mapping):
            types[name] = str(value.get("content-type") or "")
        else:
            headers[name.lower()] = str(value)
    return Incoming(parts, types, headers, str(context.get_request_id(index) or ""))


def _send(answer: Answer, index: int, context: Any) -> bytes:
    context.set_response_status(answer.status, PHRASES.get(answer.status, "Error"), index)
    context.set_response_content_type(index, answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(index, name, value)
    return answer.body
