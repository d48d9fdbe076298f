"""Packed sequences as padded ones: recurrent layers whose samples have lengths of their own, in basic operators.

``pack_padded_sequence`` makes a tensor whose size depends on the lengths. In a program every sequence keeps its padded
steps instead, and a recurrent layer is one operator per layer and direction. Steps after the end of a sequence cannot
change steps before it, so the forward direction needs nothing; its last state is taken at the last valid step. The
backward direction reads every sequence in reverse order, from its last valid step. The samples stay in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from ...core.errors import CaptureError
from .workarounds import PackingFunctions, lengths_as_tensors, packing_by

CROPPED = (
    "torch.nn.utils.rnn.pad_packed_sequence shortens its result to the longest sequence of the batch, but the program "
    "keeps the padded length of its input: its outputs are those of the model for a batch in which one sequence has "
    "that length, so give samples that are padded to the longest one"
)
_KERNELS: dict[str, Any] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


@dataclass(frozen=True)
class Layout:
    """The lengths ``[N]`` of packed sequences, and the padded length."""

    lengths: Tensor
    steps: int


class Packing:
    """Functions in place of PyTorch's for packed sequences, during one run of a model.

    Args:
        tracing: whether a program is traced; otherwise PyTorch packs, in any order of lengths, and pads to the length
            before packing.

    Attributes:
        crops: whether the model uses the length of the longest sequence as the length of a result.
    """

    def __init__(self, tracing: bool) -> None:
        self.tracing, self.crops = tracing, False
        self._layouts: dict[int, tuple[Tensor, Layout]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace PyTorch's functions."""
        with packing_by(self) as self.plain, lengths_as_tensors() if self.tracing else nullcontext():
            yield

    plain: PackingFunctions

    def pack(self, value: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
        """``pack_padded_sequence``; in a trace, all steps of the sequences, one sample after the other."""
        steps = value.shape[1 if batch_first else 0]
        if not self.tracing:
            packed = self.plain.pack(value, lengths, batch_first, False)
            return self._remember(packed, Layout(lengths, steps))
        lengths = torch.as_tensor(lengths).to(torch.int64)
        value = value if batch_first else value.transpose(0, 1)
        sizes = (lengths.unsqueeze(0) > torch.arange(steps).unsqueeze(1)).sum(1)
        return self._remember(PackedSequence(value.flatten(0, 1), sizes), Layout(lengths, steps))

    def pad(
        self, sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
    ) -> Any:
        """``pad_packed_sequence``, with the length before packing unless another one is given."""
        layout = self._layout(sequence)
        if layout is None:
            return self.plain.pad(sequence, batch_first, padding_value, total_length)
        self.crops |= total_length is None
        if not self.tracing:
            length = layout.steps if total_length is None else total_length
            return self.plain.pad(sequence, batch_first, padding_value, length)
        value = sequence.data.unflatten(0, (-1, layout.steps))
        outside = torch.arange(layout.steps).unsqueeze(0) >= layout.lengths.unsqueeze(1)
        value = value.masked_fill(outside.reshape(*outside.shape, *[1] * (value.dim() - 2)), padding_value)
        if total_length is not None and total_length is not layout.steps and total_length != layout.steps:
            value = _with_steps(value, total_length - layout.steps, padding_value)
        return value if batch_first else value.transpose(0, 1), layout.lengths

    def recurrent(self, layer: nn.RNNBase, sequence: Any, states: Any = None) -> Any:
        """The result of a recurrent layer for packed sequences; None if it must compute it itself."""
        layout = self._layout(sequence) if self.tracing else None
        if layout is None:
            return None
        value = sequence.data.unflatten(0, (-1, layout.steps))
        first = states if states is None or layer.mode == "LSTM" else [states]
        steps, last = masked_recurrent(_recurrence(layer), value, layout.lengths, first)
        packed = self._remember(PackedSequence(steps.flatten(0, 1), sequence.batch_sizes), layout)
        return packed, last if len(last) > 1 else last[0]

    def _remember(self, packed: Any, layout: Layout) -> Any:
        self._layouts[id(packed.batch_sizes)] = packed.batch_sizes, layout
        return packed

    def _layout(self, sequence: Any) -> Layout | None:
        """The layout of a sequence, which keeps its ``batch_sizes`` through layers and functions of its data.

        Raises:
            CaptureError: a packed sequence was made in another way.
        """
        if not isinstance(sequence, PackedSequence):
            return None
        layout = self._layouts.get(id(sequence.batch_sizes), (None, None))[1]
        if layout is None and self.tracing:
            raise CaptureError(
                "the model uses a packed sequence that did not come from pack_padded_sequence",
                "call pack_padded_sequence in `forward`, with padded sequences and their lengths as inputs",
            )
        return layout


def _with_steps(value: Tensor, more: int, padding_value: float) -> Tensor:
    shape = [0, 0] * (value.dim() - 2)
    return functional.pad(value, (*shape, 0, more), value=padding_value)


@dataclass(frozen=True)
class Recurrence:
    """What recurrent layers compute, in one or both directions.

    Attributes:
        kind: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
        weights: of every layer and direction in PyTorch's order: input, recurrent, biases, projection.
        biased: whether there are biases.
        backward: for each direction, whether it reads the sequences in reverse order.
        dropout: probability between layers in training.
        training: whether it is in training mode.
    """

    kind: str
    weights: Sequence[Tensor]
    biased: bool
    backward: tuple[bool, ...]
    layers: int = 1
    dropout: float = 0.0
    training: bool = False


def _recurrence(layer: nn.RNNBase) -> Recurrence:
    backward = (False, True) if layer.bidirectional else (False,)
    weights: list[Any] = [getattr(layer, name) for name in layer._flat_weights_names]
    return Recurrence(layer.mode, weights, layer.bias, backward, layer.num_layers, float(layer.dropout), layer.training)


def masked_recurrent(
    net: Recurrence, value: Tensor, lengths: Tensor, states: Sequence[Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Recurrent layers on sequences of several lengths.

    Args:
        net: the layers, with D directions.
        value: ``[N, T, I]``; what follows the end of a sequence has no influence.
        lengths: ``[N]``, from 1 to T.
        states: the initial states ``[L·D, N, H]``: one, for an LSTM two; None for zeros.

    Returns:
        ``[N, T, D·H]``, with undefined values after the end of a sequence, and the last states ``[L·D, N, H]``.
    """
    ways, is_lstm = len(net.backward), net.kind == "LSTM"
    each = len(net.weights) // (net.layers * ways)
    places = _Places(value.shape[0], value.shape[1], lengths)
    lasts: list[list[Tensor]] = [[], []]
    for number in range(net.layers):
        results = []
        for way, backward in enumerate(net.backward):
            place = number * ways + way
            own = net.weights[place * each : (place + 1) * each]
            start = [
                _zeros(value, size) if states is None else states[index][place : place + 1].contiguous()
                for index, size in enumerate(_sizes(own[1], is_lstm))
            ]
            source = places.reversed(value) if backward else value
            steps = _one(net, source, start, own)
            lasts[0].append(places.last(steps))
            if is_lstm:
                lasts[1].append(_last_cell(source, steps, start, own, net.biased, places.inside))
            results.append(places.reversed(steps) if backward else steps)
        value = torch.cat(results, -1) if ways > 1 else results[0]
        if net.dropout and number < net.layers - 1:
            value = functional.dropout(value, net.dropout, net.training)
    return value, tuple(torch.stack(items) for items in lasts if items)


class _Places:
    """Rows of the flattened steps ``[N·T, C]`` of sequences."""

    def __init__(self, rows: int, steps: int, lengths: Tensor) -> None:
        self.steps = steps
        ends, order = lengths.clamp(1, steps).unsqueeze(1), torch.arange(steps).unsqueeze(0)
        first = torch.arange(rows).unsqueeze(1) * steps
        self.inside = order < ends
        self._last = (first + ends - 1).flatten()
        self._turned = (first + torch.where(self.inside, ends - 1 - order, order)).flatten()

    def reversed(self, value: Tensor) -> Tensor:
        """The valid steps of every sequence in reverse order."""
        turned = value.flatten(0, 1).index_select(0, self._turned)
        return turned.unflatten(0, (-1, self.steps))  # type: ignore[no-any-return]

    def last(self, value: Tensor) -> Tensor:
        """``[N, C]``: the last valid step of every sequence."""
        return value.flatten(0, 1).index_select(0, self._last)


def _sizes(recurrent: Tensor, is_lstm: bool) -> list[int]:
    """Sizes of the states, from a matrix ``[gates · H, P]``: an LSTM's hidden state may be projected."""
    return [recurrent.shape[1], *([recurrent.shape[0] // 4] if is_lstm else [])]


def _zeros(value: Tensor, size: int) -> Tensor:
    return torch.zeros(1, value.shape[0], size, dtype=value.dtype)


def _one(net: Recurrence, value: Tensor, start: list[Tensor], weights: Sequence[Tensor]) -> Tensor:
    states: Any = start if net.kind == "LSTM" else start[0]
    steps: Tensor = _KERNELS[net.kind](value, states, list(weights), net.biased, 1, 0.0, net.training, False, True)[0]
    return steps


def _last_cell(
    value: Tensor, steps: Tensor, start: list[Tensor], weights: Sequence[Tensor], biased: bool, inside: Tensor
) -> Tensor:
    """``[N, H]``: the cell state after the last valid step, from the hidden states of all steps.

    With ``c_t = f_t c_(t-1) + i_t g_t``, it is ``sum_t (i_t g_t · prod_(s>t) f_s) + c_0 · prod_s f_s`` of valid steps.
    """
    before = torch.cat([start[0].transpose(0, 1), steps[:, :-1]], 1)
    biases = weights[2:4] if biased else [None, None]
    gates = functional.linear(value, weights[0], biases[0]) + functional.linear(before, weights[1], biases[1])
    take, keep, new, _ = gates.chunk(4, -1)
    outside = ~inside.unsqueeze(-1)
    kept = functional.logsigmoid(keep).masked_fill(outside, 0.0)
    after = kept.flip(1).cumsum(1).flip(1)
    added = (take.sigmoid() * new.tanh() * (after - kept).exp()).masked_fill(outside, 0.0)
    return added.sum(1) + start[1].squeeze(0) * after[:, 0].exp()
