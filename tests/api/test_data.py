"""Data in any form that a script has become the same splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_nets import Texts
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

import retort
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError, UserError
from retort.core.options.stage_options import DataSpec
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.pipeline.live.data import samples
from retort.pipeline.live.data.adapters import as_splits, task_of
from retort.pipeline.live.data.feeds import example_feeds
from retort.pipeline.live.data.samples import Reader, SampleSplit

ONE = Signature((TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 2)),))
TWO = Signature((TensorSpec("a", "float32", ("batch", 3)), TensorSpec("b", "float32", ("batch", 2))), ())
TEXT = Signature(
    (TensorSpec("input_ids", "int64", ("batch", "s")), TensorSpec("attention_mask", "int64", ("batch", "s"))), ()
)
X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
PAIR = TensorDataset(X, Y)


class Stream(IterableDataset[Any]):
    """Samples one by one."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y))


class Augmented(Dataset[Any]):
    """Samples that are different each time they are read."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        """A noisy sample."""
        return X[index] + torch.randn(3), Y[index]


FORMS: dict[str, Callable[[], Any]] = {
    "loader": lambda: DataLoader(PAIR, batch_size=7),
    "loader of dictionaries": lambda: [{"x": X[i : i + 8], "label": Y[i : i + 8]} for i in range(0, 40, 8)],
    "loader with workers": lambda: DataLoader(PAIR, batch_size=8, num_workers=1),
    "loader without batches": lambda: DataLoader(PAIR, batch_size=None),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=8),
    "dataset": lambda: PAIR,
    "stream": Stream,
    "pair of tensors": lambda: (X, Y),
    "pair of arrays": lambda: (X.double().numpy(), Y.int().numpy()),
    "list pair, as a loader collates": lambda: [X, Y],
    "mapping": lambda: {"x": X, "labels": Y},
    "mapping under another name": lambda: {"pixel_values": X, "target": Y},
    "inputs by name beside targets": lambda: ({"x": X}, Y),
    "nested tuple": lambda: ((X,), Y),
    "generator of batches": lambda: ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)),
    "list of samples": lambda: list(zip(X, Y)),
    "split": lambda: ArraySplit({"x": X.numpy()}, Y.numpy()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str) -> None:
    """Inputs and labels come out the same, in order, in float32 and int64."""
    split = Reader(ONE).read(FORMS[form](), "data")
    inputs, labels = split.read(range(len(split)))
    assert list(inputs) == ["x"]
    np.testing.assert_array_equal(inputs["x"], X.numpy())
    np.testing.assert_array_equal(labels, Y.numpy())
    assert [str(array.dtype) for array in (inputs["x"], np.asarray(labels))] == ["float32", "int64"]


@pytest.mark.parametrize(
    "data",
    [X, DataLoader(TensorDataset(X), batch_size=8), {"x": X}, [X[:20], X[20:]], (X[i : i + 1] for i in range(40))],
)
def test_samples_without_labels_have_none(data: Any) -> None:
    """Inputs alone give a split without targets."""
    split = Reader(ONE).read(data, "data")
    assert len(split) == 40
    assert split.read([0])[1] is None


def test_the_signature_separates_inputs_from_targets() -> None:
    """Of (a, b), both are inputs of a model with two; of (a, b, y), the last one is the target."""
    a, b = X, X[:, :2]
    assert Reader(TWO).read((a, b), "data").read([0])[1] is None
    for form in ((a, b, Y), ((a, b), Y), ({"b": b, "a": a}, Y), {"b": b, "label": Y, "a": a}):
        inputs, labels = Reader(TWO).read(form, "data").read([0, 1])
        assert inputs["a"].shape == (2, 3)
        assert inputs["b"].shape == (2, 2)
        np.testing.assert_array_equal(labels, [0, 1])


def test_batches_of_texts_keep_what_the_model_takes() -> None:
    """Labels in a tokenizer's batch are targets, and entries that the model does not accept are left out."""
    inputs, labels = Reader(TEXT).read(DataLoader(Texts(), batch_size=16), "data").read(range(48))
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert labels is not None
    assert labels.shape == (48,)


def test_the_order_of_a_shuffling_loader_is_no_identity() -> None:
    """Two passes of a shuffling loader, in any batches, have one fingerprint; other samples have another."""
    prints = {Reader(ONE).read(DataLoader(PAIR, size, shuffle=True), "data").fingerprint() for size in (4, 4, 9)}
    part = DataLoader(PAIR, 4, sampler=SubsetRandomSampler(range(20)))
    assert len(prints) == 1
    assert len(Reader(ONE).read(part, "data")) == 20
    assert Reader(ONE).read(part, "data").fingerprint() not in prints


