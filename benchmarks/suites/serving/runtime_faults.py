"""Faults of ONNX Runtime and its providers: those of this machine, and those of a GPU with a double of its build."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.backends.ort_tensorrt import ranges_of
from ....core.session import PROVIDERS, SessionOptions, open_session
from ....core.signature import Signature
from ....core.tensors import BATCH, TensorSpec
from .fault_cases import GPU_BUILD, REAL, Case, flip
from .plan_faults import plan
from .runtime_doubles import CPU, CUDA, TENSORRT, GpuBuild, broken_import, instead_of
from .served_networks import convolutions, packed

_FREE_LENGTH = Signature((TensorSpec("input_ids", "int64", (BATCH, "length")),), ())
Load = Callable[[Path, int], object]
"""Opens a bundle on the GPU of a number, as a worker does."""


@dataclass(frozen=True)
class Bundles:
    """The same model packed for each provider.

    Attributes:
        folder: with a bundle by the name of each provider.
        load: opens one.
    """

    folder: Path
    load: Load

    @staticmethod
    def made(folder: Path, load: Load) -> Bundles:
        """Write the model and its bundles; those that are there are used."""
        for provider in PROVIDERS:
            if not (folder / provider).is_dir():
                file = convolutions(folder / "small.onnx", 2, 8)
                packed(file, folder / provider, "--provider", provider, command="bundle")
        return Bundles(folder, load)

    def opening(self, provider: str, stand_in: AbstractContextManager[None], device: int = 0) -> Callable[[], object]:
        """A function that opens the bundle of a provider.

        Args:
            stand_in: what is in the place of a real package meanwhile.
            device: number of the GPU.
        """

        def load() -> object:
            with stand_in:
                return self.load(self.folder / provider, device)

        return load

    def spoiled(self, change: Callable[[Path], object]) -> Callable[[], object]:
        """A function that opens a copy of the bundle for CPUs whose model was changed."""

        def load() -> object:
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(shutil.copytree(self.folder / "cpu", Path(scratch) / "bundle"))
                change(copy / "model.onnx")
                return self.load(copy, 0)

        return load


def on_this_machine(bundles: Bundles) -> Iterator[Case]:
    """Faults that need no double: a machine without a GPU, and damaged files."""
    folder, nothing = bundles.folder, nullcontext()
    yield Case("CUDA asked of a CPU build", REAL, f"has no {CUDA}; it has .*{CPU}", bundles.opening("cuda", nothing))
    trt = bundles.opening("tensorrt", nothing)
    yield Case("TensorRT asked of a CPU build", REAL, f"has no {TENSORRT}; it has .*{CPU}", trt)
    absent = bundles.opening("cpu", instead_of("onnxruntime", None))
    yield Case("no ONNX Runtime", REAL, "onnxruntime cannot be imported", absent)
    error = ImportError("libgomp.so.1: cannot open shared object file")
    broken = bundles.opening("cpu", broken_import("onnxruntime", error))
    yield Case("ONNX Runtime without a library", REAL, r"cannot be imported: libgomp\.so\.1: cannot open", broken)
    for what, change in (("a flipped bit", flip), ("a truncated model", lambda path: path.write_bytes(b"\x08"))):
        yield Case(what, REAL, "ArtifactError.*model.onnx", bundles.spoiled(change))
    yield Case("a bundle without its model", REAL, "ArtifactError.*model.onnx", bundles.spoiled(Path.unlink))
    odd = one_node(folder / "odd.onnx", "NobodyKnowsIt", "com.example")
    yield Case("an operator that nobody knows", REAL, "does not know", lambda: open_session(odd))
    lacking = one_node(folder / "lacking.onnx", "Acosh", kind="float64")
    yield Case("no kernel for a type", REAL, "has no kernel for an operator", lambda: open_session(lacking))
    (folder / "program.pt2").touch()
    options = SessionOptions(providers=PROVIDERS["tensorrt"])
    program = lambda: open_session(folder / "program.pt2", options)  # noqa: E731
    yield Case("a program for TensorRT's provider", REAL, f"{TENSORRT} .*does not run it", program)
    axes = lambda: ranges_of(_FREE_LENGTH, {})  # noqa: E731
    yield Case("an axis without a range for TensorRT", REAL, "needs a range for the dynamic axis 'length'", axes)
    alone = lambda: open_session(plan(folder / "plan"))  # noqa: E731
    yield Case("a plan where is no TensorRT or GPU", REAL, "(is not installed|needs an NVIDIA GPU)", alone)


def on_a_gpu_build(bundles: Bundles) -> Iterator[Case]:
    """Faults of a GPU, its libraries and its placement."""
    import onnxruntime.capi.onnxruntime_pybind11_state as errors

    def case(what: str, cause: str, provider: str = "cuda", device: int = 0, **build: Any) -> Case:
        double = instead_of("onnxruntime", GpuBuild(**build))
        return Case(what, GPU_BUILD, cause, bundles.opening(provider, double, device))

    cpu = {CPU: ["Conv"]}
    yield case(
        "a missing cuDNN: ONNX Runtime takes the CPU", f"runs .* on {CPU}, not on {CUDA}", used=(CPU,), placed=cpu
    )
    yield case("CUDA listed, nothing placed on it", f"does not run on {CUDA}.*no node", placed={CPU: ["Conv", "Relu"]})
    split = {CUDA: ["Relu"], CPU: ["Conv", "Conv"]}
    yield case("convolutions on the CPU", r"2 of its heavy nodes run on CPUExecutionProvider \(Conv\)", placed=split)
    yield case("a GPU that is not there", "CUDA failure 101: invalid device ordinal", device=3)
    for what, text in (
        ("an old driver", "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"),
        ("no GPU in the machine", "CUDA failure 100: no CUDA-capable device is detected"),
    ):
        yield case(what, text, error=RuntimeError(f"cuda_call.cc:129 {text} ; GPU=0 ; hostname=here"))
    full = errors.Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0")
    yield case("a full GPU", "MachineError.*CUDA failure 2: out of memory", error=full)
    cudnn = errors.RuntimeException("[ONNXRuntimeError] : 6 : CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0")
    yield case("a cuDNN of another version", "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED", error=cudnn)
    yield case("a GPU that computes something else", "VerificationError.*golden", factor=1.5)
    yield case("TensorRT: ONNX Runtime takes CUDA", f"on {CUDA}, not on {TENSORRT}", "tensorrt", used=(CUDA, CPU))
    half = {TENSORRT: ["Relu"], CUDA: ["Conv"]}
    yield case("TensorRT: an operator that it lacks", f"heavy nodes run on {CUDA}", "tensorrt", placed=half)
    none = {CUDA: ["Conv"]}
    yield case("TensorRT: nothing placed on it", f"does not run on {TENSORRT}.*no node", "tensorrt", placed=none)
    cache = errors.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not deserialize engine from cache: x")
    yield case("TensorRT: a damaged engine in the cache", "deserialize engine.*built again", "tensorrt", error=cache)


def one_node(path: Path, operator: str, domain: str = "", kind: str = "float32") -> Path:
    """Write an ONNX file of one operator."""
    import onnx
    from onnx import helper

    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [BATCH]) for name in "xy"
    ]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "one", ports[:1], ports[1:])
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return path
