"""Students made from their teacher: what is found in the graph, what is left out, and what the student computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import fx, nn

from retort.compress.capture.capture_program import capture
from retort.compress.distillation.students import derive as making
from retort.compress.distillation.students.block_importance import least_important
from retort.compress.distillation.students.derive import derive
from retort.compress.distillation.students.parts import all_stacks, leavable
from retort.compress.distillation.students.removable_blocks import without
from retort.compress.distillation.students.residual_blocks import residual_blocks
from retort.compress.distillation.students.stacks import stacks_of
from retort.compress.distillation.students.stored_student import NOTES, forget
from retort.compress.program import Program, cost, evaluating
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ModelError, RetortError, UserError
from retort.core.options.student_form import Depth, StudentForm, student_form
from retort.examples import networks, transformers_zoo

torch.set_num_threads(1)


class Block(nn.Module):
    """A post-activation residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``relu(x + f(x))``."""
        result: torch.Tensor = torch.relu(x + self.norm(self.two(torch.relu(self.one(x)))))
        return result


class ConvNet(nn.Module):
    """A stem, equal residual blocks and a head."""

    def __init__(self, blocks: int = 4, width: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, 3)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of three classes."""
        result: torch.Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return result


class Recurrent(nn.Module):
    """A recurrent network whose last states of all layers are read."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN], layers: int = 4, **given: Any) -> None:
        super().__init__()
        self.layers = kind(5, 6, num_layers=layers, batch_first=True, **given)
        self.head = nn.Linear(6 * layers * (2 if given.get("bidirectional") else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of three classes."""
        _, state = self.layers(x)
        state = state[0] if isinstance(state, tuple) else state
        result: torch.Tensor = self.head(state.transpose(0, 1).flatten(1))
        return result


def conv_net(width: int = 4) -> Program:
    """A captured net of four equal residual blocks."""
    torch.manual_seed(0)
    net = ConvNet(width=width)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
    return capture(net, {"x": torch.randn(4, 1, 6, 6)})


def splits_of(x: NDArray[np.float32], targets: NDArray[np.int64]) -> Splits:
    """The same samples in all four splits."""
    split = ArraySplit({"x": x}, targets)
    return Splits(split, split, split, split)


def images(count: int = 24) -> Splits:
    """Random images with classes."""
    generator = np.random.default_rng(0)
    return splits_of(generator.standard_normal((count, 1, 6, 6)).astype(np.float32), np.arange(count) % 3)


def run(program: Program) -> torch.Tensor:
    """The first output on the example, in evaluation mode."""
    with evaluating(program), torch.no_grad():
        result: torch.Tensor = program.module(*program.example.values())[0]
    return result


class Skipping(fx.Interpreter):
    """Runs a graph and gives, in place of the results of some nodes, those of others."""

    def __init__(self, module: fx.GraphModule, instead: dict[str, str]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.instead, self.values = instead, dict[str, Any]()

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, or that of the node in its place."""
        self.values[n.name] = super().run_node(n) if n.name not in self.instead else self.values[self.instead[n.name]]
        return self.values[n.name]


def zoo(name: str) -> Program:
    """A captured architecture that others wrote."""
    source: Any = transformers_zoo if name in transformers_zoo.names() else networks
    torch.manual_seed(0)
    feeds = next(iter(source.samples(name, 4).values()))
    return capture(source.build(name), {key: torch.from_numpy(value) for key, value in feeds.items()})


def test_equal_layers_are_found_in_the_graph() -> None:
    """Four equal residual blocks are one stack of four layers, and each is a residual block that can be left out."""
    program = conv_net()
    (stack,) = stacks_of(program)
    assert [layer.name for layer in stack] == [f"blocks.{place}" for place in range(4)]
    assert len({layer.macs for layer in stack}) == 1
    assert stack[0].macs * 4 < cost(program).macs
    assert [block.exit for block in residual_blocks(program)] == [layer.exit for layer in stack]
    assert [layer.entry for layer in stack[1:]] == [layer.exit for layer in stack[:-1]]


@pytest.mark.parametrize(
    ("name", "layers", "blocks"), [("bert", 2, 4), ("vit", 2, 4), ("llama", 2, 4), ("albert", 2, 4)]
)
def test_transformers_show_their_layers(name: str, layers: int, blocks: int) -> None:
    """The layers of encoders and decoders are a stack, and attention and feed-forward are residual blocks."""
    program = zoo(name)
    (stack,) = stacks_of(program)
    found = residual_blocks(program)
    assert (len(stack), len(found)) == (2, 4)
    for parts in (stack[1:], found[::2], found[1:2], found):
        smaller = without(program, parts)
        instead = {part.exit: part.entry for part in parts}
        with evaluating(program), torch.no_grad():
            expected = Skipping(program.module, instead).run(*program.example.values())[0]
        assert torch.equal(run(smaller), expected)
        assert cost(smaller).macs == cost(program).macs - sum(part.macs for part in parts)


@pytest.mark.parametrize("norm_first", [False, True])
def test_all_layers_of_pytorchs_encoder_are_layers(norm_first: bool) -> None:
    """The first one too, although sizes that all layers use, such as batch times heads, are computed in it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    program = capture(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), {"x": torch.randn(2, 5, 8)})
    (stack,) = stacks_of(program)
    assert [part.name for part in stack] == ["layers.0", "layers.1", "layers.2"]
    for parts in (stack[:1], stack[:2], stack[1:]):
        smaller, instead = without(program, parts), {part.exit: part.entry for part in parts}
        with evaluating(program), torch.no_grad():
            expected = Skipping(program.module, instead).run(*program.example.values())[0]
        assert torch.equal(run(smaller), expected)
        with evaluating(smaller), torch.no_grad():
            assert smaller.module(torch.randn(3, 5, 8))[0].shape == (3, 5, 8)


