"""Swaps and rollbacks under load: no request is lost, and none is answered by a version that is no longer the one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import require_torchserve

from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.console import SILENT
from retort.core.context import Place
from retort.core.errors import MachineError, ServingError, UserError
from retort.core.options.serving_options import PackOptions
from retort.core.options.stage_options import ServeOptions
from retort.core.preprocessing.specs import ImageInput
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.client import Client, predict
from retort.serve.connection import Connections
from retort.serve.known_servers import KnownServer, announced, current_archives, known_servers
from retort.serve.requests.wire import write_npz
from retort.serve.torchserve import swap as swap_module
from retort.serve.torchserve.archives.archive import write_archive
from retort.serve.torchserve.live_status import live_status
from retort.serve.torchserve.management import Management
from retort.serve.torchserve.server import Server, serve
from retort.serve.torchserve.swap import difference, rollback, swap

pytestmark = pytest.mark.torchserve


@pytest.fixture(autouse=True)
def _torchserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RETORT_JAVA_ARCHIVE", "off")
    require_torchserve()


def packed(folder: Path, number: int, width: int = 4) -> Artifact:
    """Version ``number`` of a model that multiplies its input by the number, so that an answer tells its version."""
    with new_artifact(Place(folder / f"graph{number}"), "graph", "export") as draft:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
        factor = numpy_helper.from_array(np.array(number, np.float32), "factor")
        made = helper.make_graph([helper.make_node("Mul", ["x", "factor"], ["y"])], "g", ports[:1], ports[1:], [factor])
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, draft.folder / "model.onnx")
        session, x = open_session(draft.folder / "model.onnx"), np.ones((3, width), np.float32)
        (draft.folder / "signature.json").write_text(session.signature.to_json())
        golden = {"in.x": x, "out.y": session.run({"x": x})["y"]}
        (draft.folder / "golden.npz").write_bytes(write_npz(golden))
    options = PackOptions(name="net", version=f"{number}.0")
    return write_archive(options, load_artifact(folder / f"graph{number}"), Place(folder / f"mar{number}"))


@contextmanager
def swappable(first: Artifact, folder: Path, **options: Any) -> Iterator[Server]:
    """A server of one worker that takes other versions, noted as `retort serve` notes it."""
    with serve(ServeOptions(swaps=True, workers=1, **options), first, logs=folder / "logs") as server:
        archives = (("net", "1.0", str(first.main)),)
        note = KnownServer(server.url, ("net",), server.management_url, str(server.logs), 500, server.store, archives)
        with announced(note):
            yield server


def known() -> KnownServer:
    """The note of the only server."""
    (found,) = known_servers()
    return found


@dataclass
class Load:
    """Clients that ask one request after another, and what they were answered.

    Attributes:
        answers: when each request was sent and answered, and the version that answered.
        lost: requests without an answer of a model.
    """

    answers: list[tuple[float, float, int]] = field(default_factory=list)
    lost: list[Exception] = field(default_factory=list)


@contextmanager
def load(url: str, clients: int = 2) -> Iterator[Load]:
    """Load within this context: each client pauses for some milliseconds, so that swaps have the processor too."""
    found, stop = Load(), threading.Event()

    def _ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        with closing(Client(url, "net")) as client:
            while not stop.is_set():
                x = random.integers(1, 100, (1, 4)).astype(np.float32)
                sent = time.monotonic()
                try:
                    factors = client.predict({"x": x})["y"] / x
                    assert (factors == factors[0, 0]).all()
                    found.answers.append((sent, time.monotonic(), int(factors[0, 0])))
                except Exception as error:
                    found.lost.append(error)
                time.sleep(0.004)

    threads = [threading.Thread(target=_ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def assert_nothing_lost_or_wrong(found: Load, changes: list[tuple[float, float, int]]) -> None:
    """Every request was answered, by a version that was the default at some time while the request was under way.

    Args:
        changes: start and end of each change of the default version, and the version since then.
    """
    assert found.lost == []
    for sent, answered, version in found.answers:
        before = [number for _, end, number in changes if end <= sent][-1]
        during = [number for start, end, number in changes if start <= answered and end > sent]
        assert version in {before, *during}


@pytest.mark.parametrize(("swaps", "rollbacks"), [(2, 1), pytest.param(12, 4, marks=pytest.mark.slow)])
def test_swaps_and_rollbacks_lose_nothing(tmp_path: Path, swaps: int, rollbacks: int) -> None:
    """Under load every request has an answer, of the version that was the default when it was sent or answered."""
    changes = [(0.0, 0.0, 1)]
    with swappable(packed(tmp_path, 1), tmp_path) as server, load(server.url) as found:
        port = server.ports.inference
        for number in range(2, swaps + 2):
            begin = time.monotonic()
            done = swap(known(), packed(tmp_path, number), SILENT, force=False, keep=True)
            assert (done.version, done.previous, done.kept) == (f"{number}.0", f"{number - 1}.0", True)
            changes.append((begin, time.monotonic(), number))
            if number > swaps + 1 - rollbacks:
                for wanted in (number - 1, number):  # back and forward again
                    begin = time.monotonic()
                    assert rollback(known(), None).version == f"{wanted}.0"
                    changes.append((begin, time.monotonic(), wanted))
                    assert current_archives(port)[0].parent.name == f"mar{wanted}"
        time.sleep(0.5)
        versions = Management(server.management_url).versions("net")
        assert {one["modelVersion"]: one["default"] for one in versions} == {
            f"{swaps}.0": False,
            f"{swaps + 1}.0": True,
        }
        assert len(list(Path(server.store).glob("*.mar"))) == 2
        newest, kept = current_archives(port)  # as a server that starts again would take them
        assert (newest.parent.name, kept.parent.name) == (f"mar{swaps + 1}", f"mar{swaps}")
        kept.unlink()
        assert current_archives(port) == [newest]
    assert current_archives(port) == []
    assert len(found.answers) > 50
    assert {version for *_, version in found.answers} == set(range(1, swaps + 2))
    assert_nothing_lost_or_wrong(found, changes)


def test_what_cannot_be_swapped_in_is_refused_and_the_old_version_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another signature, a version that is there, too little memory and a model that does not load change nothing.

    Neither do models from elsewhere.
    """
    first, second = packed(tmp_path, 1), packed(tmp_path, 2)
    with swappable(first, tmp_path) as server, load(server.url, 1) as found:
        assert_nothing_else_can_be_registered(server)
        with pytest.raises(UserError, match=r"has version 1\.0 of 'net' already"):
            swap(known(), first, SILENT, force=False, keep=True)
        wider = packed(tmp_path, 3, width=5)
        told = r"takes x: float32\[batch, 5\] instead of x: float32\[batch, 4\]"
        with pytest.raises(UserError, match=told) as caught:
            swap(known(), wider, SILENT, force=False, keep=True)
        assert "--force" in caught.value.remedy
        with pytest.raises(UserError, match="no earlier version"):
            rollback(known(), None)
        with pytest.raises(UserError, match="no model 'x'"):
            rollback(known(), "x")
        monkeypatch.setattr(swap_module, "available_bytes", lambda: 1 << 20)
        with pytest.raises(MachineError, match=r"10\d MB more memory, but 1 MB are free"):
            swap(known(), second, SILENT, force=False, keep=True)
        monkeypatch.undo()
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("RETORT_JAVA_ARCHIVE", "off")
        with monkeypatch.context() as patched:
            patched.setattr(swap_module, "ask_golden", _wrong)
            with pytest.raises(ServingError, match="golden"):
                swap(known(), second, SILENT, force=False, keep=True)
        with swap_module._alone(known()), pytest.raises(UserError, match="another command changes the models"):
            swap(known(), second, SILENT, force=False, keep=True)
        assert [one["modelVersion"] for one in Management(server.management_url).versions("net")] == ["1.0"]
        assert [path.name for path in Path(server.store).iterdir()] == ["net~1.0.mar"]
        assert swap(known(), wider, SILENT, force=True, keep=False).version == "3.0"
        assert [one["modelVersion"] for one in Management(server.management_url).versions("net")] == ["3.0"]
    assert {version for *_, version in found.answers} == {1}
    assert all("400" in str(error) for error in found.lost)  # what no longer fits after --force


