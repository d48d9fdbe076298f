"""Explanations of captured programs: gradients that add up, planted features that are found, and nothing for noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retort
from retort.compress.explanation.explain import explain_program
from retort.compress.explanation.scored_module import torch_scores
from retort.compress.program import Program, load_program
from retort.core.errors import InputError
from retort.core.explanation.evaluations import samples_of
from retort.core.explanation.explain import Setting, explain
from retort.core.explanation.explained_value import Explained
from retort.core.explanation.explanation import Asked, Explanation, Method
from retort.core.session import open_session

RANDOM = np.random.default_rng(5)
PATTERN = np.sign(RANDOM.normal(size=(4, 4))).astype(np.float32)


class Detector(nn.Module):
    """A convolution with the planted pattern, a soft maximum over places, and two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 4, bias=False)
        self.conv.weight.data = torch.from_numpy(np.stack([PATTERN, -PATTERN])[:, None])
        self.last = nn.Linear(2, 2)
        self.last.weight.data = torch.tensor([[0.0, 0.0], [1.0, -0.2]])
        self.last.bias.data = torch.tensor([0.0, -8.0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of noise and pattern."""
        return self.last(torch.relu(self.conv(image)).amax(dim=(2, 3)))


class Recurrent(nn.Module):
    """A GRU with random weights over a sequence, and its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.last = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        """Scores of three classes."""
        return self.last(self.gru(steps)[0][:, -1]) * 4


class Attending(nn.Module):
    """Embeddings, one layer of attention in which every token looks at token 7, and two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.table.weight.data = torch.randn(20, 8) * 0.1
        self.table.weight.data[7] = torch.tensor([4.0, 0, 0, 0, 0, 0, 0, 3.0])
        self.bias = nn.Parameter(torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0]))
        self.last = nn.Linear(8, 2)
        self.last.weight.data = torch.zeros(2, 8)
        self.last.weight.data[1, 7] = 2.0
        self.last.bias.data = torch.tensor([0.0, -2.0])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of two classes."""
        rows = self.table(tokens)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(rows + self.bias, rows, rows)
        return self.last(mixed[:, 0].mean(dim=1))


def captured(net: nn.Module, example: torch.Tensor, folder: str) -> tuple[Program, Setting]:
    """A module as a program, and how copies of its samples are run."""
    path = retort.capture(net, example).save(f"{folder}/net.pt2")
    session = open_session(path)
    return load_program(path), Setting(session.run, session.signature)


def one(made: tuple[Program, Setting], sample: np.ndarray, method: Method, **asked: object) -> Explanation:
    """The explanation of the first sample."""
    program, setting = made
    name = setting.signature.inputs[0].name
    question = Asked(method, **asked)  # type: ignore[arg-type]
    return explain_program(program, setting, samples_of(setting.signature, {name: sample})[0], question)


def picture() -> np.ndarray:
    """Noise with the pattern at row 9 and column 3."""
    made = RANDOM.normal(size=(1, 1, 16, 16)).astype(np.float32) * 0.2
    made[0, 0, 9:13, 3:7] = PATTERN
    return made


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Setting]:
    """The program of the detector."""
    return captured(Detector(), torch.randn(2, 1, 16, 16), str(tmp_path_factory.mktemp("cnn")))


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Setting]:
    """The program that attends to token 7."""
    torch.manual_seed(0)
    return captured(Attending(), torch.randint(1, 7, (2, 12)), str(tmp_path_factory.mktemp("text")))


def test_integrated_gradients_are_complete(
    detector: tuple[Program, Setting], attending: tuple[Program, Setting], tmp_path: str
) -> None:
    """The attributions of a CNN, a GRU and a text add up to the difference of the scores (Sundararajan et al. 2017)."""
    torch.manual_seed(1)
    recurrent = captured(Recurrent(), torch.randn(2, 9, 5), str(tmp_path))
    tokens = np.array([[1, 2, 3, 7, 4, 5, 6, 1, 2, 3, 4, 5]])
    for made, sample in [
        (detector, picture()),
        (recurrent, RANDOM.normal(size=(1, 9, 5)).astype(np.float32)),
        (attending, tokens),
    ]:
        found = one(made, sample, "integrated-gradients")
        (heatmap,) = found.heatmaps.values()
        difference = found.score - found.baseline_score
        assert heatmap.values.sum() == pytest.approx(difference, abs=0.02 * abs(difference))
        assert found.notes == ()
        assert found.used <= found.budget


