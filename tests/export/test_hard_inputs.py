"""Hard inputs: silence, constants and extremes are compared, ties are no faults, and nothing undefined passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import reexport
from retort.core.backends.eager import EagerSession
from retort.core.errors import VerificationError
from retort.core.options.stage_options import ExportOptions
from retort.core.session import Session, SessionOptions, open_session
from retort.core.tensors import Feeds
from retort.export.stage import prove
from retort.export.translate import to_onnx
from retort.export.verify.bounds import Bound, accepted_by
from retort.export.verify.hard_inputs import FLOATS, WORDS, check_hard, hard_feeds
from retort.export.verify.parity import check

FEEDS = {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}


class Spectrum(nn.Module):
    """A logarithm that a small constant keeps finite, and a division that one keeps defined."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log(x * x + 1e-10), x / (x.abs().sum(1, keepdim=True) + 1e-9)


class Largest(nn.Module):
    """The position of the largest value, and the values in order."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.argmax(1), x.sort(1, descending=True).values


class Roots(nn.Module):
    """NaN for negative numbers, infinity at zero."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sqrt(x), 1 / x


def compared(net: nn.Module, model: onnx.ModelProto | None = None) -> dict[str, float]:
    """The largest difference of every kind of inputs, in units of the accepted one."""
    program = capture(net, {"x": torch.from_numpy(FEEDS["x"])})
    exported = reexport(program)
    file = open_session((model or to_onnx(exported, program.signature)).SerializeToString(), SessionOptions(threads=1))
    eager = EagerSession(exported.module(check_guards=False), program.signature, "cpu", 0)
    return {item.inputs: item.share for item in check(eager, file, FEEDS, (1, 4), 1e-3).hard}


@pytest.mark.parametrize("net", [Spectrum(), Largest(), Roots(), nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))])
def test_a_right_file_passes_on_all_hard_inputs(net: nn.Module) -> None:
    """Logarithms, ties, NaN, infinities and normalised constants are the same in file and program."""
    shares = compared(net)
    assert list(shares) == list(FLOATS)
    assert max(shares.values()) <= 1


def without(model: onnx.ModelProto, least: float) -> onnx.ModelProto:
    """The model with every constant below ``least`` replaced by zero."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in changed.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.size == 1 and 0 < abs(value.item()) < least:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(value), tensor.name))
    return changed


def test_a_file_that_lost_a_small_constant_is_refused() -> None:
    """On random samples the file without 1e-10 is equal to 1e-7; on zeros it is infinite, which is found and said."""
    program = capture(Spectrum(), {"x": torch.from_numpy(FEEDS["x"])})
    wrong = without(to_onnx(reexport(program), program.signature), 1e-6)
    session = onnxruntime.InferenceSession(wrong.SerializeToString(), providers=["CPUExecutionProvider"])
    right = Spectrum()(torch.from_numpy(FEEDS["x"]))[0].numpy()
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: FEEDS["x"]})[0], right, rtol=1e-5)
    with pytest.raises(VerificationError, match=r"on zeros: output 'output.*' is (-inf|nan) instead of"):
        compared(Spectrum(), wrong)


def test_kinds_of_inputs_keep_types_and_known_integers() -> None:
    """Floats take every kind; integers stay among those of the samples."""
    feeds = {"x": FEEDS["x"], "words": np.array([[5, 9, 7]])}
    made = dict(hard_feeds(feeds))
    assert list(made) == [*FLOATS, WORDS[0]]
    for item in made.values():
        assert {name: value.dtype for name, value in item.items()} == {n: v.dtype for n, v in feeds.items()}
        assert set(item["words"].flat) <= {5, 9, 7}
    assert made[WORDS[0]]["words"].tolist() == [[5, 5, 5]]
    assert list(dict(hard_feeds({"words": feeds["words"]}))) == ["zeros", "ones", "one constant", WORDS[0]]
    assert "denormal numbers" not in dict(hard_feeds(feeds, half=True))


@pytest.mark.parametrize("kind", [np.int64, np.bool_])
def test_masks_take_both_values(kind: type) -> None:
    """A mask is all 0, all 1, 1 at the first word only, and 0 there only; also where the samples are all 1."""
    for given in ([[1, 1, 0]], [[1, 1, 1]]):
        made = {name: item["mask"] for name, item in hard_feeds({"mask": np.array(given, kind)})}
        seen = {tuple(value.astype(int).reshape(-1).tolist()) for value in [*made.values(), np.array(given)]}
        assert {(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 1)} <= seen
        assert all(value.dtype == kind for value in made.values())


class FastVariance(nn.Module):
    """Words normalised over their positions by E[x²] − E[x]², which cancels where all words are equal."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 16)
        self.table.weight.data += 5
        if apart:
            self.table.weight.data = torch.rand(9, 16).argsort(0).float()

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.table(words)
        mean = x.sum(1, keepdim=True) * (1 / 24)
        variance = (x * x).sum(1, keepdim=True) * (1 / 24) - mean * mean
        return ((x - mean) / torch.sqrt(variance.clamp(min=0) + 1e-6)).amax(1)


