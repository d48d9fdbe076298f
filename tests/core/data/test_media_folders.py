"""Folders of images and recordings: a folder per class, a table of labels, and faults with their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import assert_refused, load, write
from known import known
from PIL import Image

from retort.core.console import Console
from retort.core.data.data_sources import load_data
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import InputError
from retort.core.options.stage_options import DataSpec
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

COUNT = 30


def images(folder: Path, count: int = COUNT) -> Path:
    """Grey images called 0.png, 1.png …, each of the shade of its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (6, 5), number).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("file,label", "{0}.png,{1}"),
        ("kind,path,who", "{1},{0}.png,me"),
        ("", "{0}.png,{1}"),
        ("label,filename", "{1},{0}.png"),
    ],
)
def test_labels_from_a_table(header: str, line: str, tmp_path: Path) -> None:
    """labels.csv names files and labels, in any order, with or without a header."""
    folder = images(tmp_path / "p")
    made = [line.format(number, ("dark", "light")[number % 2]) for number in range(COUNT)]
    write(folder / "labels.csv", *([header] if header else []), *made)
    data = load("p", tmp_path, size=4, mode="L", target="kind" if "kind" in header else None)
    assert data.classes == ("dark", "light")
    inputs, targets = data.train.read(range(len(data.train)))
    shades = np.rint(inputs["image"][:, 0, 0, 0] * 255).astype(int)
    assert np.array_equal(shades % 2, known(targets))


def test_a_table_may_name_splits_and_values(tmp_path: Path) -> None:
    """A column of splits is used, and numbers are values for regression."""
    folder = images(tmp_path / "p")
    names = ("train", "val", "test")
    write(folder / "labels.csv", "file,score,split", *(f"{n}.png,{n / 2},{names[n % 3]}" for n in range(COUNT)))
    data = load("p", tmp_path, "regression", size=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 10, 10)
    values = data.test.read([0])[1]
    assert values is not None
    assert values.tolist() == [[1.0]]
    write(folder / "labels.csv", "file,score,split", *(f"{n}.png,{n / 2},later" for n in range(COUNT)))
    assert len(load("p", tmp_path, "regression", size=4, target="score").train) == 20


def test_images_without_labels(tmp_path: Path) -> None:
    """Images that lie in the folder itself are samples without labels, as for calibration."""
    images(tmp_path / "p")
    assert load("p", tmp_path, size=4).train.read([0])[1] is None
    images(tmp_path / "p/more", 2)
    assert_refused("p", tmp_path, "both beside and in folders of classes", "0.png", size=4)


