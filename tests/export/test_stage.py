"""The export stage: parity at several batch sizes, golden vectors, and rejection of a file that differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import quantize_program
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Console
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.errors import ArtifactError, DataError, StorageError, VerificationError
from retort.core.facts.export_facts import ExportFacts
from retort.core.options.stage_options import ExportOptions, QuantizeOptions
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.export import stage, translate
from retort.export.ort.kernels import integer_kernels
from retort.export.verify.bounds import RMS_FACTOR, chance
from retort.export.verify.parity import check, rows

Array = np.ndarray[Any, Any]


class Net(nn.Module):
    """A small CNN with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 6)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores and features."""
        features = self.layers(image).mean((2, 3))
        return {"scores": self.head(features), "features": features}


@pytest.fixture(scope="module")
def samples() -> dict[str, Array]:
    """Real inputs, fewer than the rows of a comparison."""
    return {"image": np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Array]) -> dict[str, Artifact]:
    """An FP32 program and its INT8 form, as files."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("programs")
    program = capture(Net(), {"image": samples["image"][:2]})
    save_program(program, folder / "fp32.pt2")
    done = quantize_program(program, QuantizeOptions(samples=10, first_layer="int8"), ArraySplit(samples), "cpu")
    save_program(done, folder / "int8.pt2")
    return {name: load_artifact(folder / f"{name}.pt2") for name in ("fp32", "int8")}


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory, programs: dict[str, Artifact], samples: dict[str, Array]
) -> dict[str, Artifact]:
    """Both programs exported for the CPU."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        name: stage.write_graph(ExportOptions(target="cpu"), item, Place(folder / name, "k1", ("p",)), samples)
        for name, item in programs.items()
    }


def test_the_artifact_holds_model_signature_golden_and_facts(graphs: dict[str, Artifact]) -> None:
    """All three files exist, the model has signature and key, and the facts have the results."""
    for name, artifact in graphs.items():
        assert artifact.kind == "graph"
        assert set(artifact.manifest.files) == {"model.onnx", "signature.json", "golden.npz"}
        stored = {item.key: item.value for item in onnx.load(artifact.main).metadata_props}
        assert stored["retort.key"] == artifact.key == "k1"
        assert stored["retort.signature"] == artifact.file("signature.json").read_text()
        facts = artifact.facts
        assert (facts["quantized"], facts["target"], facts["opset"]) == (name == "int8", "cpu", 21)
        assert facts["size_bytes"] == artifact.main.stat().st_size
        assert {(item["output"], item["batch_size"]) for item in facts["parity"]} == {
            (output, size) for output in ("scores", "features") for size in (1, 3, 8)
        }
        assert not any(item["refused"] for item in facts["parity"])
        assert {"torch", "onnx", "onnxruntime"} <= set(artifact.manifest.tools)
    assert graphs["int8"].facts["kernels"]["floating"] == {}
    assert sum(graphs["int8"].facts["kernels"]["integer"].values()) == 3
    assert "kernels" not in graphs["fp32"].facts
    assert json.loads(graphs["fp32"].file("signature.json").read_text())["outputs"][1]["name"] == "features"


def test_golden_vectors_are_what_the_file_computes(graphs: dict[str, Artifact], samples: dict[str, Array]) -> None:
    """A new session of the file gives the stored outputs for the stored inputs, bit for bit."""
    for artifact in graphs.values():
        golden = np.load(artifact.file("golden.npz"))
        assert set(golden.files) == {"in.image", "out.scores", "out.features"}
        np.testing.assert_array_equal(golden["in.image"], samples["image"][:4])
        outputs = open_session(artifact.main).run({"image": golden["in.image"]})
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, golden[f"out.{name}"])


def test_exporting_again_gives_the_same_files(
    graphs: dict[str, Artifact], programs: dict[str, Artifact], samples: dict[str, Array], tmp_path: Path
) -> None:
    """Equal input gives equal hashes for every file of the artifact."""
    options, place = ExportOptions(target="cpu"), Place(tmp_path / "again", "k1", ("p",))
    again = stage.write_graph(options, programs["int8"], place, samples)
    assert again.manifest.files == graphs["int8"].manifest.files


def test_the_options_target_wins(programs: dict[str, Artifact], samples: dict[str, Array], tmp_path: Path) -> None:
    """A CPU program is also exported for TensorRT, in its opset, and agrees with the program in that form."""
    options = ExportOptions(target="tensorrt", batch_sizes=(2,), golden=1)
    artifact = stage.write_graph(options, programs["int8"], Place(tmp_path / "trt"), samples)
    assert (artifact.facts["target"], artifact.facts["opset"]) == ("tensorrt", 20)
    assert [item["batch_size"] for item in artifact.facts["parity"]] == [2, 2]
    assert len(np.load(artifact.file("golden.npz"))["in.image"]) == 1


def scale_weight(model: ir.Model) -> None:
    """Change one weight tensor by a fifth: INT8 codes or FP32 numbers."""
    value = next(v for v in model.graph.initializers.values() if v.shape is not None and len(v.shape) == 4)
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.tensor((array * 0.8).astype(array.dtype), name=value.name)


def shift_one_score(model: ir.Model) -> None:
    """Change a single entry of the last bias by a third of the scores' range."""
    value = next(v for name, v in model.graph.initializers.items() if name == "head.bias")
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[2] += 0.3
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.parametrize(
    ("name", "tamper"), [("fp32", scale_weight), ("int8", scale_weight), ("int8", shift_one_score)]
)
def test_a_file_that_is_not_the_program_is_refused(
    name: str,
    tamper: Callable[[ir.Model], None],
    programs: dict[str, Artifact],
    samples: dict[str, Array],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong weight is found; the message has output, batch size, error and tolerance; no file is left."""
    write = stage.write_model

    def tampered(model: ir.Model, folder: Path) -> Path:
        tamper(model)
        return write(model, folder)

    monkeypatch.setattr(stage, "write_model", tampered)
    with pytest.raises(VerificationError, match=r"at batch size 1, output 'scores' is off by .* is accepted") as caught:
        stage.write_graph(ExportOptions(), programs[name], Place(tmp_path / "out"), samples)
    assert caught.value.remedy
    assert caught.value.facts["differences"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    programs: dict[str, Artifact], samples: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an artifact cannot be written, there is a storage error, and no part of it is left."""

    def full(model: ir.Model, folder: Path) -> Path:
        (folder / "model.onnx").write_bytes(b"part")
        raise OSError(28, os.strerror(28))

    unimportant = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    monkeypatch.setattr(translate, "build", lambda *_: unimportant)
    monkeypatch.setattr(stage, "write_model", full)
    with pytest.raises(StorageError, match="No space left"):
        stage.write_graph(ExportOptions(), programs["fp32"], Place(tmp_path / "out"), samples)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sample_is_refused(programs: dict[str, Artifact], tmp_path: Path) -> None:
    """Without a real sample, the file cannot be checked."""
    with pytest.raises(DataError, match="no sample for input 'image'"):
        stage.write_graph(ExportOptions(), programs["fp32"], Place(tmp_path / "out"), {"image": np.zeros((0, 3, 8, 8))})


def test_only_programs_are_exported(graphs: dict[str, Artifact], samples: dict[str, Array], tmp_path: Path) -> None:
    """A graph is rejected with the stage that makes a program."""
    with pytest.raises(ArtifactError, match="this needs a program"):
        stage.write_graph(ExportOptions(), graphs["fp32"], Place(tmp_path / "out"), samples)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_rejected(part: float, graphs: dict[str, Artifact], tmp_path: Path) -> None:
    """A truncated file is rejected by the session and by the kernel count as damaged."""
    content = graphs["int8"].main.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded"):
        open_session(path)
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded"):
        integer_kernels(path)


def test_large_models_have_a_separate_file_of_weights(graphs: dict[str, Artifact], tmp_path: Path) -> None:
    """Above the limit, the weights are in a separate file, which the session finds; below it, there is one file."""
    model = ir.load(graphs["fp32"].main)
    path = stage.write_model(model, tmp_path, external_above_bytes=1000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < graphs["fp32"].main.stat().st_size
    golden = np.load(graphs["fp32"].file("golden.npz"))
    outputs = open_session(path).run({"image": golden["in.image"]})
    np.testing.assert_array_equal(outputs["scores"], golden["out.scores"])


class Fixed:
    """A session that answers with a function of its input."""

    backend = "test"
    providers: tuple[str, ...] = ()

    def __init__(self, answer: Callable[[Array], Array], dtype: str = "float32") -> None:
        self.answer = answer
        shape = ("batch", 4)
        self.signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", dtype, shape),))

    def run(self, feeds: Any) -> dict[str, Array]:
        """The answer."""
        return {"y": self.answer(feeds["x"])}

    def close(self) -> None:
        """Nothing to free."""


X = {"x": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)}


def test_parity_is_relative_to_the_scale_of_the_output() -> None:
    """The same error passes for large outputs and is rejected for small ones."""
    large = check(Fixed(lambda x: x * 1000), Fixed(lambda x: x * 1000 + 0.1), X, (1, 8), 1e-3)
    assert [item.batch_size for item in large.differences] == [1, 8]
    assert all(item.error < 1e-4 and item.agreement == 1.0 for item in large.differences)
    with pytest.raises(VerificationError):
        check(Fixed(lambda x: x), Fixed(lambda x: x + 0.1), X, (1, 8), 1e-3)


def test_parity_sees_what_happens_at_one_batch_size_only() -> None:
    """An error that occurs only at a batch of 3 is rejected at 3."""
    wrong = Fixed(lambda x: x + (len(x) == 3))
    assert check(Fixed(lambda x: x), wrong, X, (1, 8), 1e-3)
    with pytest.raises(VerificationError, match="at batch size 3"):
        check(Fixed(lambda x: x), wrong, X, (1, 3, 8), 1e-3)


def test_parity_judges_nan_and_infinity_by_their_places() -> None:
    """NaN and infinities are accepted where the program has them, and rejected elsewhere."""
    masked = Fixed(lambda x: np.where(x > 1, -np.inf, x))
    assert check(masked, Fixed(lambda x: np.where(x > 1, -np.inf, x)), X, (2,), 1e-3).differences[0].error == 0
    for bad in (np.nan, np.inf):
        with pytest.raises(VerificationError):
            check(Fixed(lambda x: x), Fixed(lambda x: np.where(x > 1, bad, x)), X, (2,), 1e-3)  # noqa: B023


def test_integer_outputs_must_be_equal() -> None:
    """A class index must be equal."""
    indices = Fixed(lambda x: x.argmax(1).astype(np.int64), "int64")
    again = Fixed(lambda x: x.argmax(1).astype(np.int64), "int64")
    assert check(indices, again, X, (4,), 1e-3).differences[0].error == 0
    with pytest.raises(VerificationError):
        check(indices, Fixed(lambda x: (x.argmax(1) + (x[:, 0] > 1.5)).astype(np.int64), "int64"), X, (4,), 1e-3)


def test_int8_is_judged_by_its_own_noise() -> None:
    """Errors of the size of the quantization noise pass; three times as much, or a single wrong entry, do not."""
    step = 0.1
    rounded = Fixed(lambda x: (np.round(x / step) * step).astype(np.float32))
    exact = Fixed(lambda x: x)
    flipped = Fixed(lambda x: (np.round(x / step + 0.2) * step).astype(np.float32))
    assert check(rounded, flipped, X, (1, 3), 1e-3, exact)
    coarse = Fixed(lambda x: (np.round(x / (5 * step)) * 5 * step).astype(np.float32))
    shifted = Fixed(lambda x: rounded.answer(x) + np.array([0, 0, 3 * step, 0], np.float32))
    for wrong in (coarse, shifted):
        with pytest.raises(VerificationError):
            check(rounded, wrong, X, (1, 3), 1e-3, exact)


def test_a_file_that_fails_at_a_batch_size_is_refused() -> None:
    """An exception of the runtime becomes a verification error that has the batch size."""

    def fails(x: Array) -> Array:
        if len(x) == 3:
            raise RuntimeError("Reshape cannot be done")
        return x

    with pytest.raises(VerificationError, match="does not run at batch size 3, but the program does: Reshape"):
        check(Fixed(lambda x: x), Fixed(fails), X, (1, 3), 1e-3)


def test_samples_are_repeated_to_size() -> None:
    """Fewer samples than rows are repeated in order; inputs without a batch axis are unchanged."""
    signature = Signature((TensorSpec("a", "float32", (2, "batch")), TensorSpec("b", "float32", (3,))), ())
    made = rows(signature, {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3.0)}, 5)
    np.testing.assert_array_equal(made["a"], [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]])
    np.testing.assert_array_equal(made["b"], [0, 1, 2])


