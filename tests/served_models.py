"""Small models of several kinds, packed as users pack them, and a site that answers with their engines."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.context import Place
from retort.core.errors import MachineError
from retort.core.options.serving_options import PackOptions
from retort.core.session import open_session
from retort.core.system.java import find_java
from retort.serve.engine import Engine
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import write_npz
from retort.serve.torchserve.archives.archive import write_archive
from retort.serve.torchserve.process import torchserve_home

CERTIFICATE = Path(__file__).parent / "serve" / "loopback.pem"
Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(7)

IMAGE = {"image": RANDOM.normal(size=(3, 3, 12, 12)).astype(np.float32)}
LARGE = {"image": RANDOM.normal(size=(2, 3, 320, 320)).astype(np.float32)}
TEXT = {
    "input_ids": RANDOM.integers(0, 30_000, (3, 9)),
    "attention_mask": (RANDOM.random((3, 9)) > 0.2).astype(np.int64),
}
VECTOR = {"x": RANDOM.normal(size=(3, 2)).astype(np.float32)}
MASKED = {"x": np.where(RANDOM.random((2, 4)) > 0.5, 0, -np.inf).astype(np.float32)}
NUMBER = {'o\'clock $x "y"': RANDOM.normal(size=(2, 5)).astype(np.float32), "sr": np.array(16000)}
FLAGS = {"flags": RANDOM.random((2, 4)) > 0.5, "bytes": RANDOM.integers(0, 256, (2, 4)).astype(np.uint8)}
KINDS: dict[str, dict[str, Array]] = {
    "image": IMAGE, "large": LARGE, "text": TEXT, "vector": VECTOR, "masked": MASKED, "number": NUMBER, "flags": FLAGS,
}  # fmt: skip
"""Golden inputs of each model, by its kind."""


def graph(kind: str, folder: Path) -> Artifact:
    """A graph whose output is the sum over all inputs of each sample, with axes that are free but for pictures."""
    inputs = KINDS[kind]
    with new_artifact(Place(folder / f"{kind}-graph"), "graph", "export") as draft:
        onnx.save(_model(inputs), draft.folder / "model.onnx")
        session = open_session(draft.folder / "model.onnx")
        (draft.folder / "signature.json").write_text(session.signature.to_json())
        golden = {f"in.{name}": array for name, array in inputs.items()}
        golden |= {f"out.{name}": array for name, array in session.run(inputs).items()}
        (draft.folder / "golden.npz").write_bytes(write_npz(golden))
    return load_artifact(folder / f"{kind}-graph")


def _model(inputs: dict[str, Array]) -> onnx.ModelProto:
    nodes, sums = [], []
    for index, (name, array) in enumerate(inputs.items()):
        nodes.append(helper.make_node("Cast", [name], [f"f{index}"], to=TensorProto.FLOAT))
        if array.ndim:
            nodes.append(helper.make_node("Clip", [f"f{index}", "low"], [f"c{index}"]))
            nodes.append(helper.make_node("ReduceSum", [f"c{index}", "axes"], [f"s{index}"], keepdims=0))
            if array.ndim > 2:
                nodes.append(helper.make_node("ReduceSum", [f"s{index}", "axes"], [f"t{index}"], keepdims=0))
                nodes.append(helper.make_node("ReduceSum", [f"t{index}", "axes"], [f"u{index}"], keepdims=0))
        sums.append(f"{'u' if array.ndim > 2 else 's' if array.ndim else 'f'}{index}")
    nodes.append(helper.make_node("Sum", sums, ["total"]))
    weights = [
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.array(-100, np.float32), "low"),
    ]
    ports = [helper.make_tensor_value_info(name, _type(array), _axes(array)) for name, array in inputs.items()]
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch"])
    made = helper.make_graph(nodes, "g", ports, [total], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _type(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _axes(array: Array) -> list[str | int]:
    if array.ndim == 0:
        return []
    return ["batch", *array.shape[1:]] if array.ndim > 2 or array.dtype.kind == "f" else ["batch", "length"]


def archive(kind: str, folder: Path, **options: Any) -> Artifact:
    """The packed model of a kind."""
    return write_archive(PackOptions(**{"name": kind, **options}), graph(kind, folder), Place(folder / f"{kind}-mar"))


@contextmanager
def site(engine: Engine, tls: bool = False, token: str = "", host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server that stands for a proxy in front of TorchServe: with TLS, and with a token, if asked.

    It answers with a real engine. Requests without the token get 401.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body leave together; apart, the second waits for the client's confirmation

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if token and headers.get("authorization") != f"Bearer {token}":
                self._reply(401, "application/json", b"{}", {})
                return
            answer = engine.answer([Incoming({"body": body}, {}, headers)])[0]
            self._reply(answer.status, answer.content_type, answer.body, answer.headers)

        def do_GET(self) -> None:
            self._reply(404, "application/json", b"{}", {})

        def _reply(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Type": kind}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    class Http(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    http = Http((host, 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http{'s' if tls else ''}://{shown}:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()


def require_torchserve() -> None:
    """Skip the test where there is no Java or no TorchServe, with what is missing as the reason."""
    try:
        find_java()
        torchserve_home()
    except MachineError as error:
        pytest.skip(str(error))
