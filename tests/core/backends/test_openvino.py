"""OpenVINO runs the same files as ONNX Runtime, with its own errors told in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino_here import require_openvino

from retort.__main__ import main
from retort.core.errors import ArtifactError, InputError, MachineError, UserError
from retort.core.session import OPENVINO, PROVIDERS, SessionOptions, open_session

Array = np.ndarray[Any, Any]
OPTIONS = SessionOptions(providers=PROVIDERS["openvino"])
RANDOM = np.random.default_rng(3)


@pytest.fixture
def _openvino() -> None:
    """Skip the test where OpenVINO is not installed."""
    require_openvino()


needed = pytest.mark.usefixtures("_openvino")


def _value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _file(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Array] | None = None,
) -> bytes:
    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("mine", 1)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, stored), opset_imports=domains, ir_version=9
    )
    content: bytes = made.SerializeToString()
    return content


def _product() -> tuple[bytes, Array]:
    weight = RANDOM.normal(size=(64, 8)).astype(np.float32)
    ports = [_value("x", TensorProto.FLOAT, ["batch", 64]), _value("y", TensorProto.FLOAT, ["batch", 8])]
    return _file([helper.make_node("MatMul", ["x", "w"], ["y"])], ports[:1], ports[1:], {"w": weight}), weight


def _table() -> bytes:
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "one"], ["more"]),
        helper.make_node("Gather", ["table", "more"], ["rows"]),
        helper.make_node("Add", ["rows", "offset"], ["y"]),
    ]
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    ports = [_value("ids", TensorProto.INT64, ["batch", "length"]), _value("offset", TensorProto.INT64, ["batch"])]
    nodes.insert(0, helper.make_node("Cast", ["offset"], ["f"], to=TensorProto.FLOAT))
    nodes.insert(1, helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0))
    nodes[-1] = helper.make_node("Add", ["rows", "s"], ["y"])
    out = _value("y", TensorProto.FLOAT, ["batch", 1, "length", 2])
    return _file(nodes, ports, [out], {"table": table, "one": np.array([1])})


@needed
def test_it_computes_in_float32(tmp_path: Path) -> None:
    """Its own default is BF16 where a processor has it; a session has the accuracy of the file, and one thread."""
    file, weight = _product()
    (tmp_path / "net.onnx").write_bytes(file)
    feeds = {"x": RANDOM.normal(size=(5, 64)).astype(np.float32)}
    exact = feeds["x"].astype(np.float64) @ weight
    for model in (file, tmp_path / "net.onnx"):
        session = open_session(model, OPTIONS)
        assert (session.backend, session.providers) == ("openvino", (OPENVINO,))
        assert np.abs(session.run(feeds)["y"] - exact).max() < 1e-5 * np.abs(exact).max()
        compiled = session._request.get_compiled_model()  # type: ignore[attr-defined]
        told = {name: str(compiled.get_property(name)) for name in ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING")}
        assert told == {"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "False"}
        assert "float" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        assert session.signature == open_session(model).signature
        session.close()


@needed
def test_outputs_stay_as_they_are() -> None:
    """The next run does not change the arrays of the one before it, and read-only inputs are taken."""
    session = open_session(_product()[0], OPTIONS)
    inputs = [RANDOM.normal(size=(2, 64)).astype(np.float32) for _ in range(2)]
    inputs[0].flags.writeable = False
    first = session.run({"x": inputs[0]})["y"]
    before = first.copy()
    assert not np.array_equal(session.run({"x": inputs[1]})["y"], before)
    assert np.array_equal(first, before)


@needed
def test_odd_inputs_and_outputs_are_found() -> None:
    """Inputs that nothing reads, twins, an input as output, a constant, a scalar and any name give what ONNX says."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["twin"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Constant", [], ["three"], value=numpy_helper.from_array(np.arange(3, dtype=np.float32))),
        helper.make_node("Cast", ["rate"], ['it\'s a "rate"'], to=TensorProto.FLOAT),
    ]
    inputs = [
        _value("x", TensorProto.FLOAT, ["batch", 3]), _value("unused", TensorProto.INT64, ["batch", "n"]),
        _value("rate", TensorProto.INT64, []),
    ]  # fmt: skip
    outputs = [_value(name, TensorProto.FLOAT, ["batch", 3]) for name in ("y", "twin", "same")]
    outputs += [_value("three", TensorProto.FLOAT, [3]), _value('it\'s a "rate"', TensorProto.FLOAT, [])]
    file = _file(nodes, inputs, outputs)
    rate = np.array(16000)
    feeds: dict[str, Array] = {
        "x": np.array([[-1, 2, 3]], np.float32),
        "unused": np.ones((1, 5), np.int64),
        "rate": rate,
    }
    rate.flags.writeable = False
    wanted, found = open_session(file).run(feeds), open_session(file, OPTIONS).run(feeds)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


KINDS = ["float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool"]


