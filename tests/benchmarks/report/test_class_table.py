"""The classes of the report: each with its samples and the share that is right in the reference and at the end."""

from __future__ import annotations

import numpy as np

from retort.benchmarks.accuracy import Predictions, measure_accuracy
from retort.benchmarks.build_result import class_entry
from retort.benchmarks.report.class_table import SHOWN, class_table, confusion_table
from retort.benchmarks.result import ClassEntry, Result, Spread, StageEntry


def entry(name: str, n: int, share: float) -> ClassEntry:
    """One class."""
    return ClassEntry(name=name, n=n, share=Spread(value=share, low=share / 2, high=1.0, confidence=0.95))


def result(*stages: tuple[str, tuple[ClassEntry, ...]]) -> Result:
    """A result of stages with the accuracy of their classes."""
    made = tuple(StageEntry.model_construct(stage=name, classes=classes) for name, classes in stages)
    return Result.model_construct(stages=made, reference=made[0].stage)


def test_the_reference_and_the_last_stage_are_compared() -> None:
    """A row per class has its name, its samples and its share in both stages."""
    before, after = (entry("cat", 5, 1.0), entry("dog", 7, 0.5)), (entry("cat", 5, 0.8), entry("dog", 7, 0.5))
    found = class_table(result(("train", before), ("prune", before), ("quantize", after), ("pack", ())))
    assert found is not None
    assert found["stages"] == ["train", "quantize"]
    assert [(row["name"], row["n"], [cell["share"] for cell in row["cells"]]) for row in found["rows"]] == [
        ("cat", 5, ["100.00 %", "80.00 %"]),
        ("dog", 7, ["50.00 %", "50.00 %"]),
    ]


def test_of_many_classes_those_that_lost_most_are_shown() -> None:
    """More classes than fit are left out, and it is said how many."""
    names = [f"class {number}" for number in range(SHOWN + 5)]
    before = tuple(entry(name, 9, 1.0) for name in names)
    after = tuple(entry(name, 9, 0.1 if name == "class 33" else 1.0) for name in names)
    found = class_table(result(("train", before), ("quantize", after)))
    assert found is not None
    assert found["rows"][0]["name"] == "class 33"
    assert len(found["rows"]) == SHOWN
    assert found["note"] == "5 other classes, which fell no further than these, are left out."


def test_the_note_claims_no_loss_that_nobody_measured() -> None:
    """Of one stage alone nothing fell; classes that all improved did not lose, and one class is not many."""
    names = [f"class {number}" for number in range(SHOWN + 1)]
    before = tuple(entry(name, 9, 0.5) for name in names)
    alone = class_table(result(("train", before)))
    assert alone is not None
    assert alone["note"] == "1 other class is left out."
    better = class_table(result(("train", before), ("quantize", tuple(entry(name, 9, 1.0) for name in names))))
    assert better is not None
    assert "lost" not in better["note"]


def test_without_names_there_is_no_table() -> None:
    """Classes without names are not listed."""
    assert class_table(result(("train", ()))) is None


def test_shares_by_class_are_counted() -> None:
    """The accuracy of each class that has samples is the share of its own samples."""
    outputs = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 1]]
    predictions = Predictions({"y": outputs}, np.array([0, 1, 1, 1, 1]))
    found = measure_accuracy("accuracy", predictions, classes=["a", "b", "c"]).classes
    assert [(item.name, item.n, item.share.value) for item in found] == [("a", 1, 1.0), ("b", 4, 0.75)]
    assert class_entry(found[1]).share.value == 0.75
    assert measure_accuracy("accuracy", predictions, classes=["a", "b"]).classes == ()


def test_what_is_taken_for_what_is_a_table() -> None:
    """The last judged stage has a row per true class; classes without samples keep their number."""
    given = result(("int8", (entry("cat", 3, 0.5), entry("owl", 2, 1.0))))
    stage = given.stages[-1].model_copy(update={"confusion": ((2, 0, 1), (0, 0, 0), (0, 0, 2))})
    table = confusion_table(given.model_copy(update={"stages": (stage,)}))
    assert table is not None
    assert table["names"] == ["cat", "1", "owl"]
    assert [cell["count"] for cell in table["rows"][0]["cells"]] == [2, 0, 1]
    assert confusion_table(given) is None
