"""CSV and TSV files: header, delimiter, encoding, target and features; faults have their line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import ROWS, assert_refused, csv_lines, load, write

from retort.core.console import Console
from retort.core.data.class_labels import Labels, targets_of
from retort.core.data.data_sources import load_data
from retort.core.data.splits import as_arrays
from retort.core.options.stage_options import DataSpec

HEADER = "radius,texture,kind"


def table(base: Path, *more: str, header: str = HEADER, name: str = "d.csv") -> str:
    """A file of forty rows and some more lines."""
    return write(base / name, header, *csv_lines(), *more).name


def test_columns_become_features_and_the_last_one_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are the input `features` as they are, text labels are indices with names, and it is said which column."""
    spec = DataSpec(source=table(tmp_path))
    data = load_data(spec, tmp_path, task="classification", console=Console())
    found = as_arrays(data.train)
    assert data.classes == ("benign", "malignant")
    assert found.inputs["features"].dtype == np.float32
    assert found.targets is not None
    assert found.targets.dtype == np.int64
    assert np.array_equal(found.targets, (found.inputs["features"][:, 0] > 0).astype(int))
    said = capsys.readouterr().err
    assert "2 features (radius, texture)" in said
    assert "target 'kind' (the last column): classes benign, malignant" in said


@pytest.mark.parametrize(
    ("name", "header", "delimiter", "encoding"),
    [
        ("a.csv", "radius;texture;kind", ";", "utf-8"),
        ("b.tsv", "radius\ttexture\tkind", "\t", "utf-8"),
        ("c.csv", "radius|texture|kind", "|", "utf-8"),
        ("d.csv", "\ufeffradius,texture,kind", ",", "utf-8"),
        ("e.csv", "", ",", "utf-8"),
        ("f.csv", "0,1,target", ",", "utf-8"),
    ],
)
def test_forms_of_one_table_are_equal(name: str, header: str, delimiter: str, encoding: str, tmp_path: Path) -> None:
    """Delimiter, byte order mark and header are found: every form has the fingerprint of the plain one."""
    plain = load(table(tmp_path, name="plain.csv"), tmp_path)
    write(tmp_path / name, *([header] if header else []), *csv_lines(delimiter=delimiter), encoding=encoding)
    assert load(name, tmp_path).fingerprint() == plain.fingerprint()


def test_the_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    """A first column without a name that counts the rows is no feature."""
    write(tmp_path / "d.csv", f",{HEADER}", *(f"{number},{line}" for number, line in enumerate(csv_lines())))
    assert load("d.csv", tmp_path).example()["features"].shape == (2, 2)


def test_target_and_features_are_chosen(tmp_path: Path) -> None:
    """`target` takes a name or a number, `features` the columns in order, and a usual name beats the last column."""
    source = table(tmp_path)
    assert load(source, tmp_path, features=["texture", "radius"]).example()["features"].shape == (2, 2)
    swapped = load(source, tmp_path, features=["texture", "radius"]).example()["features"]
    assert np.array_equal(swapped, load(source, tmp_path).example()["features"][:, ::-1])
    for numbers in ("2,1", [2, 1], "texture,1"):
        by_number = load(source, tmp_path, features=numbers).example()["features"]
        assert np.array_equal(by_number, swapped)
    years = table(tmp_path, header="2020,2021,kind", name="years.csv")
    assert np.array_equal(load(years, tmp_path, features="2021,2020", header=True).example()["features"], swapped)
    values = load(source, tmp_path, target=2, task="regression", ignore="kind").train.read([0, 1])[1]
    assert values is not None
    assert values.shape == (2, 1)
    write(tmp_path / "y.csv", "label,a", *(f"{row[2]},{row[0]}" for row in ROWS))
    assert load("y.csv", tmp_path).classes == ("benign", "malignant")
    assert load(source, tmp_path, target="none", ignore="kind").train.read([0])[1] is None


def test_the_target_is_no_input(tmp_path: Path) -> None:
    """A target among the features is refused; the last column is the target only if it is no feature."""
    write(tmp_path / "d.csv", "a,kind,b", *(f"{row[0]},{i % 2},{i / 7}" for i, row in enumerate(ROWS)))
    assert_refused("d.csv", tmp_path, "'kind' is the target (as asked) and in `features`", features="a,kind", target=2)
    assert_refused("d.csv", tmp_path, "and in `other`", inputs={"other": ["kind", "b"]}, target="kind")
    data = load("d.csv", tmp_path, features="a,b")
    assert data.example()["features"].shape == (2, 2)
    assert np.asarray(as_arrays(data.train).targets).dtype == np.int64
    assert load("d.csv", tmp_path, features="a,kind,b").train.read([0])[1] is None
    write(tmp_path / "e.csv", "a,label,b", *(f"{row[0]},{i % 2},{i / 7}" for i, row in enumerate(ROWS)))
    assert_refused("e.csv", tmp_path, "'label' is the target (by its name)", "`target: none`", features=["a", "label"])