def _wrong(*arguments: Any) -> None:
    raise ServingError("the served golden outputs differ", "")


def test_a_server_without_swaps_takes_no_other_version(tmp_path: Path) -> None:
    """Without --swaps, swap says how to start the server."""
    closed = KnownServer("http://127.0.0.1:1", ("net",), "unix:/x", pid=psutil.Process().pid)
    with announced(closed), pytest.raises(UserError, match="takes no other versions") as caught:
        swap(known(), packed(tmp_path, 1), SILENT, force=False, keep=True)
    assert "--swaps" in caught.value.remedy


def assert_nothing_else_can_be_registered(server: Server) -> None:
    """Models from elsewhere are refused at the management interface, and all at the one of predictions."""
    with closing(Connections(server.management_url, 30)) as connections:
        for url in ("http://127.0.0.1/x.mar", "file:///etc/x.mar", "../x.mar"):
            status, _, _ = connections.request("POST", f"/models?url={url}&model_name=bad")
            assert status >= 400
    with closing(Connections(server.url, 30)) as outside:
        assert outside.request("POST", "/models?url=net~1.0.mar")[0] in (404, 405)


@pytest.mark.slow
def test_a_server_that_starts_again_has_what_was_swapped_in(tmp_path: Path) -> None:
    """With --restarts, the version of the last swap answers after TorchServe was killed, and rollback goes back."""
    first, second = packed(tmp_path, 1), packed(tmp_path, 2)

    def retort(*arguments: str) -> None:
        command = [sys.executable, "-m", "retort", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=180)
        assert done.returncode == 0, done.stderr

    x = np.ones((1, 4), np.float32)
    retort("serve", str(first.path), "--detach", "--swaps", "--restarts", "1", "--workers", "1")
    try:
        retort("swap", str(second.path))
        watchdog = psutil.Process(known().pid).children()[0]
        watchdog.children()[0].kill()
        watchdog.wait(30)
        deadline = time.monotonic() + 90
        while live_status(known()).state != "runs":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert predict(known().url, "net", {"x": x})["y"][0, 0] == 2
        retort("rollback")
        assert predict(known().url, "net", {"x": x})["y"][0, 0] == 1
    finally:
        retort("stop")


def test_a_version_that_reads_less_is_another_signature() -> None:
    """Clients that send images would have to change; other sizes and steps are the new version's own."""
    image = TensorSpec("image", "float32", ("batch", 3, "height", "width"))
    served = Signature((image,), (), preprocessing=(ImageInput("image", (8, 8)),))
    assert difference(served, replace(served, preprocessing=(ImageInput("image", (16, 16)),))) is None
    assert difference(served, replace(served, preprocessing=())) == "does not read images"
    assert difference(replace(served, preprocessing=()), served) is None
