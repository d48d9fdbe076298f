"""Calls take the forms of models and data that their documentation names, and lose none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from api_nets import Cnn, images, loader
from known import known

import retort
from retort.core.errors import DataError, UserError
from retort.pipeline.live.objects.model_files import Graph
from retort.pipeline.tuning.quantization_form import Trial


def test_training_an_onnx_file_gives_an_onnx_file(tmp_path: Path) -> None:
    """`train` accepts an ONNX file as `prune` does, trains its weights, and gives an ONNX file with the same names."""
    file = retort.export(retort.capture(Cnn(), images().tensors[0]), tmp_path / "net.onnx")
    trained = retort.train(str(file.path), data=images(), epochs=1)
    assert isinstance(trained, Graph)
    assert trained.signature.inputs == file.signature.inputs
    assert known(trained.program).facts.epochs == 1
    assert abs(trained(images().tensors[0]) - file(images().tensors[0])).max() > 0
    with pytest.raises(DataError, match="training needs a train split"):
        retort.train(file, data={"calibration": images()}, epochs=1)
    with pytest.raises(UserError, match="`train` needs a program"):
        retort.train(retort.pack(file, tmp_path / "net.mar", name="net").path, data=images(), epochs=1)


def test_capture_remembers_data_beside_an_example() -> None:
    """`capture(net, example, data=…)` keeps the data for later stages; without an example, they are the example."""
    for example in (torch.randn(2, 1, 8, 8), None):
        program = retort.capture(Cnn(), example, data=loader(images()))
        assert len(known(program.data).train) > len(known(program.data).validation) > 0
        assert retort.quantize(program, timed=False, correction="none").facts.target == "cpu"
    assert retort.capture(Cnn(), torch.randn(2, 1, 8, 8)).data is None


class Several(torch.nn.Module):
    """Takes a list of inputs, or an optional second input."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.layer = form, torch.nn.Linear(4, 2)

    def forward(self, x: Any, extra: torch.Tensor | None = None) -> torch.Tensor:
        """``[N, 2]``."""
        values = list(x) if self.form == "list" else [x] if extra is None else [x, extra]
        result: torch.Tensor = torch.stack([self.layer(value) for value in values]).sum(0)
        return result


class OneList(Several):
    """Takes one list of three inputs."""

    def forward(self, values: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """``[N, 2]``."""
        return super().forward(values)


def test_examples_may_be_a_list_of_inputs_or_leave_out_an_optional_one() -> None:
    """`capture(net, ([a, b, c],))` is one list of three inputs, and None stands for an optional input."""
    a, b, c = torch.randn(3, 3, 4)
    for inputs in ([a, b, c], (a, b, c)):
        program = retort.capture(OneList("list"), (inputs,))
        assert [spec.name for spec in program.signature.inputs] == ["input_0", "input_1", "input_2"]
    for example in ((a, None), {"x": a, "extra": None}):
        assert [spec.name for spec in retort.capture(Several("one"), example).signature.inputs] == ["x"]


def test_a_value_that_is_no_array_is_named() -> None:
    """A number among the inputs is named with its key."""
    program = retort.capture(Several("two"), {"x": torch.randn(3, 4), "extra": torch.randn(3, 4)})
    with pytest.raises(DataError, match=r"data\['extra'\] is of type float, not an array"):
        retort.export(program, data={"x": torch.randn(8, 4), "extra": 0.5})


def test_equal_outputs_in_both_forms_can_be_stored() -> None:
    """A model whose INT8 outputs are exactly those in FP32 gets finite facts, so its artifact can be opened again."""
    assert Trial(float("inf"), None, {}).facts().sqnr_db == 300.0


class Cached(torch.nn.Module):
    """One step of a decoder with the keys and values of each layer, and a mask in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers = torch.nn.Embedding(20, 8), torch.nn.ModuleList(torch.nn.Linear(8, 24) for _ in "ab")

    def forward(self, ids: torch.Tensor, past: Any, extra: Any = None) -> tuple[torch.Tensor, list[Any]]:
        """``[N, 1, 8]``, and the longer cache."""
        x, longer = self.words(ids), []
        for layer, (keys, values) in zip(self.layers, past, strict=True):
            query, key, value = layer(x).chunk(3, -1)
            keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
            longer.append((keys, values))
            scores = query @ keys.mT if extra is None else query @ keys.mT + extra["bias"][:, None]
            x = x + scores.softmax(-1) @ values
        return x, longer


def test_nested_inputs_are_inputs_of_their_own() -> None:
    """Pairs in a list, and values in a dict, get names with their places; data have the same form as the example."""

    def cache(rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.randn(rows, 5, 8), torch.randn(rows, 5, 8)) for _ in "ab"]

    torch.manual_seed(0)
    net, ids = Cached(), torch.randint(0, 20, (3, 1))
    program = retort.capture(net, (ids, cache(3)))
    pairs = [f"past_{layer}_{place}" for layer in (0, 1) for place in (0, 1)]
    assert [spec.name for spec in program.signature.inputs] == ["ids", *pairs]
    data: dict[str, Any] = {"ids": torch.randint(0, 20, (8, 1)), "past": cache(8)}
    flat = {"ids": data["ids"], **dict(zip(pairs, (item for pair in data["past"] for item in pair), strict=True))}
    wanted = net.eval()(**data)[0].detach()
    torch.testing.assert_close(torch.as_tensor(known(retort.export(program, data=data)(**flat)["output_0"])), wanted)
    masked = retort.capture(net, {"ids": ids, "past": cache(3), "extra": {"bias": torch.randn(3, 6)}})
    assert [spec.name for spec in masked.signature.inputs] == ["ids", *pairs, "extra_bias"]
