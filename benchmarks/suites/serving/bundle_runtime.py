"""The runtime half of a bundle in this process, as servers in Python load it, to ask it without a network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = "retort_runtime"


@dataclass(frozen=True)
class Call:
    """A request as a worker gets it.

    Attributes:
        parts: value by name; a body is the part ``body``.
        types: content types of the parts of a form.
        headers: with names in lower case.
    """

    parts: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What the runtime answers to a call."""

    status: int
    body: bytes
    kind: str = ""


@dataclass(frozen=True)
class Runtime:
    """A loaded bundle.

    Attributes:
        engine: an object with ``answer``, ``signature`` and ``settings``.
        incoming: makes a request of the engine from parts, types and headers.
        decoder: decodes one request, as the engine does before it runs the model.
    """

    engine: Any
    incoming: Callable[..., Any]
    decoder: Callable[..., Any]

    def answer(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply per call, which the engine got as one batch."""
        requests = [self.incoming(call.parts, call.types, call.headers) for call in calls]
        return [Reply(one.status, one.body, one.content_type) for one in self.engine.answer(requests)]

    def decode(self, body: bytes, kind: str) -> Any:
        """The decoded request of a body with a content type; the model does not run."""
        request = self.incoming({"body": body}, {}, {"content-type": kind})
        return self.decoder(request, self.engine.signature, self.engine.settings, self.engine.reader)


def open_runtime(bundle: Path) -> Runtime:
    """The runtime of a bundle; the first that is opened in a process gives its code to all others."""
    if PACKAGE not in sys.modules:
        sys.path.insert(0, str(bundle))
    face, decoding = import_module(PACKAGE), import_module(f"{PACKAGE}.serve.requests.request")
    return Runtime(face.open_bundle(bundle), face.Incoming, decoding.decode)
