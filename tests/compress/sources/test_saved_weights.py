"""Checkpoints as people have them: what PyTorch loads strictly is loaded, below any wrapper and prefix."""

from __future__ import annotations

import io
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from retort.compress.sources.saved_weights import load_weights
from retort.core.data.references import source_identity
from retort.core.errors import ArtifactError, MissingFileError, ModelError

State = dict[str, torch.Tensor]


def net() -> nn.Module:
    """A convolution and a BatchNorm."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def trained() -> State:
    """Weights that a new net does not have."""
    torch.manual_seed(1)
    return {name: torch.rand_like(value.float()).to(value.dtype) for name, value in net().state_dict().items()}


def prefixed(prefix: str) -> State:
    """The same, with a prefix before every name."""
    return {prefix + name: value for name, value in trained().items()}


def loaded(tmp_path: Path, content: Any, suffix: str = "", model: nn.Module | None = None) -> tuple[nn.Module, str]:
    """The model with the weights of a file with this content, and the notes."""
    model = model or net()
    torch.save(content, tmp_path / "w.pt")
    notes = load_weights(model, tmp_path / f"w.pt{suffix}")
    return model, "; ".join(notes)


def assert_trained(model: nn.Module) -> None:
    """All parameters and statistics are those of the file."""
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, trained()[name]), name


PLAIN: dict[str, Callable[[], Any]] = {
    "as it is": trained,
    "ordered, with metadata": lambda: OrderedDict(trained()),
    "module.": lambda: prefixed("module."),
    "_orig_mod.module.": lambda: prefixed("_orig_mod.module."),
    "module._orig_mod.": lambda: prefixed("module._orig_mod."),
    "averaged": lambda: {**prefixed("module."), "n_averaged": torch.tensor(3)},
    "Lightning": lambda: {"state_dict": prefixed("model."), "epoch": 1, "hyper_parameters": {"lr": 0.1}},
    "another network beside": lambda: {**prefixed("student."), "criterion.weight": torch.ones(3)},
    "trainer": lambda: {"model_state_dict": trained(), "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "exponential average": lambda: {"params_ema": trained()},
    "deep": lambda: {"ema": {"state_dict": prefixed("module.")}},
    "without num_batches_tracked": lambda: {k: v for k, v in trained().items() if "num_batches" not in k},
}


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_what_pytorch_takes_is_taken(content: Callable[[], Any], tmp_path: Path) -> None:
    """Wrappers, prefixes of every order and old BatchNorm statistics end in the weights of the file."""
    model, _ = loaded(tmp_path, content())
    assert_trained(model)


def test_a_safetensors_file_is_loaded(tmp_path: Path) -> None:
    """The same holds for safetensors, whatever stands before the names."""
    save_file(prefixed("model."), tmp_path / "w.safetensors")
    model = net()
    assert load_weights(model, tmp_path / "w.safetensors") == [
        "the weights were found in the file, without the prefix 'model.'"
    ]
    assert_trained(model)


def test_load_hooks_of_modules_run(tmp_path: Path) -> None:
    """Keys of the old `weight_norm` go into the parametrization, and a module's own hook renames its keys."""
    torch.manual_seed(2)
    old = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(3, 4, 3)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)))
    loaded(tmp_path, dict(old.state_dict()), model=new)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(new(x), old(x))

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.new = nn.Linear(3, 2)
            self._register_load_state_dict_pre_hook(self._rename)  # type: ignore[no-untyped-call]

        def _rename(self, state: dict[str, Any], *_: Any) -> None:
            for name in [name for name in state if name.startswith("old.")]:
                state[name.replace("old.", "new.")] = state.pop(name)

    weights = {"old.weight": torch.ones(2, 3), "old.bias": torch.ones(2)}
    model, _ = loaded(tmp_path, {"state_dict": weights}, model=Renamed())
    assert all(bool((value == 1).all()) for value in model.state_dict().values())


def test_where_the_weights_were_is_said(tmp_path: Path) -> None:
    """The notes name the key, the prefix, other sets that fit, and what was left unused."""
    content = {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(1)}, "ema": prefixed("module.")}
    model, notes = loaded(tmp_path, content)
    assert_trained(model)
    assert "found under 'state_dict', without the prefix 'model.'" in notes
    assert "other weights that fit: ema (choose with `#ema`)" in notes
    assert "not used of the file: loss.weight" in notes
    assert loaded(tmp_path, trained())[1] == ""


def test_one_of_several_is_chosen_by_its_key(tmp_path: Path) -> None:
    """Two averages without the trained model are an error with a remedy, which works when it is followed."""
    zeros = {name: torch.zeros_like(value) for name, value in trained().items()}
    content = {"ema": {"weights": trained()}, "swa": zeros}
    with pytest.raises(ModelError, match=r"several sets of weights that fit the model: ema\.weights, swa") as error:
        loaded(tmp_path, content)
    assert "w.pt#ema.weights" in str(error.value.remedy)
    assert_trained(loaded(tmp_path, content, "#ema.weights")[0])
    assert not loaded(tmp_path, content, "#swa")[0].state_dict()["0.weight"].any()
    with pytest.raises(ArtifactError, match="no state dict under 'emma'") as wrong:
        loaded(tmp_path, content, "#emma")
    assert "ema.weights, swa" in str(wrong.value.remedy)


