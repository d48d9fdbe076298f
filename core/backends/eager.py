"""The PyTorch backend of ``Session``: runs a captured program from its ``.pt2`` file."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export.passes import move_to_device_pass

from ..aten_names import ORDERINGS, operator_name
from ..errors import ArtifactError, MachineError, MissingFileError
from ..graph_assertions import without_assertions
from ..signature import Signature
from ..tensors import BATCH, Array, Feeds, TensorSpec
from ..workarounds import drop_formulas
from . import fake_quantize as fake_quantize  # registers retort::qdq, which quantized programs call
from .pt2 import REMEDY, check_archive, tensors_only

if TYPE_CHECKING:
    from ..session import SessionOptions

SIGNATURE_FILE = "retort.signature"
PROGRAM_FILE = "retort.program"


class EagerSession:
    """A captured program run by PyTorch; see :class:`retort.core.session.Session`."""

    backend = "eager"

    def __init__(self, module: torch.nn.Module, signature: Signature, device: str, threads: int) -> None:
        self.signature = signature
        self.providers: tuple[str, ...] = (device,)
        self._module: torch.nn.Module | None = module
        self._device = device
        self._threads = threads
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch; see :meth:`retort.core.session.Session.run`."""
        return self.run_unchecked(self.signature.validate(feeds))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that ``signature.validate`` returned, without checking them again."""
        assert self._module is not None, "the session is closed"
        with _threads(self._threads), torch.inference_mode():
            inputs = [_tensor(feeds[spec.name], self._device) for spec in self.signature.inputs]
            values = self._module(*inputs)
            return {name: _array(value) for name, value in zip(self._outputs, values, strict=True)}

    def run_rounded(self, feeds: Feeds, size: float, seed: int) -> dict[str, Array] | None:
        """Run one batch in which every result of an operator differs by a random share of up to ``size``.

        Returns:
            The outputs; None if the program is no graph.
        """
        module, given = self._module, self.signature.validate(feeds)
        if not isinstance(module, torch.fx.GraphModule):
            return None
        with _threads(self._threads), torch.inference_mode():
            inputs = [_tensor(given[spec.name], self._device) for spec in self.signature.inputs]
            values = _Rounding(module, size, seed).run(*inputs)
            return {name: _array(value) for name, value in zip(self._outputs, values, strict=True)}

    def run_with_ties_broken(self, feeds: Feeds, seed: int) -> dict[str, Array] | None:
        """Run one batch in which equal values are selected in another order (``topk``, ``sort``, ``argmax``).

        Runtimes need not agree which of several equal values comes first.

        Args:
            seed: decides the order.

        Returns:
            The outputs; None if the program selects nothing.
        """
        module, given = self._module, self.signature.validate(feeds)
        if not isinstance(module, torch.fx.GraphModule) or not any(map(_orders, module.graph.nodes)):
            return None
        with _threads(self._threads), torch.inference_mode():
            inputs = [_tensor(given[spec.name], self._device) for spec in self.signature.inputs]
            values = _WithoutTies(module, seed).run(*inputs)
            return {name: _array(value) for name, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Free the model."""
        self._module = None


def _orders(node: torch.fx.Node) -> bool:
    """Whether a node gives the places of values in their order."""
    return operator_name(node) in ORDERINGS


class _WithoutTies(torch.fx.Interpreter):
    """Adds rounding noise to values before they are ordered."""

    def __init__(self, module: torch.fx.GraphModule, seed: int) -> None:
        super().__init__(module)
        self._draw = torch.Generator().manual_seed(seed)

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node; the first argument of an ordering is disturbed by 1e-6 of its value."""
        if not _orders(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value: torch.Tensor = args[0]
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=self._draw).to(value)
            value = value + 1e-6 * value.abs().clamp(1e-30, 1e30) * noise
        target: Any = n.target
        return target(value, *args[1:], **kwargs)


class _Rounding(torch.fx.Interpreter):
    """Changes the floating-point result of every operator by a random relative error.

    The error of a sum of n terms grows with √n (Higham, "Accuracy and stability of numerical algorithms", 4.2).
    """

    def __init__(self, module: torch.fx.GraphModule, size: float, seed: int) -> None:
        super().__init__(module)
        self._size, self._draw = size, torch.Generator().manual_seed(seed)

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node and disturb its result."""
        result = super().run_node(n)
        if n.op != "call_function" or not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        args, _ = self.fetch_args_kwargs_from_env(n)
        terms = args[0].numel() / max(1, result.numel()) if operator_name(n) in ("sum", "mean") else 1.0
        noise = 2 * torch.rand(result.shape, generator=self._draw).to(result) - 1
        return result * (1 + self._size * math.sqrt(terms) * noise)


