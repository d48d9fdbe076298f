"""The user's own training loop on a program, followed by prune, quantize and export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from api_nets import Cnn, Gru, Texts, bert, images, loader, series
from torch import nn

import retort
from retort.core.errors import InputError, ModelError, UserError
from retort.pipeline.live.objects.programs import Program

QUICK: dict[str, Any] = {"timed": False, "correction": "none", "weight_bits": 7}
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "cnn": (Cnn, images),
    "gru": (Gru, series),
    "bert": (bert, Texts),
}


def taken(batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs by name and labels of a batch."""
    if isinstance(batch, dict):
        return {name: batch[name] for name in ("input_ids", "attention_mask")}, batch["labels"]
    return {"only": batch[0]}, batch[1]


def call(module: Any, inputs: Mapping[str, Any]) -> Any:
    """Call a module with inputs, by name if it has several."""
    return module(**inputs) if len(inputs) > 1 else module(*inputs.values())


@pytest.mark.parametrize("family", ["cnn", "gru", pytest.param("bert", marks=pytest.mark.slow)])
def test_a_loop_of_ones_own_trains_the_program(family: str) -> None:
    """A hand-written loop over `program.module` lowers the loss; pruning, INT8 and the file use its weights."""
    make, data = CASES[family]
    torch.manual_seed(0)
    batches = loader(data())
    program = retort.capture(make(), batches)
    module = program.module
    inputs, _ = taken(next(iter(batches)))
    module.train()
    assert not torch.equal(call(module, inputs), call(module, inputs)), "dropout is off in training"
    before = call(program, inputs)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=5e-3), []
    for _ in range(4):
        for batch in batches:
            feeds, labels = taken(batch)
            loss = nn.functional.cross_entropy(call(module, feeds), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
    module.eval()
    assert losses[-1] < losses[0]
    trained = call(module, inputs).detach()
    assert torch.equal(trained, call(module, inputs)), "dropout is on in evaluation"
    assert torch.equal(trained, call(program, inputs))
    assert not torch.equal(trained, before)
    assert program.artifact.manifest.stage == "trained"

    small = retort.prune(program, macs=0.8, data=batches, recover=None)
    assert small.artifact.manifest.parents == (program.artifact.key,)
    assert small.facts.macs_after < small.facts.macs_before
    assert torch.equal(trained, call(program, inputs)), "pruning changed its input"
    int8 = retort.quantize(small, data=batches, **QUICK)
    assert isinstance(int8, Program)
    graph = retort.export(int8)
    given = {name: value.numpy() for name, value in inputs.items()}
    wanted, found = np.asarray(call(int8, given)), call(graph, given)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.mean(wanted.argmax(1) == call(small, inputs).numpy().argmax(1)) > 0.8


def test_a_program_forgets_no_training() -> None:
    """Every training step after a stage gives another artifact, and the next stage uses the newest weights."""
    program = retort.capture(nn.Linear(4, 2), torch.randn(8, 4))
    first = program.artifact.key
    with torch.no_grad():
        next(program.module.parameters()).mul_(2)
    second = program.artifact.key
    next(program.module.parameters()).data.mul_(2)  # which PyTorch counts no version of
    assert len({first, second, program.artifact.key}) == 3
    x = torch.randn(3, 4)
    graph = retort.export(program)
    assert np.allclose(graph(x), program(x).numpy(), atol=1e-6)


def test_training_int8_by_hand_keeps_it_int8() -> None:
    """An INT8 program is trained with its fake-quantize nodes, and is exported as INT8 afterwards."""
    data = images()
    int8 = retort.quantize(retort.capture(Cnn(), loader(data)), data=data, **QUICK)
    assert isinstance(int8, Program)
    module = int8.module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    x, labels = data.tensors
    torch.autograd.backward(nn.functional.cross_entropy(module(x), labels))
    optimizer.step()
    graph = retort.export(int8)
    assert graph.facts.quantized
    assert np.abs(graph(x) - int8(x).numpy()).max() < 0.05 * np.abs(int8(x).numpy()).max()


def test_the_module_is_a_plain_module() -> None:
    """Parameters have the model's names, state dicts can be read and loaded, copies share nothing."""
    net = Cnn()
    program = retort.capture(net, torch.randn(4, 1, 8, 8))
    module = program.module
    names = [name for name, _ in net.named_parameters()]
    assert [name for name, _ in module.named_parameters()] == names
    assert isinstance(module, nn.Module)
    other = Cnn()
    module.load_state_dict(other.state_dict(), strict=False)
    x = torch.randn(4, 1, 8, 8)
    assert torch.allclose(program(x), other.eval()(x), atol=1e-6)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert torch.allclose(program(x), other(x), atol=1e-6)
    with pytest.raises(InputError, match="labels by name"):
        module(x, labels=x)
    with pytest.raises(ModelError, match="half precision"):
        _ = (module.half(), program.artifact)
    with pytest.raises(ModelError, match="cannot be pickled"):
        copy.copy(module).__reduce__()


def test_live_objects_are_copied_and_not_pickled() -> None:
    """A deep copy of a program is another program; pickling fails and recommends `save`."""
    import pickle

    program = retort.capture(nn.Linear(4, 2), torch.randn(8, 4))
    twin = copy.deepcopy(program)
    with torch.no_grad():
        next(twin.module.parameters()).zero_()
    x = torch.randn(3, 4)
    assert not torch.equal(twin(x), program(x))
    with pytest.raises(UserError, match=r"retort\.load"):
        pickle.dumps(program)
