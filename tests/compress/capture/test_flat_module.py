"""How inputs reach a model: by position, by any name, or together in a dict or a list; and what is said where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.core.data.array_splits import array_split
from retort.core.errors import CaptureError, InputError, ModelError

FEEDS = {"left": torch.randn(3, 4), "right": torch.randn(3, 5)}


class Pair(nn.Module):
    """Two layers for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(5, 2)

    def both(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The sum of both."""
        result: torch.Tensor = self.left(left) + self.right(right)
        return result


class Dict(Pair):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.both(batch["left"], batch["right"])


class List(Pair):
    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return self.both(parts[0], parts[1])


class AnyName(Pair):
    def forward(self, **parts: torch.Tensor) -> torch.Tensor:
        return self.both(parts["left"], parts["right"])


class OneAndAnyName(Pair):
    def forward(self, left: torch.Tensor, **parts: torch.Tensor) -> torch.Tensor:
        return self.both(left, parts["right"])


class Three(Pair):
    def forward(self, one: torch.Tensor, two: torch.Tensor, three: torch.Tensor) -> torch.Tensor:
        return self.both(one, two) + three


@pytest.mark.parametrize("kind", [Dict, List, AnyName, OneAndAnyName])
def test_inputs_reach_the_model_as_its_forward_takes_them(kind: type[Pair]) -> None:
    """One dict, one list, and free keywords: the program has the inputs by the names of the example."""
    model = kind().eval()
    program = capture(model, FEEDS)
    assert [spec.name for spec in program.signature.inputs] == ["left", "right"]
    torch.testing.assert_close(program.module(*FEEDS.values())[0], model.both(*FEEDS.values()))


def test_a_single_input_may_be_in_a_dict() -> None:
    """A forward that takes a dict of one tensor, under a name of its own."""

    class Named(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["pixels"] * 2

    x = torch.randn(3, 4)
    assert torch.equal(capture(Named(), {"pixels": x}).module(x)[0], 2 * x)


def test_inputs_that_do_not_fit_are_refused_by_their_names() -> None:
    """Two inputs for a forward that takes three."""
    with pytest.raises(ModelError, match="the example has inputs left, right, but the model's forward takes one, two"):
        capture(Three(), FEEDS)


class Cached(nn.Module):
    """Attention over a cache and the new steps."""

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([past, x], 1)
        return torch.softmax(x @ keys.transpose(1, 2), -1) @ keys, keys


def cached() -> Program:
    """Captured at the first step, at which the cache is empty."""
    return capture(Cached(), {"x": torch.randn(3, 2, 4), "past": torch.zeros(3, 0, 4)}, dynamic={"past": {1: "steps"}})


def test_a_cache_may_be_empty_at_the_first_step() -> None:
    """The program runs with an empty cache and with a full one; an input without any values is still refused."""
    program = cached()
    for steps in (0, 1, 5):
        feeds = {"x": torch.randn(3, 2, 4), "past": torch.randn(3, steps, 4)}
        program.signature.validate({name: value.numpy() for name, value in feeds.items()})
        for found, wanted in zip(program.module(*feeds.values()), Cached()(*feeds.values())):
            torch.testing.assert_close(found, wanted)
    with pytest.raises(InputError, match="is empty along axis 0"):
        program.signature.validate({"x": np.zeros((0, 2, 4), np.float32), "past": np.zeros((0, 0, 4), np.float32)})


def test_torchscript_inside_a_model_is_named() -> None:
    """The message has the submodule and what to put in its place."""
    scripted: Any = torch.jit.script(nn.Linear(4, 3))
    with pytest.raises(CaptureError, match="the submodule '0' is TorchScript") as caught:
        capture(nn.Sequential(scripted), {"x": torch.randn(2, 4)})
    assert "without `torch.jit.script`" in str(caught.value)


def test_another_type_than_the_parameters_is_named() -> None:
    """BF16 data for an FP32 model: both types and the conversion are named; data in memory become FP32."""
    with pytest.raises(ModelError, match=r"'x' is bfloat16 and the parameters are float32.*\.to\(torch\.float32\)"):
        capture(nn.Linear(4, 3), {"x": torch.randn(2, 4).bfloat16()})
    split = array_split({"x": torch.ones(2, 4).bfloat16()}, torch.ones(2).bfloat16(), "data")
    assert split.inputs["x"].dtype == np.float32


class Wrapper(nn.Module):
    """Passes everything on to the module inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the module inside."""
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("wrapper", [Wrapper, torch.optim.swa_utils.AveragedModel])
def test_a_wrapper_that_passes_on_everything_is_captured(wrapper: Any) -> None:
    """Inputs without a name reach the module inside by position."""
    inner, x = nn.Linear(4, 2), torch.randn(5, 4)
    program = capture(wrapper(inner), {"input_0": torch.randn(3, 4)})
    torch.testing.assert_close(program.module(x)[0], inner(x))


class Forces(nn.Module):
    """The negative gradient of an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 4]``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return -torch.autograd.grad(self.energy(x).tanh().sum(), x)[0]


class Mapped(nn.Module):
    """An ensemble by ``torch.vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 2]``."""
        result: torch.Tensor = torch.vmap(lambda weight: torch.relu(x @ weight))(self.weights).mean(0)
        return result


class Packed(nn.Module):
    """Makes a packed sequence itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 3]``."""
        sizes = (x[:2, 0] > 9).long() + x.shape[0]
        packed = nn.utils.rnn.PackedSequence(torch.cat([x, x]), sizes)
        result: torch.Tensor = self.layer(packed)[1][0]
        return result


@pytest.mark.parametrize(
    ("model", "words"),
    [(Forces, "computes gradients"), (Mapped, r"uses torch\.vmap"), (Packed, "did not come from pack_padded_sequence")],
)
def test_what_cannot_be_traced_is_named(model: type[nn.Module], words: str) -> None:
    """Gradients, transforms of functions and packed data of its own are named instead of PyTorch's own message."""
    with pytest.raises(CaptureError, match=words):
        capture(model(), {"x": torch.randn(3, 4)})