def test_missing_files_are_listed(tmp_path: Path) -> None:
    """Files that the table names and that are not there are listed with their lines."""
    folder = images(tmp_path / "p")
    write(folder / "labels.csv", "file,label", *(f"{n}.png,{n % 2}" for n in range(COUNT + 4)))
    assert_refused("p", tmp_path, "names 4 files that do not exist: 30.png (line 32)", "and 1 more", size=4)
    write(folder / "labels.csv", "file,label", *(f"{n}.png,{'' if n == 3 else 'ab'[n % 2]}" for n in range(COUNT)))
    assert_refused("p", tmp_path, "labels.csv, line 5, column 'label': the cell is empty", "`target: none`", size=4)
    write(folder / "labels.csv", "a,b", *(f"{n},{n % 2}" for n in range(COUNT)))
    assert_refused("p", tmp_path, "no column of", "names images", size=4)
    write(tmp_path / "two/train/a/x.txt", "no image")
    assert_refused("two", tmp_path, "(1 label)", vocabulary="bytes")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder called train is a class if others are beside it and no other split; where it is unclear, it is asked."""
    for name in ("car", "bus", "train"):
        images(tmp_path / "p" / name, 12)
    assert load("p", tmp_path, size=4).classes == ("bus", "car", "train")
    images(tmp_path / "p/test", 12)
    assert_refused("p", tmp_path, "p/train may be a split or a class, because bus is beside it", "move bus", size=4)
    for name in ("a", "b"):
        images(tmp_path / "q/train" / name, 12)
    images(tmp_path / "q/unused", 3)
    assert load("q", tmp_path, size=4).classes == ("a", "b")
    for name in ("val", "validation"):
        images(tmp_path / "q" / name / "a", 3)
    assert_refused("q", tmp_path, "q/val and", "q/validation are both the split validation", size=4)


def test_a_table_in_the_folder_of_a_split_may_name_splits(tmp_path: Path) -> None:
    """The folder is the split of its files, whatever a column of its table says."""
    for split in ("train", "test"):
        folder = images(tmp_path / "p" / split, 12)
        write(folder / "labels.csv", "file,label,split", *(f"{n}.png,{'ab'[n % 2]},{split}" for n in range(12)))
    data = load("p", tmp_path, size=4)
    assert (len(data.test), data.classes) == (12, ("a", "b"))


def test_a_list_of_names_is_no_table_of_labels(tmp_path: Path) -> None:
    """labels.txt beside folders of classes that names no file is left alone; one that names files is the table."""
    for name in ("cat", "dog"):
        images(tmp_path / "p" / name, 12)
    write(tmp_path / "p/labels.txt", "cat", "dog")
    assert load("p", tmp_path, size=4).classes == ("cat", "dog")
    write(tmp_path / "p/labels.txt", *(f"cat/{n}.png,{'xy'[n % 2]}" for n in range(12)))
    assert load("p", tmp_path, size=4).classes == ("x", "y")
    for name in ("pos", "neg"):
        write(tmp_path / "t" / f"{name}.txt", *(f"{name} {number}" for number in range(20)))
    write(tmp_path / "t/labels.txt", "neg", "pos")
    assert load("t", tmp_path, vocabulary="bytes").classes == ("neg", "pos")


def test_a_caption_is_no_name_of_a_file(tmp_path: Path) -> None:
    """A column of texts that are too long for names of files is not taken for the column of files."""
    folder = images(tmp_path / "p")
    captions = [f"{'ab'[n % 2]} {'long ' * 100}" for n in range(COUNT)]
    write(folder / "labels.csv", "caption,file,label", *(f"{captions[n]},{n}.png,{n % 2}" for n in range(COUNT)))
    assert load("p", tmp_path, size=4).train.read([0])[1] is not None


def test_mean_and_std_fit_the_mode(tmp_path: Path) -> None:
    """Three means of grey images, or two of any, would give images of other channels."""
    images(tmp_path / "p")
    assert_refused("p", tmp_path, "mean has 3 values, but mode L takes 1 value", size=4, mode="L", mean=[0.5, 0.4, 0.3])
    assert_refused("p", tmp_path, "std has 2 values, but mode RGB takes 1 value or 3", size=4, std=[0.5, 0.4])
    assert_refused("p", tmp_path, "std must not be 0", size=4, std=0)
    assert load("p", tmp_path, size=4, mean=[0.5, 0.4, 0.3], std=0.2).example()["image"].shape == (2, 3, 4, 4)


def test_changed_images_change_the_fingerprint(tmp_path: Path) -> None:
    """Another image under the same name is another data set, without reading all images."""
    for name in ("a", "b"):
        images(tmp_path / "p" / name, 12)
    before = load("p", tmp_path, size=4).fingerprint()
    assert load("p", tmp_path, size=4).fingerprint() == before
    assert load("p", tmp_path, size=5).fingerprint() != before
    Image.new("L", (9, 9), 77).save(tmp_path / "p/a/3.png")
    assert load("p", tmp_path, size=4).fingerprint() != before


def sounds(folder: Path, rate: int = 8000, samples: int = 800, count: int = 8) -> None:
    """Recordings of two channels, of two classes."""
    library: Any = pytest.importorskip("soundfile")
    for name, level in (("high", 0.5), ("low", 0.1)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            values = np.full((samples, 2), level) * [1.0, 0.0]
            library.write(folder / name / f"{number}.wav", values, rate, subtype="FLOAT")


def test_recordings(tmp_path: Path) -> None:
    """Recordings are [batch, samples] with their channels averaged, cut and padded to `seconds`."""
    sounds(tmp_path / "s")
    data = load("s", tmp_path)
    inputs, targets = data.train.read(range(len(data.train)))
    assert data.classes == ("high", "low")
    assert inputs["audio"].shape == (len(data.train), 800)
    assert np.allclose(inputs["audio"][:, 0], np.where(np.asarray(targets) == 0, 0.25, 0.05))
    padded = load("s", tmp_path, seconds=0.2, channel_axis=True).example()["audio"]
    assert padded.shape == (2, 1, 1600)
    assert not padded[:, :, 800:].any()
    assert load("s", tmp_path, seconds=0.05).example()["audio"].shape == (2, 400)


def test_recordings_of_other_rates_and_lengths(tmp_path: Path) -> None:
    """They are refused with the names of the files, unless an option makes them equal."""
    library: Any = pytest.importorskip("soundfile")
    sounds(tmp_path / "s")
    tone = np.sin(2 * np.pi * 440 * np.arange(3200) / 16000).astype(np.float32)
    library.write(tmp_path / "s/high/tone.flac", tone, 16000)
    assert_refused("s", tmp_path, "different sample rates", "0.wav has 8000 Hz, tone.flac has 16000 Hz")
    assert_refused("s", tmp_path, "different lengths", "`seconds: 0.2`", sample_rate=8000)
    write(tmp_path / "s/labels.csv", "file,label", *(f"high/tone.flac,{n % 2}" for n in range(20)))
    heard = load("s", tmp_path, sample_rate=8000).example()["audio"][0]
    wanted = np.sin(2 * np.pi * 440 * np.arange(1600) / 8000)
    assert np.abs(heard[100:-100] - wanted[100:-100]).max() < 0.01


def test_lengths_are_those_after_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A length that is the same after resampling is no fault, another is one, and every header is read once."""
    library: Any = pytest.importorskip("soundfile")
    sounds(tmp_path / "s/train", samples=801)
    sounds(tmp_path / "s/test", samples=801)
    read: list[str] = []
    header = library.info

    def _counted(path: str) -> Any:
        read.append(path)
        return header(path)

    monkeypatch.setattr(library, "info", _counted)
    library.write(tmp_path / "s/train/high/half.wav", np.zeros(401, np.float32), 4000)
    assert load("s", tmp_path, sample_rate=4000).example()["audio"].shape == (2, 401)
    assert len(read) == len(set(read)) == 33
    library.write(tmp_path / "s/train/high/half.wav", np.zeros(400, np.float32), 4000)
    assert_refused("s", tmp_path, "different lengths", sample_rate=4000)


