"""Recurrent layers in INT8 are accurate: rounding against states, FP32 for harmful layers, kernels by accuracy."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, predict, save_program
from retort.compress.quantization import quantize_program
from retort.compress.quantization.correction.recurrent_rounding import sublayers
from retort.core.artifact import load_artifact
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.errors import VerificationError
from retort.core.facts.export_facts import ExportFacts
from retort.core.metrics.all_outputs import sqnr_of_all_db
from retort.core.options.stage_options import ExportOptions, QuantizeOptions
from retort.export.stage import write_graph

BANDS, STEPS = 20, 24
PLAIN = QuantizeOptions(correction=("none",), method="minmax")
CORRECTED = QuantizeOptions(method="minmax")


class Speaker(nn.Module):
    """A speaker encoder: recurrent layers over mel power spectra, and an embedding of the last state."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], hidden: int = 48, layers: int = 3, outputs: int = 16
    ) -> None:
        super().__init__()
        self.body, self.head = kind(BANDS, hidden, layers, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, mel: Tensor) -> Tensor:
        states = self.body(mel)[0]
        embedding: Tensor = self.head(states[:, -1])
        return embedding


@functools.cache
def spectra(count: int, seed: int) -> NDArray[np.float32]:
    """Power spectra of harmonic sounds with two formants each, ``[N, T, bands]``; bands differ by 1e5 in power."""
    random = np.random.default_rng(seed)
    centres = np.linspace(0.05, 1, BANDS)
    found = []
    for _ in range(count):
        formants = random.uniform(0.1, 0.7, 2)
        shape = sum(1 / (1 + ((centres - at) / 0.06) ** 2) for at in formants) * 10 ** (-5 * centres)
        loud = np.abs(np.cumsum(random.normal(size=STEPS)) * 0.3 + 1)
        ripple = random.uniform(0.5, 1.5, (STEPS, BANDS))
        found.append(loud[:, None] ** 2 * shape * ripple)
    return np.asarray(found, np.float32)


@functools.cache
def trained_like(kind: str) -> Program:
    """An encoder whose first layer scales every band to a similar size, as training on power spectra does."""
    torch.manual_seed(0)
    net = Speaker(nn.LSTM if kind == "lstm" else nn.GRU)
    size = torch.from_numpy(np.sqrt((spectra(64, 5) ** 2).mean((0, 1))))
    with torch.no_grad():
        for name, value in net.body.named_parameters():
            if name.startswith("weight"):
                value.mul_(3)
        net.body.get_parameter("weight_ih_l0").div_(size)
    return capture(net.eval(), {"mel": torch.from_numpy(spectra(64, 5)[:2])})


def db(program: Program, other: Program) -> float:
    test = ArraySplit({"mel": spectra(48, 9)})
    wanted, found = (list(predict(item, test).values()) for item in (program, other))
    return sqnr_of_all_db(wanted, found)


@functools.cache
def quantized(kind: str, corrected: bool) -> Program:
    data = ArraySplit({"mel": spectra(96, 1)})
    return quantize_program(trained_like(kind), CORRECTED if corrected else PLAIN, data, "cpu")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_rounding_against_states_and_exact_layers_gain_accuracy(kind: str) -> None:
    """Corrections gain at least 6 dB over rounding to nearest, and what stays in FP32 is named with its effect."""
    program = trained_like(kind)
    assert db(program, quantized(kind, corrected=True)) > db(program, quantized(kind, corrected=False)) + 6
    rungs = {item["rung"]: item for item in quantized(kind, corrected=True).meta["quantization"]["correction"]}
    assert rungs["recurrent"]["kept"]
    reasons = [item["reason"] for item in quantized(kind, corrected=True).meta["quantization"]["float_nodes"]]
    exact = [reason for reason in reasons if "with INT8 weights: the outputs would have" in reason]
    assert len(exact) == len(rungs["recurrent"]["detail"].split("layer ")) - 1
    assert len(sublayers(quantized(kind, corrected=True).module)) == 3 - len(exact)


