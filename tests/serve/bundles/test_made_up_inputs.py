"""Golden inputs that are made up are as varied as the model allows, so that what seems exact is so (serve.md H17)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.benchmarks.suites.serving.served_networks import tokens
from retort.core.artifact import load_artifact
from retort.core.context import Place
from retort.core.options.serving_options import PackOptions
from retort.core.session import open_session
from retort.core.tensors import Array
from retort.serve.bundles.made_up_inputs import made_up
from retort.serve.engine import Engine
from retort.serve.torchserve.archives.archive import write_archive


def test_indices_reach_far_into_a_table_and_masks_do_not(tmp_path: Path) -> None:
    """A table of 300 rows is asked for many of them; a mask has only 0 and 1; equal models get equal inputs."""
    tokens(tmp_path / "net.onnx")
    session = open_session(tmp_path / "net.onnx")
    golden = made_up(session)
    assert len(np.unique(golden["in.input_ids"])) > 16
    assert 50 < golden["in.input_ids"].max() < 300
    assert set(np.unique(golden["in.attention_mask"])) == {0, 1}
    again = made_up(session)
    assert all(np.array_equal(again[name], array) for name, array in golden.items())


@pytest.mark.parametrize("length", [5, 33])
def test_batches_of_such_a_model_have_the_bits_of_single_rows(tmp_path: Path, length: int) -> None:
    """Rows of other requests change no bit of an answer, although no real input was known when it was packed."""
    tokens(tmp_path / "net.onnx")
    archive = write_archive(PackOptions(), load_artifact(tmp_path / "net.onnx"), Place(tmp_path / "made"))
    engine = Engine.load(archive.path / "bundle")
    random = np.random.default_rng(3)

    def feeds() -> dict[str, Array]:
        return {
            "input_ids": random.integers(0, 300, (1, length)),
            "attention_mask": random.integers(0, 2, (1, length)),
        }

    for _ in range(40):
        asked = [feeds() for _ in range(int(random.integers(2, 9)))]
        together = engine.executor.run(asked)
        for one, found in zip(asked, together, strict=True):
            assert not isinstance(found, Exception)
            alone = engine.session.run(one)
            assert all(found[name].tobytes() == alone[name].tobytes() for name in alone)