def test_bad_recordings(tmp_path: Path) -> None:
    """A file that is no recording is named."""
    sounds(tmp_path / "s")
    (tmp_path / "s/high/no.wav").write_bytes(b"no recording")
    assert_refused("s", tmp_path, "no.wav is not a readable recording")


def test_images_of_another_shape_name_their_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shape of the files is said if they are read in another that nobody asked for, and not otherwise."""
    images(tmp_path / "p" / "a")
    images(tmp_path / "p" / "b")

    def _told(**args: Any) -> str:
        load_data(DataSpec(source="p", args=args), tmp_path, console=Console())
        return " ".join(capsys.readouterr().err.split())

    assert "the images are 5×6 grey and are read as 224×224 RGB" in _told()
    assert "size=[5, 6] mode=L keep them as they are" in _told()
    assert "keep them" not in _told(size=4)
    Image.new("RGB", (9, 9)).save(tmp_path / "p" / "a" / "0.png")
    assert "keep them" not in _told()


def test_images_that_do_not_fit_a_model_name_their_arguments(tmp_path: Path) -> None:
    """The remedy has the size and the mode that the model takes; arrays in memory get none."""
    images(tmp_path / "p" / "a")
    images(tmp_path / "p" / "b")
    signature = Signature((TensorSpec("image", "float32", ("batch", 1, 16, 12)),), ())
    splits = load("p", tmp_path)
    with pytest.raises(InputError, match="has size 3 on axis 1") as caught:
        fit_to(splits, signature)
    assert "--data-arg 'size=[16, 12]' --data-arg mode=L" in caught.value.remedy
    assert fit_to(load("p", tmp_path, size=[16, 12], mode="L"), signature).classes == ("a", "b")
    whole = ArraySplit(splits.train.read([0])[0])
    with pytest.raises(InputError) as caught:
        fit_to(Splits(whole, whole, whole, whole), signature)
    assert "--data-arg" not in caught.value.remedy


def test_the_remedy_of_an_empty_label_works(tmp_path: Path) -> None:
    """Images are read without labels, as the message says."""
    images(tmp_path / "p")
    write(tmp_path / "p" / "labels.csv", "file,label", *(f"{n}.png,{'cat' if n else ''}" for n in range(COUNT)))
    assert_refused("p", tmp_path, "column 'label': the cell is empty", "read the files without labels", size=4)
    assert load("p", tmp_path, size=4, target="none").train.read([0])[1] is None
