"""Accuracy over a split, with and without a reference."""

from __future__ import annotations

import numpy as np
import pytest
from known import known

from retort.benchmarks.accuracy import Predictions, measure_accuracy, predict
from retort.benchmarks.compare_models import judged_output, metric_of
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError, ModelError
from retort.core.options.stage_options import MetricName
from retort.core.signature import Signature
from retort.core.tensors import Array, Feeds, TensorSpec


class Linear:
    """A session that multiplies by a matrix; its batch may be fixed."""

    backend = "test"
    providers: tuple[str, ...] = ()

    def __init__(self, weight: np.ndarray, batch: int | str = "batch", rows: int | None = None) -> None:
        self.weight, self.rows = weight, rows
        self.seen: list[int] = []
        self.signature = Signature(
            (TensorSpec("x", "float32", (batch, weight.shape[0])),),
            (TensorSpec("scores", "float32", (batch, weight.shape[1])), TensorSpec("total", "float32", (batch,))),
        )

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Scores, and their sum."""
        inputs = self.signature.validate(feeds)["x"][: self.rows]
        self.seen.append(len(inputs))
        scores = inputs @ self.weight
        return {"scores": scores, "total": scores.sum(axis=1)}

    def close(self) -> None:
        """Nothing to free."""


def problem(n: int = 130) -> tuple[ArraySplit, np.ndarray]:
    """Samples that a known matrix classifies perfectly, and the matrix."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 4)).astype(np.float32)
    inputs = rng.normal(size=(n, 6)).astype(np.float32)
    return ArraySplit({"x": inputs}, (inputs @ weight).argmax(axis=1)), weight


def test_outputs_of_all_samples_come_in_order() -> None:
    """Running in batches gives the same as one run over all samples, for every output."""
    split, weight = problem()
    found = predict(Linear(weight), split, batch_size=32)
    assert list(found.outputs) == ["scores", "total"]
    assert np.allclose(found.outputs["scores"], split.inputs["x"] @ weight, atol=1e-5)
    assert np.array_equal(known(found.targets), known(split.targets))
    assert len(known(predict(Linear(weight), split, limit=50).targets)) == 50


def test_model_with_a_fixed_batch_sees_full_batches() -> None:
    """The last batch is padded for a model with a fixed batch size, and the padding is removed again."""
    split, weight = problem()
    session = Linear(weight, batch=16)
    found = predict(session, split)
    assert set(session.seen) == {16}
    assert len(found.outputs["scores"]) == 130
    assert np.allclose(found.outputs["scores"], split.inputs["x"] @ weight, atol=1e-5)


