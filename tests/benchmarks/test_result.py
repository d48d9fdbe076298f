"""The schema of results, the tables, the comparison of two results and the HTML report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from known import known
from measured_results import SPEEDS, measured

from retort.__main__ import main
from retort.benchmarks import result, spreads
from retort.benchmarks.report import compare, formatting, html_report, plots, table, verdict
from retort.core.errors import ArtifactError, MissingFileError, UserError
from retort.core.metrics.intervals import Interval
from retort.core.options.stage_options import MetricName

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> result.Result:
    """One result for all tests that only read it."""
    return measured(tmp_path_factory.mktemp("result"))


def test_result_survives_json(found: result.Result, tmp_path: Path) -> None:
    """A result that is written and read again is equal, and its text is valid by its schema and validator."""
    result.save_result(found, tmp_path / "measurement.json")
    assert result.load_result(tmp_path / "measurement.json") == found
    text = (tmp_path / "measurement.json").read_text()
    assert '"schema": "retort.result/2"' in text
    assert "NaN" not in text
    assert "Infinity" not in text
    schema = result.json_schema()
    assert set(schema["required"]) >= {"id", "started", "env", "stages", "reference"}
    assert schema["additionalProperties"] is False


def test_result_carries_what_was_measured(found: result.Result) -> None:
    """The result has hash, bytes, metric, drop, ratio, block medians and the machine."""
    export = found.stage("export")
    assert export.size_bytes == 30_000
    assert known(export.metric).n == 300
    drop, ratio = known(export.drop), known(export.latency[32].ratio)
    assert known(drop.low) < known(drop.value) < known(drop.high)
    assert known(ratio.low) < 4.0 < known(ratio.high)
    assert len(export.latency[1].blocks_ms) == found.runs[0].rounds
    assert known(export.memory).model_bytes == 2_000
    assert found.stage("train").latency[1].ratio is None
    assert re.fullmatch(r"[0-9a-f]{64}", export.sha256)
    assert found.env["cpu"]["model"]
    assert found.tool["version"]


def test_every_fault_of_a_result_is_named(found: result.Result, tmp_path: Path) -> None:
    """Unknown keys, wrong types, unordered intervals and missing parts are all listed with their key paths."""
    raw = found.model_dump(mode="json", by_alias=True)
    raw["stages"][0]["size_bytes"] = -1
    raw["stages"][1]["drop"]["low"] = 9.0
    raw["colour"] = "blue"
    del raw["command"]
    faults = result.validate(raw)
    assert len(faults) == 4
    for words_of in ("stages.0.size_bytes", "stages.1.drop: ", "colour", "command"):
        assert any(words_of in fault for fault in faults), words_of
    path = tmp_path / "broken.json"
    path.write_text('{"schema": "retort.result/9"')
    with pytest.raises(ArtifactError, match="is not JSON"):
        result.load_result(path)
    path.write_text('{"schema": "retort.result/9"}')
    with pytest.raises(ArtifactError, match=r"retort.result/9, and this Retort reads up to retort.result/2"):
        result.load_result(path)
    with pytest.raises(MissingFileError):
        result.load_result(tmp_path / "nowhere.json")


def test_inconsistent_results_are_refused(found: result.Result) -> None:
    """A reference that is not a stage, a duplicate stage and a latency without its run are faults."""
    raw = found.model_dump(mode="json", by_alias=True)
    assert "not a stage" in result.validate({**raw, "reference": "teacher"})[0]
    assert "same name" in result.validate({**raw, "stages": [raw["stages"][0]] * 2})[0]
    assert "no run" in result.validate({**raw, "runs": raw["runs"][:1]})[0]


def test_unbounded_intervals_become_null() -> None:
    """An interval without an end is null in JSON, is unbounded when read again, and is described so in text."""
    spread = result.Spread.of(Interval(2.0, -np.inf, np.inf, 0.95))
    assert (spread.low, spread.high) == (None, None)
    assert spread.interval() == Interval(2.0, -np.inf, np.inf, 0.95)
    assert formatting.range_text(spread) == "[not bounded]"


def test_table_has_a_row_per_stage_and_fits(found: result.Result) -> None:
    """The terminal table has parameters, bytes, metric, drop and both latencies in at most 150 characters."""
    columns, rows = table.table_rows(found)
    assert columns[0] == "stage"
    assert [row[0] for row in rows] == list(SPEEDS)
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    assert sum(widths) + 3 * len(widths) + 1 <= 150
    assert (rows[0][4], rows[0][6]) == ("–", "1×")
    assert rows[1][4].endswith("]")
    assert float(rows[2][-1].partition("×")[0]) == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formatting.bytes_text(999), "999 B"),
        (formatting.bytes_text(131_072), "131 kB"),
        (formatting.bytes_text(4_920_000), "4.92 MB"),
        (formatting.count_text(11_689_512), "11.7 M"),
        (formatting.time_text(0.0085), "8.50 µs"),
        (formatting.time_text(12.34), "12.3 ms"),
        (formatting.time_text(2500), "2.50 s"),
        (formatting.time_text(None), "–"),
        (formatting.metric_value("accuracy", 0.98611), "98.61 %"),
        (formatting.metric_value("sqnr", -3.0), "−3.0 dB"),
        (formatting.metric_value("mse", 0.000123456), "0.0001235"),
        (formatting.drop_value("accuracy", 0.0028), "0.28 pp"),
        (formatting.drop_value("accuracy", -0.0028, signed=True), "−0.28 pp"),
        (formatting.drop_value("accuracy", -0.0, signed=True), "0.00 pp"),
        (formatting.drop_value("sqnr", 1.2, signed=True), "+1.20 dB"),
        (formatting.drop_range("sqnr", result.Spread(value=1.2, low=-0.5, high=2.9, confidence=0.95)), "[−0.50, 2.90]"),
        (formatting.drop_unit("sqnr"), ", dB"),
        (formatting.change_text("accuracy", 0.0028), "lost 0.28 pp"),
        (formatting.change_text("accuracy", -0.0028), "gained 0.28 pp"),
        (formatting.change_text("mse", 0.0123), "worse by 0.0123"),
        (formatting.change_text("mse", -0.0123), "better by 0.0123"),
        (formatting.change_text("mae", 0.0), "lost nothing"),
        (formatting.digits(0.7312), "0.731"),
        (formatting.digits(1464.2), "1,464"),
    ],
)
def test_numbers_read_well(shown: str, wanted: str) -> None:
    """Units, digits and signs are as people write them."""
    assert shown == wanted


class Reader(HTMLParser):
    """Collects tags, text and every address of a page, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the tag."""
        self.tags.append(tag)
        addresses = [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        self.addresses += [address for address in addresses if not address.startswith("#")]  # inside the page
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself."""
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """The tag must be the innermost open one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Remember the text."""
        self.words.append(data)


