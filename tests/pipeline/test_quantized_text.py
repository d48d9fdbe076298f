"""A BERT classifier that is trained on real text runs through all stages, in both forms of INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.benchmarks.accuracy import predict
from retort.core.context import Context, Place
from retort.core.data.data_sources import load_data
from retort.core.data.model_inputs import fit_to
from retort.core.formats.program_file import read_signature
from retort.core.metrics.task_metrics import evaluate, paired_difference
from retort.core.options.stage_options import (
    CaptureOptions,
    DataSpec,
    ExportOptions,
    ModelSpec,
    QuantizeOptions,
    TrainOptions,
)
from retort.core.session import open_session
from retort.examples.documentation import LENGTH, SOURCES, VOCABULARY, encode
from retort.pipeline import stages

NAME = "retort.examples.documentation"


def test_texts_become_numbers_of_one_length() -> None:
    """A start token, hashed words and zeros; names that reveal the source are left out."""
    ids = encode("Return the NumPy array of torch, sorted along an axis.")
    assert ids.shape == (LENGTH,)
    assert ids[0] == 1
    assert 0 < np.count_nonzero(ids) < LENGTH
    assert ids.max() < VOCABULARY
    np.testing.assert_array_equal(ids, encode("Return the array of, sorted along an axis"))


@pytest.mark.slow
def test_a_bert_classifier_keeps_its_accuracy_in_both_forms(tmp_path: Path) -> None:
    """Trained on docstrings, quantized and exported, it loses at most a point; only the small head is not integer.

    Not timed, because on some processors the search leaves layers in FP32 that are faster there.
    """
    context = Context(load_data(DataSpec(source=f"{NAME}:splits"), Path.cwd()), scratch=tmp_path / "scratch")
    program = stages.capture(CaptureOptions(), ModelSpec(source=f"{NAME}:bert"), Place(tmp_path / "capture"), context)
    dense = stages.train(TrainOptions(epochs=5, learning_rate=1e-3), program, Place(tmp_path / "train"), context)
    files = {"fp32": stages.export(ExportOptions(), dense, Place(tmp_path / "fp32"), context)}
    for form in ("static", "dynamic"):
        made = stages.quantize(QuantizeOptions(form=form, timed=False), dense, Place(tmp_path / form), context)
        files[form] = stages.export(ExportOptions(), made, Place(tmp_path / f"{form}-file"), context)
    data = fit_to(context.data, read_signature(dense.main))
    found = {name: predict(open_session(graph.main), data.test) for name, graph in files.items()}
    wanted, targets = found["fp32"].main(), found["fp32"].targets
    assert targets is not None
    accuracy = float(evaluate("accuracy", wanted, targets))
    assert accuracy > 0.6 > 1 / len(SOURCES)
    for form in ("static", "dynamic"):
        drop = paired_difference("accuracy", wanted, found[form].main(), targets)
        assert drop.value <= 0.01
        assert evaluate("agreement", found[form].main(), wanted) > 0.97
        kernels = files[form].facts["kernels"]
        assert sum(kernels["integer"].values()) == 2 * 6 + 1
        assert kernels["floating"] == {"FusedMatMul": 2, "MatMul": 2, "Gemm": 1}
        assert files[form].facts["batch_invariant"] is (form == "static")