def open_model(model: Path | bytes, options: SessionOptions, signature: Signature | None) -> EagerSession:
    """Open a captured program.

    Raises:
        ArtifactError: the file is truncated or not a captured program.
        MachineError: a GPU is requested and PyTorch has none.
    """
    if isinstance(model, bytes):
        raise ArtifactError("a captured program cannot be opened from bytes", "give its path")
    if options.providers and any(name in options.providers[0].lower() for name in ("tensorrt", "openvino")):
        raise MachineError(
            f"{Path(model).name} is a program: {options.providers[0]} does not run it",
            "export it first, or build a plan with `retort engine`",
        )
    program, stored, _ = load_exported(model)
    device = "cuda" if options.providers and "cuda" in options.providers[0].lower() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise MachineError(f"PyTorch {torch.__version__} sees no GPU", "install a CUDA build, or run on the CPU")
        program = move_to_device_pass(program, device)
    return EagerSession(program.module(check_guards=False), signature or stored, device, options.threads)


def load_exported(path: Path) -> tuple[torch.export.ExportedProgram, Signature, dict[str, Any]]:
    """Read a ``.pt2`` file.

    Args:
        path: a file written by Retort, or by ``torch.export.save``.

    Returns:
        The exported program in evaluation form, its signature, and the content of ``retort.program``: ``modes`` (nodes
        that behave differently in training; None if the file was not written by Retort) and ``meta``.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is truncated, altered or foreign.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no such program: {path}", "check the path")
    check_archive(path)
    extra: dict[str, Any] = {SIGNATURE_FILE: "", PROGRAM_FILE: ""}
    try:
        with quiet(), tensors_only():
            exported = torch.export.load(path, extra_files=extra)
    except Exception as error:  # torch raises RuntimeError, KeyError, json and pickle errors alike
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} cannot be read as a captured program: {text}", REMEDY) from error
    drop_formulas(exported)
    without_assertions(exported.graph_module)
    signature = Signature.from_json(extra[SIGNATURE_FILE]) if extra[SIGNATURE_FILE] else _signature(exported)
    return exported, signature, _facts(extra[PROGRAM_FILE], path)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log messages of torch during export, which only describe its internals."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # it also prints its partial graph
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _facts(text: str, path: Path) -> dict[str, Any]:
    if not text:
        return {"modes": None, "meta": {}}
    try:
        raw = json.loads(text)
        return {"modes": list(raw["modes"]), "meta": dict(raw["meta"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: its {PROGRAM_FILE} cannot be read: {error}", REMEDY) from error


def _signature(exported: torch.export.ExportedProgram) -> Signature:
    """The signature of a program that was not written by Retort, with the names and shapes of its graph."""
    nodes = {node.name: node for node in exported.graph.nodes}
    ins, outs = exported.graph_signature.user_inputs, exported.graph_signature.user_outputs
    names = [f"output_{index}" for index in range(len(outs))] if len(outs) > 1 else ["output"]
    inputs = tuple(_spec(str(name), nodes[str(name)].meta["val"]) for name in ins)
    return Signature(inputs, tuple(_spec(name, nodes[str(out)].meta["val"]) for name, out in zip(names, outs)))


def _spec(name: str, value: torch.Tensor) -> TensorSpec:
    sizes = enumerate(value.shape)
    shape = tuple(size if isinstance(size, int) else (BATCH if axis == 0 else str(size)) for axis, size in sizes)
    return TensorSpec(name, dtype_name(value.dtype), shape)


def _tensor(value: Array, device: str) -> torch.Tensor:
    # A copy where numpy forbids writing: torch would warn about it, and a program might write.
    return torch.from_numpy(value if value.flags.writeable else value.copy()).to(device)


def _array(value: torch.Tensor) -> Array:
    value = value.cpu()
    array: Array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    return array


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if not wanted or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