def test_more_points_make_the_sum_more_exact(tmp_path: str) -> None:
    """With a larger budget the sum of a GRU's attributions comes closer to the difference of its scores."""
    torch.manual_seed(2)
    made = captured(Recurrent(), torch.randn(2, 9, 5), str(tmp_path))
    sample = 3 * RANDOM.normal(size=(1, 9, 5)).astype(np.float32)
    gaps = []
    for budget in (24, 256):
        found = one(made, sample, "integrated-gradients", budget=budget)
        gaps.append(abs(found.heatmaps["steps"].values.sum() - found.score + found.baseline_score))
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam"])
def test_a_planted_patch_is_found(detector: tuple[Program, Setting], method: Method) -> None:
    """Most of the attribution is on the pattern; Grad-CAM, whose map is coarse, has its top there."""
    found = one(detector, picture(), method)
    values = found.heatmaps["image"].values
    assert (found.index, found.evidence) == (1, True)
    if method == "integrated-gradients":
        assert values[9:13, 3:7].sum() > 0.8 * values.sum()
    else:
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert 8 <= row <= 13
        assert 2 <= column <= 7
        assert "relative" in found.notes[0]


@pytest.mark.parametrize("method", ["integrated-gradients", "attention"])
def test_a_planted_token_is_found(attending: tuple[Program, Setting], method: Method) -> None:
    """The token on which the score rests, and to which every token attends, has the largest value."""
    tokens = np.array([[1, 2, 3, 4, 5, 7, 6, 1, 2, 3, 0, 0]])
    values = one(attending, tokens, method).heatmaps["tokens"].values
    assert int(values.argmax()) == 5
    assert not values[10:].any()


@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam"])
@pytest.mark.parametrize("seed", range(3))
def test_a_randomised_model_gives_nothing(method: Method, seed: int, tmp_path: str) -> None:
    """A network as it is before training has no evidence, and its map is not that of the trained one."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    made = captured(net, torch.randn(2, 1, 16, 16), str(tmp_path))
    assert not one(made, picture(), method).evidence


def test_scores_in_torch_are_those_of_numpy() -> None:
    """Every kind of score has the same value with gradients as without."""
    random = np.random.default_rng(0)
    scores, mask = random.normal(size=(3, 5)), random.normal(size=(3, 5, 4, 4))
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for explained, outputs in [
        (Explained("y", "class", 0, 2, None, True, False, True), scores),
        (Explained("y", "class", 0, 2, None, True, True, True), chances),
        (Explained("y", "mask", 0, 1, None, True, False, True), mask),
        (Explained("y", "mask", 0, 0, None, False, False, True), mask),
        (Explained("y", "value", 0, 3, None, False, False, True), scores),
        (Explained("y", "value", None, None, None, False, False, True), scores[:, :1]),
        (Explained("y", "similarity", None, None, None, False, False, True, scores[0]), scores),
        (Explained("y", "similarity", None, None, None, False, False, True, mask[0, 0]), mask[:, 0]),
    ]:
        found = torch_scores(explained, torch.from_numpy(outputs)).numpy()
        assert found == pytest.approx(explained.scores(outputs), abs=1e-9)


def test_methods_that_do_not_fit_are_refused(
    detector: tuple[Program, Setting], attending: tuple[Program, Setting]
) -> None:
    """Grad-CAM of a text, attention of a CNN, and gradients without a program are refused with what fits."""
    with pytest.raises(InputError, match="no convolution"):
        one(attending, np.ones((1, 12), np.int64), "grad-cam")
    with pytest.raises(InputError, match="no attention"):
        one(detector, picture(), "attention")
    with pytest.raises(InputError, match=r"\.pt2"):
        explain(detector[1], {"image": picture()}, Asked("grad-cam"))
