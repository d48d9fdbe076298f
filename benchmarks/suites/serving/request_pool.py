"""Requests of distinct inputs with the answers of a local session, so that every answer under load is compared."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ....core.errors import RetortError
from ....core.session import Session, SessionOptions, open_session
from ....core.signature import Signature
from ....core.tensors import BATCH, Array
from ....serve.client import Client
from ...scenarios.request_load import NO_ANSWER, Ask

SIZE = 256
Form = Literal["npy", "json"]
TYPES = {"npy": "application/x-npy", "json": "application/json"}
V2_TYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL"}
LENGTH = 8
"""Size of free axes that are not the batch."""


@dataclass(frozen=True)
class RequestPool:
    """Requests of one sample each for a model with one input and one output.

    Attributes:
        input: name of the input.
        inputs: one array per request.
        outputs: what a local session gives for it.
    """

    name: str
    input: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @staticmethod
    def of(model: Path, size: int = SIZE, seed: int = 0) -> RequestPool:
        """Random inputs for an ONNX file, answered by a session with one thread."""
        session = open_session(model, SessionOptions(threads=1))
        inputs = [samples(session.signature, 1, seed + index) for index in range(size)]
        (name,) = inputs[0]
        outputs = [next(iter(session.run(feeds).values())) for feeds in inputs]
        return RequestPool(model.stem, name, tuple(feeds[name] for feeds in inputs), tuple(outputs))

    def bodies(self, form: Form) -> list[bytes]:
        """The body of every request."""
        if form == "npy":
            return [npy(array) for array in self.inputs]
        return [v2_json({self.input: array}) for array in self.inputs]

    def ask(self, url: str, form: Form = "npy", timeout_s: float = 60.0) -> Ask:
        """A function that sends one of the requests and compares the answer."""
        bodies, client = self.bodies(form), Client(url, self.name, timeout_s=timeout_s)
        headers = {"Content-Type": TYPES[form], "Accept": TYPES[form]}

        def send(index: int) -> tuple[int, bool]:
            at = index % len(bodies)
            try:
                status, _, body = client.request("POST", "", bodies[at], headers)
            except RetortError:
                return NO_ANSWER, False
            return status, status == 200 and self.is_right(at, body, form)

        return send

    def is_right(self, index: int, body: bytes, form: Form) -> bool:
        """Whether an answer has the outputs of the local session, bit for bit."""
        wanted = self.outputs[index % len(self.outputs)]
        try:
            if form == "npy":
                found = np.load(io.BytesIO(body))
            else:
                (item,) = json.loads(body)["outputs"]
                found = np.array(item["data"], wanted.dtype).reshape(item["shape"])
        except (ValueError, KeyError, TypeError):
            return False
        return bool(found.shape == wanted.shape and found.tobytes() == wanted.tobytes())


def samples(signature: Signature, rows: int, seed: int) -> dict[str, Array]:
    """Random inputs of a signature: small numbers, and small integers."""
    random = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = [rows if size == BATCH else size if isinstance(size, int) else LENGTH for size in spec.shape]
        floats = np.dtype(spec.dtype).kind == "f"
        values = random.standard_normal(shape) if floats else random.integers(0, 2, shape)
        made[spec.name] = values.astype(spec.dtype)
    return made


def npy(array: Array) -> bytes:
    """An array as an npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def v2_json(feeds: dict[str, Array]) -> bytes:
    """Arrays as a JSON request of KServe's protocol, with the shortest text of every number."""
    items = [
        {
            "name": name,
            "datatype": V2_TYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data": [float(str(value)) for value in array.ravel()]
            if array.dtype.kind == "f"
            else array.ravel().tolist(),
        }
        for name, array in feeds.items()
    ]
    return json.dumps({"inputs": items}, separators=(",", ":")).encode()


def raw_session(model: Path) -> Session:
    """The runtime without a server, with one thread as a worker."""
    return open_session(model, SessionOptions(threads=1))