def test_the_stored_weights_are_the_programs(graphs: dict[str, Artifact], programs: dict[str, Artifact]) -> None:
    """FP32 weights in the file equal those of the program."""
    exported = torch.export.load(programs["fp32"].main)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graphs["fp32"].main).graph.initializer}
    for name, value in exported.state_dict.items():
        np.testing.assert_array_equal(stored[name], value.detach().numpy())


def test_the_file_says_where_it_came_from(graphs: dict[str, Artifact]) -> None:
    """Key, parents and options are in the file itself, which may be separated from its manifest."""
    kept = {item.key: item.value for item in onnx.load(str(graphs["fp32"].main)).metadata_props}
    assert kept["retort.key"] == "k1"
    assert json.loads(kept["retort.parents"]) == ["p"]
    assert json.loads(kept["retort.options"])["batch_sizes"] == [1, 3, 8]
    assert "retort.signature" in kept


def test_the_remedy_of_an_unfused_node_is_one(graphs: dict[str, Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    """A file for the cpu is quantized for the cpu already, so its program is not to be quantized for it."""
    facts = graphs["int8"].facts_as(ExportFacts)
    assert facts.kernels is not None
    kernels = facts.kernels.model_copy(update={"unfused_names": ("node_conv",)})
    stage._report(facts.model_copy(update={"kernels": kernels}), Console("text"))
    told = " ".join(capsys.readouterr().err.split())
    assert "1 quantized node runs in floating point, slower than FP32: node_conv" in told
    assert "leave its layer in FP32 with `exclude` of `quantize`" in told
    assert "target" not in told


def test_few_numbers_are_judged_by_what_chance_does_to_them() -> None:
    """Two independent noises of equal size pass in all but one of a thousand cases, for any count of numbers."""
    draw = np.random.default_rng(0)
    for count in (4, 8, 16, 24, 64):
        one, two = draw.standard_normal((2, 4000, count))
        ratio = np.sqrt((one**2).mean(1) / (two**2).mean(1))
        assert np.mean(ratio > RMS_FACTOR * chance(count)) < 0.003
    assert chance(1000) == 1.0