def assert_words_agree(apart: bool, factor: float | NDArray[np.float64] = 1.0) -> None:
    """Compare ``FastVariance`` with its file, whose table is multiplied by a factor."""
    words = np.random.default_rng(0).integers(0, 9, (4, 24))
    words[:, 0] = range(4, 8)
    program = capture(FastVariance(apart), {"words": torch.from_numpy(words)})
    exported = reexport(program)
    model = to_onnx(exported, program.signature)
    for tensor in model.graph.initializer:
        if tensor.dims == [9, 16]:
            value = numpy_helper.to_array(tensor) * factor
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    file = open_session(model.SerializeToString(), SessionOptions(threads=1))
    eager = EagerSession(exported.module(check_guards=False), program.signature, "cpu", 0)
    before = eager.run({"words": words})["output"]
    check_hard(eager, file, {"words": words}, accepted_by({"output": Bound(1.0, 1e-3, None)}, None))
    assert np.array_equal(eager.run({"words": words})["output"], before)


def test_words_that_cancel_are_no_fault_of_the_file() -> None:
    """Where integers cannot be disturbed, the results of operators are, and only while the noise is measured."""
    assert_words_agree(apart=False)


def test_another_table_is_a_fault_of_the_file() -> None:
    """A table that differs by far more than rounding is refused all the same."""
    with pytest.raises(VerificationError, match="does not compute the same"):
        assert_words_agree(True, np.random.default_rng(0).uniform(0.5, 1.5, (9, 16)))


class Positive(nn.Module):
    """The positive numbers and zeros: what an INT8 program gives, for example; or with a fault.

    Args:
        undefined: give NaN for negative numbers, as a program without fake-quantization may.
        elsewhere: add this at negative numbers.
        spread: add the largest negative number everywhere.
    """

    def __init__(self, undefined: bool = False, elsewhere: float = 0.0, spread: bool = False) -> None:
        super().__init__()
        self.undefined, self.elsewhere, self.spread = undefined, elsewhere, spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.undefined:
            return torch.sqrt(x) ** 2
        found = torch.relu(x) + self.elsewhere * (x < 0)
        return found + torch.relu(-x).amax(1, keepdim=True) if self.spread else found


@pytest.mark.parametrize("quantized", [False, True])
def test_where_a_program_is_nan_an_int8_file_may_differ_and_nowhere_else(quantized: bool) -> None:
    """Any number passes where the program is NaN, with or without INT8; a wrong number beside it is refused."""
    bounds = {"output": Bound(1.0, 1e-3, None)}
    floating, program = session_of(Positive(undefined=not quantized)), session_of(Positive(undefined=quantized))
    accepted = accepted_by(bounds, floating)
    hard = check_hard(program, session_of(Positive(elsewhere=7.0)), FEEDS, accepted)
    assert max(item.share for item in hard) < 1
    undefined = {item.inputs: item.undefined for item in hard}
    assert undefined["the samples negated"] == np.count_nonzero(FEEDS["x"] > 0)
    assert undefined["zeros"] == 0
    with pytest.raises(VerificationError, match="does not compute the same as the program on"):
        check_hard(program, session_of(Positive(spread=True)), FEEDS, accepted)


def session_of(net: nn.Module) -> Session:
    """The exported file of a network, in ONNX Runtime."""
    program = capture(net, {"x": torch.from_numpy(FEEDS["x"])})
    return open_session(to_onnx(reexport(program), program.signature).SerializeToString(), SessionOptions(threads=1))


class Standardized(nn.Module):
    """Inputs divided by their spread, which is zero, or a rounding error, on constant inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


def test_numbers_that_consist_of_rounding_errors_may_be_nan() -> None:
    """Runtimes add in another order, so a spread that is zero in one is not zero in the other; this is told."""
    program = capture(Standardized(), {"x": torch.from_numpy(FEEDS["x"])})
    exported = reexport(program)
    eager = EagerSession(exported.module(check_guards=False), program.signature, "cpu", 0)
    file = open_session(to_onnx(exported, program.signature).SerializeToString(), SessionOptions(threads=1))
    constant = {"x": np.full_like(FEEDS["x"], 0.1)}
    numbers, undefined = cast(Session, Fixed(eager, 0.25)), cast(Session, Fixed(file, np.nan))
    accepted = accepted_by({"output": Bound(1.0, 1e-3, None)}, None)
    hard = check_hard(numbers, undefined, constant, accepted)
    assert {item.undefined for item in hard if item.inputs == "ones"} == {FEEDS["x"].size}


class Fixed:
    """A session whose outputs are one number for constant inputs."""

    def __init__(self, inner: Session, number: float) -> None:
        self.inner, self.number, self.signature = inner, number, inner.signature

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """The inner session's outputs, or the number."""
        found = self.inner.run(feeds)
        constant = np.ptp(np.asarray(feeds["x"]), axis=1).max() == 0
        return {name: np.full_like(value, self.number) if constant else value for name, value in found.items()}

    def run_rounded(self, feeds: Feeds, size: float, seed: int) -> dict[str, NDArray[Any]] | None:
        """The inner session's."""
        return cast(EagerSession, self.inner).run_rounded(feeds, size, seed)

    def run_with_ties_broken(self, feeds: Feeds, seed: int) -> dict[str, NDArray[Any]] | None:
        """Nothing is ordered."""
        return None


