"""Engines are built by TensorRT-RTX without a GPU: plans, profiles, errors, progress, cancellation, caches."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from known import typed
from onnx import TensorProto, helper, numpy_helper

from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Bar, Console
from retort.core.context import Place
from retort.core.errors import ArtifactError, MachineError, RetortError, UserError, VerificationError
from retort.core.facts.engine_facts import EngineFacts
from retort.core.options.stage_options import EngineOptions
from retort.core.signature import Signature
from retort.core.terminal.interruption import kept_by
from retort.export.trt.build_process import BuildRequest, run_build
from retort.export.trt.stage import build_engine, rebuild_command
from retort.export.trt.timing_cache import read_cache

Array = np.ndarray[Any, Any]
needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
pytestmark = [pytest.mark.trt, needs_trt]
CHANNELS = 64
Values = list[tuple[str, Array]]


def convolution(number: int, precision: str, values: Values) -> list[onnx.NodeProto]:
    """One convolution and its ReLU in a precision, in the form that TensorRT requires."""
    rng = np.random.default_rng(number)
    weight = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    x, y, w = f"t{number}", f"t{number + 1}", f"w{number}"
    nodes, kernel = [], w
    if precision == "int8":
        grid = [f"s{number}", f"z{number}"]
        values += [
            (grid[0], np.array(0.1, np.float32)),
            (grid[1], np.array(0, np.int8)),
            (f"ws{number}", np.full(CHANNELS, 0.02, "f4")),
        ]
        values += [(w, np.clip(np.rint(weight / 0.02), -127, 127).astype(np.int8))]
        values += [(f"wz{number}", np.zeros(CHANNELS, np.int8))]
        nodes += [helper.make_node("QuantizeLinear", [x, *grid], [f"q{number}"], name=f"q{number}")]
        nodes += [helper.make_node("DequantizeLinear", [f"q{number}", *grid], [f"d{number}"], name=f"d{number}")]
        inputs, kernel, x = [w, f"ws{number}", f"wz{number}"], f"wd{number}", f"d{number}"
        nodes += [helper.make_node("DequantizeLinear", inputs, [kernel], name=kernel, axis=0)]
    else:
        values += [(w, weight.astype(np.float16 if precision == "fp16" else np.float32))]
    nodes += [helper.make_node("Conv", [x, kernel], [f"c{number}"], name=f"conv{number}", pads=[1] * 4)]
    return [*nodes, helper.make_node("Relu", [f"c{number}"], [y], name=f"relu{number}")]


def network(precision: str = "fp32", layers: int = 3, axes: tuple[Any, ...] = ("batch", CHANNELS, 8, 8)) -> Any:
    """A chain of convolutions with a pooled output."""
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    values: Values = []
    nodes = [node for number in range(layers) for node in convolution(number, precision, values)]
    nodes += [helper.make_node("GlobalAveragePool", [f"t{layers}"], ["scores"], name="pool")]
    ports = [helper.make_tensor_value_info("t0", kind, axes), helper.make_tensor_value_info("scores", kind, None)]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in values]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def saved(model: onnx.ModelProto, path: Path) -> Artifact:
    """A bare graph on disk."""
    path.write_bytes(model.SerializeToString())
    return load_artifact(path)


def built(model: onnx.ModelProto, folder: Path, console: Console | None = None, **options: Any) -> Artifact:
    """The engine of a model, by default without a timing cache."""
    chosen = EngineOptions(**{"timing_cache": "off", **options})
    return build_engine(
        chosen, saved(model, folder / "model.onnx"), Place(folder / "engine"), console=console or Console("silent")
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The same network as an engine in three precisions."""
    folder = tmp_path_factory.mktemp("engines")
    for name in ("fp32", "fp16", "int8"):
        (folder / name).mkdir()
    return {name: built(network(name), folder / name, batch_sizes=(1, 4, 8)) for name in ("fp32", "fp16", "int8")}


def test_an_engine_says_where_it_runs(engines: dict[str, Artifact]) -> None:
    """The manifest has version, device, profiles, source hash and the command that builds the engine again."""
    facts = engines["fp32"].facts
    typed(engines["fp32"], EngineFacts)
    assert facts["engine"]["runtime"] == "tensorrt_rtx"
    assert facts["engine"]["version"].count(".") >= 2
    assert facts["engine"]["profiles"] == [{"t0": "1x64x8x8:4x64x8x8:8x64x8x8"}]
    assert len(facts["engine"]["source"]["sha256"]) == 64
    assert facts["engine"]["rebuild"].startswith("retort engine ")
    assert engines["fp32"].main.stat().st_size == facts["plan_bytes"] > 0
    signature = Signature.from_json((engines["fp32"].path / "signature.json").read_text())
    assert signature.inputs[0].describe() == "t0: float32[batch, 64, 8, 8]"


def test_weights_shrink_with_the_precision(engines: dict[str, Artifact]) -> None:
    """By TensorRT's count, INT8 weights have at most 0.30 and FP16 weights at most 0.51 of the FP32 bytes."""
    weights = {name: item.facts["weights_bytes"] for name, item in engines.items()}
    assert weights["int8"] <= 0.30 * weights["fp32"]
    assert weights["fp16"] <= 0.51 * weights["fp32"]