def test_whole_numbers_are_classes_or_values(tmp_path: Path) -> None:
    """Whole numbers from 0 are class indices, others are numbered in order, and regression keeps them as values."""
    for start in (0, 3):
        write(
            tmp_path / f"{start}.csv", "a,label", *(f"{row[0]},{start + index % 2}" for index, row in enumerate(ROWS))
        )
    assert load("0.csv", tmp_path).classes == ()
    three = load("3.csv", tmp_path)
    assert three.classes == ("3", "4")
    assert set(np.asarray(as_arrays(three.train).targets)) == {0, 1}
    assert set(np.asarray(as_arrays(load("3.csv", tmp_path, "regression").train).targets).ravel()) == {3.0, 4.0}
    assert load("0.csv", tmp_path, classes="no,yes").classes == ("no", "yes")


def test_the_range_of_values_has_all_its_digits() -> None:
    """Prices are told as they are, not rounded to a power of ten."""
    labels = Labels(np.array([1000000, 1234567]), str)
    assert targets_of({"train": labels}, "column 'price'", task="regression").note == "values from 1000000 to 1234567"


def test_several_inputs_by_columns(tmp_path: Path) -> None:
    """`inputs` gives each input its columns, and whole numbers stay whole."""
    write(tmp_path / "d.csv", "city,wind,rain,label", *(f"{i % 3},{i / 7},{i},{i % 2}" for i in range(30)))
    found = load("d.csv", tmp_path, inputs={"city": "city", "weather": ["wind", "rain"]}).example()
    assert {name: (value.dtype.name, value.shape) for name, value in found.items()} == {
        "city": ("int64", (2,)),
        "weather": ("float32", (2, 2)),
    }