def test_report_is_one_safe_small_file(found: result.Result, tmp_path: Path) -> None:
    """The report is well-formed, below 300 KB, loads nothing, runs no script, and escapes the users' names."""
    html_report.write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(page.encode()) < 300_000
    assert reader.addresses == []
    assert "script" not in reader.tags
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert "<fine>" not in page
    assert "&lt;fine&gt;" in page
    assert "<x>" not in page
    assert reader.tags.count("svg") == len(plots.all_plots(found)) == 13


def test_report_says_the_verdict_first_and_keeps_the_evidence(found: result.Result) -> None:
    """The headline has speed, size and accuracy with intervals; hash, machine and command are on the page."""
    first = verdict.verdict(found)[0]
    speed = known(found.stage("export").latency[1].ratio)
    assert first.startswith(f"“export” is {speed.value:.2f}× faster than “train” at batch 1 (95 % CI")
    assert "3.00× smaller" in first
    assert "within the gate" in first
    page = html_report.render(found, "My title")
    assert page.index("My title") < page.index("× faster than") < page.index("passed")
    for stage in found.stages:
        assert stage.sha256 in page
    assert found.env["cpu"]["model"].split("(")[0] in page
    assert "retort run &lt;x&gt;.yaml" in page


def test_verdict_is_honest_about_slower_and_undecided(found: result.Result) -> None:
    """A slower model is called slower, an interval that contains 1 decides nothing, and doubts are stated."""
    export = found.stage("export")
    entry = export.latency[1]
    slower = entry.model_copy(update={"ratio": spreads.RatioEntry(value=0.5, low=0.4, high=0.6, confidence=0.95), "verdict": "slower"})  # fmt: skip  # noqa: E501
    unsure = entry.model_copy(update={"ratio": spreads.RatioEntry(value=1.01, low=0.9, high=1.1, confidence=0.95), "verdict": "cannot tell"})  # fmt: skip  # noqa: E501
    noisy = found.runs[0].model_copy(update={"noise": result.NoiseEntry(status="NOISY", reasons=("load",))})
    gate = found.gates[0].model_copy(update={"verdict": "cannot tell", "passed": False})

    def told(latency: result.LatencyEntry) -> str:
        stage = export.model_copy(update={"latency": {1: latency}})
        stages = (*found.stages[:2], stage)
        changed = found.model_copy(update={"stages": stages, "runs": (noisy,), "gates": (gate,)})
        return " ".join(verdict.verdict(changed))

    assert "2.00× slower than “train” at batch 1 (95 % CI 1.67 to 2.50)" in told(slower)
    assert "not measurably faster or slower" in told(unsure)
    assert "gate undecided" in told(unsure)
    assert "The gate was not passed." in told(unsure)
    assert told(unsure).startswith("NOISY, so no decision can be based on these times: “export”")


