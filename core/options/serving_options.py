"""Options of the stages that give a model to servers: bundle, pack and serve."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .data_options import PixelOptions, SoundOptions
from .named_inputs import NAMES_KEY, NAMES_PATH
from .option_types import Count, Options, Provider

Deployment = Literal["torchserve", "triton", "ray", "bentoml", "docker", "kserve", "ovms"]


class BundleOptions(Options):
    """The bundle: the model with everything that a server needs to answer for it."""

    name: str = Field(default="model", pattern=r"^[A-Za-z0-9_-]+$", description="Name of the endpoint.")
    version: str = Field(default="1.0", pattern=r"^[A-Za-z0-9_.-]+$", description="Version of the model.")
    handler: Annotated[str, NAMES_PATH] = Field(
        default="auto",
        pattern=r"^(auto|tensor|image|text|audio|[^\n]*\.py)$",
        description="What a request contains: arrays (tensor), or also files of images (image), texts (text) or "
        "recordings (audio). auto takes what the model was trained on. A file such as my_handler.py adds functions of "
        "your own.",
    )
    processor: Annotated[str | None, NAMES_PATH] = Field(
        default=None,
        description="Hugging Face folder, or a tokenizer.json, that says how raw samples become inputs. The default is "
        "what the data of the training said.",
    )
    pixels: PixelOptions | None = Field(
        default=None, description="How an image becomes the input, if the model does not know it."
    )
    sound: SoundOptions | None = Field(
        default=None, description="How a recording becomes the input, if the model does not know it."
    )
    vocabulary: Literal["bytes", "characters"] | None = Field(
        default=None, description="How a text becomes the input, if the model does not know it and has no tokenizer."
    )
    top_k: Count = Field(default=5, description="Number of labels in the answer to an image, a text or a recording.")
    scores: Literal["auto", "raw", "softmax", "sigmoid"] = Field(
        default="auto",
        description="How outputs become the scores of such an answer. `auto` leaves probabilities (raw), and other "
        "numbers are taken for logits (softmax).",
    )
    batch_size: Count = Field(
        default=8, description="Largest number of requests that the server combines into one batch."
    )
    workers: Count = Field(default=1, description="Number of worker processes.")
    threads: Count = Field(default=1, description="Number of runtime threads per worker.")
    provider: Provider = Field(
        default="cpu",
        description="What runs the model: ONNX Runtime on the CPU, or on a GPU with its provider of CUDA or of "
        "TensorRT; or OpenVINO on the CPU. A worker that does not get it does not start; it never falls back to "
        "another one.",
    )
    axis: tuple[str, ...] = Field(
        default=(),
        description="Range of a dynamic axis for the provider tensorrt, as name=min:opt:max. The range of the batch "
        "axis is set already.",
    )
    provider_option: tuple[str, ...] = Field(
        default=(), description="Option of the provider as key=value, such as trt_fp16_enable=1."
    )
    golden: Annotated[str | None, NAMES_PATH] = Field(
        default=None,
        description="The .npz file of golden samples, with arrays in.NAME and out.NAME, instead of those that the "
        "model brings. A worker starts only if it computes the outputs. Outputs that are not in the file are computed "
        "when the model is packed.",
    )
    max_request_bytes: Count = Field(
        default=6_553_500,
        description="Largest request body, in bytes; less if no request of the model can be so large.",
    )
    max_rows: Count = Field(default=256, description="Largest number of rows in one request.")
    sign: Annotated[str | None, NAMES_KEY] = Field(
        default=None,
        description="Private key of `retort keys` that signs the checksums, so that a server can trust what you pack. "
        "Only its key id is stored.",
    )


class PackOptions(BundleOptions):
    """The TorchServe archive, or a deployment for another server."""

    target: Deployment = Field(
        default="torchserve",
        description="The server. torchserve writes an archive for `retort serve`; the others a folder that has the "
        "bundle and what that server needs around it.",
    )
    p99_ms: Count = Field(
        default=500,
        description="Time in milliseconds within which accepted requests should be answered at overload; other "
        "servers than torchserve refuse what would wait longer. The queue of TorchServe is set by `retort serve`.",
    )

    image: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-zA-Z0-9._:/@-]*$",
        description="Name of the image that docker and kserve build, such as registry.example.com/digits:1.0. The "
        "default is the name of the model with its version.",
    )
    storage: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9+-]+://\S*[^\s/]$",
        description="Where kserve finds a copy of the deployment, such as s3://models/digits. The default is "
        "pvc://models/NAME.",
    )
    max_batch_delay_ms: Count = Field(
        default=1, description="Longest time that a batch waits for more requests, in milliseconds."
    )
    response_timeout_s: Count = Field(
        default=60, description="Seconds without an answer after which a worker is restarted."
    )


class ServeOptions(Options):
    """A TorchServe server on the loopback address."""

    host: Literal["127.0.0.1"] = Field(
        default="127.0.0.1",
        description="Address to listen on. Only loopback is allowed, and TorchServe 0.12 has no IPv6.",
    )
    port: int = Field(default=0, ge=0, le=65535, description="Port of the inference interface. 0 takes a free port.")
    metrics: bool = Field(
        default=True, description="Count requests, times and batches for Prometheus. It costs microseconds per request."
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port on which Prometheus reads the metrics. 0 takes a free port."
    )
    startup_timeout_s: Count = Field(
        default=120, description="Seconds within which the server must answer the first golden request."
    )
    p99_ms: Count = Field(
        default=500,
        description="Time in milliseconds within which 99 % of the accepted requests should be answered at overload. "
        "The length of the queue follows from it and from the measured times of batches; the other requests get 503 "
        "at once.",
    )
    workers: Count | None = Field(
        default=None,
        description="Number of worker processes of each model. The default is that of the archive, but two where cores "
        "and memory allow, so that one answers while the other starts again.",
    )
    swaps: bool = Field(
        default=False,
        description="Take other versions of the models with `retort swap`. The default is off, so that nobody can "
        "register models.",
    )
    grpc: bool = Field(
        default=False,
        description="Also answer gRPC. The default is off, because TorchServe answers OK there to refused requests.",
    )
    restarts: int = Field(
        default=0, ge=0, description="How often the server is started again, on the same port, if it ends by itself."
    )
    trust: tuple[str, ...] = Field(
        default=(),
        description="File of a public key of `retort keys`: only archives that one of these keys has signed are "
        "served. Repeatable. The default is the variable RETORT_TRUST.",
    )
    signatures: Literal["off", "warn", "require"] | None = Field(
        default=None,
        description="What happens to an archive without a valid signature of a trusted key. With keys the default is "
        "require, which refuses it, and without keys off.",
    )
    java: str | None = Field(
        default=None, description="Path of a java program. By default Retort looks for Java 17 or later."
    )
    samples: Count | None = Field(
        default=None, description="Number of test samples to send over HTTP. The default is all of them."
    )
    rows_per_request: Count = Field(default=1, description="Number of rows in one request.")