@needed
@pytest.mark.parametrize("dtype", KINDS)
def test_numbers_of_each_type_pass(dtype: str) -> None:
    """What goes in comes out, in its own type."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ports = [_value("x", kind, ["batch", 3]), _value("y", kind, ["batch", 3])]
    feeds = {"x": RANDOM.integers(0, 2 if dtype == "bool" else 100, (4, 3)).astype(dtype)}
    found = open_session(_file([helper.make_node("Identity", ["x"], ["y"])], ports[:1], ports[1:]), OPTIONS).run(feeds)
    assert found["y"].dtype == feeds["x"].dtype
    assert np.array_equal(found["y"], feeds["x"])


@needed
def test_an_index_outside_of_its_table_is_refused() -> None:
    """OpenVINO would give zeros; the rows of the table are known from the file, also behind another shape."""
    session, other = open_session(_table(), OPTIONS), open_session(_table())
    offset = np.array([1, 2])
    good = {"ids": np.array([[0, 9, -1], [3, -10, 4]]), "offset": offset}
    assert np.array_equal(session.run(good)["y"], other.run(good)["y"])
    for odd in (10, -11):
        with pytest.raises(InputError, match=rf"input 'ids' has the value {odd}, outside of -10 to 9"):
            session.run({"ids": np.array([[0, odd, 0]] * 2), "offset": offset})


@needed
def test_a_number_of_more_than_32_bits_is_refused() -> None:
    """OpenVINO computes whole numbers with 32 bits on a CPU, and would cut it off."""
    with pytest.raises(InputError, match=r"input 'offset' has the value 4294967297, outside of -2147483648 to"):
        open_session(_table(), OPTIONS).run({"ids": np.array([[0], [1]]), "offset": np.array([0, 2**32 + 1])})


@needed
def test_operators_without_a_form_are_named() -> None:
    """The message has all of them, of which domain they are, and what runs the file instead."""
    nodes = [
        helper.make_node("Odd", ["x"], ["a"], domain="mine"),
        helper.make_node("BiasSplitGelu", ["a", "a"], ["y"], domain="com.microsoft"),
    ]
    ports = [_value("x", TensorProto.FLOAT, ["batch", 4]), _value("y", TensorProto.FLOAT, ["batch", 4])]
    with pytest.raises(ArtifactError, match=r"OpenVINO .* cannot read the model: it has no form of ") as caught:
        open_session(_file(nodes, ports[:1], ports[1:]), OPTIONS)
    assert {"mine.Odd", "com.microsoft.BiasSplitGelu"} <= set(caught.value.message.rpartition(" of ")[2].split(", "))
    assert "--provider cpu" in caught.value.remedy
    assert len(caught.value.message.splitlines()) == 1


@needed
def test_bad_files_and_options_are_told() -> None:
    """A damaged file, an option that does not exist, a value that does not, and the number of threads as an option."""
    file, _ = _product()
    for bad in (b"hello", file[: len(file) // 2]):
        with pytest.raises(ArtifactError, match="the model cannot be loaded"):
            open_session(bad, OPTIONS)
    for given, told in (
        ({"FOO": "1"}, "does not take this option of the provider: .*FOO"),
        ({"INFERENCE_PRECISION_HINT": "f17"}, "does not take this option of the provider: .*f17"),
        ({"INFERENCE_NUM_THREADS": "2"}, "cannot be an option of the provider"),
    ):
        with pytest.raises(UserError, match=told):
            open_session(file, SessionOptions(providers=(OPENVINO,), provider_options={OPENVINO: given}))
    open_session(file, SessionOptions(providers=(OPENVINO,), provider_options={OPENVINO: {"NUM_STREAMS": "2"}}))


def test_without_the_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the package and how to install it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MachineError, match=r"^openvino cannot be imported: .*") as caught:
        open_session(_product()[0], OPTIONS)
    assert caught.value.remedy.startswith("pip install openvino")


@needed
def test_predict_runs_a_file_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort predict --provider openvino` prints its outputs, and tells what it cannot compute as a fault of input."""
    (tmp_path / "net.onnx").write_bytes(_table())
    for name, ids in (("good", [[1, 2]]), ("bad", [[1, 12]])):
        np.savez(tmp_path / f"{name}.npz", ids=np.array(ids), offset=np.array([0]))
    command = ["predict", str(tmp_path / "net.onnx"), "--provider", "openvino", "--input"]
    with pytest.raises(SystemExit) as ended:
        main([*command, str(tmp_path / "good.npz")])
    assert ended.value.code == 0
    assert "[2. 3.]" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*command, str(tmp_path / "bad.npz")])
    assert ended.value.code != 0
    assert "input 'ids' has the value 12" in " ".join(capsys.readouterr().err.split())


REPORTER = """
import pathlib

class Telemetry:
    def __init__(self, *given, **more):
        pathlib.Path(__file__).with_name("told").write_text("told")

    def send_event(self, *given, **more):
        pass
"""


@needed
def test_an_import_is_reported_to_nobody(tmp_path: Path) -> None:
    """OpenVINO tells each import to Intel by itself, through a package that pip installs with it; a session does not.

    If the last assertion fails, OpenVINO no longer does, and the backend can import it as any other package.
    """
    package = tmp_path / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(REPORTER)
    for name in ("__init__", "backend_ga4"):
        (package / "backend" / f"{name}.py").touch()
    (tmp_path / "net.onnx").write_bytes(_product()[0])
    opens = (
        "from retort.core.session import *\n"
        f"open_session({str(tmp_path / 'net.onnx')!r}, SessionOptions(providers=PROVIDERS['openvino']))"
    )
    for code, told in ((opens, False), ("import openvino", True)):
        subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"], check=True)
        assert (package / "told").exists() is told
