"""Transfer: weights of which only a part fits, other names, a new head, and models of PyTorch Hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.sources.new_head import replace_head
from retort.compress.sources.saved_weights import load_weights
from retort.core.data.references import resolve, source_identity
from retort.core.errors import MissingFileError, ModelError, RetortError, UserError
from retort.core.options.option_types import from_string

HUBCONF = """
dependencies = ["torch"]
from parts import width
from torch import nn

def small(inputs=4, pretrained=False):
    if pretrained:
        raise OSError("no route to host")
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 3))

def _hidden():
    pass
"""


class Net(nn.Module):
    """A backbone and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        result: torch.Tensor = self.head(self.backbone(x))
        return result


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of a net with 10 classes, whose backbone has another name."""
    torch.manual_seed(1)
    state = {name.replace("backbone", "module.encoder"): value for name, value in Net(10).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "big.pt")
    return tmp_path / "big.pt"


def test_weights_that_fit_are_loaded_and_the_rest_is_told(weights: Path) -> None:
    """The backbone comes from the file under another name, the head of other shape stays, and the notes say so."""
    net = Net(3)
    before = net.head.weight.clone()
    notes = load_weights(net, weights, matching=True, names={"module.encoder.*": "backbone.*"})
    state = torch.load(weights, weights_only=True)["state_dict"]
    mine = net.state_dict()
    assert torch.equal(mine["backbone.0.weight"], state["module.encoder.0.weight"])
    assert torch.equal(mine["backbone.1.running_var"], state["module.encoder.1.running_var"])
    assert torch.equal(net.head.weight, before)
    text = "\n".join(notes)
    assert "7 of 9 weights of the model were loaded" in text
    assert "head.weight [10, 5] in the file, [3, 5] in the model" in text


def test_a_weight_can_be_left_out_and_missing_ones_are_told(weights: Path) -> None:
    """An empty new name leaves weights out; what the file does not have then starts anew."""
    net = Net(10)
    before = net.head.bias.clone()
    notes = load_weights(net, weights, matching=True, names={"head.*": "", "module.encoder.*": "backbone.*"})
    assert torch.equal(net.head.bias, before)
    assert "not in the file, so they start anew: head.weight, head.bias" in "\n".join(notes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"module.encodr.*": "backbone.*"}, "the file has no weight 'module.encodr.*'"),
        ({"a.*.*": "b"}, "is unclear"),
        ({"head.*": "*.*"}, "is unclear"),
        ({"module.encoder.*": "elsewhere.*", "head.*": ""}, "no weight in"),
    ],
)
def test_names_that_help_nothing_are_refused(weights: Path, names: dict[str, str], words: str) -> None:
    """A pattern without a weight, an unclear one, and a file of which nothing fits are errors."""
    with pytest.raises(RetortError) as caught:
        load_weights(Net(3), weights, matching=True, names=names)
    assert words in str(caught.value)


def test_without_matching_a_head_of_other_shape_is_still_an_error(weights: Path) -> None:
    """The default stays strict."""
    with pytest.raises(ModelError, match="do not fit"):
        load_weights(Net(3), weights, names={"module.encoder.*": "backbone.*"})


def captured(net: nn.Module, rows: int = 4) -> Program:
    """A captured net on random inputs of four values."""
    torch.manual_seed(0)
    return capture(net, {"x": torch.randn(rows, 4)})


def test_a_new_head_has_other_classes_and_the_same_backbone() -> None:
    """The last layer is new, all else is bit for bit as before, and the signature says the new number."""
    program, same = captured(Net(3)), captured(Net(3))
    theirs = {name: value.clone() for name, value in program.module.state_dict().items()}
    note = replace_head(program, 7, seed=3)
    replace_head(same, 7, seed=3)
    mine = program.module.state_dict()
    assert mine["head.weight"].shape == (7, 5)
    assert all(torch.equal(mine[name], value) for name, value in theirs.items() if not name.startswith("head"))
    assert torch.equal(mine["head.weight"], same.module.state_dict()["head.weight"])
    assert float(mine["head.weight"].abs().max()) <= 1 / 5**0.5
    assert program.signature.outputs[0].shape == ("batch", 7)
    assert program.module(torch.randn(6, 4))[0].shape == (6, 7)
    assert "3 classes before, 7 classes now" in note


def test_a_head_that_cannot_be_replaced_says_why() -> None:
    """A head tied to other weights, and a prediction that comes from no layer, are refused."""

    class Tied(nn.Module):
        """Predicts tokens with the weights of its embedding."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Scores of tokens."""
            return nn.functional.linear(self.table(x).mean(1), self.table.weight)

    tied = capture(Tied(), {"x": torch.randint(0, 9, (4, 3))})
    with pytest.raises(ModelError, match="also used elsewhere"):
        replace_head(tied, 3)
    summed = capture(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), {"x": torch.randn(4, 4)})
    with pytest.raises(ModelError, match="comes from relu"):
        replace_head(summed, 3)


