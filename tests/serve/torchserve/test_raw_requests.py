"""Raw samples before TorchServe and before the application of a bundle: both answer alike, for photos and texts."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from explained_models import colour_model, photo, token_model, tokenizer
from served_models import require_torchserve

from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.options.stage_options import ServeOptions
from retort.serve.bundles.routes import Application
from retort.serve.bundles.stage import bundle
from retort.serve.client import Client
from retort.serve.torchserve.archives.archive import write_archive
from retort.serve.torchserve.server import serve

pytestmark = pytest.mark.torchserve
Ask = Callable[[str, str, str, bytes], tuple[int, bytes]]
JSON = "application/json"
FORM = "multipart/form-data; boundary=abc"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ask]]:
    """How to ask each server: operation, model, content type and body give status and answer."""
    pytest.importorskip("tokenizers")
    require_torchserve()
    folder = tmp_path_factory.mktemp("raw")
    context = Context(None)  # type: ignore[arg-type]  # it reads no data
    words = BundleOptions(name="words", processor=str(tokenizer(folder / "tokenizer.json")))
    parents = [load_artifact(colour_model(folder / "a.onnx")), load_artifact(token_model(folder / "b.onnx"))]
    options = [BundleOptions(name="colours"), words]
    whole = [bundle(*one, Place(folder / one[0].name), context) for one in zip(options, parents, strict=True)]
    made = [write_archive(PackOptions(), one, Place(folder / f"{one.path.name}.packed")) for one in whole]
    with ExitStack() as stack:
        applications = {one.path.name: stack.enter_context(closing(Application(one.path))) for one in whole}
        running = stack.enter_context(serve(ServeOptions(workers=1, p99_ms=500), *made, logs=folder / "logs"))

        def ask(operation: str, model: str, kind: str, body: bytes) -> tuple[int, bytes]:
            address = f"{running.url}/{operation}/{model}" if operation == "predictions" else ""
            with closing(Client(address or running.url, model)) as client:
                if not address:
                    client._path = f"/{operation}/{model}"
                status, _, answer = client.request("POST", "", body, {"content-type": kind})
            return status, answer

        def respond(operation: str, model: str, kind: str, body: bytes) -> tuple[int, bytes]:
            asked = applications[model].respond("POST", f"/{operation}/{model}", {"content-type": kind}, body)
            answer = asyncio.run(asked)
            return answer.status, answer.body

        yield {"TorchServe": ask, "the application": respond}


def test_servers_answer_alike(servers: dict[str, Ask], tmp_path: Path) -> None:
    """Bodies, forms and base64 have one answer at every server, refusals have one status, and photos are explained."""
    spot = photo(tmp_path / "a.png").read_bytes()
    coded = json.dumps({"instances": [{"b64": base64.b64encode(spot).decode()}]}).encode()
    form = b'--abc\r\nContent-Disposition: form-data; name="x"; filename="a.png"\r\n\r\n' + spot + b"\r\n--abc--\r\n"
    good = [
        *(("colours", *one) for one in (("image/png", spot), (JSON, coded), (FORM, form))),
        *(("words", *one) for one in (("text/plain", b"it was great"), (JSON, b'{"instances": ["it was great"]}'))),
    ]
    for model, kind, body in good:
        status, wanted = servers["TorchServe"]("predictions", model, kind, body)
        assert (status, servers["the application"]("predictions", model, kind, body)) == (200, (200, wanted))
        assert json.loads(wanted)["predictions"][0]["label"] == {"colours": "red", "words": "praise"}[model]
    bad = [
        ("image/png", spot[:90]),
        ("image/png", b"none"),
        (JSON, b'{"instances": [{"b64": "?"}]}'),
        ("audio/wav", spot),
    ]
    for kind, body in bad:
        found = {name: ask("predictions", "colours", kind, body)[0] for name, ask in servers.items()}
        assert len(set(found.values())) == 1, (kind, found)
        assert 400 <= found["TorchServe"] < 500
    for name, ask in servers.items():
        status, answer = ask("explanations", "colours", "image/png", spot)
        assert (status, json.loads(answer)["explanations"][0]["label"]) == (200, "red"), name
