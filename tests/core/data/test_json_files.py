"""JSON Lines files and JSON arrays: fields as columns, lists as arrays, padding, and faults with their line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_files import assert_refused, load, write

RECORDS = [{"x": [float(i), i / 3], "age": i, "label": ("no", "yes")[i % 2]} for i in range(40)]


def lines(*more: object) -> list[str]:
    """The records, and further lines: text as it is, other values as JSON."""
    return [*map(json.dumps, RECORDS), *(item if isinstance(item, str) else json.dumps(item) for item in more)]


def test_lines_and_an_array_are_equal(tmp_path: Path) -> None:
    """One object per line and one array of objects give the same samples, with the class names."""
    write(tmp_path / "d.jsonl", *lines())
    write(tmp_path / "d.json", json.dumps(RECORDS))
    one, two = load("d.jsonl", tmp_path), load("d.json", tmp_path)
    assert one.fingerprint() == two.fingerprint()
    assert one.classes == ("no", "yes")
    assert one.example()["x"].shape == (2, 2)


def test_fields_are_chosen(tmp_path: Path) -> None:
    """Lists are inputs of their own; numbers are features if they are named, or inputs with `inputs`."""
    write(tmp_path / "d.jsonl", *lines())
    assert list(load("d.jsonl", tmp_path).example()) == ["x"]
    assert list(load("d.jsonl", tmp_path, features="age").example()) == ["features"]
    found = load("d.jsonl", tmp_path, inputs={"place": "x", "age": "age"}).example()
    assert {name: value.dtype.name for name, value in found.items()} == {"place": "float32", "age": "int64"}


def test_lists_of_different_lengths_are_padded_if_asked(tmp_path: Path) -> None:
    """Without `pad` they are refused with the line; with it they are zero at the end, and lengths are an input."""
    records = [{"ids": list(range(1, 2 + i % 5)), "label": i % 2} for i in range(40)]
    write(tmp_path / "d.jsonl", *map(json.dumps, records))
    assert_refused("d.jsonl", tmp_path, "line 2, column 'ids': the list has shape [2], the first has [1]", "pad: true")
    found = load("d.jsonl", tmp_path, pad=True, lengths=True).train.read(range(20))[0]
    assert found["ids"].shape == (20, 5)
    assert found["ids"].dtype == np.int64
    assert np.array_equal((found["ids"] > 0).sum(axis=1), found["lengths"])
    assert load("d.jsonl", tmp_path, pad=True, max_length=3).example()["ids"].shape == (2, 3)
    assert load("d.jsonl", tmp_path, pad=True, dtype="float32").example()["ids"].dtype == np.float32


def test_all_splits_are_padded_alike(tmp_path: Path) -> None:
    """The longest list of any split decides."""
    for split, longest in (("train", 3), ("test", 7)):
        records = [{"ids": [1] * (1 + i % longest), "label": i % 2} for i in range(30)]
        write(tmp_path / f"two/{split}.jsonl", *map(json.dumps, records))
    data = load("two", tmp_path, pad=True)
    assert data.train.read([0])[0]["ids"].shape == data.test.read([0])[0]["ids"].shape == (1, 7)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("{bad", ("line 41 is not valid JSON", "one object per line")),
        ([1, 2], ("line 41 is a list, not an object",)),
        ({"x": None, "label": "no"}, ("line 41, column 'x': the value is missing",)),
        ({"label": "no"}, ("line 41, column 'x': the value is missing",)),
        ({"x": [1, "a"], "label": "no"}, ("line 41, column 'x'", "something else than numbers")),
        ({"x": 5, "label": "no"}, ("line 41, column 'x': the value is a number, and most others are lists",)),
        ('{"x": [1, NaN], "label": "no"}', ("line 41, column 'x'", "NaN or infinite")),
        ({"x": [[1], [1, 2]], "label": "no"}, ("line 41, column 'x': its inner lists differ in length",)),
        ({"x": [1, 2], "label": None}, ("line 41, column 'label': the value is missing",)),
    ],
)
def test_bad_lines_are_named(more: object, words: tuple[str, ...], tmp_path: Path) -> None:
    """A line that cannot be used is named with its number and its field."""
    write(tmp_path / "d.jsonl", *lines(more))
    assert_refused("d.jsonl", tmp_path, "d.jsonl", *words)


def test_other_faults(tmp_path: Path) -> None:
    """Arrays that are not JSON, fields that are objects, and empty files are told."""
    write(tmp_path / "a.json", "[{}, ")
    assert_refused("a.json", tmp_path, "is not valid JSON")
    write(tmp_path / "b.json", "[1]")
    assert_refused("b.json", tmp_path, "object 1 is a number, not an object")
    write(tmp_path / "c.jsonl", *(json.dumps({"x": {"a": 1}, "label": i % 2}) for i in range(30)))
    assert_refused("c.jsonl", tmp_path, "line 1, column 'x': the value is an object")
    write(tmp_path / "d.jsonl", "")
    assert_refused("d.jsonl", tmp_path, "is empty")
    write(tmp_path / "e.json", "[]")
    assert_refused("e.json", tmp_path, "contains no object")
