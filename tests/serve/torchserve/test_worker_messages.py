"""What a TorchServe worker reads from its front end: as TorchServe reads it, but with bounded work for each request."""

from __future__ import annotations

import importlib.util
import random
import socket
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from types import ModuleType

import psutil
import pytest
from served_models import archive, require_torchserve

from retort.core.options.stage_options import ServeOptions
from retort.serve.connection import Connections
from retort.serve.torchserve.server import Server, serve
from retort.serve.workarounds import PARTS_KEPT, TOO_MANY_PARTS, Messages, bound_messages

MODULE = "ts.protocol.otf_message_handler"
END = struct.pack("!i", -1)


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    """TorchServe's module as it is installed, loaded apart from the one that is patched."""
    spec = importlib.util.find_spec(MODULE) if importlib.util.find_spec("ts") else None
    if spec is None or spec.loader is None:
        pytest.skip("TorchServe is not installed")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Wire:
    """A connection that delivers a message in pieces of random sizes, and counts the calls."""

    def __init__(self, content: bytes, most: int = 1 << 18, seed: int = 0) -> None:
        self._content = memoryview(content)
        self._most, self._random = most, random.Random(seed)
        self.position = self.calls = 0

    def recv_into(self, buffer: memoryview, /) -> int:
        """As of a socket."""
        self.calls += 1
        size = min(len(buffer), self._random.randint(1, self._most), len(self._content) - self.position)
        buffer[:size] = self._content[self.position : self.position + size]
        self.position += size
        return size

    def recv(self, size: int, /) -> bytes:
        """As of a socket."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])


def _packed(*items: bytes) -> bytes:
    return b"".join(struct.pack("!i", len(item)) + item for item in items)


def _request(parts: bytes) -> bytes:
    return _packed(b"id") + _packed(b"content-type", b"x", b"n\xc3\xa9", b"") + END + parts + END


def _parts(count: int, generator: random.Random) -> bytes:
    sizes = ((0, 1, 6, 300), (0, 0, 0, 24), (0, 1, 9, 2000))
    return b"".join(_packed(*(b"k" * generator.choice(size) for size in sizes)) for _ in range(count))


@pytest.mark.parametrize("most", [1, 3, 100, 1 << 18])
def test_messages_are_those_that_torchserve_reads(stock: ModuleType, most: int) -> None:
    """Batches of any requests, in pieces of any size, give the same values, up to the parts that are kept."""
    generator = random.Random(most)
    counts = (0, 1, 2, PARTS_KEPT) if most < 100 else (0, 1, PARTS_KEPT - 1, PARTS_KEPT, PARTS_KEPT + 1, 5000)
    for seed in range(6 if most > 3 else 2):
        batch = b"".join(_request(_parts(generator.choice(counts), generator)) for _ in range(3)) + END
        wire = Wire(batch + b"L", most, seed)
        reader = Messages(wire)
        for own, theirs in zip(reader.requests(), stock._retrieve_inference_msg(Wire(batch)), strict=True):
            assert (own["requestId"], own["headers"]) == (theirs["requestId"], theirs["headers"])
            assert own["parameters"][:PARTS_KEPT] == theirs["parameters"][:PARTS_KEPT]
            dropped = len(theirs["parameters"]) > PARTS_KEPT
            assert [part["name"] for part in own["parameters"][PARTS_KEPT:]] == [TOO_MANY_PARTS] * dropped
        assert reader.take(1) == b"L"  # what follows the batch is left for the next call


def test_torchserve_still_receives_every_length_by_itself(stock: ModuleType) -> None:
    """Without the patch there are six system calls for each part, with it one for many; then nothing is left to do."""
    message = _request(b"".join(_packed(b"name", b"", b"1") for _ in range(2000))) + END
    theirs, own = Wire(message, len(message)), Wire(message, 1 << 20)
    assert len(stock._retrieve_inference_msg(theirs)[0]["parameters"]) == 2000
    told = "TorchServe reads through a buffer: remove serve.workarounds.bound_messages and this test"
    assert theirs.calls > 5 * 2000, told
    Messages(own).requests()
    assert own.calls < 10


def test_dropped_parts_cost_little(stock: ModuleType) -> None:
    """80,000 fields take at most a fifth of the time that TorchServe takes to receive them, and no memory."""
    message = _request(b"".join(_packed(b"k%d" % index, b"", b"1") for index in range(80_000))) + END
    ratios = []
    for _ in range(3):
        begin = time.process_time()
        (request,) = Messages(Wire(message, 1 << 20)).requests()
        middle = time.process_time()
        stock._retrieve_inference_msg(Wire(message, len(message)))
        ratios.append((middle - begin) / (time.process_time() - middle))
        assert len(request["parameters"]) == PARTS_KEPT + 1
    assert min(ratios) < 0.2
    wire = Wire(message, 1 << 20)
    tracemalloc.start()
    try:
        Messages(wire).requests()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(message) / 2


def test_the_worker_uses_it_from_the_first_request(stock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's own entry reads commands and batches of several connections; other versions are left as they are."""
    monkeypatch.setitem(sys.modules, MODULE, stock)
    for name in ("_retrieve_buffer", "_retrieve_inference_msg"):
        monkeypatch.setattr(stock, name, getattr(stock, name))
    assert bound_messages()
    message = b"I" + _request(_packed(b"body", b"application/json", b"[1]")) + END
    for _ in range(2):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for _ in range(2):
                threading.Thread(target=ours.sendall, args=(message,)).start()
                command, requests = stock.retrieve_msg(theirs)
                assert command == b"I"
                assert requests[0]["parameters"][0]["value"] == b"[1]"
            ours.close()
            with pytest.raises(SystemExit):  # as TorchServe ends a worker
                stock.retrieve_msg(theirs)
    monkeypatch.delattr(stock, "_retrieve_buffer")
    assert not bound_messages()
    monkeypatch.delitem(sys.modules, MODULE)
    assert not bound_messages()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with a free axis, which takes bodies up to the largest size, in a real TorchServe."""
    require_torchserve()
    folder = tmp_path_factory.mktemp("served")
    with serve(ServeOptions(workers=1), archive("text", folder / "made"), logs=folder / "logs") as running:
        yield running


@pytest.mark.torchserve
@pytest.mark.parametrize(("kind", "status"), [("form", 415), ("multipart", 413)])
def test_a_body_of_many_parts_does_not_block_a_worker(
    server: Server, kind: str, status: int, record_property: Callable[[str, object], None]
) -> None:
    """A large body of small parts is refused; the worker spends little time on it, keeps no memory, and goes on."""
    if kind == "form":
        body = b"&".join(b"k%d=1" % index for index in range(200_000))
        header = "application/x-www-form-urlencoded"
    else:
        part, header = (
            b'--b\r\nContent-Disposition: form-data; name="k%d"\r\n\r\n1\r\n',
            "multipart/form-data; boundary=b",
        )
        body = b"".join(part % index for index in range(10_000)) + b"--b--\r\n"
    worker = psutil.Process(server.worker_pids()[0])
    before, memory = worker.cpu_times(), worker.memory_info().rss
    with closing(Connections(server.url, 120)) as connections:
        answered, _, content = connections.request(
            "POST", f"/predictions/{server.name}", body, {"Content-Type": header}
        )
    after = worker.cpu_times()
    spent_ms = 1000 * (after.user + after.system - before.user - before.system)
    record_property("worker_ms", spent_ms)
    record_property("body_bytes", len(body))
    assert (answered, b"remedy" in content) == (status, True)
    assert spent_ms < 3000
    assert worker.memory_info().rss - memory < 20e6 * len(body) / 1e6
    assert server.worker_pids() == [worker.pid]
    with closing(server.client()) as client:
        assert client.predict(server.models[0].sample)