def test_without_layers_the_rest_is_bit_for_bit_the_teacher() -> None:
    """A program without layers gives what the teacher gives if it hands on what these layers read."""
    program = conv_net()
    (stack,) = stacks_of(program)
    for places in ([0], [1, 2], [3], [0, 1, 2, 3]):
        gone = [stack[place] for place in places]
        with evaluating(program), torch.no_grad():
            expected = Skipping(program.module, {part.exit: part.entry for part in gone}).run(*program.example.values())
        assert torch.equal(run(without(program, gone)), expected[0])
    names = dict(without(program, stack[1:]).module.named_parameters())
    assert not any(name.startswith(("blocks.1", "blocks.2", "blocks.3")) for name in names)


def test_a_layer_that_something_else_reads_is_no_layer() -> None:
    """If a value inside a block is also an output, that block cannot be left out."""

    class Leaky(ConvNet):
        """Also returns what the first convolution of the third block gives."""

        def forward(self, x: torch.Tensor) -> Any:
            """Scores, and a value within the third block."""
            value = self.blocks[:2](torch.relu(self.stem(x)))
            block = self.blocks[2]
            assert isinstance(block, Block)
            inner = block.one(value)
            value = torch.relu(value + block.norm(block.two(torch.relu(inner))))
            return self.head(self.blocks[3](value).mean((2, 3))), inner

    program = capture(Leaky(), {"x": torch.randn(4, 1, 6, 6)})
    assert [layer.name for stack in stacks_of(program) for layer in stack] == ["blocks.0", "blocks.1"]
    assert len(residual_blocks(program)) == 3


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_are_left_out_of_their_call(kind: type[nn.LSTM | nn.GRU | nn.RNN], both: bool) -> None:
    """A student with layers 1, 3 and 4 of four computes what PyTorch computes with the weights of these three."""
    torch.manual_seed(0)
    net = Recurrent(kind, bidirectional=both)
    program = capture(net, {"x": torch.randn(4, 7, 5)})
    (stack,) = all_stacks(program)
    assert (stack.name, stack.size) == ("layers", 4)
    student = derive(program, StudentForm(layers=Depth(count=3)), Context(images()))
    small = kind(5, 6, num_layers=3, batch_first=True, bidirectional=both)
    weights = net.layers.state_dict()
    new = {name: weights[name.replace("_l2", "_l3").replace("_l1", "_l2")] for name in small.state_dict()}
    small.load_state_dict(new)
    (x,) = program.example.values()
    with torch.no_grad():
        _, state = small(x)
        state = state[0] if isinstance(state, tuple) else state
        sides = 2 if both else 1
        rows = [place * sides + side for place in (0, 1, 1, 2) for side in range(sides)]
        expected = net.head(state[rows].transpose(0, 1).flatten(1))
    torch.testing.assert_close(run(student), expected)
    assert cost(student).parameters < cost(program).parameters


def test_layers_are_kept_evenly_spread_with_the_teachers_weights() -> None:
    """Two of four layers are the first and the last, and every weight of the student is one of the teacher."""
    program = conv_net()
    student = derive(program, StudentForm(layers=Depth(count=2)), Context(images()))
    mine, theirs = student.module.state_dict(), program.module.state_dict()
    assert {name.split(".")[1] for name in mine if name.startswith("blocks")} == {"0", "3"}
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert not {value.data_ptr() for value in mine.values()} & {value.data_ptr() for value in theirs.values()}
    assert student.meta[NOTES][0] == "blocks.0 to blocks.3: 2 layers of 4 kept: 1, 4"