def test_a_dataset_is_read_again_each_time() -> None:
    """Augmentation in a dataset is random again in every epoch; a loader is read once."""
    split = Reader(ONE).read(Augmented(), "data")
    assert isinstance(split, SampleSplit)
    assert not np.array_equal(split.read([0])[0]["x"], split.read([0])[0]["x"])
    once = Reader(ONE).read(DataLoader(Augmented(), batch_size=8), "data")
    np.testing.assert_array_equal(once.read([0])[0]["x"], once.read([0])[0]["x"])


def test_a_generator_serves_several_stages() -> None:
    """The samples of a generator are kept as long as the generator exists."""
    stream = ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))
    first, second = (Reader(ONE).read(stream, "data") for _ in range(2))
    assert first.fingerprint() == second.fingerprint()


def test_what_is_too_large_is_read_sample_by_sample_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, a loader's dataset is read by index with its collate function; a stream is rejected."""
    monkeypatch.setattr(samples, "LIMIT_BYTES", 100)
    split = Reader(ONE).read(DataLoader(PAIR, batch_size=8, shuffle=True), "data")
    assert isinstance(split, SampleSplit)
    assert len(split) == 40
    assert split.read([3, 5])[0]["x"].shape == (2, 3)
    with pytest.raises(DataError, match="limit for data in memory"):
        Reader(ONE).read(DataLoader(Stream(), batch_size=8), "data")


def test_one_set_is_divided_by_its_use() -> None:
    """For training, 15 % are held out; for a test, all samples are used; few samples are used for every split."""
    splits = as_splits(PAIR, ONE, "train")
    assert (len(splits.train), len(splits.validation)) == (34, 6)
    assert len(as_splits(PAIR, ONE, "test").test) == 40
    few = as_splits((X[:5], Y[:5]), ONE, "train")
    assert [len(part) for part in (few.train, few.validation, few.calibration, few.test)] == [5, 5, 5, 5]


def test_splits_by_name_are_taken_as_they_are() -> None:
    """A mapping of splits in any form gives those splits; missing ones are made from the others."""
    given = {"train": PAIR, "val": (X[:6], Y[:6]), "classes": ["no", "yes"]}
    splits = as_splits(given, ONE, "train")
    assert (len(splits.train), len(splits.validation), splits.classes) == (40, 6, ("no", "yes"))
    assert as_splits(splits, ONE, "train") is splits
    assert len(as_splits({"calibration": X}, ONE, "calibrate").calibration) == 40
    assert isinstance(as_splits("digits", ONE, "test"), Splits)


def test_the_task_follows_from_the_targets() -> None:
    """Floating-point targets are regression, all others classification, unless the caller chooses."""
    values = as_splits((X, X[:, :1]), ONE, "train")
    assert (task_of(values, None), task_of(values, "classification")) == ("regression", "classification")
    assert task_of(as_splits(PAIR, ONE, "train"), None) == "classification"