def test_weights_that_do_not_fit_leave_the_model_alone(tmp_path: Path) -> None:
    """Shapes, missing and unknown keys are listed with the nearest spelling; the model keeps its weights."""
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = {**trained(), "0.weight": torch.zeros(5, 3, 3, 3), "1.wieght": torch.zeros(4)}
    del wrong["1.weight"]
    with pytest.raises(ModelError) as error:
        loaded(tmp_path, {"state_dict": wrong}, model=model)
    text = str(error.value)
    assert "0.weight has shape [5, 3, 3, 3] in the file and [4, 3, 3, 3] in the model" in text
    assert "missing: 1.weight; did you mean '1.wieght'?" in text
    assert "not in the model: 1.wieght" in text
    assert "(under 'state_dict')" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Opaque:
    """A pickled object."""


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "whole keys are integers": (
        lambda path: torch.save(dict(enumerate(trained().values())), path),
        "no state dict .*; it holds: 0, 1, 2",
    ),
    "nothing": (lambda path: torch.save({}, path), "it holds: nothing"),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "it holds: list"),
    "a pickled object": (lambda path: torch.save({"a": Opaque()}, path), r"pickled Python objects .*Opaque"),
    "a whole module": (lambda path: torch.save(net(), path), "pickled Python objects besides tensors"),
    "TorchScript": (lambda path: torch.jit.trace(net().eval(), torch.ones(1, 3, 4, 4)).save(str(path)), "TorchScript"),
    "text": (lambda path: path.write_text("weights"), "cannot be read as a state dict"),
    "truncated": (lambda path: path.write_bytes(_bytes(trained())[:200]), "truncated or damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_one_sentence(fault: str, tmp_path: Path) -> None:
    """What is no state dict is named, in words that never ask for `weights_only=False`."""
    write, message = FAULTS[fault]
    write(tmp_path / "w.pt")
    with pytest.raises(ArtifactError, match=message) as error:
        load_weights(net(), tmp_path / "w.pt")
    assert "weights_only" not in str(error.value)
    assert "\n" not in error.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A key behind the path does not hide that the file is missing."""
    with pytest.raises(MissingFileError, match=r"no such weights: .*w\.pt\n"):
        load_weights(net(), tmp_path / "w.pt#ema")


def test_a_name_with_the_separator_is_a_name(tmp_path: Path) -> None:
    """A file whose name has a `#` is opened as it is called."""
    torch.save(trained(), tmp_path / "run#1.pt")
    model = net()
    assert load_weights(model, tmp_path / "run#1.pt") == []
    assert_trained(model)


def test_the_key_of_an_artifact_follows_the_file(tmp_path: Path) -> None:
    """The identity of `w.pt#ema` changes with the file and with the key behind the path."""
    (tmp_path / "w.pt").write_bytes(b"one")
    first = {source_identity(name, tmp_path) for name in ("w.pt", "w.pt#ema", "w.pt#swa")}
    (tmp_path / "w.pt").write_bytes(b"two")
    second = {source_identity(name, tmp_path) for name in ("w.pt", "w.pt#ema", "w.pt#swa")}
    assert len(first | second) == 6


def test_prefixes_of_several_networks_are_told_and_chosen(tmp_path: Path) -> None:
    """Beside `model.*` an average is named and can be chosen; of a student and a teacher none is taken unasked."""
    noise = {name: torch.zeros_like(value) for name, value in trained().items()}
    content = {"state_dict": {f"model.{name}": value for name, value in noise.items()} | prefixed("ema_model.")}
    model, notes = loaded(tmp_path, content)
    assert torch.equal(model.state_dict()["0.weight"], noise["0.weight"])
    assert "without the prefix 'model.'; the file has other weights that fit: state_dict.ema_model" in notes
    for suffix in ("#ema_model", "#state_dict.ema_model"):
        assert_trained(loaded(tmp_path, content, suffix)[0])
    pair = prefixed("teacher.") | {f"student.{name}": value for name, value in noise.items()}
    with pytest.raises(ModelError, match="several sets of weights that fit the model: teacher, student"):
        loaded(tmp_path, pair)
    assert_trained(loaded(tmp_path, pair, "#teacher")[0])


OBJECTS: dict[str, Any] = {
    "numbers of NumPy": {"best": np.float64(0.3), "steps": np.int64(3), "ok": np.bool_(True)},
    "arguments": {"args": Namespace(lr=1.0)},
    "a path": {"out": Path("/runs")},
    "an array": {"history": np.ones(3)},
}


@pytest.mark.parametrize("beside", OBJECTS.values(), ids=OBJECTS)
def test_harmless_objects_beside_weights_are_read(beside: dict[str, Any], tmp_path: Path) -> None:
    """What trainers store beside tensors does not hide the weights."""
    assert_trained(loaded(tmp_path, {"state_dict": trained(), **beside})[0])


class Custom:
    """A class of a user, whose pickled objects are not read."""


def test_other_objects_are_named(tmp_path: Path) -> None:
    """An object that could run code is refused by its name."""
    with pytest.raises(ArtifactError, match=r"contains pickled Python objects besides tensors \([\w.]*Custom\)"):
        loaded(tmp_path, {"state_dict": trained(), "config": Custom()})


def test_arrays_are_weights(tmp_path: Path) -> None:
    """A state dict of NumPy arrays is loaded."""
    assert_trained(loaded(tmp_path, {name: value.numpy() for name, value in trained().items()})[0])


def test_weights_below_many_keys_are_found(tmp_path: Path) -> None:
    """Trainers nest their checkpoints."""
    assert_trained(loaded(tmp_path, {"a": {"b": {"c": {"d": {"state": trained()}}}}})[0])


@pytest.mark.parametrize("size", [0, 10, 700])
def test_a_truncated_file_is_called_so(size: int, tmp_path: Path) -> None:
    """The message is ours, for every place at which the file ends."""
    torch.save(trained(), tmp_path / "whole.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:size])
    with pytest.raises(ArtifactError) as caught:
        load_weights(net(), tmp_path / "w.pt")
    assert "truncated or damaged" in str(caught.value)
    assert "miniz" not in str(caught.value)
