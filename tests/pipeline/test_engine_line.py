"""The stages for NVIDIA GPUs: quantize, export with FP16 around INT8, and the engine, from one recipe."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from retort.core.options.recipe import parse_recipe
from retort.pipeline import run

RECIPE = """
name: gpu
target: tensorrt
model: "retort.examples.digits:student"
data: digits
stages:
  - train: {epochs: 1}
  - quantize: {samples: 64}
  - export: {precision: fp16}
  - engine: {batch_sizes: [1, 4, 8], timing_cache: "off"}
"""


def test_an_engine_needs_an_export() -> None:
    """The engine stage must come after export, and the error of the recipe says so."""
    with pytest.raises(Exception, match="`engine` needs `export` before it"):
        parse_recipe({"model": "m:f", "data": "digits", "stages": ["engine"]})


@pytest.mark.slow
@pytest.mark.trt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_line_ends_in_an_engine(tmp_path: Path) -> None:
    """One recipe gives a plan with INT8 convolutions and FP16 elsewhere; a second run reuses everything."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    outcome = run.run(tmp_path / "r.yaml", tmp_path / "runs")
    engine = outcome.artifacts["engine"]
    assert engine.facts["engine"]["profiles"] == [{"image": "1x1x8x8:4x1x8x8:8x1x8x8"}]
    assert any(name.startswith("CONVOLUTION INT8") for name in engine.facts["layers"])
    assert "CONVOLUTION FP32" not in engine.facts["layers"]
    assert outcome.artifacts["export"].facts["precision"] == "fp16"
    golden = np.load(engine.file("golden.npz"))
    assert golden["in.image"].dtype == np.float32
    again = run.run(tmp_path / "r.yaml", tmp_path / "runs")
    assert {"quantize", "export", "engine"} <= set(again.reused)