FAULTS: dict[str, tuple[Any, str]] = {
    "number": (5, "of type int, not samples"),
    "no batch": (DataLoader(TensorDataset(X[:0])), "returned no batch"),
    "empty dataset": (TensorDataset(X[:0], Y[:0]), "is empty"),
    "too many values": ((X, X, Y), "has 3 values, but the model takes 1: x"),
    "wrong rank": (DataLoader(TensorDataset(X[:, :, None], Y)), r"values of shape \[1, 3, 1\]"),
    "one sample": (X[0], "single sample without the batch axis"),
    "lengths": ((X, Y[:7]), "differ in length"),
    "ragged": ([(torch.zeros(2, 3), Y[:2]), (torch.zeros(2, 4), Y[:2])], "differ in shape"),
    "some labels": ([(X[:4], Y[:4]), (X[4:8],)], "some batches have targets"),
    "not finite": (X * float("nan"), "NaN or infinite"),
    "other names": ({"left": X, "right": X}, "contains left, right, but the model takes x"),
    "words": (["a", "b"], "contains no numbers"),
    "unknown split": ({"train": PAIR, "evaluation": PAIR}, "unknown split 'evaluation'"),
    "no train": ({"test": PAIR}, "needs a train split"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_data_that_do_not_fit_are_rejected(fault: str) -> None:
    """Data that do not fit the model are rejected with the reason and a remedy."""
    data, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as caught:
        as_splits(data, ONE, "train")
    assert caught.value.remedy


def test_an_unknown_source_names_the_nearest() -> None:
    """For a misspelt built-in set, the message has the nearest name."""
    with pytest.raises(UserError, match="did you mean 'digits'"):
        as_splits("digit", ONE, "train")


def forward_one(x: Any) -> None:
    """A forward of one input."""


def forward_more(x: Any, mask: Any = None) -> None:
    """A forward with an optional input."""


def forward_text(input_ids: Any, attention_mask: Any = None, labels: Any = None) -> None:
    """A forward that computes its loss if labels are given."""


def forward_any(*values: Any) -> None:
    """A forward of any number of inputs."""


@pytest.mark.parametrize(
    ("forward", "example", "is_batch", "names"),
    [
        (forward_one, X, False, ["x"]),
        (forward_one, (X, Y), False, ["x"]),
        (forward_one, [X, Y], True, ["x"]),
        (forward_more, (X, X), False, ["x", "mask"]),
        (forward_more, (X, Y), True, ["x"]),
        (forward_more, (X, X, Y), True, ["x", "mask"]),
        (forward_text, {"input_ids": X, "labels": Y, "idx": Y}, True, ["input_ids"]),
        (forward_any, (X, X), False, ["input_0", "input_1"]),
        (forward_any, (X, Y), True, ["input_0"]),
    ],
)  # fmt: skip
def test_targets_are_left_out_of_an_example(
    forward: Callable[..., Any], example: Any, is_batch: bool, names: list[str]
) -> None:
    """An example has the inputs of the forward by name, without targets and unknown entries."""
    assert list(example_feeds(forward, example, is_batch)) == names


def test_one_set_is_divided_as_the_data_of_recipes() -> None:
    """The share held out for validation and the number of calibration samples are the defaults of recipes."""
    splits = as_splits((torch.zeros(1000, 3), torch.arange(1000) % 2), ONE, "train")
    wanted = DataSpec(source="digits")
    assert len(splits.validation) == round(1000 * wanted.validation)
    assert len(splits.calibration) == wanted.calibration


def test_whole_numbers_of_a_source_are_values_for_regression(tmp_path: Path) -> None:
    """Prices stay prices if the task is regression, or if the model gives one number and the prices have no names."""
    rows = [f"{index / 7},{index},{index % 5},{1000 + 10 * (index % 9)}" for index in range(40)]
    (tmp_path / "prices.csv").write_text("\n".join(["a,b,c,price", *rows]))
    source = str(tmp_path / "prices.csv")
    program = retort.capture(torch.nn.Linear(3, 1), torch.zeros(2, 3), data=source)
    for splits in (program.data, as_splits(source, ONE, "train", task="regression")):
        values = splits.train.read([0])[1] if splits is not None else None
        assert values is not None
        assert values.shape == (1, 1)
        assert 1000 <= values[0, 0] <= 1080
    assert as_splits(source, ONE, "train").classes[0] == "1000"
    named = {"source": source, "args": {"target": "c", "classes": "u,v,w,x,y"}}
    assert as_splits(named, program.signature, "train").classes == tuple("uvwxy")
    trained = retort.train(program, data=source, task="regression", epochs=1)
    assert trained.data is not None
    assert trained.data.train.fingerprint() == program.data.train.fingerprint()  # type: ignore[union-attr]


def test_a_source_has_arguments_as_in_a_recipe(tmp_path: Path) -> None:
    """A mapping with `source` and `args` reads an image folder as asked; unknown keys and values name themselves."""
    (tmp_path / "pics" / "a").mkdir(parents=True)
    (tmp_path / "pics" / "b").mkdir()
    for index in range(8):
        for folder in "ab":
            values = np.full((16, 16), index, np.uint8)
            Image.fromarray(values).save(tmp_path / "pics" / folder / f"{index}.png")
    described = {"source": tmp_path / "pics", "args": {"size": 12, "mode": "L"}}
    splits = as_splits(described, Signature((), ()), "train")
    assert splits.train.read([0])[0]["image"].shape == (1, 1, 12, 12)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2))
    program = retort.capture(net, torch.zeros(2, 1, 12, 12))
    trained = retort.train(program, data=described, epochs=1)
    assert retort.compare({"one": program, "two": trained}, data=described, budget_s=0.1, blocks=4).stages
    with pytest.raises(UserError, match=r"data\['arg'\].*did you mean 'args'"):
        as_splits({"source": "pics", "arg": {}}, ONE, "train")
    with pytest.raises(UserError, match="data argument sise"):
        as_splits({**described, "args": {"sise": 12}}, ONE, "train")