@functools.cache
def with_harmful_head() -> tuple[Program, Program, ArraySplit]:
    """An LSTM in integer kernels, and a head with a huge weight for a state that is always 0; also in INT8."""
    torch.manual_seed(0)
    net = Speaker(nn.LSTM, hidden=128, layers=2, outputs=128).eval()
    data = ArraySplit({"mel": np.random.default_rng(0).normal(size=(64, STEPS, BANDS)).astype(np.float32)})
    with torch.no_grad():
        net.body.get_parameter("bias_ih_l1")[3 * 128] = -200
        net.head.weight[:, 0] *= 1000
    program = capture(net, {"mel": torch.from_numpy(data.inputs["mel"][:2])})
    return program, quantize_program(program, CORRECTED, data, "cpu"), data


def test_a_harmful_layer_without_much_work_stays_in_fp32() -> None:
    """All layers of the LSTM stay in INT8, the head does not, and the facts say so."""
    program, found, data = with_harmful_head()
    facts = found.meta["quantization"]
    assert [item["layer"] for item in facts["float_nodes"] if "in INT8: the outputs would have" in item["reason"]] == [
        "head"
    ]
    assert len(sublayers(found.module)) == 2
    assert 97 < facts["integer_macs_percent"] < 100
    assert facts["kinds"] == {"lstm": 1}
    wanted, values = (list(predict(item, data).values()) for item in (program, found))
    assert sqnr_of_all_db(wanted, values) > 30


def test_a_file_of_an_exact_head_is_written(tmp_path: Path) -> None:
    """The file agrees with the program."""
    _, found, data = with_harmful_head()
    assert exported(found, data, tmp_path, recurrent="integer").parity


@functools.cache
def with_outlier() -> tuple[Program, ArraySplit]:
    """An LSTM wide enough for integer kernels, one of whose inputs is huge and has no effect."""
    torch.manual_seed(0)
    net = Speaker(nn.LSTM, hidden=96, layers=1).eval()
    data = np.random.default_rng(0).normal(size=(32, STEPS, BANDS)).astype(np.float32)
    data[:, :, 0] *= 1000
    with torch.no_grad():
        net.body.get_parameter("weight_ih_l0")[:, 0] = 0
    program = capture(net, {"mel": torch.from_numpy(data[:2])})
    return program, ArraySplit({"mel": data})


def exported(program: Program, data: ArraySplit, folder: Path, **options: Any) -> ExportFacts:
    save_program(program, folder / "model.pt2")
    chosen = ExportOptions(batch_sizes=(1, 4), **options)
    made = write_graph(chosen, load_artifact(folder / "model.pt2"), Place(folder / "graph"), data.inputs)
    return made.facts_as(ExportFacts)


def test_inaccurate_integer_kernels_are_not_used(tmp_path: Path) -> None:
    """A file whose integer kernels would ruin the outputs gets FP32 kernels, and its facts have both figures."""
    program, data = with_outlier()
    rounded = quantize_program(program, PLAIN, data, "cpu")
    facts = exported(rounded, data, tmp_path)
    assert facts.batch_invariant
    assert facts.recurrent is not None
    assert "recurrent layers use FP32 kernels with INT8 weights: their outputs have" in facts.recurrent
    with pytest.raises(VerificationError):
        exported(rounded, data, tmp_path, recurrent="integer")


def test_accurate_integer_kernels_are_used(tmp_path: Path) -> None:
    """Without the huge input, the same LSTM runs in integer kernels."""
    program, data = with_outlier()
    usual = ArraySplit({"mel": data.inputs["mel"] * (np.arange(BANDS) > 0).astype(np.float32)})
    facts = exported(quantize_program(program, PLAIN, usual, "cpu"), usual, tmp_path)
    assert facts.recurrent is None
    assert not facts.batch_invariant
