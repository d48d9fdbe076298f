"""Lint compared with NVIDIA's parser on generated graphs: rejections are predicted, and sound files have no fault."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import graph_generator as graphs
import onnx
import pytest
from trt_oracle import Oracle

from retort.export.lint import lint, rejected
from retort.export.lint.operators import FOREIGN, INTEGER_OPS, UNSUPPORTED

needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
pytestmark = [pytest.mark.trt, needs_trt]
FAST, LONG = 120, int(os.environ.get("RETORT_DIFFERENTIAL_SEEDS", "1700"))
STRIDE = 100_003
SILENT = (
    *("uint8", "no zero point", "activation per channel", "wrong axis"),
    *("old opset", "ancient opset", "half scales too early"),
)
ADVISED = ("weight quantized at run time", "quantized twice", "code -128")


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    """NVIDIA's parser."""
    made = Oracle()
    yield made
    made.close()


@dataclass
class Tally:
    """What both judges said of many graphs.

    Attributes:
        missed: refused by the parser, with no finding that says so.
        alarms: taken by the parser, though a finding says that it is refused; or sound, and accused.
        silent: faults that the parser takes, and lint does not see or advise against.
        counts: graphs per fault and verdict.
    """

    missed: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Number of graphs."""
        return sum(self.counts.values())

    def judge(self, oracle: Any, model: onnx.ModelProto, fault: str, where: str) -> None:
        """Lint and parse one graph."""
        answer, found = oracle.ask(model.SerializeToString()), lint(model)
        taken = answer["parsed"] and answer["outputs"] > 0
        self.counts[fault, taken] += 1
        told = [str(item) for item in found if item.verdict != "advice"]
        if not taken and not rejected(found):
            self.missed.append(f"{where}: {answer['errors'][:1]} but {told[:3]}")
        if taken and (rejected(found) or (not fault and told)):
            self.alarms.append(f"{where}: {told[:3]}")
        if taken and fault in SILENT + ADVISED and graphs.FAULTS[fault][0] not in {item.rule for item in found}:
            self.silent.append(where)


def compare(oracle: Any, seeds: int) -> Tally:
    """Both verdicts on the sound graph of each seed and on two graphs with a fault."""
    tally, faults = Tally(), list(graphs.FAULTS)
    for seed in range(seeds):
        tally.judge(oracle, graphs.generate(seed).model(), "", f"sound graph {seed}")
        for step in range(2):
            fault = faults[(2 * seed + step) % len(faults)]
            tried = ((number, graphs.faulty(number, fault)) for number in range(seed, seed + 50 * STRIDE, STRIDE))
            number, model = next((item for item in tried if item[1] is not None), (seed, None))
            if model is not None:
                tally.judge(oracle, model, fault, f"{fault} in graph {number}")
    return tally


def require_agreement(tally: Tally) -> None:
    """No rejection is missed, no silent fault is overlooked, and at most 0.5 % are false alarms."""
    assert tally.missed == []
    assert tally.silent == []
    assert len(tally.alarms) <= 0.005 * tally.total, tally.alarms[:10]


def test_lint_predicts_the_parser(oracle: Any) -> None:
    """On some hundred graphs, each rejection is predicted and no sound graph has a fault."""
    tally = compare(oracle, FAST)
    require_agreement(tally)
    assert {fault for fault, _ in tally.counts} >= set(graphs.FAULTS)


@pytest.mark.slow
def test_lint_predicts_the_parser_on_thousands(oracle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """On 5,100 graphs, every kind of fault among them, lint and parser agree (RETORT_DIFFERENTIAL_SEEDS: others)."""
    tally = compare(oracle, LONG)
    pairs = ((fault, tally.counts[fault, True], tally.counts[fault, False]) for fault in ("", *graphs.FAULTS))
    rows = "; ".join(f"{fault or 'sound'} {taken}+{refused}" for fault, taken, refused in pairs)
    verdict = f"{len(tally.missed)} missed, {len(tally.alarms)} false alarms, {oracle.crashes} crashes"
    with capsys.disabled():
        print(f"\n{tally.total} graphs (accepted+refused): {rows}; {verdict}")  # noqa: T201
    require_agreement(tally)
    assert tally.total >= 2.9 * LONG
    assert all(tally.counts[fault, True] + tally.counts[fault, False] >= 5 for fault in graphs.FAULTS)


@pytest.mark.parametrize("fault", SILENT)
def test_what_the_parser_accepts_without_an_error_is_found(oracle: Any, fault: str) -> None:
    """Each of the faults that the parser accepts silently has its finding, under its own rule."""
    found = 0
    for seed in range(60):
        model = graphs.faulty(seed, fault)
        if model is None or not oracle.ask(model.SerializeToString())["parsed"]:
            continue
        found += 1
        assert graphs.FAULTS[fault][0] in {item.rule for item in lint(model) if item.verdict == "silent"}
    assert found >= 2


def test_junk_that_parses_is_no_network(oracle: Any) -> None:
    """Two bytes that the parser reads as an empty network are a fault."""
    junk = b"\x08\x01"
    answer = oracle.ask(junk)
    assert answer["parsed"]
    assert answer["outputs"] == 0
    assert rejected(lint(onnx.ModelProto.FromString(junk)))


def test_the_operator_table_is_the_parsers() -> None:
    """The table of unsupported operators agrees with the installed parser for every operator of ONNX."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {name for name in names if not parser.supports_operator(name)} == set(UNSUPPORTED) & names
    assert all(parser.supports_operator(name) for name in FOREIGN)
    assert not any(parser.supports_operator(name) for name in INTEGER_OPS)
