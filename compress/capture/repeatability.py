"""Whether a model gives the same outputs every time: random numbers, and buffers and attributes that a run changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx, nn

from ...core.errors import CaptureError
from ...core.graph_state import REMEDY, state_in_words, state_of
from .derived_signature import Tensors
from .failures import difference
from .preserve_state import same_buffers

Outputs = list[torch.Tensor]
_RUNS, _SEED = 3, 0


@dataclass(frozen=True)
class State:
    """Buffers that runs of a model change, and that its outputs depend on.

    Attributes:
        names: the buffers.
        runs: number of runs on the same inputs until the outputs differ from those of the first.
        outputs: the outputs of that run.
    """

    names: list[str]
    runs: int
    outputs: Outputs


def require_repeatable(run: Callable[[], Outputs], model: nn.Module) -> State | None:
    """Run a model several times on the same inputs, with and without the changes that it makes to its buffers.

    Returns:
        The buffers by which later runs differ from the first; None if they do not differ.

    Raises:
        CaptureError: runs differ although the buffers are the same.
    """
    first = _apart(run, model)
    if not _same(first, _apart(run, model)):
        raise _unsteady(run, model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with same_buffers(model):
        for count in range(1, _RUNS + 1):
            later = run()
            changed = [name for name, buffer in model.named_buffers() if not _same([before[name]], [buffer])]
            if not changed:
                return None
            if not _same(first, later):
                return State(changed, count, later)
    return None


def state_notes(state: State | None, module: fx.GraphModule, feeds: Tensors) -> tuple[str, ...]:
    """A remark on the buffers that a program changes and that its outputs depend on; none if there are none.

    Raises:
        CaptureError: the program does not change them as the model does.
    """
    if state is not None:
        with same_buffers(module), torch.no_grad():
            for _ in range(state.runs):
                outputs = module(*(tensor.clone() for tensor in feeds.values()))
        if any(difference(*pair) for pair in zip(outputs, state.outputs, strict=True)):
            raise CaptureError(
                f"{state_in_words(state.names)}, but a captured graph cannot repeat the change",
                f"change it in place (`self.state.copy_(new)`), or {REMEDY}",
                buffers=state.names,
            )
    names = (
        state.names
        if state is not None
        else [str(node.target) for node in state_of(module.graph, module.graph.find_nodes(op="get_attr"))]
    )
    if not names:
        return ()
    return (
        f"{state_in_words(names)}; ONNX files compute each run as if it were the first, and `export` refuses: {REMEDY}",
    )


def _unsteady(run: Callable[[], Outputs], model: nn.Module) -> CaptureError:
    """Why two runs differ: with the same random numbers they agree, or they do not."""

    def _seeded() -> Outputs:
        torch.manual_seed(_SEED)
        return _apart(run, model)

    with torch.random.fork_rng(devices=()):
        random = _same(_seeded(), _seeded())
    if random:
        return CaptureError(
            "the model's outputs are random in evaluation: two runs on the same example differ",
            "pass `training=self.training` to F.dropout, and draw random numbers only in training",
        )
    return CaptureError(
        "two runs of the model on the same example differ, also with the same random numbers of PyTorch: its outputs "
        "depend on something that a run changes, such as an attribute, or on random numbers of Python or numpy",
        "pass such a value to `forward` as an input, or change it only `if self.training`",
    )


def _apart(run: Callable[[], Outputs], model: nn.Module) -> Outputs:
    with same_buffers(model):
        return run()


def _same(left: Outputs, right: Outputs) -> bool:
    return len(left) == len(right) and all(
        one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())
        for one, two in zip(left, right)
    )
