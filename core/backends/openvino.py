"""The OpenVINO backend of ``Session``: ONNX files and OpenVINO's own (.xml with .bin) on a CPU, read by OpenVINO.

Part of the runtime half: standard library and numpy only at module level. It uses the package ``openvino``, which can
be installed beside ``onnxruntime``; the package ``onnxruntime-openvino`` would take the place of ``onnxruntime``.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, MachineError, RetortError, UserError
from ..session import OPENVINO, SessionOptions, reason_of
from ..signature import Signature
from ..tensors import BATCH, Array, Feeds, TensorSpec
from .ort import read_signature

THREADS = "INFERENCE_NUM_THREADS"
EXACT = {
    # its own default is BF16 where the processor has it, which is off in the third decimal digit
    "INFERENCE_PRECISION_HINT": "f32",
    # by default it quantizes the activations of layers whose weights alone are INT8
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
"""Options with which OpenVINO computes what the file says."""
DEFAULTS = {
    **EXACT,
    "NUM_STREAMS": "1",
    # pinned threads of several workers would share the same cores
    "ENABLE_CPU_PINNING": "NO",
}
"""Options of a session, which the user's options override."""
_REPORTER = "openvino_telemetry"
"""The package that OpenVINO imports if it is there, as pip installs it, and does without otherwise (2026.4)."""
_WHOLE = {"int64": np.iinfo(np.int32), "uint64": np.iinfo(np.int32), "uint32": np.iinfo(np.int32)}
"""What it computes whole numbers with on a CPU."""
_INDEX, _DATA, _AXIS = 1, 0, 2
_PASSING = frozenset(("Convert", "Reshape", "Unsqueeze", "Squeeze"))
_OPERATORS = re.compile(
    r"(?:No conversion rule found for operations|Conversion is failed for|the following ONNX operations): *([^\n]+)"
    r"|^-- ([\w.]+) with a message",
    re.MULTILINE,
)
_DAMAGED = (
    "Error during import", "Unable to read the model", "Model can't be parsed", "Empty weights data in bin file",
    "Incorrect weights in bin file", "Error parsing ",
)  # fmt: skip

Limits = Mapping[str, tuple[int, int]]
"""Smallest and largest number of inputs of whole numbers, by name."""


class OpenvinoSession:
    """A model loaded in OpenVINO; see :class:`retort.core.session.Session`."""

    backend = "openvino"

    def __init__(self, compiled: Any, signature: Signature, limits: Limits) -> None:
        self.signature = signature
        self.providers: tuple[str, ...] = (OPENVINO,)
        self._limits = limits
        self._request: Any = compiled.create_infer_request()
        self._lock = threading.Lock()
        ports = [port.get_names() for port in compiled.inputs]
        names = [spec.name for spec in signature.inputs]
        # an input that nothing reads is not there
        self._inputs = {name: index for name in names for index, known in enumerate(ports) if name in known}
        results = [port.get_names() for port in compiled.outputs]
        self._outputs = {spec.name: _place(spec.name, results) for spec in signature.outputs}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; see :meth:`retort.core.session.Session.run`."""
        return self.run_unchecked(self.signature.validate(feeds))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that ``signature.validate`` returned, without checking them again.

        Raises:
            InputError: a whole number is no index of the table that it is looked up in, or has more than 32 bits.
        """
        for name, (low, high) in self._limits.items():
            _require_between(name, np.asarray(feeds[name]), low, high)
        given = {index: _writable(np.asarray(feeds[name])) for name, index in self._inputs.items()}
        with self._lock:
            results = self._request.infer(given, share_inputs=True).to_tuple()
        return {name: results[index] for name, index in self._outputs.items()}

    def close(self) -> None:
        """Free the runtime's memory."""
        self._request = None


def _writable(value: Array) -> Array:
    """The array, or a copy of one that must not be written: OpenVINO shares the memory of scalars only if it may."""
    return value if value.ndim or value.flags.writeable else value.copy()


def _place(name: str, results: list[set[str]]) -> int:
    for index, known in enumerate(results):
        if name in known:
            return index
    raise ArtifactError(
        f"OpenVINO gives no output '{name}' for this model", "give the output another name, or use ONNX Runtime"
    )


def open_model(model: Path | bytes, options: SessionOptions, signature: Signature | None) -> OpenvinoSession:
    """Open an ONNX file or its bytes, or a file of OpenVINO with its weights beside it.

    Raises:
        ArtifactError: the file cannot be read as a model, or OpenVINO has no form of one of its operators.
        MachineError: openvino is not installed.
        UserError: OpenVINO has no such option, or no such value of it.
    """
    runtime = _runtime()
    shown = "the model" if isinstance(model, bytes) else Path(model).name
    core = runtime.Core()
    given = dict(options.provider_options.get(OPENVINO, {}))
    if THREADS in given:
        raise UserError(f"{THREADS} cannot be an option of the provider", "give the number of threads with --threads")
    try:
        read = core.read_model(model if isinstance(model, bytes) else str(model))
        compiled = core.compile_model(read, "CPU", {**DEFAULTS, **given, THREADS: str(options.threads)})
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        raise _readable(error, shown, runtime) from error
    if signature is None:
        own = isinstance(model, Path) and model.suffix == ".xml"
        signature = _signature(read, shown) if own else read_signature(model)
    return OpenvinoSession(compiled, signature, dict(_limits(read, signature)))


