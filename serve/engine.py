"""A loaded, checked and warmed-up bundle that answers requests, independent of the server around it.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, VerificationError
from ..core.preprocessing.fitting import has_tokenizer
from ..core.preprocessing.sample_reader import SampleReader
from ..core.session import Session
from ..core.signature import Signature
from ..core.tensors import Array
from .batching import Executor, combinable
from .exact_sizes import batch_axis
from .explanations import explained, wants_explanation
from .integrity import read_checked, read_trusted_sums
from .monitoring.recorder import Recorder
from .requests.hook import HOOK, Hook, load_hook
from .requests.json_text import dump
from .requests.replies import Answer, Operation, encode, refuse
from .requests.request import Incoming, Request, decode, of_arrays
from .requests.v2 import metadata
from .requests.wire import read_npz
from .settings import TRUSTED, Settings
from .signing.trust import Signer, Trust
from .thread_budget import thread_budget, workers_of_server
from .worker_session import open_checked

SIGNATURE, GOLDEN, SETTINGS = "signature.json", "golden.npz", "serving.json"
TOKENIZER = "tokenizer.json"
"""The file of the tokenizer of a model that takes its tokens."""


OPERATION_HEADER = "x-retort-operation"
"""Header with an operation, where a proxy gives the addresses of KServe's protocol to it."""


