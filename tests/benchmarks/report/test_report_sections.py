"""The report of a run: what each stage did and proved, what is INT8, the recipe, and each verdict once."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest

from retort.benchmarks.report.html_report import render, tiles
from retort.benchmarks.report.plots import curves
from retort.benchmarks.report.verdict import headline
from retort.benchmarks.result import GateEntry, Result, ShipEntry, Spread, load_result
from retort.benchmarks.stage_details import Curve, FloatLayer, OutputNoise, Proof, StageDetails

EPOCHS = tuple({"epoch": float(epoch), "loss": 1.0 / epoch} for epoch in (1, 2, 3))
DETAILS = (
    StageDetails(
        stage="prune",
        options={"macs": 0.5, "align": 8, "recover": {"epochs": 3, "ema": None}},
        chosen={"macs": 0.5, "recover": {"epochs": 3}},
        did=tuple(f"sentence {index}" for index in range(9)),
        proofs=(Proof(claim="the cut equals the mask", found="largest error 8.6e-16", bound="1e-9"),),
        curves=(Curve(name="recovery", epochs=EPOCHS),),
    ),
    StageDetails(
        stage="quantize",
        integer={"conv2d": 8},
        integer_macs_percent=98.4,
        floating=tuple(FloatLayer(layer=f"layer{k}", operator="add", reason=f"reason {k}") for k in range(12)),
        outputs=(OutputNoise(output="scores", compared="INT8 against FP32", sqnr_db=45.6, agreement=1.0),),
    ),
)


@pytest.fixture(scope="module")
def result() -> Result:
    """A result with everything that a run tells."""
    measured = load_result(Path(__file__).parents[2] / "results/schema1.json")
    gates = [
        GateEntry.model_validate(
            {"stage": "export", "kind": "speedup", "bound": 2, "value": 3, "low": 2.9, "high": 3.1, "confidence": 0.95,
             "against": "train", "verdict": verdict, "passed": verdict == "passed",
             "sentence": f"after export: 3.00× the speed: {ending}"}
        )
        for verdict, ending in (
            ("passed", "passed"), ("failed", "MISSED"),
            ("cannot tell", "CANNOT TELL, because it is short: measure longer"),
        )
    ]  # fmt: skip
    ship = ShipEntry(stage="export", file="runs/a/model.onnx", sentence="ship runs/a/model.onnx (30 kB)")
    recipe = "name: a # <b>\nstages:\n  - export\n"
    return measured.model_copy(update={"details": DETAILS, "ship": ship, "recipe": recipe, "gates": tuple(gates)})


def test_every_section_is_there(result: Result) -> None:
    """What to ship, INT8 with reasons, fidelity, proofs, options and the recipe have headings and their content."""
    page = render(result)
    heads = [unescape(re.sub("<.*?>", "", head)) for head in re.findall(r"<h2>(.*?)</h2>", page)]
    assert heads == [
        "What to ship", "Gates", "Stages", "Plots", "What is INT8, and what is not", "Fidelity of every output",
        "Proofs", "What each stage did", "Reproduce", "Latency in full", "Where and how",
    ]  # fmt: skip
    text = re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", page)))
    for part in (
        "Ship runs/a/model.onnx (30 kB).",
        "8 conv2d in INT8 , 98.4 % of the multiply-accumulates. 12 layers",
        "layer11 add reason 11",
        "scores INT8 against FP32 45.6 dB 100.0 %",
        "the cut equals the mask largest error 8.6e-16 1e-9",
        "macs 0.5 recover {epochs: 3} ",
        "retort run <x>.yaml",
        "name: a # <b> stages:",
    ):
        assert part.replace(" ,", ",") in text.replace(" ,", ","), part


def test_a_verdict_stands_once(result: Result) -> None:
    """The label of a gate has the verdict, and its sentence does not repeat it; a reason stays."""
    page = render(result)
    gates = re.findall(r'<li><span class="mark \w+">(.*?)</span><span>(.*?)</span>', page)
    assert gates == [
        ("passed", "after export: 3.00× the speed"),
        ("failed", "after export: 3.00× the speed"),
        ("cannot tell", "after export: 3.00× the speed: because it is short: measure longer"),
    ]


def test_long_lists_are_folded(result: Result) -> None:
    """Twelve layers, the options and more than six sentences are closed at first; few layers are open."""
    page = render(result)
    assert "<details>\n  <summary>What stays in floating point" in page
    assert "<summary>3 more</summary>" in page
    assert "<summary>All options of prune</summary>" in page
    few = result.details[1].model_copy(update={"floating": result.details[1].floating[:2]})
    assert "<details open>" in render(result.model_copy(update={"details": (few,)}))


@pytest.mark.parametrize(
    ("percent", "said"),
    [
        (100.0, "No layer with multiply-accumulates stays in floating point."),
        (None, "No layer with multiply-accumulates stays in floating point."),
        (87.5, "12.50 % of the multiply-accumulates stay in floating point, in layers that are not known by name."),
    ],
)
def test_what_stays_in_floating_point_is_not_denied(result: Result, percent: float | None, said: str) -> None:
    """Without a list of layers the page says what it knows: softmax and normalization are in no list."""
    whole = result.details[1].model_copy(update={"floating": (), "integer_macs_percent": percent})
    page = render(result.model_copy(update={"details": (whole,)}))
    assert said in page
    assert "Nothing stays" not in page
    assert "such as softmax, normalization and activation functions, are not counted" in page
    assert not re.search(r"[a-z]{2}\.[A-Z][a-z]", re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.S))


def test_recovery_has_a_curve(result: Result) -> None:
    """The training after a cut is drawn beside the other trainings."""
    names = [name for plot in curves(result) for name, _ in plot.keys]
    assert "prune: recovery" in names


def test_headings_and_pictures_are_accessible(result: Result) -> None:
    """No level of heading is skipped, every picture has a title, and header cells have a scope."""
    page = render(result)
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(re.findall(r'<svg[^>]*role="img" aria-label="[^"]+"', page)) == page.count("<svg")
    assert page.count("<th>") == 0


def test_remarks_on_the_machine_are_shown(result: Result) -> None:
    """What disturbed valid times stands under the table, with the batch size."""
    noise = result.runs[0].noise.model_copy(update={"status": "VALID", "remarks": ("processes waited", "it drifted")})
    runs = (result.runs[0].model_copy(update={"noise": noise}), *result.runs[1:])
    page = render(result.model_copy(update={"runs": runs}))
    assert f"Times at batch {result.runs[0].batch}: processes waited; it drifted." in page


def test_a_tile_has_one_sign(result: Result) -> None:
    """The interval of the accuracy tile contains its value, in the same sign."""
    last = headline(result)
    drop = Spread(value=-0.0028, low=-0.0156, high=0.0078, confidence=0.95)
    changed = [stage.model_copy(update={"drop": drop}) if stage == last else stage for stage in result.stages]
    tile = tiles(result.model_copy(update={"stages": tuple(changed)}))[-1]
    assert (tile["value"], tile["note"]) == ("+0.28 pp", "[−0.78, 1.56], 95 % interval")
