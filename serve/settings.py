"""What an archive says about how it is to be served: limits, batching, threads; stored as ``serving.json``.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ..core.errors import ArtifactError

CONTRACT = 1
Batching = Literal["exact", "fast", "off"]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; checked before memory is taken for it (serve.md H13).

    Attributes:
        request_bytes: size of the body as it arrives.
        expanded_bytes: size of all tensors of a compressed request together.
        rows: samples in one request, and in one run of the model.
        axes: axes of a tensor, and the nesting depth of JSON lists.
        members: files in an npz.
    """

    request_bytes: int = 6_553_500
    expanded_bytes: int = 1 << 26
    rows: int = 256
    axes: int = 16
    members: int = 64


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes:
        batching: ``exact`` puts requests together only where a measurement at load showed that every
            row comes out bit for bit as if it were alone; ``fast`` always does; ``off`` never.
        batch_size: requests that the server may hand over at once.
        buckets: batch sizes to pad up to; empty means that batches run as they are.
        threads: runtime threads per worker at most; 0 takes the worker's share of the cores.
        providers: ONNX Runtime execution providers, the first one required; empty means CPU.
        allow_nan: whether NaN may be sent; infinities always may (attention masks use them).
        golden_tolerance: largest error of the golden outputs, relative to their range.
        warmup_s: time that warming up and measuring may take at load.
        external: further files that hold weights of the model.
        contract: version of the agreement between archive and handler.
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
    allow_nan: bool = False
    golden_tolerance: float = 1e-3
    warmup_s: float = 5.0
    external: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    contract: int = CONTRACT

    def to_json(self) -> bytes:
        """Indented JSON, the same bytes for equal settings."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @staticmethod
    def from_json(text: str | bytes) -> Settings:
        """Inverse of :meth:`to_json`.

        Raises:
            ArtifactError: not JSON, an unknown or ill-typed key, or another contract version.
        """
        try:
            raw = json.loads(text)
            limits = Limits(**_typed(Limits, raw.pop("limits")))
            settings = Settings(**_typed(Settings, raw), limits=limits)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"serving.json cannot be read: {error}", "pack the model again") from error
        if settings.contract != CONTRACT:
            message = f"serving.json speaks contract {settings.contract}, this runtime speaks {CONTRACT}"
            raise ArtifactError(message, "pack the model again")
        return settings


def _typed(owner: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {item.name: getattr(owner(), item.name) for item in fields(owner)}
    unknown = sorted(set(raw) - set(defaults))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    for key, value in values.items():
        wanted = (int, float) if isinstance(defaults[key], float) else type(defaults[key])
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(defaults[key], bool):
            raise ValueError(f"{key} is {value!r}")
    if values.get("batching", "exact") not in get_args(Batching):
        raise ValueError(f"batching is {values['batching']!r}")
    return values
