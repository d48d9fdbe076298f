"""Translation of captured programs to ONNX: outputs, names, axes, bytes, and errors for unsupported operators."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program, reexport, save_program
from retort.core.errors import CaptureError, InputError, ModelError, UserError, VerificationError
from retort.core.session import SessionOptions, open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.export.qdq.retarget import without_quantization
from retort.export.translate import OPSETS, to_onnx

Feeds = dict[str, np.ndarray[Any, Any]]


class Residual(nn.Module):
    """A residual CNN with batch norm, a depthwise convolution, a concatenation and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(), nn.Conv2d(16, 16, 1))
        self.side = nn.Conv2d(32, 24, 3, stride=2)
        self.head = nn.Linear(24, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores."""
        stem = self.stem(image)
        both = torch.cat([functional.relu(stem + self.wide(stem)), stem], 1)
        return self.head(self.side(both).mean((2, 3)))


class Recurrent(nn.Module):
    """A bidirectional recurrent net that reads the last step."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layers = kind(6, 8, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.head(self.layers(series)[0][:, -1])


class Attention(nn.Module):
    """A Transformer encoder layer with a dynamic length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.head(self.layer(tokens).mean(1))


def exported(
    net: nn.Module,
    feeds: Mapping[str, torch.Tensor],
    outputs: Mapping[str, tuple[int | str, ...]],
    **axes: dict[int, str],
) -> tuple[torch.export.ExportedProgram, Signature]:
    """Export without capture, with axis 0 and ``axes`` dynamic; faster, and with names that the test chooses."""
    named = {name: {0: "batch", **axes.get(name, {})} for name in feeds}
    dims: dict[str, Any] = {}
    shapes = tuple(
        {i: dims.setdefault(axis, torch.export.Dim(axis)) for i, axis in named[name].items()} for name in feeds
    )
    program = torch.export.export(net.eval(), tuple(feeds.values()), dynamic_shapes=shapes)
    inputs = tuple(
        TensorSpec(name, str(value.dtype)[6:], tuple(named[name].get(i, size) for i, size in enumerate(value.shape)))
        for name, value in feeds.items()
    )
    return program, Signature(inputs, tuple(TensorSpec(name, "float32", shape) for name, shape in outputs.items()))


def run(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
    """The outputs by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def assert_same(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, feeds: Mapping[str, torch.Tensor]
) -> None:
    """The file and the program agree to rounding."""
    with torch.no_grad():
        expected = program.module(check_guards=False)(*feeds.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    actual = run(model, {name: value.numpy() for name, value in feeds.items()})
    for one, two in zip(expected, actual, strict=True):
        assert np.abs(one.numpy() - two).max() <= 1e-5 * max(1.0, float(one.abs().max()))


def axes_of(values: Any) -> dict[str, list[int | str]]:
    """Names and shapes of inputs or outputs as the file states them."""
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def assert_no_weight_is_transposed(model: onnx.ModelProto) -> None:
    """No Transpose reads a constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    assert not [node.name for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in constants]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_a_residual_cnn_is_exported_with_a_dynamic_batch() -> None:
    """A CNN with residual, depthwise, concatenation and pooling passes the checker and agrees at other batch sizes."""
    program, signature = exported(Residual(), {"image": torch.randn(4, 3, 12, 12)}, {"scores": ("batch", 5)})
    for target, opset in OPSETS.items():
        model = to_onnx(program, signature, target)  # type: ignore[arg-type]
        onnx.checker.check_model(model, full_check=True)
        assert axes_of(model.graph.input) == {"image": ["batch", 3, 12, 12]}
        assert axes_of(model.graph.output) == {"scores": ["batch", 5]}
        assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
        kinds = {node.op_type for node in model.graph.node}
        assert "GlobalAveragePool" in kinds
        assert "BatchNormalization" not in kinds
        for rows in (1, 3, 8):
            assert_same(program, model, {"image": torch.randn(rows, 3, 12, 12)})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_time_axis_of_a_recurrent_net_is_free(kind: type[nn.Module], tmp_path: Path) -> None:
    """Captured, saved and exported with a named time axis, a recurrent net accepts any batch and length, even 1."""
    net = Recurrent(kind).eval()
    save_program(capture(net, {"series": torch.randn(4, 7, 6)}, dynamic={"series": {1: "time"}}), tmp_path / "net.pt2")
    model = to_onnx(tmp_path / "net.pt2")
    onnx.checker.check_model(model, full_check=True)
    assert axes_of(model.graph.input) == {"series": ["batch", "time", 6]}
    assert [node.op_type for node in model.graph.node].count(kind.__name__) == 2
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for shape in ((1, 1, 6), (3, 7, 6), (2, 31, 6)):
        series = torch.randn(shape)
        (scores,) = session.run(None, {"series": series.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), net(series).detach(), rtol=1e-4, atol=1e-5)


def test_sizes_that_come_in_multiples_are_said_so(tmp_path: Path) -> None:
    """A U-Net that halves and doubles has axes such as 2*height; it runs at other sizes and rejects odd ones."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 2, 2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.up(torch.relu(self.down(image))), image], 1)

    net, path = Net().eval(), tmp_path / "net.pt2"
    program = capture(net, {"image": torch.randn(2, 3, 8, 12)}, dynamic={"image": {2: "height", 3: "width"}})
    assert program.signature.inputs[0].shape == ("batch", 3, "2*height", "2*width")
    assert program.signature.outputs[0].shape == ("batch", 6, "2*height", "2*width")
    save_program(program, path)
    model = to_onnx(path)
    assert axes_of(model.graph.input) == {"image": ["batch", 3, "2*height", "2*width"]}
    model_path = tmp_path / "net.onnx"
    onnx.save(model, model_path)
    session = open_session(model_path, SessionOptions())
    image = torch.randn(1, 3, 14, 6)
    torch.testing.assert_close(
        torch.from_numpy(session.run({"image": image.numpy()})["output"]), net(image).detach(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InputError, match="multiple of 2"):
        session.run({"image": np.zeros((1, 3, 7, 6), np.float32)})


def test_a_transformer_keeps_its_length_axis() -> None:
    """An encoder layer runs at another batch size and another length, and no weight is transposed at run time."""
    program, signature = exported(
        Attention(), {"tokens": torch.randn(4, 6, 16)}, {"scores": ("batch", 3)}, tokens={1: "time"}
    )
    model = to_onnx(program, signature)
    assert axes_of(model.graph.input) == {"tokens": ["batch", "time", 16]}
    assert_no_weight_is_transposed(model)
    assert {"LayerNormalization", "Gelu", "MatMul"} <= {node.op_type for node in model.graph.node}
    assert_same(program, model, {"tokens": torch.randn(3, 11, 16)})


@pytest.mark.slow
def test_a_hugging_face_encoder_with_two_inputs_and_named_outputs() -> None:
    """A BERT that returns a dataclass has two named outputs, with dynamic batch and sequence in both inputs."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    ids = torch.randint(0, 50, (4, 9))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    program = capture(transformers.BertModel(config), feeds, dynamic={name: {1: "sequence"} for name in feeds})
    again = reexport(program)
    model = to_onnx(again, program.signature)
    onnx.checker.check_model(model, full_check=True)
    assert axes_of(model.graph.input) == {name: ["batch", "sequence"] for name in feeds}
    assert axes_of(model.graph.output) == {
        "last_hidden_state": ["batch", "sequence", 16],
        "pooler_output": ["batch", 16],
    }
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert_same(again, model, {"input_ids": torch.randint(0, 50, (3, 5)), "attention_mask": mask})


class Awkward(nn.Module):
    """Outputs that are equal to each other or to an input, and have the names of inner values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same value twice, an input, and something computed from both."""
        y = functional.relu(self.layer(x))
        return y, y, x, y.sum(1)


def test_output_names_that_collide_with_inner_values_are_kept_apart() -> None:
    """Outputs named like inner values and parameters keep their names; every name in the file is unique."""
    names = {"linear": ("batch", 4), "layer.weight": ("batch", 4), "relu": ("batch", 4), "sum_1": ("batch",)}
    program, signature = exported(Awkward(), {"x": torch.randn(3, 4)}, names)
    model = to_onnx(program, signature)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == list(names)
    made = [name for node in model.graph.node for name in node.output]
    stored = [tensor.name for tensor in model.graph.initializer]
    assert len({*made, *stored, "x"}) == len(made) + len(stored) + 1
    assert_same(program, model, {"x": torch.randn(5, 4)})


def test_an_opset_that_cannot_be_reached_is_rejected() -> None:
    """An opset below the exporter's is rejected and not ignored; a newer one is used."""
    program, signature = exported(Attention(), {"tokens": torch.randn(4, 6, 16)}, {"scores": ("batch", 3)})
    with pytest.raises(UserError, match="cannot be written in opset 17"):
        to_onnx(program, signature, opset=17)
    assert to_onnx(program, signature, opset=22).opset_import[0].version == 22


def test_an_output_named_like_an_input_is_refused() -> None:
    """ONNX has one name space, so the conflict is reported before anything is written."""
    program, signature = exported(nn.Linear(4, 4), {"x": torch.randn(3, 4)}, {"x": ("batch", 4)})
    with pytest.raises(ModelError, match="'x' is the name of both an input and an output"):
        to_onnx(program, signature)


def test_an_axis_that_the_program_fixed_is_reported() -> None:
    """If a signature calls an axis dynamic that is fixed in the program, this is an error."""
    program = torch.export.export(nn.Linear(4, 4).eval(), (torch.randn(3, 4),))
    signature = Signature((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),))
    with pytest.raises(VerificationError, match=r"axis 0 \('batch'\) of input 'x' is fixed to 3"):
        to_onnx(program, signature)


def test_a_tied_weight_is_stored_once() -> None:
    """A matrix that is both embedding and output layer is not stored twice by a folded transpose."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(1000, 32)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return functional.linear(self.table(ids), self.table.weight)

    program, signature = exported(Tied(), {"ids": torch.randint(0, 1000, (4, 5))}, {"scores": ("batch", 5, 1000)})
    model = to_onnx(program, signature)
    sizes = [numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer]
    assert sum(sizes) < 1.1 * 1000 * 32 * 4
    assert_same(program, model, {"ids": torch.randint(0, 1000, (2, 5))})


@torch.library.custom_op("retort_test::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    """An operator without an ONNX form."""
    return x.flip(-1) * 2


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Odd(nn.Module):
    """Calls the operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.ops.retort_test.odd(x)


class Holder(nn.Module):
    """Calls it in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.strange = nn.Linear(4, 4), Odd()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.strange(self.first(x))


def test_an_op_without_onnx_form_is_named_with_module_and_line() -> None:
    """The error has the operator, the module that calls it and the line, and a remedy."""
    program, signature = exported(Holder(), {"x": torch.randn(3, 4)}, {"y": ("batch", 4)})
    with pytest.raises(CaptureError) as caught:
        to_onnx(program, signature)
    assert "retort_test.odd.default has no ONNX form in module 'strange'" in caught.value.message
    assert "test_translate.py:" in caught.value.message
    assert "return torch.ops.retort_test.odd(x)" in caught.value.message
    assert caught.value.remedy


def test_an_op_without_onnx_form_is_found_when_the_file_kept_no_traces() -> None:
    """Without stack traces, the nearest parameter shows where the operator is."""
    program, signature = exported(Holder(), {"x": torch.randn(3, 4)}, {"y": ("batch", 4)})
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    with pytest.raises(CaptureError, match=r"odd\.default has no ONNX form behind the parameter 'first\.weight'"):
        to_onnx(program, signature)


def test_a_parameter_behind_the_shape_of_attention_masks_exports() -> None:
    """Attention whose learned mask needs a gradient is translated with consistent strides (Swin's relative bias)."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias)
            return mixed.transpose(1, 2).reshape(x.shape)

    program, signature = exported(Biased(), {"x": torch.randn(3, 4, 8)}, {"y": ("batch", 4, 8)})
    assert_same(program, to_onnx(program, signature), {"x": torch.randn(2, 4, 8)})


WRITE = """
import sys
import zipfile
from retort.export.translate import to_onnx
from pathlib import Path
sys.stdout.buffer.write(to_onnx(Path(sys.argv[1])).SerializeToString())
"""


def test_the_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Two processes with different hash seeds write the same bytes, which have no path, exporter name or time."""
    program = capture(Residual(), {"image": torch.randn(2, 3, 12, 12)})
    save_program(program, tmp_path / "model.pt2")
    here = to_onnx(tmp_path / "model.pt2").SerializeToString()
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "model.pt2")],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        timeout=300,
    ).stdout
    assert here == there
    for trace in (b"pkg.torch", b"pytorch", b".py", str(tmp_path).encode(), b"/work", b"stack"):
        assert trace not in here
    model = onnx.load_from_string(here)
    assert {item.key for item in model.metadata_props} == {"retort.signature"}
    assert Signature.from_json(model.metadata_props[0].value) == program.signature


def test_a_saved_program_still_knows_the_line_of_an_op_without_onnx_form(tmp_path: Path) -> None:
    """The error for a program from a file has operator, module and line, also after further stages."""
    program = capture(Holder(), {"x": torch.randn(3, 4)})
    save_program(program, tmp_path / "once.pt2")
    save_program(load_program(tmp_path / "once.pt2"), tmp_path / "twice.pt2")
    for name in ("once.pt2", "twice.pt2"):
        with pytest.raises(CaptureError) as caught:
            to_onnx(tmp_path / name)
        assert "retort_test.odd.default has no ONNX form in module 'strange'" in caught.value.message
        assert re.fullmatch(
            r"test_translate\.py:\d+: return torch\.ops\.retort_test\.odd\(x\)", str(caught.value.facts["source"])
        )
    assert str(Path(__file__).parents[1]) not in zipfile_text(tmp_path / "once.pt2").decode(errors="replace")


def zipfile_text(path: Path) -> bytes:
    """The contents of a ``.pt2`` file, unpacked."""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def test_a_program_is_copied_whatever_its_input_is_called() -> None:
    """`input`, the name in a plain Sequential, is a Python built-in, which a copied graph renames."""
    program, _ = exported(nn.Sequential(nn.Linear(4, 3)), {"input": torch.randn(3, 4)}, {"y": ("batch", 3)})
    x = torch.randn(2, 4)
    copied = without_quantization(program)
    assert torch.equal(copied.module(check_guards=False)(x)[0], program.module(check_guards=False)(x)[0])


class Halves(nn.Module):
    """Two slices that together are the whole, as in rotary embeddings."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x[..., 4:], x[..., :4]], -1)


def test_two_halves_are_written_right() -> None:
    """Slices that the exporter would have joined to a split compute the same as the program."""
    values = torch.randn(3, 8)
    program = capture(Halves(), {"x": values})
    model = to_onnx(reexport(program), program.signature)
    found = open_session(model.SerializeToString()).run({"x": values.numpy()})
    assert np.array_equal(found["output"], Halves()(values).numpy())