@dataclass
class Engine:
    """A model that is ready to answer requests.

    Attributes:
        golden: inputs and expected outputs stored with the model.
        reader: makes inputs of pictures, texts and recordings; None for a model that takes only arrays.
        hook: functions of the user around the model; None without any.
        golden_error: largest error of the golden outputs on this machine, relative to their range.
        load_s: seconds from the first byte read to the last self-test.
        signer: who signed the files; None if nobody did.
        recorder: counts what the engine does; by default nothing.
    """

    session: Session
    signature: Signature
    settings: Settings
    executor: Executor
    golden: tuple[dict[str, Array], dict[str, Array]]
    sums: Mapping[str, str]
    reader: SampleReader | None = None
    hook: Hook | None = None
    golden_error: float = 0.0
    load_s: float = 0.0
    handler_version: str = ""
    signer: Signer | None = None
    recorder: Recorder = field(default_factory=Recorder)

    @staticmethod
    def load(
        folder: Path, device: int = 0, providers: tuple[str, ...] | None = None, trust: Trust | None = None
    ) -> Engine:
        """Open a bundle or an unpacked archive, run its golden inputs and warm every batch size.

        Args:
            device: number of the GPU, where the settings ask for one.
            providers: execution providers instead of those of the settings, to try a model without their hardware.
            trust: the keys of the server; None takes anything whole.

        Raises:
            ArtifactError: a file is missing, altered or unreadable, or not signed as the server wants.
            MachineError: the runtime or the required provider is missing.
            VerificationError: the golden outputs are not reproduced.
        """
        begin = time.perf_counter()
        sums, signer = read_trusted_sums(folder, trust or Trust())
        settings = Settings.from_json(read_checked(folder, SETTINGS, sums))
        signature = Signature.from_json(read_checked(folder, SIGNATURE, sums))
        golden = split_golden(read_npz(read_checked(folder, GOLDEN, sums), TRUSTED))
        reader = read_samples(folder, sums, signature)
        chosen = settings.providers if providers is None else providers
        settings = replace(settings, threads=thread_budget(settings, workers=workers_of_server()), providers=chosen)
        hook = load_hook(read_checked(folder, HOOK, sums)) if settings.hook else None
        session = open_checked(folder, sums, settings, signature, device)
        engine = Engine(session, signature, settings, Executor(session, settings), golden, sums, reader, hook)
        engine.golden_error = engine.self_test()
        engine.executor.measure(golden[0], reader.other_lengths(golden[0]) if reader is not None else ())
        engine.load_s, engine.signer = time.perf_counter() - begin, signer
        return engine

    def self_test(self) -> float:
        """Run the golden inputs and return the largest error, relative to the range of its output.

        Raises:
            VerificationError: the error of an output exceeds ``golden_tolerance``.
        """
        inputs, expected = self.golden
        error = golden_error(self.session.run(inputs), expected)
        if not error <= self.settings.golden_tolerance:
            raise VerificationError(
                f"the golden outputs differ by {error:.3g}, but only {self.settings.golden_tolerance:.3g} is allowed",
                "the runtime on this machine computes other values; check its version, or export and pack the model "
                "again",
            )
        return error

    def answer(self, requests: Sequence[Incoming]) -> list[Answer]:
        """One answer per request, in order; a failed request does not affect the others (serve.md H16)."""
        answers: dict[int, Answer] = {}
        decoded: dict[int, Request] = {}
        for index, incoming in enumerate(requests):
            self.recorder.arrived(incoming.headers)
            operation = _operation(incoming)
            try:
                if operation == "predict":
                    decoded[index] = self._timed(incoming)
                else:
                    answers[index] = replace(self._special(incoming), operation=operation)
            except Exception as error:  # an unexpected exception also concerns only this request
                answers[index] = replace(refuse(error, incoming.request_id), operation=operation)
        outputs = self.executor.run([request.feeds for request in decoded.values()])
        for (index, request), output in zip(decoded.items(), outputs, strict=True):
            begin = time.perf_counter()
            answers[index] = self._encoded(output, request, requests[index].request_id)
            self.recorder.phase("encode", time.perf_counter() - begin)
        return [answers[index] for index in range(len(requests))]

    def record(self, recorder: Recorder) -> None:
        """Count from now on what is done; the golden requests before are not counted."""
        self.recorder.close()
        self.recorder = self.executor.recorder = recorder

    def _timed(self, incoming: Incoming) -> Request:
        begin, check_s = time.perf_counter(), 0.0
        try:
            request = self._decoded(incoming)
            check_s = request.check_s
            self.recorder.phase("validate", check_s)
            return request
        finally:  # a refused request took its time as well
            self.recorder.phase("decode", time.perf_counter() - begin - check_s)

    def _encoded(self, output: dict[str, Array] | Exception, request: Request, request_id: str) -> Answer:
        if isinstance(output, Exception):
            return refuse(output, request_id)
        try:
            value = None if self.hook is None else self.hook.value_of(output, request)
            if value is not None:
                return Answer(200, dump(value))
            return encode(output, request, self.signature, self.settings)
        except Exception as error:  # probably out of memory; it concerns only this request
            return refuse(error, request_id)

    def _special(self, incoming: Incoming) -> Answer:
        if _describes(incoming):
            return Answer(200, dump(self.describe()))
        if wants_explanation(incoming):
            return explained(incoming, self._decoded, self.executor)
        name = _named(incoming)
        if name == "healthcheck":
            return self.health()
        if name == "metadata":
            return Answer(200, dump(metadata(self.settings, self.signature, self.session.backend)))
        raise InputError(
            f"there is no operation '{name[:80]}'", "use the operation healthcheck or metadata", status=404
        )

    def _decoded(self, incoming: Incoming) -> Request:
        arrays = None if self.hook is None else self.hook.arrays_of(incoming)
        if arrays is not None:
            return of_arrays(arrays, incoming, self.signature, self.settings)
        return decode(incoming, self.signature, self.settings, self.reader)

    def health(self) -> Answer:
        """Run the golden inputs: 200 with the time they took, or 503 (serve.md H25)."""
        begin = time.perf_counter()
        try:
            error = self.self_test()
        except Exception as failure:  # any exception means "not healthy"
            return Answer(503, dump({"healthy": False, "reason": type(failure).__name__}))
        took_ms = 1000 * (time.perf_counter() - begin)
        return Answer(200, dump({"healthy": True, "golden_error": error, "latency_ms": round(took_ms, 3)}))

    def describe(self) -> dict[str, Any]:
        """Description of the served model as JSON-ready values (serve.md H24)."""
        plan = self.executor.plan
        return {
            "signature": json.loads(self.signature.to_json()),
            "settings": asdict(self.settings),
            "handler_version": self.handler_version,
            "model_sha256": self.sums[self.settings.model],
            "signer": None if self.signer is None else asdict(self.signer),
            "backend": self.session.backend,
            "providers": {"requested": list(self.settings.providers), "actual": list(self.session.providers)},
            "threads": self.settings.threads,
            "together": {
                "possible": self.executor.combines,
                "exact_batch_sizes": sorted(plan.sizes),
                "times_ms": {str(size): round(took, 3) for size, took in sorted(plan.times_ms.items())},
            },
            "golden_error": self.golden_error,
            "load_s": round(self.load_s, 3),
            "versions": {"python": platform.python_version(), "numpy": np.__version__} | self._runtime(),
            "runtime_path": str(Path(__file__).parent.parent),
        }

    def _runtime(self) -> dict[str, str]:
        """The version of the runtime that computes; a session of TensorRT tells it as its provider."""
        name = self.session.backend
        found = str(getattr(sys.modules.get(name), "__version__", ""))
        return {name: found.partition("-")[0]} if found else {}

    def close(self) -> None:
        """Free the session."""
        self.session.close()
        self.recorder.close()