def _signature(read: Any, shown: str) -> Signature:
    """The signature of a file of OpenVINO, which names no axes: the first is that of the batch where it is dynamic.

    Raises:
        ArtifactError: an input or output has no name, or a type or a rank that numpy does not have.
    """
    try:
        return Signature(tuple(map(_spec, read.inputs)), tuple(map(_spec, read.outputs)))
    except (RuntimeError, TypeError) as error:
        raise ArtifactError(f"{shown} cannot be used: {reason_of(error)}", "convert it again, with names") from error


def _spec(port: Any) -> TensorSpec:
    axes = enumerate(port.get_partial_shape())
    shape = tuple((f"axis{at}" if at else BATCH) if axis.is_dynamic else axis.get_length() for at, axis in axes)
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, shape)


def version(runtime: Any) -> str:
    """The version without the build: ``2026.4.1``."""
    return str(runtime.__version__).partition("-")[0]


def _runtime() -> Any:
    """Import OpenVINO without ``openvino_telemetry``, with which it reports every import over the network."""
    hides = _REPORTER not in sys.modules
    if hides:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError as error:
        remedy = "pip install openvino; it can be installed beside onnxruntime"
        raise MachineError(f"openvino cannot be imported: {error}", remedy) from error
    finally:
        if hides:
            sys.modules.pop(_REPORTER, None)


def _readable(error: Exception, shown: str, runtime: Any) -> RetortError:
    text = str(error)
    operators = [part for found in _OPERATORS.findall(text) for whole in found for part in whole.split(", ") if part]
    if operators:
        listed = ", ".join(dict.fromkeys(name.strip() for name in operators))
        return ArtifactError(
            f"OpenVINO {version(runtime)} cannot read {shown}: it has no form of {listed}",
            "serve it with ONNX Runtime (--provider cpu), or export it without this operator",
        )
    if "Unsupported property" in text or "Wrong value" in text:
        return UserError(
            f"OpenVINO {version(runtime)} does not take this option of the provider: {reason_of(error)}",
            "see its list of CPU properties; write key=value, such as INFERENCE_PRECISION_HINT=bf16",
        )
    if any(sign in text for sign in _DAMAGED):
        remedy = "the file is damaged: export it again"
        if "bin file" in text:
            remedy = "keep its weights, the file of the same name that ends in .bin, beside it, or convert it again"
        return ArtifactError(f"{shown} cannot be loaded: {reason_of(error)}", remedy)
    return ArtifactError(
        f"OpenVINO {version(runtime)} cannot open {shown}: {reason_of(error)}",
        "serve it with ONNX Runtime (--provider cpu)",
    )


def _limits(model: Any, signature: Signature) -> Iterator[tuple[str, tuple[int, int]]]:
    """The limits of inputs of whole numbers: the sizes of the tables in which they are looked up, else 32 bits.

    OpenVINO gives zeros for an index that is out of range, and cuts numbers of 64 bits off.
    """
    parameters = {name: node for node in model.get_parameters() for name in node.output(0).get_names()}
    for spec in signature.inputs:
        if np.dtype(spec.dtype).kind not in "iu" or spec.name not in parameters:
            continue
        sizes = list(_tables(parameters[spec.name]))
        if sizes:
            yield spec.name, (-min(sizes), min(sizes) - 1)
        elif whole := _WHOLE.get(spec.dtype):
            yield spec.name, (int(whole.min), int(whole.max))


def _tables(node: Any) -> Iterator[int]:
    """The numbers of rows of all tables in which the values of a node are indices."""
    for target in node.output(0).get_target_inputs():
        reader = target.get_node()
        if reader.get_type_name() in _PASSING and target.get_index() == 0:
            yield from _tables(reader)
        elif reader.get_type_name() == "Gather" and target.get_index() == _INDEX:
            axis, shape = reader.input_value(_AXIS).get_node(), reader.input(_DATA).get_partial_shape()
            if axis.get_type_name() == "Constant" and shape.rank.is_static:
                size = shape[int(axis.get_data().item())]
                if size.is_static:
                    yield size.get_length()


def _require_between(name: str, values: Array, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        odd = values.min() if values.min() < low else values.max()
        raise InputError(
            f"input '{name}' has the value {odd}, outside of {low} to {high}, which this model computes in OpenVINO",
            "check the values: an index may be outside of a table",
            input=name,
        )