def test_capture_takes_part_of_the_weights_and_a_new_head(weights: Path, tmp_path: Path) -> None:
    """`retort.capture` with names, matching weights and new classes gives a program that can be trained on them."""
    (tmp_path / "transfer_net.py").write_text(
        "from torch import nn\n\ndef build():\n"
        "    net = nn.Module()\n    net = nn.Sequential()\n"
        "    net.add_module('backbone', nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()))\n"
        "    net.add_module('head', nn.Linear(5, 10))\n    return net\n"
    )
    data = str(tmp_path / "data.npz")
    np.savez(data, x=np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32), y=np.arange(40) % 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        program = retort.capture(
            "transfer_net:build",
            data=data,
            weights=str(weights),
            weights_fit="matching",
            weights_names={"module.encoder.*": "backbone.*"},
            classes=4,
        )
        trained = retort.train(program, data=data, epochs=1)
    assert program.signature.outputs[0].shape == ("batch", 4)
    assert trained.facts["epochs"] == 1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of PyTorch Hub with one repository."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "someone_nets_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUBCONF)
    (folder / "parts.py").write_text("width = 6\n")
    return folder


def test_a_hub_model_on_this_machine_is_made(hub: Path) -> None:
    """The function of hubconf.py makes the model; its own modules are found, and its code determines the identity."""
    net = resolve("hub:someone/nets:small", hub)(inputs=5)
    assert net[0].weight.shape == (6, 5)
    before = source_identity("hub:someone/nets:small", hub)
    (hub / "parts.py").write_text("width = 7\n")
    assert source_identity("hub:someone/nets:small", hub) != before
    assert from_string({"hub": "someone/nets:small", "args": {}}) == {"source": "hub:someone/nets:small", "args": {}}


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("hub:someone/nets:smal", UserError, "did you mean 'small'"),
        ("hub:someone/nets:_hidden", UserError, "has no model '_hidden'"),
        ("hub:someone/nets:v2:small", MissingFileError, "but someone_nets_main"),
        ("hub:other/nets:small", MissingFileError, "torch.hub.list('other/nets')"),
        ("hub:nets:small", UserError, "hub:owner/repo:name"),
    ],
)
def test_a_hub_model_that_is_not_there_says_what_to_do(
    hub: Path, reference: str, kind: type[RetortError], words: str
) -> None:
    """Each mistake, and a repository that was never fetched, is one clear message."""
    with pytest.raises(kind) as caught:
        resolve(reference, hub)
    assert words in str(caught.value)


def test_hub_weights_that_would_be_downloaded_say_where_to_put_them(hub: Path) -> None:
    """A model function that needs the network names the folder of weights."""
    data = str(hub / "data.npz")
    np.savez(data, x=np.zeros((8, 4), np.float32), y=np.zeros(8, np.int64))
    with pytest.raises(ModelError) as caught:
        retort.capture("hub:someone/nets:small", data=data, args={"pretrained": True})
    assert "checkpoints" in str(caught.value)
    assert retort.capture("hub:someone/nets:small", data=data).signature.outputs[0].shape == ("batch", 3)
