"""Explanations find what was planted, add up to the score, keep to their budget, and say when there is nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from retort.core.errors import InputError
from retort.core.explanation.explain import Setting, explain
from retort.core.explanation.explanation import Asked, Explanation, Method
from retort.core.signature import Signature
from retort.core.tensors import Array, Feeds, TensorSpec

RANDOM = np.random.default_rng(0)
PATTERN = np.sign(RANDOM.normal(size=(4, 4))).astype(np.float32)
METHODS: tuple[Method, ...] = ("occlusion", "integrated-differences")
Run = Callable[[Feeds], dict[str, Array]]


def signature(shape: tuple[int, ...], outputs: int = 2, dtype: str = "float32") -> Signature:
    """Of a model of one input with scores."""
    return Signature((TensorSpec("x", dtype, ("batch", *shape)),), (TensorSpec("y", "float32", ("batch", outputs)),))


def two_classes(margin: Array) -> dict[str, Array]:
    """Scores of two classes, of which the second has the margin."""
    return {"y": np.stack([np.zeros_like(margin), margin], axis=1).astype(np.float32)}


def finds_pattern(feeds: Feeds) -> dict[str, Array]:
    """A convolution with the planted pattern, and its maximum: class 1 has the pattern anywhere in the picture."""
    windows = np.lib.stride_tricks.sliding_window_view(feeds["x"][:, 0], (4, 4), axis=(1, 2))
    found = np.einsum("nhwij,ij->nhw", windows, PATTERN).reshape(len(windows), -1)
    return two_classes(found.max(axis=1) - 10)


def picture(top: int, left: int) -> Array:
    """Noise with the pattern at a place."""
    made = RANDOM.normal(size=(1, 1, 32, 32)).astype(np.float32) * 0.3
    made[0, 0, top : top + 4, left : left + 4] = PATTERN
    return made


def one(run: Run, signed: Signature, sample: Array, asked: Asked | None = None) -> Explanation:
    """The explanation of the only sample."""
    return explain(Setting(run, signed), {"x": sample}, asked or Asked())[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("top", "left"), [(20, 8), (3, 17), (0, 28)])
def test_a_planted_patch_is_found(method: Method, top: int, left: int) -> None:
    """A pattern that is a sixtieth of the picture has most of its attribution, or a third where steps cost budget."""
    found = one(finds_pattern, signature((1, 32, 32)), picture(top, left), Asked(method))
    heat = found.heatmaps["x"].values
    assert heat.shape == (32, 32)
    share = heat[top : top + 4, left : left + 4].sum() / (found.score - found.baseline_score)
    assert share > (0.75 if method == "occlusion" else 0.33)
    assert (found.index, found.predicted, found.evidence) == (1, True, True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [24, 64, 256, 1000])
def test_attributions_add_up_within_the_budget(method: Method, budget: int) -> None:
    """With any budget the attributions add up to the score minus that of the baseline, and the budget is kept."""
    found = one(finds_pattern, signature((1, 32, 32)), picture(9, 9), Asked(method, budget=budget))
    assert found.heatmaps["x"].values.sum() == pytest.approx(found.score - found.baseline_score)
    assert 0 < found.used <= budget


def test_explanations_are_repeatable() -> None:
    """Two explanations of one sample are equal, and the size of batches changes nothing."""
    sample, signed = picture(5, 5), signature((1, 32, 32))
    made = [explain(Setting(finds_pattern, signed, rows), {"x": sample}, Asked())[0] for rows in (32, 32, 1, 7)]
    assert all(found.to_dict() == made[0].to_dict() for found in made)


def test_a_picture_without_the_pattern_is_no_evidence() -> None:
    """For a class whose probability does not change, the explanation says that it is none, and why."""
    noise = RANDOM.normal(size=(1, 1, 32, 32)).astype(np.float32) * 0.2
    found = one(finds_pattern, signature((1, 32, 32)), noise)
    assert not found.evidence
    assert "probability" in found.reason


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("method", METHODS)
def test_a_randomised_model_gives_nothing(method: Method, seed: int) -> None:
    """A network with weights as they are before training has no evidence for its class (Adebayo et al. 2018)."""
    random = np.random.default_rng(seed)
    first = random.uniform(-1, 1, (16, 4, 4)) / 4
    last = random.uniform(-1, 1, (10, 16)) / 4

    def untrained(feeds: Feeds) -> dict[str, Array]:
        windows = np.lib.stride_tricks.sliding_window_view(feeds["x"][:, 0], (4, 4), axis=(1, 2))
        hidden = np.maximum(np.einsum("nhwij,cij->nchw", windows, first), 0).mean(axis=(2, 3))
        return {"y": (hidden @ last.T).astype(np.float32)}

    assert not one(untrained, signature((1, 32, 32), 10), picture(8, 8), Asked(method)).evidence


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_step_of_a_sequence_is_found(method: Method) -> None:
    """A recurrent model that waits for one step of one feature shows that step and that feature."""

    def waits(feeds: Feeds) -> dict[str, Array]:
        state = np.zeros(len(feeds["x"]))
        for step in range(feeds["x"].shape[1]):
            state = 0.9 * state + 4 * np.maximum(feeds["x"][:, step, 2] - 2, 0)
        return two_classes(state - 2)

    sample = RANDOM.normal(size=(1, 40, 6)).astype(np.float32) * 0.4
    sample[0, 31, 2] = 4
    heat = one(waits, signature((40, 6)), sample, Asked(method)).heatmaps["x"]
    assert heat.kind == "sequence"
    assert np.abs(heat.values).argmax() == np.ravel_multi_index((31, 2), (40, 6))


@pytest.mark.parametrize("shape", [(4000,), (1, 4000)])
def test_a_planted_tone_of_a_signal_is_found(shape: tuple[int, ...]) -> None:
    """The part of a recording with the tone has most of the attribution, with or without an axis of channels."""
    wave = np.sin(np.arange(4000) * 0.8)

    def hears(feeds: Feeds) -> dict[str, Array]:
        return two_classes(np.abs(feeds["x"].reshape(len(feeds["x"]), -1) * wave).sum(axis=1) * 0.1 - 4)

    sample = np.zeros(4000, np.float32)
    sample[2400:2700] = wave[2400:2700]
    heat = one(hears, signature(shape), sample.reshape(1, *shape)).heatmaps["x"]
    assert (heat.kind, heat.values.shape) == ("signal", (4000,))
    assert heat.values[2380:2720].sum() > 0.9 * heat.values.sum()


@pytest.mark.parametrize("method", METHODS)
def test_the_attributions_of_a_linear_model_are_its_terms(method: Method) -> None:
    """Each feature of a table has its weight times its distance from the baseline, which other samples give."""
    weights, mean = RANDOM.normal(size=12), RANDOM.normal(size=12).astype(np.float32)
    sample = RANDOM.normal(size=(1, 12)).astype(np.float32)
    setting = Setting(lambda feeds: two_classes(feeds["x"] @ weights), signature((12,)), means={"x": mean})
    found = explain(setting, {"x": sample}, Asked(method, label=1, budget=300))[0]
    assert found.heatmaps["x"].values == pytest.approx(weights * (sample[0] - mean), abs=1e-5)
    assert found.heatmaps["x"].kind == "table"


def test_a_value_and_a_mask_are_explained() -> None:
    """A single value is explained as it is, and a mask as the mean over the pixels of its class."""
    signed = Signature(
        (TensorSpec("x", "float32", ("batch", 1, 16, 16)),), (TensorSpec("y", "float32", ("batch", 3, 16, 16)),)
    )

    def segments(feeds: Feeds) -> dict[str, Array]:
        inside = 8 * (feeds["x"][:, 0] - 0.5)
        return {"y": np.stack([np.zeros_like(inside), inside, -9 + 0 * inside], axis=1)}

    sample = np.zeros((1, 1, 16, 16), np.float32)
    sample[..., 4:8, 4:8] = 1
    found = one(segments, signed, sample, Asked(baseline="zero"))
    assert (found.kind, found.index) == ("mask", 1)
    assert found.heatmaps["x"].values[4:8, 4:8].sum() == pytest.approx(found.score - found.baseline_score)
    single = one(lambda feeds: {"y": feeds["x"] @ np.arange(3.0)[:, None]}, signature((3,), 1), np.ones((1, 3), "f"))
    assert (single.kind, single.heatmaps["x"].values.tolist()) == ("value", [0.0, 1.0, 2.0])


def test_wrong_questions_are_refused() -> None:
    """An unknown class, input, method, baseline or budget is refused with what is possible."""
    signed = Signature(
        signature((8,)).inputs, (TensorSpec("y", "float32", ("batch", 2)),), classes=("benign", "malignant")
    )
    sample = np.ones((1, 8), np.float32)

    def answers(feeds: Feeds) -> dict[str, Array]:
        return two_classes(feeds["x"].sum(axis=1))

    with pytest.raises(InputError, match="did you mean 'malignant'"):
        one(answers, signed, sample, Asked(label="malign"))
    for asked, words in [
        (Asked(label=7), "no class '7'"),
        (Asked(inputs=("z",)), "'z' cannot be explained"),
        (Asked(output="z"), "no output 'z'"),
        (Asked(baseline="unknown"), "does not fit"),
    ]:
        with pytest.raises(InputError, match=words):
            one(answers, signed, sample, asked)
    with pytest.raises(InputError, match="too small"):
        Asked(budget=3)
    with pytest.raises(InputError, match="no method"):
        Asked(method="magic")  # type: ignore[arg-type]
    assert one(answers, signed, sample).label == "malignant"