def test_the_parsed_network_shows_each_precision(engines: dict[str, Artifact]) -> None:
    """TensorRT parses the types in the file unchanged: strongly typed, layer by layer."""
    for name, label in (("fp32", "FP32"), ("fp16", "FP16"), ("int8", "INT8")):
        assert engines[name].facts["layers"][f"CONVOLUTION {label}"] == 3
    assert "QUANTIZE INT8" in engines["int8"].facts["layers"]
    signature = Signature.from_json((engines["fp16"].path / "signature.json").read_text())
    assert {spec.dtype for spec in (*signature.inputs, *signature.outputs)} == {"float16"}


def test_equal_input_gives_equal_bytes(engines: dict[str, Artifact], tmp_path: Path) -> None:
    """A plan that is built again has the same bytes."""
    again = built(network("int8"), tmp_path, batch_sizes=(1, 4, 8))
    assert again.manifest.files["model.plan"] == engines["int8"].manifest.files["model.plan"]


def test_axes_by_name_and_several_profiles(tmp_path: Path) -> None:
    """Height and width have their range by name; an input that is given twice makes two profiles."""
    model = network(layers=1, axes=("batch", CHANNELS, "height", "width"))
    made = built(model, tmp_path, batch_sizes=(2,), axis=("height=8:16:32", "width=8:8:16"))
    assert made.facts["engine"]["profiles"] == [{"t0": "2x64x8x8:2x64x16x8:2x64x32x16"}]
    shapes = ("t0=1x64x8x8", "t0=4x64x8x8:8x64x16x16:8x64x32x32")
    assert len(built(model, tmp_path, profile=shapes).facts["engine"]["profiles"]) == 2


def test_an_axis_without_a_range_is_named(tmp_path: Path) -> None:
    """A dynamic axis without a range is rejected with the option that sets one."""
    with pytest.raises(UserError, match="axis 'height' of input 't0'") as caught:
        built(network(layers=1, axes=("batch", CHANNELS, "height", 8)), tmp_path)
    assert "--axis height=" in caught.value.remedy


def test_a_refused_node_is_named_with_op_and_reason(tmp_path: Path) -> None:
    """The parser's errors have node, operator, code and a remedy."""
    model = network(layers=1)
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["scores"], ["a", "b", "c"], name="dql"))
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.UINT8, None))
    with pytest.raises(ArtifactError, match=r"node 'dql' \(DynamicQuantizeLinear\)") as caught:
        built(model, tmp_path)
    assert [(item["node"], item["op"]) for item in caught.value.facts["errors"]] == [("dql", "DynamicQuantizeLinear")]  # type: ignore[attr-defined]
    assert caught.value.remedy
    assert not (tmp_path / "engine").exists()


def test_types_do_not_mix(tmp_path: Path) -> None:
    """A network is strongly typed: FP16 data with FP32 weights is rejected, not converted."""
    model = network("fp16", layers=1)
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    with pytest.raises(ArtifactError, match="conv0"):
        built(model, tmp_path)


@pytest.mark.parametrize(("content", "reason"), [(b"\x08\x01", "contains no network"), (b"no model", "cannot be read")])
def test_junk_is_no_network(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that TensorRT's parser reads as an empty network is rejected."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=reason):
        build_engine(EngineOptions(), load_artifact(tmp_path / "model.onnx"), Place(tmp_path / "engine"))


def test_what_tensorrt_would_misread_is_refused_before(tmp_path: Path) -> None:
    """A UINT8 zero point, which the parser reads as INT8, stops the build unless the user allows it."""
    model = network("int8", layers=1)
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "z0")
    zero.CopyFrom(numpy_helper.from_array(np.asarray(np.uint8(0)), "z0"))
    with pytest.raises(VerificationError, match="Q02"):
        built(model, tmp_path)
    assert built(model, tmp_path, lint="warn").kind == "engine"