def _describes(incoming: Incoming) -> bool:
    return not incoming.parts and "describe" in incoming.headers


def _named(incoming: Incoming) -> str:
    """The operation that the address of a request names, or a proxy."""
    return incoming.headers.get("url_path", "").strip("/") or incoming.headers.get(OPERATION_HEADER, "")


def _operation(incoming: Incoming) -> Operation:
    """What a request wants; a description comes before all others, and a prediction after them."""
    if _describes(incoming):
        return "other"
    if wants_explanation(incoming):
        return "explain"
    return "other" if _named(incoming) else "predict"


def read_samples(folder: Path, sums: Mapping[str, str], signature: Signature) -> SampleReader | None:
    """What reads pictures, texts and recordings for a model; None for a model that takes only arrays.

    Raises:
        ArtifactError: the tokenizer is missing or altered.
        MachineError: a package that the inputs need is not installed.
    """
    if not signature.preprocessing:
        return None
    return SampleReader(signature, read_checked(folder, TOKENIZER, sums) if has_tokenizer(signature) else b"")


def split_golden(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The ``in.<name>`` and ``out.<name>`` arrays of ``golden.npz``, by name."""
    inputs = {name[3:]: array for name, array in arrays.items() if name.startswith("in.")}
    return inputs, {name[4:]: array for name, array in arrays.items() if name.startswith("out.")}


def smallest_golden(
    signature: Signature, golden: tuple[dict[str, Array], dict[str, Array]]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Golden inputs and outputs of one sample, or of all samples if they cannot be separated."""
    if not combinable(signature):
        return golden
    inputs, outputs = (
        {name: np.take(array, [0], axis=batch_axis(signature, name)) for name, array in arrays.items()}
        for arrays in golden
    )
    return inputs, outputs


def golden_error(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Largest error of any output: relative to its range for floats, the share that differs for integers.

    It is infinite if an output is missing or has another shape.
    """
    return max((_error(outputs.get(name), want) for name, want in expected.items()), default=0.0)


def _error(got: Array | None, want: Array) -> float:
    if got is None or got.shape != want.shape:
        return math.inf
    if want.size == 0 or want.dtype.kind != "f":
        return float(np.mean(got != want)) if want.size else 0.0
    actual, expected = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    difference = float(np.abs(actual[finite] - expected[finite]).max())
    return difference / max(float(np.abs(expected[finite]).max()), 1e-12) if difference == difference else math.inf
