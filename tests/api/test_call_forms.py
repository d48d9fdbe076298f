"""Calls take the forms of models and data that their documentation names, and lose none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from api_nets import Cnn, images, loader
from known import known

import retort
from retort.core.errors import DataError, UserError
from retort.pipeline.live.objects.model_files import Graph


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