def test_splits_from_a_column_and_from_files(tmp_path: Path) -> None:
    """A column called split, and a folder with train.csv and test.csv, give their own splits."""
    lines = [f"{line},{('train', 'val', 'test')[number % 3]}" for number, line in enumerate(csv_lines())]
    write(tmp_path / "d.csv", f"{HEADER},split", *lines)
    data = load("d.csv", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (14, 13, 13)
    write(tmp_path / "two/train.csv", HEADER, *csv_lines())
    write(tmp_path / "two/test.csv", HEADER, *csv_lines(ROWS[:7]))
    assert len(load("two", tmp_path).test) == 7


@pytest.mark.parametrize("row", [1, 38])
def test_a_bad_cell_of_a_split_column_file_has_its_line(row: int, tmp_path: Path) -> None:
    """The line of a bad cell is that of the file, whatever split its row belongs to."""
    lines = [
        f"{a},{'' if number == row else b},{kind},{'train' if number % 2 else 'test'}"
        for number, (a, b, kind) in enumerate(ROWS)
    ]
    write(tmp_path / "d.csv", f"{HEADER},split", *lines)
    assert_refused("d.csv", tmp_path, f"d.csv, line {row + 2}, column 'texture': the cell is empty")
    write(tmp_path / "later/train.csv", HEADER, *csv_lines())
    write(tmp_path / "later/test.csv", HEADER, *csv_lines()[:5], "1,,benign")
    assert_refused("later", tmp_path, "test.csv, line 7, column 'texture': the cell is empty")


def test_quotes_and_encodings(tmp_path: Path) -> None:
    """Quoted delimiters and line breaks belong to the cell, and a named encoding is read."""
    lines = [f'"good,\n very {i}",pos' if i % 2 else f"bad {i},né" for i in range(40)]
    write(tmp_path / "d.csv", "text,label", *lines, encoding="latin-1")
    data = load("d.csv", tmp_path, encoding="latin-1", vocabulary="bytes")
    assert data.classes == ("né", "pos")
    assert len(data.train) + len(data.validation) + len(data.test) == 40


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1.0,,benign", ("line 42, column 'texture'", "empty", "`ignore: [texture]`")),
        ("1.0,NA,benign", ("line 42, column 'texture'", "missing value")),
        ("1.0,abc,benign", ("line 42, column 'texture': 'abc' is not a number",)),
        ("1.0,inf,benign", ("line 42, column 'texture': 'inf' is not finite",)),
        ('1.0,"2,5",benign', ("line 42, column 'texture'", "decimal point")),
        ("1.0,2,3,benign", ("line 42 has 4 cells, and the header has 3",)),
        ('1.0,"2,benign', ("line 42", "quotation mark")),
        ("1.0,2,", ("line 42, column 'kind': the cell is empty",)),
    ],
)
def test_bad_cells_are_named(line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """A cell that cannot be used is named with its file, its line and its column."""
    assert_refused(table(tmp_path, line), tmp_path, "d.csv", *words)


def test_a_bad_cell_in_a_column_without_use_is_no_fault(tmp_path: Path) -> None:
    """Only columns that are used must be complete."""
    assert load(table(tmp_path, "1.0,,benign"), tmp_path, ignore="texture").example()["features"].shape == (2, 1)


def test_a_late_text_in_a_column_of_numbers_is_found(tmp_path: Path) -> None:
    """The line is right beyond the first chunk of rows."""
    write(tmp_path / "d.csv", "a,label", *(f"{i},{i % 2}" for i in range(9000)), "late,1")
    assert_refused("d.csv", tmp_path, "line 9002, column 'a': 'late' is not a number")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty",)),
        (b"\n\n", ("is empty",)),
        (b"a,b,label\n", ("has a header and no rows",)),
        (b"a,a,label\n1,2,x\n3,4,y\n", ("columns 1 and 2 are both called 'a'",)),
        ("a,label\n1,x\n".encode("utf-16"), ("encoded as UTF-16", "encoding: utf-16")),
        ("a,label\n1,é\n".encode("latin-1"), ("line 2 is not UTF-8: byte 0xe9", "latin-1")),
        (b"a,\x00,label\n", ("zero bytes",)),
        (b"a,label\n" + b"1,x\n" * 30, ("every label in column 'label' is 'x' (30 labels)",)),
        (b"city,label\n" + b"Rome,x\nBonn,y\n" * 20, ("column 'city' (such as 'Rome') holds text", "`ignore: [city]`")),
        (b"a;label\n" + b"0,5;x\n1,5;y\n" * 20, ("'0,5' is not a number", "decimal point")),
        (b"label\n" + b"x\ny\n" * 20, ("has no column for an input",)),
        (b"a,name\n" + b"".join(b"1,person %d\n" % i for i in range(30)), ("30 different texts",)),
    ],
)
def test_bad_files_are_refused(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    """Every fault of a file is one sentence with a remedy."""
    (tmp_path / "d.csv").write_bytes(content)
    assert_refused("d.csv", tmp_path, *words)


def test_a_label_only_in_the_test_split_is_refused(tmp_path: Path) -> None:
    """A label that training never sees is named with its place, unless the classes are listed."""
    write(tmp_path / "two/train.csv", HEADER, *csv_lines())
    write(tmp_path / "two/test.csv", HEADER, *csv_lines(ROWS[:6]), "1,2,unknown")
    assert_refused("two", tmp_path, "test.csv, line 8: the label 'unknown'", "does not occur in the training samples")
    classes = ["malignant", "benign", "unknown"]
    assert load("two", tmp_path, classes=classes).classes == tuple(classes)


@pytest.mark.parametrize("start", [0, 5])
def test_a_number_only_in_the_test_split_is_refused(start: int, tmp_path: Path) -> None:
    """Numbers as labels follow the same rule as text: indices from 0, and others that are numbered in order."""
    write(tmp_path / "two/train.csv", "a,label", *(f"{i},{start + i % 2}" for i in range(30)))
    write(tmp_path / "two/test.csv", "a,label", *(f"{i},{start + i % 3}" for i in range(30)))
    assert_refused("two", tmp_path, f"test.csv, line 4: the label '{start + 2}' in column 'label' does not occur")
    classes = [str(start + number) for number in range(3)]
    assert load("two", tmp_path, classes=classes).classes == tuple(classes)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    """An unknown argument, column or encoding is named with the nearest spelling or the known ones."""
    source = table(tmp_path)
    assert_refused(source, tmp_path, "data argument targte: unknown key; did you mean 'target'?", targte="kind")
    assert_refused(source, tmp_path, "no column 'knd'; did you mean 'kind'?", "radius, texture, kind", target="knd")
    assert_refused(source, tmp_path, "no encoding 'utf-9'", encoding="utf-9")
    assert_refused(source, tmp_path, "has no column '7'", target=7)
    write(tmp_path / "two/train.csv", HEADER, *csv_lines())
    write(tmp_path / "two/test.csv", "radius,kind", *(f"{a},{c}" for a, _, c in ROWS))
    assert_refused("two", tmp_path, "test.csv has no column 'texture'", "same columns")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing permission, of a file and of a folder, is one sentence with its remedy."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root, who runs tests in containers, may read everything
    assert_refused(table(tmp_path), tmp_path, "d.csv may not be read", "chmod u+r ")
    monkeypatch.setattr(Path, "iterdir", refuse)
    (tmp_path / "folder").mkdir()
    assert_refused("folder", tmp_path, "folder may not be read", "chmod u+rx ")


def test_an_edit_changes_the_fingerprint(tmp_path: Path) -> None:
    """Another cell is another data set, as is another order of the classes."""
    before = load(table(tmp_path), tmp_path)
    assert load("d.csv", tmp_path, classes="malignant,benign").fingerprint() != before.fingerprint()
    write(tmp_path / "d.csv", HEADER, *csv_lines()[:-1], "9.99,1.0,benign")
    assert load("d.csv", tmp_path).fingerprint() != before.fingerprint()
