"""Client of a served model: it sends arrays, returns arrays, and raises Retort's errors."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from http.client import responses as http_reasons
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..core.console import SILENT, Console
from ..core.data.raw_values import raw_values
from ..core.data.splits import Split
from ..core.errors import InputError, LimitError, RetortError, ServingError, UserError
from ..core.preprocessing.sample_reader import Given, Raw
from ..core.tensors import Array, Feeds
from .connection import Connections
from .requests.json_text import dump
from .requests.replies import CLASSES_HEADER, OUTPUTS_HEADER
from .requests.v2 import V2_TYPES, v2_tensor
from .requests.wire import JSON, NPY, NPZ, read_npy, read_npz, write_npy, write_npz
from .settings import TRUSTED

Format = Literal["npy", "npz", "json"]
_TYPES: dict[str, str] = {"npy": NPY, "npz": NPZ, "json": JSON}
_NO_WORKER = "ServiceUnavailableException"  # TorchServe's text speaks of missing workers when its queue is full
_NO_PAGE = "ResourceNotFoundException"


class Client:
    """Sends requests to one model of one server over connections that stay open, one per thread.

    Args:
        url: address of the model, such as ``http://127.0.0.1:8080/predictions/digits``, or of its server.
        name: name of the model, by default the one in the address, or else ``model``.
        version: version of the model; empty for the one in the address, or else the server's default version.
        timeout_s: longest wait for an answer.
        headers: sent with every request, such as ``{"Authorization": "Bearer …"}`` for a proxy that wants a token.
        ca: file with the certificates to trust for an https address; by default those of the system.

    Raises:
        UserError: the address is not one of a model, or names another model than ``name``.
    """

    def __init__(
        self,
        url: str,
        name: str = "",
        version: str = "",
        timeout_s: float = 120.0,
        headers: Mapping[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        self._connections = Connections(url, timeout_s, ca)
        given = self._connections.address
        if name and given.name not in ("", name):
            raise UserError(f"the address is that of the model '{given.name}', not '{name}'", "give only one of both")
        self.address = replace(given, name=name or given.name or "model", version=version or given.version)
        self._path = self.address.path
        self._headers = dict(headers or {})

    def predict(self, feeds: Mapping[str, ArrayLike], form: Format | None = None) -> dict[str, Array]:
        """Outputs of the model for one request.

        Args:
            feeds: one array, or nested lists of numbers, per input; with a leading batch axis.
            form: format of the arrays; by default npy for one input and npz for several.

        Raises:
            InputError: the server rejected the request; its message is included.
            LimitError: the request is too large.
            ServingError: the server failed, or cannot be reached.
        """
        return self.classify(feeds, form)[0]

    def classify(
        self, feeds: Mapping[str, ArrayLike], form: Format | None = None
    ) -> tuple[dict[str, Array], list[str | None] | None]:
        """Outputs of the model for one request, and the name of the class of every row.

        Returns:
            The outputs and the names, which are None for rows whose scores are NaN; no names for a model whose classes
            have none, or for names of more than 4096 characters.

        Raises:
            RetortError: as :meth:`predict`.
        """
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        form = form or ("npy" if len(feeds) == 1 else "npz")
        if form == "npy" and len(feeds) != 1:
            raise InputError(f"npy can contain only one array, but {len(feeds)} were given", "use npz or json")
        status, headers, body = self.request("POST", "", _body(arrays, form), {"Content-Type": _TYPES[form]})
        return self._classified(status, headers, body)

    def say(self, samples: Sequence[Raw], top_k: int | None = None) -> list[dict[str, Any]]:
        """What the model says about images, texts or recordings: labels with scores, tokens, a mask, or its arrays.

        Args:
            samples: a text, or the bytes of a file, per sample.
            top_k: number of labels; by default the model's own.

        Raises:
            RetortError: as :meth:`predict`.
        """
        parameters = {} if top_k is None else {"parameters": {"top_k": top_k}}
        body = dump({"instances": list(map(_json_value, samples)), **parameters})
        status, _, content = self.request("POST", "", body, {"Content-Type": JSON, "Accept": JSON})
        if status != 200:
            raise _as_error(status, content, self._path)
        return list(json.loads(content)["predictions"])

    def classify_raw(self, given: Given) -> tuple[dict[str, Array], list[str | None] | None]:
        """As :meth:`classify`, for images, texts and recordings, which the server turns into inputs.

        Args:
            given: for each field a text, or the bytes of a file, per sample; a model with one field has any name.

        Raises:
            RetortError: as :meth:`predict`.
        """
        columns = [list(map(_json_value, values)) for values in given.values()]
        value = (
            {"instances": columns[0]}
            if len(columns) == 1
            else {"instances": [dict(zip(given, row, strict=True)) for row in zip(*columns, strict=True)]}
        )
        status, headers, body = self.request("POST", "", dump(value), {"Content-Type": JSON, "Accept": NPZ})
        return self._classified(status, headers, body)

    def _classified(
        self, status: int, headers: dict[str, str], body: bytes
    ) -> tuple[dict[str, Array], list[str | None] | None]:
        outputs, names = decoded(status, headers, body, self._path), headers.get(CLASSES_HEADER)
        known = None if names is None else json.loads(names)
        return outputs, None if known is None else [None if name is None else str(name) for name in known]

    def request(
        self, method: str, path: str = "", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one raw request to the model; returns status, headers with lower-case names, and body of the answer.

        Raises:
            ServingError: the server cannot be reached or closed the connection without an answer.
        """
        return self._connections.request(method, self._path + path, body, {**self._headers, **(headers or {})})

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()


