"""Results of other tools: every number arrives, the file comes back, and damaged files are told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.benchmarks.peers.peer_formats import import_file
from retort.benchmarks.peers.peer_result import PeerResult, read_peer, write_peer
from retort.core.errors import ArtifactError, MissingFileError, UserError

DATA = Path(__file__).parent / "data"
TOOLS = {
    "benchmark_app.csv": "benchmark_app",
    "benchmark_app.json": "benchmark_app",
    "benchmark_app.txt": "benchmark_app",
    "benchmark_model.txt": "benchmark_model",
    "hyperfine.json": "hyperfine",
    "loadgen-MultiStream-detail.txt": "loadgen",
    "loadgen-MultiStream-summary.txt": "loadgen",
    "loadgen-Offline-summary.txt": "loadgen",
    "loadgen-Server-detail.txt": "loadgen",
    "loadgen-Server-summary.txt": "loadgen",
    "loadgen-SingleStream-summary.txt": "loadgen",
    "ort-perf-test.csv": "ort-perf-test",
    "ort-perf-test.txt": "ort-perf-test",
    "ort-profile.json": "ort-profile",
    "perf_analyzer-profile.json": "perf_analyzer",
    "perf_analyzer.csv": "perf_analyzer",
    "pyperf.json": "pyperf",
    "trtexec-times.json": "trtexec",
    "trtexec.txt": "trtexec",
}
TOKEN = re.compile(r"(?<![\w.+-])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?(?![\w.]*\w)")


def told(result: PeerResult) -> tuple[set[Decimal], str]:
    """Every number of a result, and all of its texts as one."""
    numbers, texts = set[Decimal](), []
    for run in result.runs:
        values = [figure.value for figure in run.figures] + [value for one in run.series for value in one.values]
        numbers |= {Decimal(repr(value)) for value in values}
        names = [*(one.name for one in run.figures), *(one.name for one in run.series)]
        texts += [run.name, *names, *run.texts, *run.texts.values()]
    return numbers, "\n".join([result.version, *texts])


def relevant(name: str) -> Iterator[str]:
    """The lines of a file whose numbers are results; LoadGen's process ids and source lines are not."""
    for line in (DATA / name).read_text().splitlines():
        yield re.sub(r'"metadata": \{.*\}\}', "", line) if line.startswith(":::MLLOG") else line


@pytest.mark.parametrize("name", TOOLS)
def test_every_number_of_a_file_arrives(name: str) -> None:
    """Each number that stands in the file is a figure, part of a series or of a kept text, digit for digit (B11)."""
    result = import_file(DATA / name)
    assert result.tool == TOOLS[name]
    numbers, text = told(result)
    missing = [
        token
        for line in relevant(name)
        for token in TOKEN.findall(line)
        if Decimal(token) not in numbers and token not in text
    ]
    assert missing == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_result_has_what_every_tool_tells(name: str, tmp_path: Path) -> None:
    """Times are in milliseconds and in order, and the imported file reads back to the same result and bytes."""
    result = import_file(DATA / name)
    for run in result.runs:
        summary = run.summary
        known = [one.value_ms for one in summary.percentiles if one.value_ms is not None]
        assert known == sorted(known)
        if summary.low_ms is not None and summary.high_ms is not None and summary.mean_ms is not None:
            assert summary.low_ms <= summary.mean_ms <= summary.high_ms
        assert summary.mean_ms is not None or known
    write_peer(result, tmp_path / "r.json")
    back = read_peer(tmp_path / "r.json")
    assert back == result
    assert back.original_bytes() == (DATA / name).read_bytes()


