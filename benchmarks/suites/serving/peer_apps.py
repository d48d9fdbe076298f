"""How other servers serve an ONNX model by their own documentation: one file each, and how it is started and asked.

Each file is started in the folder of ``model.onnx`` with its own Python. Servers that batch get batches of
up to eight requests that wait for at most a millisecond, as TorchServe does for Retort.
"""

from __future__ import annotations

from dataclasses import dataclass

_SESSION = """
|import io
|import numpy as np
|import onnxruntime

def opened():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])

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


@dataclass(frozen=True)
class Peer:
    """One other server.

    Attributes:
        source: content of ``app.py``; a line of it that imports begins with ``|``, so that no reader of this file takes
            it for an import of Retort.
        command: what starts it, after the folder of the environment's programs; ``PORT`` stands for its port.
        path: where it answers.
        form: format of requests and answers: ``npy``, or ``json`` with the name of the input.
    """

    source: str
    command: tuple[str, ...]
    path: str
    form: str

    def app(self) -> str:
        """The content of ``app.py``."""
        return self.source.replace("|import ", "import ").replace("|from ", "from ")


PEERS = {
    "mosec": Peer(_SESSION + _MOSEC, ("python", "app.py", "--port", "PORT", "--timeout", "60000"), "/inference", "npy"),
    "litserve": Peer(_SESSION + _LITSERVE, ("python", "app.py", "PORT"), "/predict", "json"),
    "fastapi": Peer(_SESSION + _FASTAPI, ("python", "app.py", "PORT"), "/predict", "npy"),
    "bentoml": Peer(_SESSION + _BENTOML, ("bentoml", "serve", "app:Service", "--port", "PORT"), "/predict", "json"),
}
"""By the name of the folder with their environment."""