def test_nan_where_rounding_decides_nothing_is_refused() -> None:
    """A file that gives NaN where the program gives a steady number is wrong."""
    program = capture(Double(), {"x": torch.from_numpy(FEEDS["x"])})
    eager = EagerSession(reexport(program).module(check_guards=False), program.signature, "cpu", 0)
    accepted = accepted_by({"output": Bound(1.0, 1e-3, None)}, None)
    with pytest.raises(VerificationError, match="does not compute the same as the program on zeros"):
        check_hard(eager, cast(Session, Fixed(eager, np.nan)), FEEDS, accepted)


class Rooted(nn.Module):
    """The root of the first column, NaN for negative numbers, and a plain second column; or with a fault there."""

    def __init__(self, fault: float = 0.0) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = x[:, 1:] + self.fault * (x[:, 1:] == 0)
        return torch.cat([torch.sqrt(x[:, :1]), plain], 1)


def test_a_place_that_turns_nan_when_disturbed_excuses_no_other() -> None:
    """At zero, the root is NaN after a disturbance; the columns beside it are compared all the same."""
    accepted = accepted_by({"output": Bound(1.0, 1e-3, None)}, None)
    program = session_of(Rooted())
    check_hard(program, session_of(Rooted()), FEEDS, accepted)
    with pytest.raises(VerificationError, match="does not compute the same as the program on zeros"):
        check_hard(program, session_of(Rooted(fault=0.5)), FEEDS, accepted)


class Double(nn.Module):
    """Twice its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Raising:
    """A session that raises on zeros, as an eager model may."""

    def __init__(self, inner: Session) -> None:
        self.inner, self.signature = inner, inner.signature

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """The outputs of the inner session."""
        if not np.asarray(next(iter(feeds.values()))).any():
            raise ValueError("nothing to divide by")
        return self.inner.run(feeds)


def test_inputs_on_which_the_model_itself_raises_are_left_out() -> None:
    """What the program cannot compute proves nothing; what only the file cannot compute is refused."""
    program = capture(Double(), {"x": torch.from_numpy(FEEDS["x"])})
    exported = reexport(program)
    eager = EagerSession(exported.module(check_guards=False), program.signature, "cpu", 0)
    file = open_session(to_onnx(exported, program.signature).SerializeToString(), SessionOptions(threads=1))
    raising = cast(Session, Raising(eager))
    found = check(raising, file, FEEDS, (1, 4), 1e-3).hard
    assert "zeros" not in {item.inputs for item in found}
    assert len(found) == len(FLOATS) - 1
    with pytest.raises(VerificationError, match="the ONNX file does not run on zeros, but the program does"):
        check(eager, cast(Session, Raising(file)), FEEDS, (1, 4), 1e-3)


class Peaks(nn.Module):
    """The head of a detector by centres (CenterNet, arXiv:1904.07850): the highest scores, and the sizes there."""

    def __init__(self) -> None:
        super().__init__()
        self.heat, self.size = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores and places ``[N, 5]``, and sizes ``[N, 5, 2]``."""
        scores, places = torch.sigmoid(self.heat(image)).amax(1).flatten(1).topk(5)
        sizes = self.size(image).flatten(2).transpose(1, 2)
        return scores, places, sizes.gather(1, places[..., None].expand(-1, -1, 2))


def test_runtimes_may_order_equal_scores_differently() -> None:
    """Saturated scores are equal; which of them comes first is open, and the check says so of the program itself."""
    torch.manual_seed(0)
    image = torch.randn(3, 3, 8, 8)
    program = capture(Peaks(), {"image": image})
    session = EagerSession(reexport(program).module(check_guards=False), program.signature, "cpu", 1)
    feeds = {"image": 1000 * image.numpy()}
    expected, other = session.run(feeds), session.run_with_ties_broken(feeds, 0)
    assert other is not None
    np.testing.assert_allclose(expected["output_0"], other["output_0"], rtol=1e-5)
    assert (expected["output_1"] != other["output_1"]).any()
    ordered = session.run_with_ties_broken({"image": image.numpy()}, 0)
    assert ordered is not None
    np.testing.assert_array_equal(session.run({"image": image.numpy()})["output_1"], ordered["output_1"])


def test_a_detector_with_saturated_scores_is_exported(tmp_path: Path) -> None:
    """Its file is accepted, although ONNX Runtime selects other ones of equal scores."""
    torch.manual_seed(0)
    program = capture(Peaks(), {"image": torch.randn(3, 3, 8, 8)})
    file = tmp_path / "model.onnx"
    file.write_bytes(to_onnx(reexport(program), program.signature).SerializeToString())
    samples = {"image": torch.randn(8, 3, 8, 8).numpy()}
    assert prove(reexport(program), program.signature, file, samples, ExportOptions()).hard
