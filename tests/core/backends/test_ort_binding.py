"""Memory of a GPU that a session of ONNX Runtime keeps: with the real bindings, on the device that is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from ort_double import Binding, Runtime
from served_models import KINDS, graph

from retort.core.backends import ort
from retort.core.backends.ort_binding import SHAPES, DeviceMemory
from retort.core.session import PROVIDERS, SessionOptions, open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

Array = np.ndarray[Any, Any]
HERE = ("cpu", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_bound_runs_give_the_same_bits(kind: str, tmp_path: Path) -> None:
    """Images, tokens, scalars, flags and infinities, in several runs, of which only the first allocates outputs."""
    session: Any = open_session(graph(kind, tmp_path).main)
    memory = DeviceMemory(onnxruntime, session.inner, session.signature, HERE)
    feeds = session.signature.validate(KINDS[kind])
    wanted = session.run(feeds)
    for _ in range(3):
        found = memory.run(feeds)
        assert [array.tobytes() for array in found] == [array.tobytes() for array in wanted.values()]
    assert [bound.free for bound in memory._bound.values()] == [()]
    memory.close()


def _doubling(**sizes: Any) -> tuple[Any, Signature]:
    """``y = 2 x`` of ``[batch, 2]``, and its positive elements, of which only a run knows the number."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("NonZero", ["r"], ["where"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    where = helper.make_tensor_value_info("where", TensorProto.INT64, [2, "found"])
    made = helper.make_graph(nodes, "g", [x], [y, where])
    file = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    inner = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = (TensorSpec("y", "float32", ("batch", 2)), TensorSpec("where", "int64", sizes.get("where", (2, "found"))))
    return inner, Signature((TensorSpec("x", "float32", ("batch", 2)),), outputs)


def _x(rows: int, scale: float = 1.0) -> dict[str, Array]:
    return {"x": scale * (np.arange(2 * rows, dtype=np.float32) - 1).reshape(rows, 2)}


def test_each_shape_has_its_memory_once() -> None:
    """A shape that comes again allocates nothing; the memory of the shapes that were used longest ago is freed."""
    inner, signature = _doubling()
    runtime = Runtime({})
    memory = DeviceMemory(runtime, inner, signature, ("cuda", 3))
    inner_binding, places = inner.io_binding, runtime.unplaced
    run = inner.run_with_iobinding
    inner.io_binding = lambda: Binding(inner_binding(), places)
    inner.run_with_iobinding = lambda binding: run(binding.inner)
    for _ in range(4):
        memory.run(_x(2))
    assert runtime.allocated == [((2, 2), "cuda", 3)] * 2  # the input, and the output whose size is known
    assert ("where", "cuda", 3) in places
    for rows in range(1, SHAPES + 3):
        memory.run(_x(rows))
    assert len(memory._bound) == SHAPES
    assert list(memory._bound)[-1] == ((SHAPES + 2, 2),)


def test_outputs_are_those_of_their_own_run() -> None:
    """Arrays that were given back do not change with the next run, whose other values give another size."""
    inner, signature = _doubling()
    memory = DeviceMemory(onnxruntime, inner, signature, HERE)
    runs = [memory.run(_x(3, scale)) for scale in (1.0, 1.0, -1.0, 0.0)]
    for scale, (y, where) in zip((1.0, 1.0, -1.0, 0.0), runs, strict=True):
        np.testing.assert_array_equal(y, 2 * _x(3, scale)["x"])
        np.testing.assert_array_equal(where, np.array(np.nonzero(y > 0)))


def test_a_size_that_the_signature_does_not_tell_truly_is_found_again() -> None:
    """If the values change the size of an output that looked fixed, the run is done again without its memory."""
    inner, signature = _doubling(where=(2, 4))
    memory = DeviceMemory(onnxruntime, inner, signature, HERE)
    first = memory.run(_x(3))
    assert first[1].shape == (2, 4)
    assert memory.run(_x(3, -1.0))[1].shape == (2, 1)
    assert memory.run(_x(3))[1].shape == (2, 4)


def test_a_run_that_fails_leaves_the_memory_usable(tmp_path: Path) -> None:
    """The error of ONNX Runtime is raised as without bindings, and the next run gives its answer."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = onnx.numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    made = helper.make_model(
        helper.make_graph(nodes, "g", [ids], [y], [table]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    session: Any = open_session(made.SerializeToString())
    memory = DeviceMemory(onnxruntime, session.inner, session.signature, HERE)
    for _ in range(2):
        assert memory.run({"ids": np.array([1, 9])})[0].tolist() == [1.0, 9.0]
        with pytest.raises(Exception, match="out of data bounds"):
            memory.run({"ids": np.array([1, 10])})


def test_sessions_on_a_gpu_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA and TensorRT sessions keep memory on their device, and sessions on the CPU none."""
    runtime = Runtime({name: ["ReduceSum"] for name in PROVIDERS["tensorrt"][:2]})
    monkeypatch.setattr(ort, "_runtime", lambda: runtime)
    path = graph("vector", tmp_path).main
    plain: Any = open_session(path)
    assert plain._memory is None
    session = open_session(path, SessionOptions(providers=PROVIDERS["cuda"], device=2))
    total = session.run(KINDS["vector"])["total"]
    assert total == pytest.approx(KINDS["vector"]["x"].sum(axis=1), rel=1e-6)
    assert runtime.allocated == [((3, 2), "cuda", 2), ((3,), "cuda", 2)]
    session.close()


@pytest.mark.gpu
def test_a_real_gpu_gives_the_same(tmp_path: Path) -> None:
    """On a GPU, bound runs agree with those of the CPU at several shapes."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("no CUDAExecutionProvider here")
    path = graph("image", tmp_path).main
    plain, session = open_session(path), open_session(path, SessionOptions(providers=PROVIDERS["cuda"]))
    for rows in (1, 3, 1, 8, 3):
        feeds = {"image": np.resize(KINDS["image"]["image"], (rows, 3, 12, 12))}
        np.testing.assert_allclose(session.run(feeds)["total"], plain.run(feeds)["total"], rtol=1e-4, atol=1e-3)
    session.close()