class Streaming(Linear):
    """A session whose state has its batch on the second axis, in and out."""

    def __init__(self) -> None:
        state = TensorSpec("state", "float32", (2, "batch", 3))
        self.signature = Signature((state, TensorSpec("x", "float32", ("batch", 3))), (state,))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The next state."""
        given = self.signature.validate(feeds)
        return {"state": given["state"] + given["x"]}


def test_the_batch_may_be_on_another_axis() -> None:
    """States ``[2, batch, 3]`` are given in that layout, and come back with one row per sample first."""
    rng = np.random.default_rng(0)
    states, x = rng.normal(size=(10, 2, 3)).astype(np.float32), rng.normal(size=(10, 3)).astype(np.float32)
    split = ArraySplit({"state": states, "x": x})
    session = Streaming()
    fitted = fit_to(Splits(split, split, split, split), session.signature).test
    found = predict(session, fitted, batch_size=4).outputs["state"]
    assert np.allclose(found, states + x[:, None])


def test_measure_against_a_reference() -> None:
    """A worse model has a positive drop, an agreement below one and a finite SQNR; the reference has none."""
    split, weight = problem(800)
    noisy = weight + 0.3 * np.random.default_rng(1).normal(size=weight.shape).astype(np.float32)
    reference, worse = predict(Linear(weight), split), predict(Linear(noisy), split)
    own = measure_accuracy("accuracy", reference, reference)
    found = measure_accuracy("accuracy", worse, reference)
    assert known(own.interval).value == 1.0
    assert known(own.drop).value == 0
    assert known(own.drop).high > 0
    assert own.sqnr_db is None
    assert known(found.drop).value == pytest.approx(1 - known(found.interval).value)
    assert known(found.drop).low > 0
    assert known(found.agreement).value == pytest.approx(known(found.interval).value)
    assert 5 < known(found.sqnr_db) < 30
    assert measure_accuracy("accuracy", worse).drop is None


def test_the_prediction_is_the_first_output_of_floating_point() -> None:
    """As in training: indices before the scores are not judged; without floating point the first output is."""
    scores, indices = np.eye(4, dtype=np.float16), np.zeros((4, 2), np.int64)
    assert Predictions({"indices": indices, "scores": scores}, None).main() is scores
    assert Predictions({"indices": indices, "mask": indices > 0}, None).main() is indices
    assert Predictions({"indices": indices, "scores": scores}, None).main("indices") is indices


def test_class_indices_are_judged_by_scores_of_classes() -> None:
    """A value per sample before the scores is not judged for targets that are indices; for values it is."""
    scores, value = np.eye(4, dtype=np.float32), np.zeros((4, 1), np.float32)
    outputs = {"value": value, "scores": scores, "hidden": np.zeros((4, 9), np.float32)}
    assert Predictions(outputs, np.arange(4)).prediction == "scores"
    assert Predictions(outputs, np.zeros(4, np.float32)).prediction == "value"
    assert Predictions(outputs, None).prediction == "value"
    assert Predictions({"value": value}, np.arange(4)).prediction == "value"
    (note,) = judged_output("int8", Predictions(outputs, np.arange(4)))
    assert note == "'int8' has 3 outputs; it is judged by 'scores', the first floating-point output with classes"
    assert judged_output("int8", Predictions({"scores": scores}, None)) == []


def test_values_are_judged_by_the_named_output() -> None:
    """A regression output is chosen by name, and an unknown name is rejected with the existing ones."""
    split, weight = problem(60)
    truth = predict(Linear(weight), split)
    wanted = Predictions(truth.outputs, truth.outputs["total"])
    found = measure_accuracy("mse", wanted, wanted, output="total")
    assert known(found.interval).value == 0
    assert found.agreement is None
    with pytest.raises(DataError, match="no output 'logits'"):
        measure_accuracy("mse", wanted, output="logits")


def test_samples_without_labels_can_only_be_compared() -> None:
    """Without targets, accuracy is rejected with a remedy, but agreement with a reference is computed."""
    split, weight = problem(60)
    unlabelled = predict(Linear(weight), ArraySplit(split.inputs))
    with pytest.raises(DataError, match="needs targets") as caught:
        measure_accuracy("accuracy", unlabelled)
    assert "agreement" in caught.value.remedy
    assert measure_accuracy("agreement", unlabelled, unlabelled).interval.value == 1.0


def test_outputs_without_a_row_per_sample_are_refused() -> None:
    """A model that drops rows is rejected with its name."""
    split, weight = problem(40)
    with pytest.raises(ModelError, match="not one row per sample"):
        predict(Linear(weight, rows=3), split, batch_size=8)


def test_a_stage_that_saw_fewer_samples_is_compared_on_those() -> None:
    """The reference is limited to the samples that a served model answered."""
    whole = Predictions({"y": np.eye(4, dtype=np.float32)}, np.arange(4))
    assert measure_accuracy("accuracy", whole.first(2), whole.first(2)).n == 2
    assert whole.first(2).targets is not None
    assert Predictions({"y": np.eye(4)}, None).first(3).targets is None


@pytest.mark.parametrize(
    ("outputs", "targets", "metric"),
    [
        (np.eye(4, dtype=np.float32), None, "agreement"),
        (np.ones((4, 1), np.float32), None, "cosine"),
        (np.ones((4, 3, 8, 8), np.float32), None, "cosine"),
        (np.eye(4, dtype=np.float32), np.arange(4), "accuracy"),
        (np.eye(4, dtype=np.float32), np.ones((4, 4), np.float32), "mse"),
    ],
)
def test_without_labels_models_are_compared_with_the_first(
    outputs: Array, targets: Array | None, metric: MetricName
) -> None:
    """The default metric needs no targets: the first model agrees with itself, and the others with it or not."""
    first = Predictions({"y": outputs}, targets)
    assert metric_of(first) == metric
    if targets is None:
        moved = Predictions({"y": np.roll(outputs, 1, axis=1)}, None)
        assert measure_accuracy(metric, first).interval.value == pytest.approx(1)
        found = measure_accuracy(metric, moved, first)
        assert found.interval.value == pytest.approx(0 if metric == "agreement" else 1)
