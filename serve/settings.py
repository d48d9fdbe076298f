"""Settings of an archive for serving: limits, batching, threads; stored as ``serving.json``.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ..core.errors import ArtifactError
from ..core.postprocessing import Scores
from ..core.session import ON_CPU

MODEL = "model.onnx"
ENGINE = "engine"
"""Folder of a plan: its manifest has the same name as that of a bundle."""
PLAN = f"{ENGINE}/model.plan"
PLAN_FILES = tuple(f"{ENGINE}/{name}" for name in ("model.plan", "manifest.json", "signature.json"))
CONTRACT = 1
Batching = Literal["exact", "fast", "off"]
_CHOICES = {"batching": get_args(Batching), "scores": get_args(Scores)}


@dataclass(frozen=True)
class Limits:
    """Limits of one request; they are checked before memory is allocated (serve.md H13).

    Attributes:
        request_bytes: size of the received body, in bytes.
        expanded_bytes: size of all tensors of a compressed request together, in bytes.
        rows: number of samples in one request, and in one run of the model.
        axes: number of axes of a tensor, and the nesting depth of JSON lists.
        members: number of files in an npz.
    """

    request_bytes: int = 6_553_500
    expanded_bytes: int = 1 << 26
    rows: int = 256
    axes: int = 16
    members: int = 64


TRUSTED = Limits(expanded_bytes=1 << 40, members=1 << 16, axes=64)
"""Limits for what this machine or its server wrote: golden files and answers."""


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes:
        batching: ``exact`` combines requests only if a measurement at load showed that every row has bit for bit the
            same result as alone; ``fast`` always combines them; ``off`` never does.
        batch_size: largest number of requests that the server delivers at once.
        buckets: batch sizes to which batches are padded; empty means no padding.
        threads: largest number of runtime threads per worker; 0 takes the worker's share of the cores.
        providers: ONNX Runtime execution providers, the first of which is required; empty means CPU. See
            :class:`retort.core.session.SessionOptions` for OpenVINO.
        provider_options: options of the first provider.
        ranges: smallest, usual and largest size of dynamic axes, for the provider of TensorRT.
        allow_nan: whether NaN may be sent; infinities always may (attention masks use them).
        golden_tolerance: largest error of the golden outputs, relative to their range.
        warmup_s: seconds that warm-up and measurement may take at load.
        explain_budget: largest number of samples that one request for an explanation may compute; 0 gives none.
        explain_s: seconds that such a request may take, by the times that were measured at load.
        external: names of the model's files of external weights.
        scores: how the numbers of a classifier become the scores of an answer with labels.
        top_k: number of labels in such an answer.
        hook: whether the archive has functions of the user around the model.
        engine: the package of TensorRT that runs the model's plan, as pip reads it; empty for an ONNX file.
        contract: version of the interface between archive and handler.
    """

    name: str = "model"
    version: str = "1.0"
    batching: Batching = "exact"
    batch_size: int = 8
    buckets: tuple[int, ...] = ()
    workers: int = 1
    threads: int = 1
    spinning: bool = False
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    allow_nan: bool = False
    golden_tolerance: float = 1e-3
    warmup_s: float = 5.0
    explain_budget: int = 512
    explain_s: float = 5.0
    external: tuple[str, ...] = ()
    scores: Scores = "raw"
    top_k: int = 5
    hook: bool = False
    engine: str = ""
    limits: Limits = field(default_factory=Limits)
    contract: int = CONTRACT

    @property
    def needs_gpu(self) -> bool:
        """Whether a worker needs a GPU of its own."""
        return bool(self.engine) or (bool(self.providers) and self.providers[0] not in ON_CPU)

    @property
    def model(self) -> str:
        """The file of the model in the bundle."""
        return PLAN if self.engine else MODEL

    @property
    def model_files(self) -> tuple[str, ...]:
        """All files of the model in the bundle, without weights in files of their own."""
        return PLAN_FILES if self.engine else (MODEL,)

    def to_json(self) -> bytes:
        """Indented JSON, the same bytes for equal settings."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @staticmethod
    def from_json(text: str | bytes) -> Settings:
        """Inverse of :meth:`to_json`.

        Raises:
            ArtifactError: the text is not JSON, has an unknown key or a wrong type, or has another contract version.
        """
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict) or not isinstance(raw.get("limits"), dict):
                raise ValueError("it is no object with limits")
            limits = Limits(**_typed(Limits, raw.pop("limits")))
            settings = Settings(**_typed(Settings, raw), limits=limits)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"serving.json cannot be read: {error}", "pack the model again") from error
        if settings.contract != CONTRACT:
            message = f"serving.json has contract version {settings.contract}, but this runtime has version {CONTRACT}"
            raise ArtifactError(message, "pack the model again")
        return settings


def _typed(owner: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {item.name: getattr(owner(), item.name) for item in fields(owner)}
    unknown = sorted(set(raw) - set(defaults))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    for key in ("provider_options", "ranges"):
        if key in values:
            values[key] = _checked_mapping(key, values[key])
    for key, value in values.items():
        wanted = (int, float) if isinstance(defaults[key], float) else type(defaults[key])
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(defaults[key], bool):
            raise ValueError(f"{key} is {value!r}")
    for key, choices in _CHOICES.items():
        if key in values and values[key] not in choices:
            raise ValueError(f"{key} is {values[key]!r}")
    return values


def _checked_mapping(key: str, raw: object) -> dict[str, Any]:
    """A mapping of texts, or of three sizes to each axis."""
    if not isinstance(raw, dict):
        raise ValueError(f"{key} is {raw!r}")
    for value in raw.values():
        sizes = isinstance(value, list) and len(value) == 3 and all(type(size) is int for size in value)
        if not (sizes if key == "ranges" else isinstance(value, str)):
            raise ValueError(f"{key} has {value!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