def encoded(feeds: Feeds, form: Format | None = None) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request to :meth:`Client.request`, for requests that are made before they are sent.

    Args:
        form: format of the arrays; by default npy for one input and npz for several.
    """
    form = form or ("npy" if len(feeds) == 1 else "npz")
    return _body(feeds, form), {"Content-Type": _TYPES[form]}


def decoded(status: int, headers: dict[str, str], body: bytes, path: str = "") -> dict[str, Array]:
    """The outputs in the answer of :meth:`Client.request`.

    Args:
        path: of the request, for the message of an error.

    Raises:
        RetortError: the server rejected the request, or failed.
    """
    if status != 200:
        raise _as_error(status, body, path)
    return _outputs(headers, body)


def predict(url: str, name: str, feeds: Feeds, form: Format | None = None) -> dict[str, Array]:
    """Send one request to a server; see :meth:`Client.predict`."""
    client = Client(url, name)
    try:
        return client.predict(feeds, form)
    finally:
        client.close()


def predict_split(
    client: Client,
    split: Split,
    rows_per_request: int = 1,
    concurrency: int = 4,
    console: Console = SILENT,
    limit: int | None = None,
    raw: bool = False,
) -> dict[str, Array]:
    """Outputs for a whole split, in its order.

    Args:
        rows_per_request: number of samples in one request.
        concurrency: number of simultaneous requests.
        limit: largest number of samples.
        raw: whether the files and texts of the samples are sent, and the server makes the inputs.

    Raises:
        UserError: the split is empty, or has no files and texts.
        ServingError: the server failed; remaining requests are not sent.
    """
    total = min(len(split), limit) if limit is not None else len(split)
    starts = range(0, total, rows_per_request)

    def _ask(start: int) -> dict[str, Array]:
        chosen = range(start, min(start + rows_per_request, total))
        if not raw:
            return client.predict(split.read(chosen)[0])
        given = raw_values(split, chosen)
        if given is None:
            raise UserError("the data have no files or texts that could be sent", "send arrays, without --raw")
        return client.classify_raw(given)[0]

    results: list[dict[str, Array]] = []
    with ThreadPoolExecutor(concurrency) as pool, console.progress("predict", len(starts)) as bar:
        for result in _in_order(pool, _ask, iter(starts), 2 * concurrency):
            results.append(result)
            bar.advance()
    if not results:
        raise UserError("the split is empty", "give at least one sample")
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def _in_order(
    pool: ThreadPoolExecutor, ask: Callable[[int], dict[str, Array]], starts: Iterator[int], ahead: int
) -> Iterator[dict[str, Array]]:
    # only a few requests are queued: a split may be larger than memory, and a failure should stop the rest
    waiting: deque[Future[dict[str, Array]]] = deque(pool.submit(ask, start) for start in islice(starts, ahead))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(ask, start) for start in islice(starts, 1))
    finally:
        for future in waiting:
            future.cancel()


def _json_value(value: Raw) -> object:
    return value if isinstance(value, str) else {"b64": base64.b64encode(value).decode()}


def _body(feeds: Feeds, form: Format) -> bytes:
    if form == "npy":
        return write_npy(next(iter(feeds.values())))
    return write_npz(feeds) if form == "npz" else dump({"inputs": [v2_tensor(*item) for item in feeds.items()]})


def _outputs(headers: dict[str, str], body: bytes) -> dict[str, Array]:
    kind = headers.get("content-type", "").partition(";")[0]
    try:
        if kind == NPY:
            return {headers.get(OUTPUTS_HEADER, "output"): read_npy(body, TRUSTED)}
        if kind == NPZ:
            return read_npz(body, TRUSTED)
        return {item["name"]: _from_v2(item) for item in json.loads(body)["outputs"]}
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise ServingError(f"the server's answer ({kind}) cannot be read", "see the server's logs") from error


def _from_v2(item: dict[str, Any]) -> Array:
    return np.array(item["data"], dtype=V2_TYPES[item["datatype"]]).reshape(item["shape"])


def _as_error(status: int, body: bytes, path: str) -> RetortError:
    try:
        raw = json.loads(body)
    except ValueError:
        raw = {}
    given = raw if isinstance(raw, dict) else {}
    message = str(given.get("message") or http_reasons.get(status, "no reason given"))
    if given.get("type") == _NO_WORKER:
        message = "its queue is full, or its worker is starting again"
    elif given.get("type") == _NO_PAGE:
        message = f"there is nothing at {path}"
    remedy = str(given.get("remedy") or "")
    facts = {key: given[key] for key in ("input", "expected", "got", "request_id") if key in given}
    kind = LimitError if status == 413 else InputError if 400 <= status < 500 else ServingError
    fallback = {
        401: "send a valid token with --header 'Authorization: Bearer …'",
        403: "send a valid token with --header 'Authorization: Bearer …'",
        404: "check the address, and the name and version of the model",
        413: "send fewer rows in one request",
        503: "send the request again later, or fewer at the same time",
    }
    remedy = remedy or fallback.get(status, "see the server's logs" if status >= 500 else "correct the request")
    return kind(f"the server answered {status}: {message}", remedy, status=status, **facts)
