"""Lines to paste that ask a served model: for a shell, for Python with Retort, and for Python without it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from ..core.tensors import Array, Feeds
from .address import Address
from .requests.wire import JSON, NPZ, write_npz
from .settings import Limits

LONGEST_SHOWN = 160
LONGEST_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Example:
    """One request that the model answers.

    Attributes:
        kind: content type of the body: JSON, or npz where JSON would be too long or cannot hold the values.
        body: what is sent.
    """

    kind: str
    body: bytes

    @property
    def shown(self) -> bool:
        """Whether the body is short enough to stand in a line."""
        return self.kind == JSON and len(self.body) <= LONGEST_SHOWN

    def store(self, folder: Path, model: str) -> Path:
        """Write the body to a file in a folder, which servers of several models may share; its absolute path.

        A file with another content belongs to the user or to another server, and is kept: another name is taken.
        """
        suffix = "json" if self.kind == JSON else "npz"
        numbers = count(2)
        path = folder / f"{model}-request.{suffix}"
        while not (path.is_file() and path.read_bytes() == self.body):
            with suppress(FileExistsError), path.open("xb") as stream:
                stream.write(self.body)
                break
            path = folder / f"{model}-request-{next(numbers)}.{suffix}"
        return path.resolve()


@dataclass(frozen=True)
class Lines:
    """What to paste; each field is complete in itself.

    Attributes:
        curl: for a shell.
        predict: the same with `retort predict`.
        client: Python with Retort.
        python: Python with its standard library only.
    """

    curl: str
    predict: str
    client: str
    python: str


def example_request(inputs: Feeds, limits: Limits) -> Example:
    """The request for some inputs: JSON where that is short enough and exact.

    Args:
        limits: what the server accepts.
    """
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    shortest = sum(4 * array.size for array in arrays.values())
    exact = all(array.size and np.isfinite(array).all() for array in arrays.values())
    if exact and shortest <= LONGEST_JSON_BYTES:
        body = json.dumps({name: _shortest(array) for name, array in arrays.items()}).encode()
        if len(body) <= min(LONGEST_JSON_BYTES, limits.request_bytes):
            return Example(JSON, body)
    return Example(NPZ, write_npz(arrays))


def lines(url: str, example: Example, file: Path, headers: Mapping[str, str] | None = None) -> Lines:
    """What to paste to send an example to a model.

    Args:
        url: address of the model's predictions.
        file: the file that holds the example's body; an absolute path, so that the lines work in every folder.
        headers: further headers that the way to the server needs, such as a token for a proxy.
    """
    address = Address.parse(url).url
    wanted = {"Content-Type": example.kind, **({} if example.kind == JSON else {"Accept": JSON}), **(headers or {})}
    body = f"-d {shlex.quote(example.body.decode())}" if example.shown else f"--data-binary {shlex.quote(f'@{file}')}"
    more = _headers("--header", headers or {})
    return Lines(
        curl=" ".join(["curl", shlex.quote(address), *_headers("-H", wanted), body]),
        predict=" ".join([*("retort", "predict", shlex.quote(address)), "--input", shlex.quote(str(file)), *more]),
        client=_client(address, example, file, dict(headers or {})),
        python=_python(address, example, file, wanted),
    )


_RAW = {
    "image": ("an image", "image/jpeg", "--data-binary @photo.jpg"),
    "audio": ("a recording", "audio/wav", "--data-binary @sound.wav"),
    "text": ("a text", "text/plain", "-d 'any text'"),
}
"""For each kind of raw samples: what it is, its usual content type, and the body that curl sends."""


def raw_lines(url: str, kind: str, headers: Mapping[str, str] | None = None) -> str:
    """What to paste to send a file or a text to a model that reads it, and what it is.

    Args:
        kind: ``image``, ``text`` or ``audio``.
    """
    what, mime, body = _RAW[kind]
    address = shlex.quote(Address.parse(url).url)
    wanted = _headers("-H", {"Content-Type": mime, **(headers or {})})
    return f"It also reads {what}:\n\n{' '.join(['curl', address, *wanted, body])}\n"


def _headers(flag: str, headers: Mapping[str, str]) -> list[str]:
    return [f"{flag} {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]


def _client(address: str, example: Example, file: Path, headers: dict[str, str]) -> str:
    more = f", headers={_mapping(headers)}" if headers else ""
    start = ["from retort.serve.client import Client"]
    if example.shown:
        inputs = _mapping(json.loads(example.body))
    elif example.kind == JSON:
        start.insert(0, "import json")
        inputs = f"json.load(open({_text(str(file))}))"
    else:
        start.insert(0, "import numpy")
        inputs = f"numpy.load({_text(str(file))})"
    return "\n".join([*start, f"print(Client({_text(address)}{more}).predict({inputs}))"])


def _python(address: str, example: Example, file: Path, headers: dict[str, str]) -> str:
    literal = _mapping(json.loads(example.body)) if example.shown else ""
    body = f"json.dumps({literal}).encode()" if example.shown else f'open({_text(str(file))}, "rb").read()'
    return "\n".join(
        [
            "import json, urllib.request",
            f"body = {body}",
            f"request = urllib.request.Request({_text(address)}, body, {_mapping(headers)})",
            "print(json.load(urllib.request.urlopen(request)))",
        ]
    )


def _text(value: str) -> str:
    """A text as Python source, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _mapping(values: Mapping[str, object]) -> str:
    """A mapping of texts or numbers as Python source."""
    items = (f"{_text(key)}: {_text(item) if isinstance(item, str) else repr(item)}" for key, item in values.items())
    return f"{{{', '.join(items)}}}"


def _shortest(array: Array) -> object:
    """Nested lists in which a float has no more digits than its own type needs: 0.1 instead of 0.10000000149011612."""
    if array.dtype.kind != "f" or array.dtype.itemsize >= 8:
        return array.tolist()
    return array.astype(str).astype(np.float64).tolist()
