"""Names of features: columns of a table in the order of the model that was trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import load, write

from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import Splits
from retort.core.errors import DataError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

MODEL = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),))


def table(base: Path, header: str, line: str) -> Splits:
    """A table of forty equal rows but for the label."""
    write(base / "t.csv", *([header] if header else []), *(f"{line},{number % 2}" for number in range(40)))
    return load("t.csv", base)


def test_names_of_features_are_stored_where_they_fit(tmp_path: Path) -> None:
    """They go with a signature, which keeps its own; columns of a file without a header have none."""
    signature = table(tmp_path, "a,b,label", "1.5,2.5").describing(MODEL)
    assert signature.features == ("a", "b")
    assert Signature.from_json(signature.to_json()) == signature
    assert signature.tabulating(("c", "d")) == signature
    assert "features" not in MODEL.to_json()
    assert MODEL.tabulating(("a", "b", "c")) == MODEL
    assert table(tmp_path, "", "1.5,2.5").describing(MODEL) == MODEL


@pytest.mark.parametrize(
    ("header", "line", "wanted"),
    [
        ("a,b,label", "1.5,2.5", [1.5, 2.5]),
        ("b,a,label", "2.5,1.5", [1.5, 2.5]),
        ("b,extra,a,label", "2.5,9.5,1.5", [1.5, 2.5]),
        ("c,d,label", "2.5,1.5", [2.5, 1.5]),
        ("", "2.5,1.5", [2.5, 1.5]),
    ],
)
def test_features_get_the_order_of_the_model(tmp_path: Path, header: str, line: str, wanted: list[float]) -> None:
    """The same names are found wherever they stand; all others may be names of the same features."""
    model = MODEL.tabulating(("a", "b"))
    data = table(tmp_path, header, line)
    fitted = fit_to(fit_to(data, model), model)
    for split in (fitted.train, fitted.test, fitted.calibration):
        assert np.asarray(split.read([0])[0]["x"]).tolist() == [wanted]
    moved = data.train.fingerprint() != fitted.train.fingerprint()
    assert moved == (header in ("b,a,label", "b,extra,a,label"))


def test_a_feature_that_is_missing_is_refused(tmp_path: Path) -> None:
    """Another column in its place would be taken for it."""
    with pytest.raises(DataError, match="the data lack b of the features that the model takes, which are a, b"):
        fit_to(table(tmp_path, "a,c,label", "1.5,2.5"), MODEL.tabulating(("a", "b")))
