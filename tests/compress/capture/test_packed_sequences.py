"""Packed sequences: the program is the model for every set of lengths, and needs no packed data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from needed import needed
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.capture.packed_sequences import CROPPED, Packing
from retort.compress.capture.workarounds import packing_by
from retort.compress.program import NOTES, Program
from retort.core.backends.eager import quiet
from retort.core.errors import CaptureError

RAGGED, SORTED = [3, 9, 1, 5, 8, 2, 7, 4], [9, 8, 7, 5, 5, 3, 2, 1]


class _Net(nn.Module):
    """A recurrent layer on packed sequences, of which its steps, its last states or all its states are used."""

    def __init__(self, kind: str, used: str, batch_first: bool = True, in_order: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(nn, kind)(6, 16, batch_first=batch_first, **options)
        self.used, self.batch_first, self.in_order = used, batch_first, in_order

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        value = x if self.batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(value, lengths.cpu(), self.batch_first, self.in_order)
        steps, last = self.rnn(packed)
        if self.used == "steps":
            padded, counts = pad_packed_sequence(steps, self.batch_first, padding_value=-2.0)
            return padded if self.batch_first else padded.transpose(0, 1), counts
        if self.used == "total":
            return pad_packed_sequence(steps, self.batch_first, total_length=x.shape[1])[0].amax(
                (0, 1)[self.batch_first]
            )
        if self.used == "states":
            return tuple(state.transpose(0, 1) for state in last)
        return (last[0] if isinstance(last, tuple) else last).transpose(0, 1)


class _Data(nn.Module):
    """Embeds packed words, and takes lengths as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 8), nn.GRU(8, 12, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu().tolist(), batch_first=True, enforce_sorted=False)
        words = PackedSequence(
            self.table(packed.data), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        last: Tensor = self.rnn(words)[1][-1]
        return last


class _Started(nn.Module):
    """A decoder that continues from the states of a packed encoder, which start from states of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(6, 16, bidirectional=True), nn.LSTM(6, 16, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        start = x.mean((1, 2)).reshape(1, -1, 1).expand(2, -1, 16)
        _, states = self.encoder(
            pack_padded_sequence(x.transpose(0, 1), lengths, enforce_sorted=False), (start, 2 * start)
        )
        found: Tensor = self.decoder(x.transpose(0, 1), states)[0].transpose(0, 1)
        return found


def assert_same(model: nn.Module, lengths: list[int], words: bool = False) -> Program:
    """A program of the model computes what the model does, at other batch sizes and padded lengths."""

    def _inputs(rows: list[int], steps: int) -> tuple[Tensor, Tensor]:
        x = torch.randint(0, 20, (len(rows), steps)) if words else torch.randn(len(rows), steps, 6)
        return x, torch.tensor(rows)

    first = _inputs(lengths, 9)
    program = capture(model, {"x": first[0], "lengths": first[1]}, dynamic={"x": {1: "time"}})
    scale = 13 / max(lengths)
    for rows, steps in ((lengths, 9), ([max(1, int(scale * size)) for size in lengths[:5]], 13), ([4], 4)):
        x, counts = _inputs(rows, steps)
        with torch.no_grad():
            wanted = model.eval()(x, counts)
            got = program.module(x, counts)
        for left, right in zip(got, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            torch.testing.assert_close(left, right, atol=2e-6, rtol=1e-5)
    return program


@pytest.mark.parametrize(
    ("kind", "used", "in_order"),
    [
        ("LSTM", "states", True),
        ("LSTM", "steps", False),
        ("GRU", "last", False),
        ("GRU", "total", True),
        ("RNN", "steps", True),
    ],
)
def test_one_direction_with_every_result(kind: str, used: str, in_order: bool) -> None:
    """Steps, last states and cells of every kind of layer are the model's, with lengths in any order."""
    assert_same(_Net(kind, used, in_order=in_order), SORTED if in_order else RAGGED)


@pytest.mark.parametrize(
    ("kind", "used", "batch_first"), [("LSTM", "states", True), ("GRU", "steps", False), ("RNN", "last", False)]
)
def test_both_directions_of_two_layers(kind: str, used: str, batch_first: bool) -> None:
    """The backward direction starts at each sequence's own end, in every layer."""
    assert_same(_Net(kind, used, batch_first, num_layers=2, bidirectional=True, dropout=0.3), RAGGED)


def test_projected_states() -> None:
    """An LSTM with projections has the model's states."""
    assert_same(_Net("LSTM", "states", proj_size=5, bidirectional=True, bias=False), RAGGED)


def test_packed_data_lists_and_initial_states() -> None:
    """Functions of packed data, lengths as a list, and initial states are those of the model."""
    assert_same(_Data(), RAGGED, words=True)
    assert_same(_Started(), RAGGED)


def test_a_result_of_the_longest_length_is_named() -> None:
    """A program keeps the padded length of its input, and says so where the model depends on the longest sequence."""
    x, lengths = torch.randn(2, 9, 6), torch.tensor([4, 2])
    programs = {used: capture(_Net("GRU", used), {"x": x, "lengths": lengths}) for used in ("steps", "total", "last")}
    shown = {used: program.meta.get(NOTES) for used, program in programs.items()}
    assert shown == {"steps": [CROPPED], "total": None, "last": None}
    program = programs["steps"]
    got = program.module(x, lengths)[0]
    torch.testing.assert_close(got[:, :4], _Net("GRU", "steps").eval()(x, lengths)[0])
    assert (got[:, 4:] == -2).all(), "the rest is padding"


class _Longest(nn.Module):
    """Takes the length of the longest sequence from its data: of a mask, or of the input."""

    def __init__(self, mask: bool) -> None:
        super().__init__()
        self.rnn, self.mask = nn.GRU(6, 8, batch_first=True), mask

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if not self.mask:
            x = x[:, : lengths.max()]
        steps, _ = pad_packed_sequence(self.rnn(pack_padded_sequence(x, lengths, True, False))[0], True)
        inside = torch.arange(int(lengths.max()) if self.mask else 1).unsqueeze(0) < lengths.unsqueeze(1)
        return steps * inside.unsqueeze(-1)


@pytest.mark.parametrize(
    ("mask", "words"), [(True, "needs the length of the longest"), (False, "branches on the values")]
)
def test_a_size_from_lengths_is_refused_with_the_remedy(mask: bool, words: str) -> None:
    """Sizes come from tensors; the message says so instead of naming the batch or a branch alone."""
    with pytest.raises(CaptureError, match=words) as caught:
        capture(_Longest(mask), {"x": torch.randn(4, 9, 6), "lengths": torch.tensor([3, 9, 1, 5])})
    assert "instead of `lengths.max()`" in caught.value.remedy


class _Classifier(nn.Module):
    """Classifies by the last states of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, (last, _) = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        found: Tensor = self.head(last[-1])
        return found


def test_the_whole_line() -> None:
    """A model with packed sequences is pruned, quantized and exported; lengths stay free in the file."""
    model, random = _Classifier(), np.random.default_rng(0)
    data = {"x": random.normal(size=(16, 9, 6)).astype(np.float32), "lengths": np.array([RAGGED, RAGGED]).flatten()}
    program = retort.capture(model, data, data=data, dynamic={"x": {1: "time"}})
    small = retort.prune(program, macs=0.7)
    assert small.facts.macs_after <= 0.7 * small.facts.macs_before
    int8 = retort.quantize(small, form="static", correction="none", timed=False)
    exact, graph = retort.export(program), retort.export(int8)
    assert [spec.describe() for spec in graph.signature.inputs] == [
        "x: float32[batch, time, 6]",
        "lengths: int64[batch]",
    ]
    for rows, steps in (([5, 2, 5], 5), ([14], 14), ([1, 7], 7)):
        x, lengths = torch.randn(len(rows), steps, 6), torch.tensor(rows)
        with torch.no_grad():
            wanted, rounded = model.eval()(x, lengths), int8(x, lengths)
        np.testing.assert_allclose(exact(x, lengths), wanted, atol=2e-6)
        np.testing.assert_allclose(graph(x, lengths), rounded, atol=0.02)


def test_only_selected_layers_remain() -> None:
    """Of the last states of all layers, a program has those that the model uses."""
    program = capture(_Classifier(), {"x": torch.randn(4, 9, 6), "lengths": torch.tensor([3, 9, 1, 5])})
    targets = [str(node.target) for node in program.module.graph.nodes]
    assert "aten.stack.default" not in targets
    assert targets.count("aten.lstm.input") == 2


class _Both(nn.Module):
    """Packs and pads without a layer."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.listed = listed

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        counts = lengths.tolist() if self.listed else lengths
        return pad_packed_sequence(pack_padded_sequence(x, counts, True, False), True)[0]


@pytest.mark.parametrize("listed", [False, True])
def test_packed_sequences_still_cannot_be_traced(listed: bool) -> None:
    """PyTorch cannot trace packed sequences or lists of lengths; the patches can, and leave nothing behind."""
    before = [
        *(pack_padded_sequence.__code__, pad_packed_sequence.__code__, nn.LSTM.forward),
        *(vars(FakeTensor).get(name) for name in ("tolist", "numpy")),
    ]
    model, inputs = _Both(listed), (torch.randn(4, 3, 2), torch.tensor([3, 1, 2, 3]))
    shapes = {"x": {0: Dim("batch")}, "lengths": {0: Dim("batch")}}

    def _export() -> torch.export.ExportedProgram:
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)

    with needed("compress.capture.workarounds.packing_by", "."):
        _export()
    if listed:
        with needed("compress.capture.workarounds.lengths_as_tensors", "."), packing_by(Packing(True)):
            _export()
    with quiet(), Packing(True).active():
        program = _export()
    torch.testing.assert_close(program.module()(*inputs), model(*inputs))
    assert before == [
        *(pack_padded_sequence.__code__, pad_packed_sequence.__code__, nn.LSTM.forward),
        *(vars(FakeTensor).get(name) for name in ("tolist", "numpy")),
    ]