def test_the_block_that_does_least_is_left_out_first() -> None:
    """A block whose result is almost what it reads is the least important one; a block that does much stays."""
    program = conv_net()
    with torch.no_grad():
        named = dict(program.module.named_parameters())
        buffers = dict(program.module.named_buffers())
        named["blocks.2.norm.weight"].mul_(1e-4)
        named["blocks.2.norm.bias"].zero_()
        buffers["blocks.2.norm.running_mean"].zero_()
    gone = least_important(program, residual_blocks(program), 1, Context(images()))
    assert [item.block.name for item in gone] == ["blocks.2.{one,two}"]
    assert gone[0].distance < 1e-4
    student = derive(program, StudentForm(blocks=Depth(count=3)), Context(images()))
    assert not any(name.startswith("blocks.2") for name in student.module.state_dict())


def test_a_narrower_student_costs_its_share_of_the_teacher() -> None:
    """Depth and width combine, and the share is that of the whole teacher."""
    program = conv_net(width=32)
    student = derive(program, StudentForm(layers=Depth(count=3), width=("macs", 0.4)), Context(images()))
    share = cost(student).macs / cost(program).macs
    assert 0.2 < share <= 0.4
    assert run(student).shape == run(program).shape


def test_what_can_be_left_out_is_told_with_its_cost() -> None:
    """The parts have shares of the MACs that sum up to less than the whole."""
    parts = leavable(conv_net())
    assert [(part.name, part.layers) for part in parts.stacks] == [("blocks.0 to blocks.3", 4)]
    assert len(parts.blocks) == 4
    assert 0.9 < sum(part.macs for part in parts.blocks) < 1


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("layers:3", StudentForm(layers=Depth(count=3))),
        ("layers:0.5,macs:0.3", StudentForm(layers=Depth(share=0.5), width=("macs", 0.3))),
        ("blocks:50%", StudentForm(blocks=Depth(share=0.5))),
        ("size:0.25", StudentForm(width=("size", 0.25))),
        ("layers:build", None),
        ("my.module:small", None),
        ("runs/x.pt2", None),
    ],
)
def test_a_student_is_named_by_a_short_text(text: str, form: StudentForm | None) -> None:
    """Texts with numbers are ways to make a student; all others name a model."""
    assert student_form(text) == form


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer:3", "did you mean 'layers'"),
        ("layers:0", "at least one layer"),
        ("macs:1.5", "no share of the teacher"),
        ("layers:2,blocks:1", "both choose the depth"),
        ("macs:0.3,size:0.2", "two numbers for the same thing"),
    ],
)
def test_a_wrong_text_has_a_clear_error(text: str, words: str) -> None:
    """Each mistake in the text of a student is named."""
    with pytest.raises(UserError) as caught:
        student_form(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("layers:9", "4 equal layers"),
        ("layers:0.99", "leaves nothing out"),
        ("blocks:4", "leaves nothing out"),
        ("layers:0.5,macs:0.99", "reached by leaving out layers alone"),
    ],
)
def test_a_student_that_cannot_be_made_says_why(form: str, words: str) -> None:
    """Numbers that do not fit the teacher are refused with those that do."""
    asked = student_form(form)
    assert asked is not None
    with pytest.raises(RetortError) as caught:
        derive(conv_net(), asked, Context(images()))
    assert words in str(caught.value)


def test_a_teacher_without_layers_says_what_is_possible() -> None:
    """A plain net has neither equal layers nor residual blocks."""
    program = capture(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), {"x": torch.randn(2, 4)})
    data = splits_of(np.zeros((4, 4), np.float32), np.zeros(4, np.int64))
    for form in (StudentForm(layers=Depth(share=0.5)), StudentForm(blocks=Depth(share=0.5))):
        with pytest.raises(ModelError, match=r"macs:0\.5"):
            derive(program, form, Context(data))


def test_a_student_is_made_once_and_forgotten_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call of an interrupted run reads the student that the first one stored, with what was done."""
    program, asked = conv_net(), StudentForm(blocks=Depth(count=3))
    context = replace(Context(images()), scratch=tmp_path)
    first = derive(program, asked, context)
    monkeypatch.setattr(making, "least_important", lambda *given: pytest.fail("it was measured again"))
    again = derive(program, asked, context)
    assert again.meta[NOTES] == first.meta[NOTES]
    assert torch.equal(run(again), run(first))
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
