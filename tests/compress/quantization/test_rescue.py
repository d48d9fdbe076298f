"""The floor of quality: a ruined INT8 program is mended by measurement or refused, never written in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import quantize
from retort.compress.quantization.rescue import floor_of
from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import VerificationError
from retort.core.facts.quantize_facts import FloorFacts, QuantizeFacts
from retort.core.options.stage_options import QuantizeOptions
from retort.core.tensors import Array


class Spectrum(nn.Module):
    """A signal front end as audio networks have it: the logarithm of a power spectrum, then convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        angles = 2 * np.pi * np.outer(np.arange(24), np.arange(64)) / 64
        window = np.hanning(64)
        waves = np.concatenate([np.cos(angles) * window, np.sin(angles) * window])[:, None]
        self.front = nn.Conv1d(1, 48, 64, 16, bias=False)
        self.front.weight.data = torch.from_numpy(waves.astype(np.float32))
        self.net = nn.Sequential(
            nn.Conv1d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(48, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(64, 64, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 8)

    def forward(self, sound: Tensor) -> Tensor:
        real, imaginary = self.front(sound).chunk(2, 1)
        power = real * real + imaginary * imaginary
        return self.head(self.net((torch.log(power + 1e-10) + 8) / 4).mean(2))


class Exponents(nn.Module):
    """A network whose only layer cannot be INT8: what matters is far below one step of the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.one.weight)

    def forward(self, sound: Tensor) -> Tensor:
        return torch.log(self.one(sound).abs() + 1e-8)


def sounds(count: int) -> Array:
    """Tones of a few loudnesses with silence between them, ``[N, 1, 512]``."""
    rng = np.random.default_rng(3)
    time = np.arange(512)
    pitch, loudness = rng.uniform(0.02, 0.4, (count, 1)), 10 ** rng.uniform(-3, 0, (count, 1))
    tone = np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6, (count, 1))) * loudness
    return (tone * (time % 256 < 192) + 1e-4 * rng.normal(size=(count, 512)))[:, None].astype(np.float32)


def fitted(data: Array) -> Context:
    """A context with these samples, half for calibration and half to judge."""
    half = len(data) // 2
    fit, judge = ArraySplit({"sound": data[:half]}), ArraySplit({"sound": data[half:]})
    return Context(Splits(fit, judge, fit, judge), console=Console("silent"))


def artifact_of(net: nn.Module, data: Array, folder: Path) -> Artifact:
    """The captured network as an artifact."""
    with new_artifact(Place(folder), "program", "capture") as draft:
        save_program(capture(net.eval(), {"sound": torch.from_numpy(data[:4])}), draft.folder / "model.pt2")
    return load_artifact(folder)


def floor_facts(made: Artifact) -> FloorFacts:
    """The facts of the check."""
    floor = made.facts_as(QuantizeFacts).floor
    assert floor is not None
    return floor


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Context]:
    """The audio network and its samples."""
    data = sounds(128)
    return artifact_of(Spectrum(), data, tmp_path_factory.mktemp("nets") / "spectrum"), fitted(data)


def test_a_signal_front_end_stays_in_floating_point(spectrum: tuple[Artifact, Context], tmp_path: Path) -> None:
    """The part that ruins the outputs is found by measurement; the rest is INT8, and the facts tell the story."""
    program, context = spectrum
    ruined = quantize(QuantizeOptions(accept=True), program, Place(tmp_path / "as-it-is"), context)
    assert not floor_facts(ruined).met
    assert floor_facts(ruined).accepted
    made = quantize(QuantizeOptions(), program, Place(tmp_path / "mended"), context)
    facts, floor = made.facts_as(QuantizeFacts), floor_facts(made)
    assert floor.met
    assert "centred SQNR" in (floor.shortfall or "")
    assert floor.worst_layer is not None
    assert [trial.kept for trial in floor.tried].count(True) == 1
    assert facts.against_fp32.sqnr_centred_db is not None
    assert facts.against_fp32.sqnr_centred_db >= 10
    assert facts.integer_macs_percent > 50
    reasons = {node.layer: node.reason for node in facts.float_nodes}
    assert any("would miss 15 dB" in reason for reason in reasons.values()), reasons
    assert "front" in reasons


def test_a_model_that_int8_ruins_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """The error names the figure, the layer and the remedies tried; ``accept`` writes the program, marked."""
    rng = np.random.default_rng(0)
    data = (10 ** rng.uniform(-6, 0, (64, 16)) * np.sign(rng.normal(size=(64, 16)))).astype(np.float32)
    program, context = artifact_of(Exponents(), data, tmp_path / "net"), fitted(data)
    options = QuantizeOptions(last_layer="int8", first_layer="int8")
    with pytest.raises(VerificationError, match=r"INT8 ruins this model: the centred SQNR is .* one .*Tried") as caught:
        quantize(options, program, Place(tmp_path / "int8"), context)
    assert "--accept" in caught.value.remedy
    assert not (tmp_path / "int8").exists()
    made = quantize(options.model_copy(update={"accept": True}), program, Place(tmp_path / "int8"), context)
    assert floor_facts(made).accepted
    assert not floor_facts(made).tried


def test_a_bound_of_the_user_replaces_the_floor_only_downwards() -> None:
    """``min_sqnr: 6`` accepts 6 dB; ``min_sqnr: 30`` stays a bound of mixed precision."""
    for bound, floor in ((6.0, 6.0), (30.0, 10.0)):
        assert floor_of(QuantizeOptions(mixed="auto", min_sqnr=bound)).sqnr_db == floor
    assert floor_of(QuantizeOptions(min_sqnr=3.0)).sqnr_db == 10.0, "without `mixed: auto` it is no bound"
