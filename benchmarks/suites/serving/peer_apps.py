"""How other servers serve an ONNX model by their own documentation: one file each, and how it is started and asked.

Each file is started in the folder of ``model.onnx`` with its own Python. Servers that batch get batches of
up to eight requests that wait for at most a millisecond, as TorchServe does for Retort.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SESSION = """
|import io
|import pathlib
|import numpy as np
|import onnxruntime

MODEL = str(pathlib.Path(__file__).with_name("model.onnx"))

def opened():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

def run(session, image):
    return session.run(None, {"image": image})[0]

def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
"""

_MOSEC = """
|from mosec import Server, Worker

class Inference(Worker):
    def __init__(self):
        super().__init__()
        self.session = opened()

    def deserialize(self, data):
        return np.load(io.BytesIO(data))

    def forward(self, data):
        return [row[None] for row in run(self.session, np.concatenate(data))]

    def serialize(self, data):
        return npy(data)

if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=1, max_batch_size=8, max_wait_time=1)
    server.run()
"""

_LITSERVE = """
|import sys
|import litserve

class Api(litserve.LitAPI):
    def setup(self, device):
        self.session = opened()

    def decode_request(self, request):
        return np.asarray(request["image"], np.float32)

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, image):
        return run(self.session, image)

    def unbatch(self, output):
        return [row[None] for row in output]

    def encode_response(self, output):
        return {"scores": output.tolist()}

if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
"""

_FASTAPI = """
|import sys
|import fastapi
|import uvicorn
|from starlette.concurrency import run_in_threadpool

app, session = fastapi.FastAPI(), opened()

@app.post("/predict")
async def predict(request: fastapi.Request):
    image = np.load(io.BytesIO(await request.body()))
    return fastapi.Response(npy(await run_in_threadpool(run, session, image)), media_type="application/x-npy")

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""

_BENTOML = """
|import bentoml

@bentoml.service(workers=1)
class Service:
    def __init__(self):
        self.session = opened()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60000)
    def predict(self, image: np.ndarray) -> np.ndarray:
        return run(self.session, image.astype(np.float32))
"""

_MLSERVER = """
|from mlserver import MLModel
|from mlserver.codecs import decode_args

class Runtime(MLModel):
    async def load(self) -> bool:
        self.session = opened()
        return True

    @decode_args
    async def predict(self, image: np.ndarray) -> np.ndarray:
        return run(self.session, image)
"""
_MLSERVER_FILES = {
    "settings.json": """
{"host": "127.0.0.1", "http_port": PORT, "grpc_port": PORT1, "metrics_port": PORT2, "debug": false}
""",
    "model-settings.json": """
{"name": "model", "implementation": "app.Runtime", "max_batch_size": 8, "max_batch_time": 0.001}
""",
}

_RAY = """
|from ray import serve
|from starlette.requests import Request
|from starlette.responses import Response

@serve.deployment(max_ongoing_requests=16)
class Api:
    def __init__(self):
        self.session = opened()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.001)
    async def predict(self, images):
        return [row[None] for row in run(self.session, np.concatenate(images))]

    async def __call__(self, request: Request):
        image = np.load(io.BytesIO(await request.body()))
        return Response(npy(await self.predict(image)), media_type="application/x-npy")

app = Api.bind()
"""
_RAY_FILES = {
    "config.yaml": """
http_options: {host: 127.0.0.1, port: PORT}
applications: [{name: app, route_prefix: /, import_path: "app:app"}]
"""
}

_TORCHSERVE = """
|import io
|import numpy as np
|from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return np.concatenate([np.load(io.BytesIO(one.get("data") or one.get("body"))) for one in data])

    def inference(self, data, *args, **kwargs):
        return self.model.run(None, {"image": data})[0]

    def postprocess(self, data):
        found = [io.BytesIO() for _ in data]
        for stream, row in zip(found, data):
            np.save(stream, row[None])
        return [stream.getvalue() for stream in found]
"""
"""BaseHandler opens the ONNX file itself, but calls the session like a module, which fails."""
_TORCHSERVE_FILES = {
    "config.properties": """
inference_address=http://127.0.0.1:PORT
management_address=http://127.0.0.1:PORT1
metrics_address=http://127.0.0.1:PORT2
grpc_inference_port=PORT3
grpc_management_port=PORT4
model_store=.
load_models=model.mar
""",
    "model-config.yaml": """
minWorkers: 1
maxWorkers: 1
batchSize: 8
maxBatchDelay: 1
""",
}


@dataclass(frozen=True)
class Peer:
    """One other server.

    Attributes:
        source: content of ``app.py``; a line of it that imports begins with ``|``, so that no reader of this file takes
            it for an import of Retort.
        command: what starts it, after the folder of the environment's programs; ``PORT`` stands for its port.
        path: where it answers.
        form: format of requests and answers: ``npy``, ``json`` with the name of the input, or ``v2`` for KServe's.
        files: further files, by name, in which ``PORT``, ``PORT1``… stand for ports too.
        before: a command that makes what is served; its time does not count.
        variables: of the environment; ``FOLDER`` stands for the folder.
    """

    source: str
    command: tuple[str, ...]
    path: str
    form: str
    files: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def app(self) -> str:
        """The content of ``app.py``."""
        return self.source.replace("|import ", "import ").replace("|from ", "from ")

    def filled(self, text: str, ports: Sequence[int], folder: str) -> str:
        """A text with ports and the folder in it."""
        return re.sub(r"PORT(\d?)", lambda found: str(ports[int(found[1] or 0)]), text).replace("FOLDER", folder)


PEERS = {
    "mosec": Peer(_SESSION + _MOSEC, ("python", "app.py", "--port", "PORT", "--timeout", "60000"), "/inference", "npy"),
    "litserve": Peer(_SESSION + _LITSERVE, ("python", "app.py", "PORT"), "/predict", "json"),
    "fastapi": Peer(_SESSION + _FASTAPI, ("python", "app.py", "PORT"), "/predict", "npy"),
    "bentoml": Peer(_SESSION + _BENTOML, ("bentoml", "serve", "app:Service", "--port", "PORT"), "/predict", "json"),
    "mlserver": Peer(_SESSION + _MLSERVER, ("mlserver", "start", "."), "/v2/models/model/infer", "v2", _MLSERVER_FILES),
    "ray": Peer(
        _SESSION + _RAY,
        ("serve", "run", "config.yaml"),
        "/",
        "npy",
        _RAY_FILES,
        variables={"PYTHONPATH": "FOLDER", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    ),
    "torchserve": Peer(
        _TORCHSERVE,
        ("torchserve", "--start", "--foreground", "--ncs", "--disable-token-auth", "--ts-config", "config.properties"),
        "/predictions/model",
        "npy",
        _TORCHSERVE_FILES,
        (
            *("torch-model-archiver", "--model-name", "model", "--version", "1.0", "--serialized-file", "model.onnx"),
            *("--handler", "app.py", "--config-file", "model-config.yaml", "--export-path", ".", "--force"),
        ),
        {"TEMP": "FOLDER", "TMPDIR": "FOLDER"},
    ),
}
"""By the name of the folder with their environment."""
