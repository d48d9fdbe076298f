"""Symbols of a text model travel from its data to whoever sends it texts."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import load, write

import retort
from retort.cli.describe import ports, signature_of
from retort.core.artifact import load_artifact
from retort.core.data.model_inputs import fit_to
from retort.core.preprocessing.symbols import spell
from retort.core.signature import Signature

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(32, 8)
        self.head = torch.nn.Linear(8, 2)
    def forward(self, ids):
        return self.head(self.table(ids).mean(1))
def net():
    return Net()
"""


def test_symbols_travel_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs, ONNX files and archives have the characters of the training; other texts are spelled with them."""
    monkeypatch.chdir(tmp_path)
    for folder, words in (("films", "ab"), ("others", "bca")):
        for name in ("neg", "pos"):
            write(tmp_path / folder / f"{name}.txt", *(f"{words} {name}" for _ in range(20)))
    write(tmp_path / "spelled_net.py", NET)
    films = {"source": "films", "args": {"vocabulary": "characters"}}
    symbols = tuple(" abegnops")
    program = retort.capture("spelled_net:net", data=films)
    graph = retort.export(retort.train(program, epochs=1))
    archive = retort.pack(graph, name="films")
    with zipfile.ZipFile(archive.path) as stored:
        signature = Signature.from_json(stored.read("signature.json"))
    for found in (program.signature, graph.signature, signature, retort.load(graph.path).signature):
        assert found.symbols == symbols
    assert retort.capture(str(graph.path), data=films).signature.symbols == symbols
    assert signature_of(load_artifact(archive.path)) == signature
    assert ports(signature)[-2] == ("symbols", "' ', 'a', 'b', 'e', 'g' … (9 in all)", "", "9")
    others = load("others", tmp_path, vocabulary="characters")
    assert others.symbols != symbols
    fitted = fit_to(others, signature)
    assert fitted.symbols == symbols
    (wanted,) = spell(signature, ["bca neg", "bca pos"]).values()
    assert wanted[0, :4].tolist() == [4, 1, 3, 2]
    rows = fitted.test.read(range(len(fitted.test)))[0]["input_ids"]
    assert {tuple(row) for row in np.asarray(rows).tolist()} == {tuple(row) for row in wanted.tolist()}
