"""Text: a file per class, a folder per class, columns of text; bytes, characters and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import assert_refused, load, write

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film")


def per_class(folder: Path, count: int = 20) -> None:
    """Two files, with a sample per line."""
    for name in ("neg", "pos"):
        write(folder / f"{name}.txt", *(f"{name} film {number}" for number in range(count)))


def test_a_file_per_class(tmp_path: Path) -> None:
    """The names of the files are the classes, and every line that is not empty is a sample."""
    per_class(tmp_path / "films")
    write(tmp_path / "films/pos.txt", *(f"pos {number}\n" for number in range(20)))
    data = load("films", tmp_path, vocabulary="bytes", max_length=6, lengths=True)
    assert data.classes == ("neg", "pos")
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    inputs, targets = data.train.read(range(len(data.train)))
    assert inputs["input_ids"].shape == (len(data.train), 6)
    negative = inputs["input_ids"][np.asarray(targets) == 0][0]
    assert negative.tolist() == [byte + 1 for byte in b"neg fi"]
    short = inputs["lengths"][np.asarray(targets) == 1]
    assert short.min() == 5
    assert inputs["input_ids"][np.asarray(targets) == 1][np.argmin(short)][5] == 0


def test_a_folder_per_class_and_splits(tmp_path: Path) -> None:
    """Every file in the folder of a class is a sample; `classes` chooses folders and their order."""
    for split in ("train", "test"):
        for name in ("pos", "neg", "unsup"):
            for number in range(12):
                write(tmp_path / f"imdb/{split}/{name}/{number}.txt", f"{name} {number}")
    data = load("imdb", tmp_path, vocabulary="characters", classes="pos,neg")
    assert data.classes == ("pos", "neg")
    assert len(data.test) == 24
    assert load("imdb", tmp_path, vocabulary="bytes").classes == ("neg", "pos", "unsup")


def test_files_of_symbols(tmp_path: Path) -> None:
    """Lines of Windows and a byte order mark are read; another encoding, and a symbol twice, have their line."""
    per_class(tmp_path / "films")
    plain = write(tmp_path / "letters.txt", "p", "n", " ", "é")
    wanted = load("films", tmp_path, vocabulary="letters.txt").fingerprint()
    plain.write_bytes("\ufeffp\r\nn\r\n \r\né\r\n".encode())
    assert load("films", tmp_path, vocabulary="letters.txt").fingerprint() == wanted
    plain.write_bytes("p\né\n".encode("latin-1"))
    assert_refused("films", tmp_path, "letters.txt, line 2 is not UTF-8: byte 0xe9", vocabulary="letters.txt")
    write(plain, "p", "n", "p")
    assert_refused("films", tmp_path, "letters.txt, line 3: 'p' is in line 1, too", vocabulary="letters.txt")


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    """val.txt and valid.txt are one split; neither is dropped silently."""
    for name in ("train", "val", "valid"):
        write(tmp_path / "d" / f"{name}.txt", *("abc" for _ in range(20)))
    assert_refused("d", tmp_path, "two files for one split", vocabulary="bytes")


def test_characters_are_those_of_the_training_texts(tmp_path: Path) -> None:
    """Characters are numbered in order from 2; one that only the test split has is unknown, which is 1."""
    for split, text in (("train", "ab"), ("test", "az")):
        for name in ("one", "two"):
            write(tmp_path / f"d/{split}/{name}.txt", *[text] * 6)
    data = load("d", tmp_path, vocabulary="characters")
    assert data.train.read([0])[0]["input_ids"][0, :3].tolist() == [2, 3, 0]
    assert data.test.read([0])[0]["input_ids"][0, :3].tolist() == [2, 1, 0]
    write(tmp_path / "letters.txt", "z", "a")
    chosen = load("d", tmp_path, vocabulary="letters.txt")
    assert chosen.test.read([0])[0]["input_ids"][0, :2].tolist() == [3, 2]


def test_a_file_of_lines_has_no_labels(tmp_path: Path) -> None:
    """One text file gives samples for calibration."""
    write(tmp_path / "lines.txt", *(f"line {number}" for number in range(30)))
    assert load("lines.txt", tmp_path, vocabulary="bytes").train.read([0])[1] is None


def test_faults_of_text(tmp_path: Path) -> None:
    """A missing choice of symbols, mixed forms, empty files and other encodings are told."""
    per_class(tmp_path / "films")
    assert_refused("films", tmp_path, "needs either `tokenizer` or `vocabulary`")
    assert_refused("films", tmp_path, "no such vocabulary", vocabulary="words")
    assert_refused("films", tmp_path, "no such tokenizer", "nothing is downloaded", tokenizer="bert")
    write(tmp_path / "bad.txt", "a", "bc")
    assert_refused("films", tmp_path, "bad.txt, line 2: 'bc' is not one character", vocabulary="bad.txt")
    write(tmp_path / "films/more/1.txt", "a text")
    assert_refused("films", tmp_path, "beside and in folders", vocabulary="bytes")
    write(tmp_path / "other/pos.txt", "é", encoding="latin-1")
    write(tmp_path / "other/neg.txt", "e")
    assert_refused("other", tmp_path, "pos.txt, line 1 is not UTF-8", "latin-1", vocabulary="bytes")
    write(tmp_path / "none/pos.txt", "")
    assert_refused("none", tmp_path, "pos.txt is empty", vocabulary="bytes")
    per_class(tmp_path / "few")
    (tmp_path / "few/neg.txt").unlink()
    assert_refused("few", tmp_path, "every label in", "is 'pos' (20 labels)", vocabulary="bytes")


def test_an_edit_changes_the_fingerprint(tmp_path: Path) -> None:
    """Another text, length or vocabulary is another data set."""
    per_class(tmp_path / "films")
    before = load("films", tmp_path, vocabulary="bytes").fingerprint()
    assert load("films", tmp_path, vocabulary="bytes").fingerprint() == before
    assert load("films", tmp_path, vocabulary="bytes", max_length=4).fingerprint() != before
    assert load("films", tmp_path, vocabulary="characters").fingerprint() != before
    write(tmp_path / "films/pos.txt", *(f"pos film {number}!" for number in range(20)))
    assert load("films", tmp_path, vocabulary="bytes").fingerprint() != before


def tokenizer(folder: Path) -> None:
    """A tokenizer of seven words: tokenizer.json, and the folder `bert` of a model that takes token types."""
    transformers: Any = pytest.importorskip("transformers")
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    made = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    write(folder / "tokenizer.json", json.dumps(made))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    )
    fast.save_pretrained(str(folder / "bert"))


@pytest.mark.torch
def test_tokens_of_a_tokenizer(tmp_path: Path) -> None:
    """A file gives input_ids and attention_mask, a folder what its model takes; texts are cut and padded."""
    tokenizer(tmp_path)
    lines = [json.dumps({"text": "good film" if i % 2 else "bad", "label": i % 2}) for i in range(30)]
    write(tmp_path / "d.jsonl", *lines)
    data = load("d.jsonl", tmp_path, tokenizer="tokenizer.json", max_length=3, lengths=True)
    inputs, targets = data.train.read(range(10))
    row = int(np.flatnonzero(np.asarray(targets) == 1)[0])
    assert inputs["input_ids"][row].tolist() == [4, 6, 0]
    assert inputs["attention_mask"][row].tolist() == [1, 1, 0]
    assert inputs["lengths"][row] == 2
    folder = load("d.jsonl", tmp_path, tokenizer="bert", max_length=3).example()
    assert set(folder) == {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.torch
def test_pairs_of_texts(tmp_path: Path) -> None:
    """Two columns are a pair with token types; two columns without a choice are refused."""
    tokenizer(tmp_path)
    write(tmp_path / "d.csv", "one,two,label", *(f"good {i},bad {i},{'ab'[i % 2]}" for i in range(30)))
    assert_refused("d.csv", tmp_path, "text columns one, two", "`text`", tokenizer="tokenizer.json")
    assert_refused("d.csv", tmp_path, "pairs of texts need a tokenizer", vocabulary="bytes", text="one,two")
    found = load("d.csv", tmp_path, tokenizer="tokenizer.json", text="one,two", max_length=6).example()
    assert found["token_type_ids"].shape == (2, 6)
    assert_refused("d.csv", tmp_path, "is not a tokenizer", tokenizer="d.csv", text="one")
