"""The application of a bundle: the paths of TorchServe and KServe, statuses, limits, and the ASGI protocol."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained_models import colour_model, photo
from quantiles import minus, samples
from served_models import IMAGE, graph

from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.options.serving_options import BundleOptions
from retort.serve.bundles.routes import DRAINED_BYTES, Application
from retort.serve.bundles.stage import bundle
from retort.serve.requests.multipart import read_form
from retort.serve.requests.replies import Answer
from retort.serve.requests.wire import NPY, read_npy, write_npy
from retort.serve.settings import TRUSTED

FORM_TYPE = 'multipart/form-data; boundary="abc"'
FORM = {"content-type": FORM_TYPE}
V2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def _made(folder: Path, kind: str) -> Application:
    context = Context(None)  # type: ignore[arg-type]  # it reads no data
    options = BundleOptions(name=kind, version="2.1")
    return Application(bundle(options, graph(kind, folder), Place(folder / "bundle"), context).path)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The application of a small model."""
    made = _made(tmp_path_factory.mktemp("routes"), "vector")
    yield made
    made.close()


def _ask(app: Application, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(app.respond(method, path, headers, content))


GOOD: list[tuple[str, str, Any, Any]] = [
    ("POST", "/predictions/vector", {"x": [[1, 2]]}, {"total": [3.0]}),
    ("POST", "/predictions/vector/2.1", [[1, 2]], [3.0]),
    ("POST", "/invocations", {"x": [[1, 2]]}, {"total": [3.0]}),
    ("POST", "/v1/models/vector:predict", {"instances": [[1, 2]]}, {"predictions": [3.0]}),
    ("GET", "/v1/models/vector", b"", {"name": "vector", "ready": True}),
    ("GET", "/v2/health/live", b"", {"live": True}),
    ("GET", "/models", b"", {"models": [{"modelName": "vector", "modelUrl": "2.1"}]}),
    ("GET", "/v2", b"", {"name": "retort", "version": "2.1", "extensions": ["binary_tensor_data", "classification"]}),
]


@pytest.mark.parametrize(("method", "path", "body", "wanted"), GOOD)
def test_paths_of_torchserve_and_kserve_answer(
    app: Application, method: str, path: str, body: Any, wanted: Any
) -> None:
    """Predictions, metadata and health have the paths and forms that clients of other servers know."""
    answer = _ask(app, method, path, body)
    assert (answer.status, json.loads(answer.body)) == (200, wanted)


@pytest.mark.parametrize("path", ["/v2/models/vector/infer", "/v2/models/vector/versions/2.1/infer"])
def test_v2_is_answered_in_v2(app: Application, path: str) -> None:
    """A V2 request gets a V2 answer with the model, its version and the client's id."""
    told = json.loads(_ask(app, "POST", path, {**V2, "id": "a7"}).body)
    assert (told["model_name"], told["model_version"], told["id"]) == ("vector", "2.1", "a7")
    assert told["outputs"] == [{"name": "total", "datatype": "FP32", "shape": [1], "data": [3.0]}]


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/vector/ready", "/ping", "/healthz"])
def test_readiness_runs_the_golden_inputs(app: Application, path: str) -> None:
    """A server is ready if its model reproduces its golden outputs, and not only because it listens."""
    assert _ask(app, "GET", path).status == 200
    outputs = app.model.engine.golden[1]
    right = outputs["total"]
    try:
        outputs["total"] = right + 1
        assert _ask(app, "GET", path).status == 503
        assert _ask(app, "GET", "/predictions/vector/healthcheck").status == 503
        assert _ask(app, "GET", "/v2/health/live").status == 200
    finally:
        outputs["total"] = right


def test_metrics_are_in_the_form_of_prometheus(app: Application) -> None:
    """A prediction, its refusals and a probe are counted by status, with its times and its wait; others nowhere."""
    before = samples(_ask(app, "GET", "/metrics").body)
    asked = [("/predictions/vector", [[1, 2]]), ("/predictions/vector", [[1]]), ("/predictions/other", [[1, 2]])]
    told = [_ask(app, "POST", path, body).status for path, body in [*asked, ("/explanations/vector", [[1]])]]
    assert told == [200, 400, 404, 400]
    answer = _ask(app, "GET", "/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    gained = {key: value for key, value in minus(samples(answer.body), before).items() if value}
    counted = {dict(key[1])["operation"] + dict(key[1])["status"]: value for key, value in gained.items()
               if key[0] == "retort_requests_total"}  # fmt: skip
    assert counted == {"predict200": 1, "predict400": 1, "predict404": 1, "explain400": 1, "other200": 1}
    counts = {name: value for (name, labels), value in gained.items() if name.endswith("_count") and len(labels) == 2}
    assert counts == {
        "retort_handler_seconds_count": 2, "retort_request_age_seconds_count": 3, "retort_batch_rows_count": 1,
        "retort_batch_padded_ratio_count": 1,
    }  # fmt: skip
    assert all({("model", "vector"), ("version", "2.1")} <= set(labels) for _, labels in gained)


def test_metadata_describes_the_tensors(app: Application) -> None:
    """V2 metadata has the names, types and shapes of inputs and outputs, with -1 for free axes."""
    told = json.loads(_ask(app, "GET", "/v2/models/vector").body)
    assert told["versions"] == ["2.1"]
    x = {"name": "x", "datatype": "FP32", "shape": [-1, 2], "parameters": {"batch_axis": 0}}
    assert told["inputs"] == [x]


BAD: list[tuple[str, str, Any, int]] = [
    ("GET", "/", b"", 404),
    ("POST", "/predictions/other", {"x": [[1, 2]]}, 404),
    ("POST", "/predictions/vector/3.0", {"x": [[1, 2]]}, 404),
    ("POST", "/v2/models/vector/versions/9/infer", V2, 404),
    ("GET", "/predictions/vector", b"", 405),
    ("POST", "/v2/health/live", b"", 405),
    ("POST", "/predictions/vector", b"", 400),
    ("POST", "/predictions/vector", b"{", 400),
    ("POST", "/predictions/vector", {"x": [[1]]}, 400),
    ("POST", "/predictions/vector", {"y": [[1, 2]]}, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_refusals_have_their_status_and_a_remedy(
    app: Application, method: str, path: str, body: Any, status: int
) -> None:
    """A refused request is told in JSON what is wrong and what to do."""
    answer = _ask(app, method, path, body)
    told = json.loads(answer.body)
    assert (answer.status, told["status"]) == (status, status)
    assert told["message"]
    assert told["remedy"]


def test_a_client_cannot_ask_for_what_torchserve_asks(app: Application) -> None:
    """Headers with which TorchServe chooses an operation have no meaning from a client."""
    for name in ("url_path", "explain", "describe"):
        assert _ask(app, "POST", "/predictions/vector", {"x": [[1, 2]]}, **{name: "true"}).status == 200


def _served(app: Application, messages: list[dict[str, Any]], **scope: Any) -> list[dict[str, Any]]:
    """What the application sends for one request of an ASGI server."""
    sent: list[dict[str, Any]] = []

    async def _receive() -> Any:
        return messages.pop(0)

    async def _send(message: Any) -> None:
        sent.append(message)

    given = {"type": "http", "method": "POST", "path": "/predictions/vector", "headers": [], **scope}
    asyncio.run(app(given, _receive, _send))
    return sent


def test_asgi_servers_get_bytes(app: Application) -> None:
    """A body in pieces gets one answer with its length and its type."""
    x = np.array([[1, 2], [3, 4]], np.float32)
    body = write_npy(x)
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": body[:50], "more_body": True},
        {"type": "http.request", "body": body[50:]},
    ]
    start, end = _served(app, pieces, headers=[(b"Content-Type", NPY.encode())])
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"] == NPY.encode()
    assert int(headers[b"content-length"]) == len(end["body"])
    assert read_npy(end["body"], TRUSTED).tolist() == [3.0, 7.0]


def test_large_bodies_are_refused_before_they_are_read(app: Application) -> None:
    """A declared or a received length far above that of any legal request is 413, without reading on."""
    declared = [(b"content-length", b"99999999")]
    assert _served(app, [], headers=declared)[0]["status"] == 413
    piece: dict[str, Any] = {"type": "http.request", "body": bytes(1 << 18), "more_body": True}
    left = [dict(piece) for _ in range(100)]
    assert _served(app, left)[0]["status"] == 413
    assert len(left) > 50


def test_slightly_too_large_bodies_are_received_and_dropped(app: Application) -> None:
    """A client that sends its whole body before it reads gets the refusal, and no broken connection."""
    assert app.largest < DRAINED_BYTES
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": bytes(app.largest), "more_body": True},
        {"type": "http.request", "body": b"x"},
    ]
    assert _served(app, pieces)[0]["status"] == 413
    assert pieces == []


def test_a_client_that_hangs_up_gets_nothing(app: Application) -> None:
    """A request that ends before its body is complete is neither run nor answered."""
    assert _served(app, [{"type": "http.disconnect"}]) == []


def test_the_application_takes_the_largest_legal_request(tmp_path: Path) -> None:
    """A full batch of pictures as npy is taken; the limit follows from the model."""
    app = _made(tmp_path, "image")
    rows = app.settings.limits.rows
    x = np.repeat(IMAGE["image"][:1], rows, axis=0)
    answer = _ask(app, "POST", "/predictions/image", write_npy(x), **{"content-type": NPY})
    assert answer.status == 200
    assert len(write_npy(x)) < app.largest
    app.close()


def test_the_application_closes_with_its_server(tmp_path: Path) -> None:
    """The lifespan protocol: ready at once, and the model is freed at the end."""
    app = _made(tmp_path, "vector")
    messages: list[dict[str, Any]] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = _served(app, messages, type="lifespan")
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The application of a model that reads photos."""
    folder = tmp_path_factory.mktemp("colours")
    parent = load_artifact(colour_model(folder / "net.onnx"))
    options = BundleOptions(name="colours", version="1.0")
    context = Context(None)  # type: ignore[arg-type]  # it reads no data
    made = Application(bundle(options, parent, Place(folder / "bundle"), context).path)
    yield made
    made.close()


def _form(*parts: tuple[str, bytes], boundary: bytes = b"abc") -> bytes:
    """A multipart form as clients write it."""
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n'
    return b"".join(head % (boundary, name.encode(), content) for name, content in parts) + b"--%s--\r\n" % boundary


def test_photos_are_read_in_every_form(colours: Application, tmp_path: Path) -> None:
    """A photo as body, as part of a form and as base64 gives the same label."""
    spot = photo(tmp_path / "a.png").read_bytes()
    coded = {"instances": [{"b64": base64.b64encode(spot).decode()}]}
    answers = [
        _ask(colours, "POST", "/predictions/colours", spot, **{"content-type": "image/png"}),
        _ask(colours, "POST", "/predictions/colours", _form(("x", spot)), **FORM),
        _ask(colours, "POST", "/v1/models/colours:predict", coded, **{"content-type": "application/json"}),
    ]
    for answer in answers:
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["predictions"][0]["label"] == "red"


def test_explanations_have_paths(colours: Application, tmp_path: Path) -> None:
    """The paths of TorchServe and of KServe V1 answer with heatmaps; a form may have the options as parts."""
    spot = photo(tmp_path / "a.png").read_bytes()
    for path in ("/explanations/colours", "/explanations/colours/1.0", "/v1/models/colours:explain"):
        answer = _ask(colours, "POST", path, spot, **{"content-type": "image/png"})
        assert answer.status == 200, answer.body
        (one,) = json.loads(answer.body)["explanations"]
        assert (one["label"], np.shape(one["heatmaps"]["x"]["values"])) == ("red", (32, 32))
    chosen = _ask(colours, "POST", "/explanations/colours", _form(("x", spot), ("class", b"grey")), **FORM)
    assert json.loads(chosen.body)["explanations"][0]["label"] == "grey"
    assert _ask(colours, "GET", "/explanations/colours").status == 405
    assert _ask(colours, "POST", "/explanations/other", spot).status == 404


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (_form(("x", b"1")), "multipart/form-data", 400),
        (_form(("x", b"1"))[:-5], FORM_TYPE, 400),
        (b"", FORM_TYPE, 400),
        (_form(("x", b"1"), ("x", b"2")), FORM_TYPE, 400),
        (_form(("", b"1")), FORM_TYPE, 400),
        (_form(("y", b"1")), FORM_TYPE, 400),
        (_form(*((f"p{number}", b"1") for number in range(300))), FORM_TYPE, 413),
    ],
)
def test_broken_forms_are_refused(colours: Application, body: bytes, kind: str, status: int) -> None:
    """Forms without a boundary, an end or names, with a name twice or with too many parts have a remedy."""
    answer = _ask(colours, "POST", "/predictions/colours", body, **{"content-type": kind})
    assert (answer.status, bool(json.loads(answer.body)["remedy"])) == (status, True)


def test_parts_keep_their_bytes() -> None:
    """Line ends, boundaries without a line before them and other bytes of a part stay as they are."""
    content = b"\r\n--ab\r\n\x00\xff--abc\n\r\n"
    parts, types = read_form(_form(("x", content), ("Löwe", b"")), FORM_TYPE)
    assert (parts, types) == ({"x": content, "Löwe": b""}, {})