def test_report_of_the_least_possible_result(found: result.Result) -> None:
    """A result with one stage and only its size gives a page."""
    only = result.StageEntry(stage="train", sha256="0" * 64, kind="program", file="model.pt2", size_bytes=10)
    bare = found.model_copy(update={"stages": (only,), "runs": (), "gates": (), "env": {}, "data": {}})
    page = html_report.render(bare)
    assert "model.pt2" in page
    assert table.table_rows(bare) == (["stage", "params", "size"], [["train", "–", "10 B"]])


def test_report_of_a_run_too_short_for_intervals(tmp_path: Path) -> None:
    """If the time budget allows only a few rounds, speed intervals are open in the table, the report and JSON."""
    short = measured(tmp_path, blocks=2, budget_s=1e-9)
    ratio = short.stage("export").latency[1].ratio
    assert ratio is not None
    assert (ratio.low, ratio.high) == (None, None)
    page = html_report.render(short)
    assert "not bounded" in page
    assert "∞" not in page
    assert any("not bounded" in cell for row in table.table_rows(short)[1] for cell in row)
    result.save_result(short, tmp_path / "result.json")
    assert result.load_result(tmp_path / "result.json") == short


@pytest.mark.parametrize("name", ["schema1.json", "schema1_open.json"])
def test_results_of_version_1_still_open(name: str, found: result.Result) -> None:
    """A file of the first schema can be read, compared, tabled and reported; zeros are read as open ends."""
    old = result.load_result(RESULTS / name)
    ratio = old.stage("export").latency[1].ratio
    assert ratio is not None
    assert (ratio.low is None) is ("open" in name)
    assert {run.clock for run in old.runs} == {"wall"}
    assert html_report.render(old)
    assert table.table_rows(old)[1]
    compared = compare.compare_results(old, found)
    assert [change.stage for change in compared.changes] == list(SPEEDS)
    json.dumps(compare.to_dict(compared), allow_nan=False)
    assert result.from_json(result.to_json(old)) == old


def test_noisy_runs_and_other_clocks_compare_to_nothing(found: result.Result, tmp_path: Path) -> None:
    """A ratio between two results is "cannot tell" if one was NOISY or was timed with another clock."""
    slower = measured(tmp_path, slow=1.3, seed=5)
    noisy = [
        run.model_copy(update={"noise": result.NoiseEntry(status="NOISY", reasons=("load",))}) for run in found.runs
    ]
    other = [run.model_copy(update={"clock": "thread"}) for run in found.runs]
    for runs, why in ((noisy, "NOISY"), (other, "CPU time")):
        compared = compare.compare_results(found.model_copy(update={"runs": tuple(runs)}), slower)
        for change in compared.changes:
            assert set(change.verdicts.values()) == {"cannot tell"}
            assert all(why in ratio.why_undecided for ratio in change.speed.values())