def test_figures_are_those_of_the_tools() -> None:
    """The common figures are what the files say, in milliseconds and per second."""
    server = import_file(DATA / "loadgen-Server-detail.txt").runs[0]
    assert server.summary.percentiles[-2].value_ms == 4.240198
    assert server.summary.per_second == 184.727
    assert server.summary.n == 100
    both = [import_file(DATA / f"loadgen-MultiStream-{kind}.txt").runs[0].summary for kind in ("detail", "summary")]
    assert both[0].mean_ms == both[1].mean_ms == 4.448627
    rows = import_file(DATA / "perf_analyzer.csv").runs
    assert [run.name for run in rows] == ["Concurrency 1", "Concurrency 3", "Concurrency 4", "Concurrency 2"]
    assert rows[0].summary.percentiles[0].value_ms == 13.891
    assert rows[0].figure("Server Queue") == 64
    lite = import_file(DATA / "benchmark_model.txt").runs[0]
    assert lite.summary.mean_ms == 2950.34
    assert lite.summary.n == 50
    assert lite.figure("Init") == 17187
    ort = import_file(DATA / "ort-perf-test.txt").runs[0]
    assert ort.summary.percentiles[-1].value_ms == pytest.approx(1.90312)
    sleep = import_file(DATA / "hyperfine.json").runs[1]
    assert sleep.name == "sleep 0.002"
    assert sleep.summary.n == 12
    app = import_file(DATA / "benchmark_app.txt")
    assert app.version.startswith("2026.4.1")
    assert app.runs[0].summary.percentiles[0].value_ms == pytest.approx(0.01777)
    profile = import_file(DATA / "ort-profile.json").runs[0]
    assert profile.summary.n == 3
    stamps = import_file(DATA / "perf_analyzer-profile.json").runs[0]
    assert stamps.summary.low_ms == 1.0


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", sorted({*TOOLS} - {"benchmark_model.txt"}))
def test_files_that_are_cut_off_are_told(name: str, share: float, tmp_path: Path) -> None:
    """A file that ends early has one message in one line, with a remedy."""
    content = (DATA / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises((ArtifactError, UserError)) as caught:
        import_file(tmp_path / name)
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy


def test_timings_of_litert_need_their_line(tmp_path: Path) -> None:
    """A text that ends before the timings is refused; the tables of the profiler after them may be missing."""
    text = (DATA / "benchmark_model.txt").read_text()
    path = tmp_path / "a.txt"
    path.write_text(text[: text.index("Inference timings")])
    with pytest.raises(ArtifactError, match="ends before the timings"):
        import_file(path)
    path.write_text(text[: text.index("Number of nodes")])
    assert import_file(path).runs[0].summary == import_file(DATA / "benchmark_model.txt").runs[0].summary
    path.write_text("".join(f"INFO: {line}\n" for line in text.splitlines()))
    assert import_file(path).runs[0].summary.mean_ms == 2950.34


EDITS = {
    "hyperfine.json": ('"mean": 0.0049', '"mean": 0.0039'),
    "loadgen-Server-summary.txt": (
        "90.00 percentile latency (ns)   : 2153562",
        "90.00 percentile latency (ns) : 9153562",
    ),
    "loadgen-Server-detail.txt": ('"key": "num_errors"', '"key": "num_errors'),
    "perf_analyzer.csv": ("13891,18795", "19891,18795"),
    "perf_analyzer-profile.json": ('"response_timestamps": [', '"response_timestamps": [1, '),
    "ort-perf-test.txt": ("P90 Latency: 0.00187215", "P90 Latency: 0.00287215"),
    "ort-perf-test.csv": (",96,7\n", ",96,8\n"),
    "ort-profile.json": ('"model_run"', '"model_ran"'),
    "benchmark_app.txt": ("Throughput:", "Through:"),
    "benchmark_app.json": ('"throughput": "8746.92"', '"throughput": "fast"'),
    "benchmark_model.txt": ("max=3189954", "max=2"),
    "trtexec-times.json": ('"latencyMs": 1.5\n', '"latencyNs": 1.5\n'),
    "pyperf.json": ('"values":', '"vals":'),
}


@pytest.mark.parametrize("name", EDITS)
def test_files_that_were_edited_are_told(name: str, tmp_path: Path) -> None:
    """What contradicts itself, or lacks what its tool always writes, is refused in one sentence."""
    before, after = EDITS[name]
    text = (DATA / name).read_text()
    assert before in text
    (tmp_path / name).write_text(text.replace(before, after))
    with pytest.raises(ArtifactError) as caught:
        import_file(tmp_path / name)
    assert name in caught.value.message
    assert "\n" not in caught.value.message


def test_foreign_files_are_told(tmp_path: Path) -> None:
    """A file of no tool, of another tool than was said, of bytes, and one that is not there."""
    (tmp_path / "a.txt").write_text("hello 1 2 3")
    with pytest.raises(UserError, match="none of the known forms"):
        import_file(tmp_path / "a.txt")
    with pytest.raises(ArtifactError, match="no whole file of pyperf"):
        import_file(DATA / "hyperfine.json", "pyperf")
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="no text file"):
        import_file(tmp_path / "b.bin")
    with pytest.raises(MissingFileError):
        import_file(tmp_path / "none")
    (tmp_path / "deep.json").write_text('{"results": "command times"' + "[" * 100_000)
    with pytest.raises(UserError):
        import_file(tmp_path / "deep.json")
    path = tmp_path / "r.json"
    write_peer(import_file(DATA / "pyperf.json"), path)
    raw = json.loads(path.read_text())
    raw["sha256"] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="does not have the SHA-256"):
        read_peer(path)
    with pytest.raises(ArtifactError, match="no imported result"):
        read_peer(DATA / "pyperf.json")


def test_the_command_imports_and_gives_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bench import` writes the result, and with --original the tool's own file comes out; nothing is replaced."""
    out, back = tmp_path / "r.json", tmp_path / "back.json"
    for given in ([str(DATA / "hyperfine.json"), "--out", str(out)], [str(out), "--original", str(back)]):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "import", *given, "--json"])
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out)["tool"] == "hyperfine"
    assert back.read_bytes() == (DATA / "hyperfine.json").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["bench", "import", str(out), "--original", str(back)])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["bench", "import", str(DATA / "perf_analyzer.csv")])
    assert "Concurrency 3" in capsys.readouterr().out