def test_a_profile_that_the_builder_refuses_is_a_user_error(tmp_path: Path) -> None:
    """If a profile cannot be used by the builder, its error is one sentence."""
    saved(network(layers=1), tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no optimization profile"):
        run_build(BuildRequest(str(tmp_path / "model.onnx"), str(tmp_path / "x.plan")))
    assert not (tmp_path / "x.plan").exists()


def test_weights_in_a_separate_file_are_found(tmp_path: Path) -> None:
    """A model with a separate file of weights is built like any other."""
    onnx.save(network(layers=1), str(tmp_path / "model.onnx"), save_as_external_data=True, size_threshold=0)
    made = build_engine(
        EngineOptions(timing_cache="off"), load_artifact(tmp_path / "model.onnx"), Place(tmp_path / "engine")
    )
    assert made.facts["weights_bytes"] >= CHANNELS * CHANNELS * 9 * 4


class Watched(Console):
    """A console that records its calls, and may raise an interrupt at the n-th step."""

    def __init__(self, stop_after: int = -1) -> None:
        super().__init__("silent")
        self.notes: list[str | None] = []
        self.warnings: list[str] = []
        self.totals: list[int] = []
        self.stop_after = stop_after

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """A bar that reports to its console."""
        with super().progress(label, total) as bar:
            yield Watching(bar, self)


class Watching(Bar):
    """The bar of a recording console."""

    def __init__(self, bar: Bar, console: Watched) -> None:
        self.__dict__.update(bar.__dict__)
        self.console = console

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Record the note; raise the interrupt at the given step."""
        self.console.notes.append(note)
        if len(self.console.notes) == self.console.stop_after:
            raise KeyboardInterrupt
        super().advance(steps, note)

    def resize(self, total: int) -> None:
        """Record the total."""
        self.console.totals.append(total)


def test_progress_is_reported_by_phase(tmp_path: Path) -> None:
    """The phases of the progress monitor reach the bar, with the number of steps."""
    console = Watched()
    built(network(layers=1), tmp_path, console)
    assert {"Building engine", "Optimizing graph"} <= set(console.notes)
    assert max(console.totals) > 1


def test_ctrl_c_stops_the_build_and_leaves_nothing(tmp_path: Path) -> None:
    """The interrupt says that no engine was written; neither a plan nor an incomplete folder is left."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        built(network(layers=20), tmp_path, Watched(stop_after=3))
    assert kept_by(stopped.value) == ("no engine was written",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_a_timing_cache_is_kept_checked_and_written_again(tmp_path: Path) -> None:
    """The second build reads the cache of the first; a damaged file gives a warning and is replaced."""
    cache = str(tmp_path / "cache")
    first = built(network(layers=1), tmp_path, timing_cache=cache).facts["timing_cache"]
    assert first["read_bytes"] == 0 < first["written_bytes"]
    assert built(network(layers=1), tmp_path, timing_cache=cache).facts["timing_cache"]["read_bytes"] > 0
    path = tmp_path / "cache" / first["file"]
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    console = Watched()
    again = built(network(layers=1), tmp_path, console, timing_cache=cache)
    assert again.facts["timing_cache"]["read_bytes"] == 0
    assert any("is damaged" in text for text in console.warnings)
    assert read_cache(path)[0]


def test_an_unwritable_cache_folder_is_named(tmp_path: Path) -> None:
    """The message has the folder, the reason and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RetortError, match="cannot be written") as caught:
        built(network(layers=1), tmp_path, timing_cache=str(tmp_path / "file" / "cache"))
    assert "--timing-cache" in caught.value.remedy


FAKES = {
    "crash": ("class Builder:\n    def __init__(self, logger):\n        import os; os.abort()\n", "signal 6"),
    "libraries": ("raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')\n", "cannot open shared"),
    "incomplete": ("__version__ = '1.7.1'\n", "incomplete"),
}
LOGGER = "class ILogger:\n    def __init__(self): pass\nclass NetworkDefinitionCreationFlag: pass\n"


@pytest.mark.parametrize("kind", FAKES)
def test_a_broken_installation_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A package without libraries, without content, or that aborts, ends only the builder's process."""
    text, reason = FAKES[kind]
    (tmp_path / "tensorrt_rtx.py").write_text((LOGGER if kind == "crash" else "") + text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(MachineError, match=reason):
        built(network(layers=1), tmp_path)


def test_without_a_gpu_the_full_tensorrt_is_not_touched(tmp_path: Path) -> None:
    """Without a driver, the full package is rejected before any of its objects is created."""
    with pytest.raises(MachineError, match=r"tensorrt is not installed|needs an NVIDIA GPU"):
        built(network(layers=1), tmp_path, runtime="tensorrt")


def test_a_plan_can_be_asked_for_again() -> None:
    """The command in the manifest has exactly the options that were set."""
    options = EngineOptions(axis=("h=1:2:3",), level=5, tf32=False)
    assert rebuild_command(Path("m.onnx"), options) == "retort engine m.onnx --axis h=1:2:3 --level 5 --no-tf32"
    assert rebuild_command(Path("m.onnx"), EngineOptions()) == "retort engine m.onnx"


def test_a_bare_file_is_converted_to_half_precision(tmp_path: Path) -> None:
    """`precision` converts a file of another tool, keeps the converted file, and halves the weights."""
    made = built(network(layers=1), tmp_path, precision="fp16")
    assert made.facts["layers"]["CONVOLUTION FP16"] == 1
    assert made.facts["half"]["errors"]["scores"] < 1e-2
    assert made.file("model.onnx").is_file()
    assert made.facts["weights_bytes"] <= 0.51 * built(network(layers=1), tmp_path).facts["weights_bytes"]


def test_the_builders_memory_is_its_own(tmp_path: Path) -> None:
    """Memory of this process does not count as memory of the build."""
    ballast = np.ones(100_000_000)
    made = built(network(layers=1), tmp_path)
    assert 50_000_000 < made.facts["peak_bytes"] < ballast.nbytes