def test_regression_metrics_are_shown_in_their_own_unit(tmp_path: Path) -> None:
    """For MSE the loss is an increase and not in percentage points, in table and report."""
    found = measured(tmp_path, metric="mse")
    assert "pp" not in " ".join(cell for row in table.table_rows(found)[1] for cell in row)
    assert " with mse +" in verdict.verdict(found)[0]


@pytest.mark.parametrize(("metric", "name"), [("mse", "rise"), ("accuracy", "drop")])
def test_the_heading_of_a_loss_has_its_direction(tmp_path: Path, metric: MetricName, name: str) -> None:
    """A worse model has a positive rise of its error, or a positive drop of its accuracy, with these words."""
    found = measured(tmp_path, metric=metric)
    reference, worse = found.stages[0], found.stages[-1]
    assert known(worse.drop).value is not None
    higher = known(known(worse.metric).value) > known(known(reference.metric).value)
    assert (known(known(worse.drop).value) > 0) == (higher if metric == "mse" else not higher)
    assert table.table_rows(found)[0][4].startswith(name)
    assert compare.comparison_rows(compare.compare_results(found, found))[0][3] == (
        "rise" if name == "rise" else "loss"
    )
    page = tmp_path / "report.html"
    html_report.write_report(found, page)
    assert (">rise</th>" in page.read_text()) == (name == "rise")


def test_comparison_of_two_results(found: result.Result, tmp_path: Path) -> None:
    """A slow-down of 30 % between two runs is reported, a repetition is not; sizes and losses are shown."""
    again, slower = (measured(tmp_path, slow=factor, seed=5) for factor in (1.0, 1.3))
    same, changed = compare.compare_results(found, again), compare.compare_results(found, slower)
    assert {verdict for change in same.changes for verdict in change.verdicts.values()} == {"cannot tell"}
    assert {verdict for change in changed.changes for verdict in change.verdicts.values()} == {"slower"}
    assert all(known(change.drop).low == 0 == known(change.drop).high for change in same.changes)  # the same files
    columns, rows = compare.comparison_rows(changed)
    assert len(rows) == 3
    assert all(len(row) == len(columns) for row in rows)
    assert compare.to_dict(changed)["stages"][2]["verdicts"] == {"1": "slower", "32": "slower"}
    other = again.model_copy(update={"env": {**again.env, "kernel": "x"}, "data": {"sha256": "other"}})
    assert len(compare.compare_results(found, other).notes) == 2
    only = again.model_copy(
        update={"stages": (again.stages[0].model_copy(update={"stage": "base"}),), "reference": "base"}
    )
    with pytest.raises(UserError, match="have no common stage"):
        compare.compare_results(found, only)


def test_the_same_file_on_the_same_data_has_no_difference(found: result.Result) -> None:
    """Samples of equal hashes are paired, so that an identical file has lost exactly nothing; others keep a doubt."""
    for data, certain in (({"fingerprint": "a"}, True), ({}, False)):
        given = found.model_copy(update={"data": data})
        drops = [known(change.drop) for change in compare.compare_results(given, given).changes]
        assert all((drop.low == drop.value == drop.high == 0) is certain for drop in drops)
    altered = found.stages[0].model_copy(update={"sha256": "0" * 64})
    one = found.model_copy(update={"data": {"fingerprint": "a"}})
    two = one.model_copy(update={"stages": (altered, *found.stages[1:])})
    drop = known(compare.compare_results(one, two).changes[0].drop)
    assert drop.low < 0 < drop.high


def test_compare_command_has_a_verdict_per_stage(
    found: result.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort compare` reads two result files and gives a verdict per stage and batch size as JSON."""
    result.save_result(found, tmp_path / "before.json")
    result.save_result(measured(tmp_path, slow=1.3, seed=5), tmp_path / "after.json")
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(tmp_path / "before.json"), str(tmp_path / "after.json"), "--json"])
    assert stopped.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in told["stages"]] == list(SPEEDS)
    assert {verdict for stage in told["stages"] for verdict in stage["verdicts"].values()} == {"slower"}
