"""The program that measures on a device: what it needs, what it finds, and what is left of a run that was ended."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_devices import bundle, dense, run_here, splits

from retort.benchmarks.edge.device_bundle import PROGRAM, RUNNER, _policy
from retort.benchmarks.edge.device_result import outputs_of, results_of
from retort.benchmarks.edge.planned_parts import planned_parts, rows_at_once
from retort.benchmarks.edge.pulled_results import Pulled, read_results
from retort.benchmarks.edge.runner.parts_in_turn import SIGNALS, Run
from retort.benchmarks.edge.ssh import QUESTIONS
from retort.core.artifact import Artifact
from retort.core.errors import ArtifactError, MissingFileError
from retort.core.options.edge_options import EdgeOptions
from retort.core.session import open_session
from retort.core.system.owned_folders import sha256_file

MAY_IMPORT = {"numpy", "onnxruntime", *sys.stdlib_module_names}
CODE_BYTES = 64 << 10


def test_it_is_small_old_and_alone() -> None:
    """At most 64 KB of Python 3.9 that imports the standard library, numpy, the runtime and itself."""
    files = sorted(RUNNER.glob("*.py"))
    assert sum(path.stat().st_size for path in files) <= CODE_BYTES
    for path in (*files, *QUESTIONS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= MAY_IMPORT, path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.module or "").partition(".")[0] in MAY_IMPORT, path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A bundle of a wide and a narrow net after its run."""
    folder = tmp_path_factory.mktemp("edge")
    models = {"wide": dense(folder / "wide.onnx", 40_000), "narrow": dense(folder / "narrow.onnx", 16)}
    made = bundle(folder / "bundle", models, batch_sizes=(4,))
    done = run_here(made)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_a_run_has_ratio_accuracy_and_memory(ran: Artifact) -> None:
    """The narrow net is faster with an interval, every sample was computed, and memory was read in new processes."""
    pulled = read_results(ran.path, ran.path / "out")
    (result,) = results_of(pulled, where="here")
    wide, narrow = (result.stage(name) for name in ("wide", "narrow"))
    ratio = narrow.latency[4].ratio
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.low > 1.5
    assert len(narrow.latency[4].blocks_ms) == result.runs[0].rounds >= 6
    assert wide.metric is not None
    assert (wide.metric.name, wide.metric.n) == ("accuracy", 40)
    assert wide.memory is not None
    assert wide.memory.peak_bytes >= wide.memory.baseline_bytes > 1e6
    assert result.env["device"]["host"]
    (start,) = [part.said for part in pulled.of_kind("cold") if part.said["candidate"] == "wide"]
    assert not start["drop_cache"]  # of few starts, most find the file in the page cache
    assert min(start["import_s"], start["load_s"], start["first_s"]) > 0


def test_outputs_are_those_of_this_machine(ran: Artifact) -> None:
    """What the device computed for each sample is what a session here gives."""
    pulled = read_results(ran.path, ran.path / "out")
    inputs = np.load(ran.path / "data/input-0.npy")
    for part in pulled.of_kind("accuracy"):
        (file,) = [one["file"] for one in pulled.described["candidates"] if one["name"] == part.said["candidate"]]
        session = open_session(ran.path / file)
        np.testing.assert_allclose(outputs_of(part)["y"], session.run({"x": inputs})["y"], rtol=1e-5, atol=1e-5)
        session.close()


def test_what_is_finished_is_not_done_again(ran: Artifact) -> None:
    """The same command again leaves every part as it is."""
    before = {path: path.stat().st_mtime_ns for path in (ran.path / "out").glob("*-*.json")}
    assert run_here(ran).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 5


@pytest.mark.parametrize("name", ["latency-all-t1-b4.npz", "accuracy-0-wide.json", "device.json"])
def test_results_that_were_changed_are_refused(ran: Artifact, name: str) -> None:
    """A changed byte in any file is noticed before a number is read."""
    path = ran.path / "out" / name
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(ArtifactError, match="was changed after the run"):
            read_results(ran.path, ran.path / "out")
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("device", "sensors", "changed", "told"),
    [
        ("{}", "", {}, "does not describe a device"),
        ("", "7\n", {}, "not as the device wrote them"),
        ("", "{\n", {}, "not as the device wrote them"),
        ("", "", {"parts": None}, "not as the device wrote them"),
        ("", "", {"parts": 1}, "not as the device wrote them"),
        ("", "", {"state": None}, "not as the device wrote them"),
    ],
)
def test_results_that_were_written_by_hand_are_refused(
    ran: Artifact, tmp_path: Path, device: str, sensors: str, changed: dict[str, object], told: str
) -> None:
    """Results whose checksums fit, and which are not what the program writes, are one sentence."""
    out = tmp_path / "out"
    shutil.copytree(ran.path / "out", out)
    result = json.loads((out / "result.json").read_text())
    for name, text in (("device.json", device), ("sensors.jsonl", sensors)):
        if text:
            (out / name).write_text(text)
        result["files"][name] = sha256_file(out / name)
    written = {key: value for key, value in {**result, **changed}.items() if value is not None}
    (out / "result.json").write_text(json.dumps(written))
    with pytest.raises(ArtifactError, match=told):
        read_results(ran.path, out)


def test_results_of_another_bundle_are_refused(ran: Artifact, tmp_path: Path) -> None:
    """Results belong to the bundle that ran; a folder without results is told as such."""
    other = bundle(tmp_path / "other", {"wide": dense(tmp_path / "wide.onnx", 16)})
    with pytest.raises(ArtifactError, match="belong to another bundle"):
        read_results(other.path, ran.path / "out")
    with pytest.raises(MissingFileError, match=r"contains no result\.json"):
        read_results(other.path, other.path)


def test_damaged_bundles_do_not_begin(tmp_path: Path) -> None:
    """A file that is missing or was altered is named, and nothing is measured."""
    made = bundle(tmp_path / "made", {"net": dense(tmp_path / "net.onnx", 16)})
    model = made.path / "models/0/model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"\0")
    done = run_here(made)
    assert (done.returncode, "models/0/model.onnx has SHA-256" in done.stderr) == (2, True)
    assert json.loads((made.path / "out/status.json").read_text())["state"] == "refused"
    model.unlink()
    done = run_here(made, "--check")
    assert (done.returncode, "is missing; push the bundle again" in done.stderr) == (2, True)
    (made.path / "edge.json").write_text("{")
    done = run_here(made, "--check")
    assert (done.returncode, "no readable edge.json" in done.stderr) == (2, True)


def _run_of(folder: Path, names: list[str], **options: Any) -> Run:
    """A run of candidates with these names, of which nothing is opened."""
    folder.mkdir()
    policy = _policy(EdgeOptions(**{"starts": 1, **options}))
    candidates = [{"name": name, "runtime": "ort"} for name in names]
    parts = planned_parts(candidates, policy)
    manifest = {"candidates": candidates, "reference": names[0], "policy": policy, "parts": parts}
    (folder / "edge.json").write_text(json.dumps(manifest))
    (folder / "out").mkdir()
    return Run(folder, manifest, folder / "out")


def test_every_model_has_files_of_its_own(tmp_path: Path) -> None:
    """Names that differ in odd characters alone, in case or in their end are other files, which can be brought home."""
    names = ["a b", "a_b", "A b", "a:b/c", "modèle", "x" * 250, "x" * 249, "a", "a.part"]
    parts = _run_of(tmp_path / "run", names).parts()
    assert {part["candidate"] for part in parts.values() if part["kind"] == "cold"} == set(names)
    assert {part["candidate"] for part in parts.values() if part["kind"] == "accuracy"} == set(names)
    files = [f"{name}{ending}" for name in parts for ending in (".json", ".npz", ".part.json")]
    assert len({name.lower() for name in files}) == len(files)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) for name in files)


def test_parts_are_those_of_the_device(tmp_path: Path) -> None:
    """Numbers of threads beyond its processors are one timing, kinds of cores that it does not have are left out."""
    run = _run_of(
        tmp_path / "run", ["a"], threads=(0, 64, 1), cores=("all", "little"), energy="auto", batch_sizes=(1, 4)
    )
    cores = len(os.sched_getaffinity(0))
    timed = {name: part for name, part in run.parts().items() if part["kind"] == "latency"}
    counts = sorted({1, cores})
    assert {name for name in timed if "all" in name} == {f"latency-all-t{n}-b{b}" for n in counts for b in (1, 4)}
    assert timed[f"latency-all-t{cores}-b4"]["threads"] == cores
    assert timed["latency-all-t1-b1"]["cpus"] == sorted(os.sched_getaffinity(0))
    assert all(part["cpus"] == [] for part in run.parts().values() if part["kind"] in ("cold", "accuracy"))
    run.sensors.measures_power = lambda: True  # type: ignore[method-assign]
    assert any(part["kind"] == "energy" for part in run.parts().values())
    noise = [name for name, part in run.parts().items() if part["kind"] == "noise"]
    assert len(noise) == 8 * len(counts)
    run.without = ("noise-ort-all-t1-",)
    assert [name for name in run.parts() if name.startswith("noise")] == [name for name in noise if "t1-" not in name]
    run.sensors.measures_power = lambda: False  # type: ignore[method-assign]
    assert not any(part["kind"] in ("energy", "idle") for part in run.parts().values())


def test_rows_are_those_that_a_model_takes() -> None:
    """A model for one batch size has that one, a plan the nearest of its profiles, and others what is wanted."""
    assert rows_at_once({}, 16) == 16
    assert rows_at_once({"fixed_batch": 4}, 16) == 4
    assert rows_at_once({"batches": [(1, 1), (4, 8)]}, 16) == 8
    assert rows_at_once({"batches": [(2, 4), (8, 8)]}, 1) == 2


def test_results_of_another_bundle_in_the_folder_are_not_taken(tmp_path: Path) -> None:
    """What another bundle left in the folder is neither finished nor a result of this one."""
    run = _run_of(tmp_path / "run", ["a", "b"])
    first, second = list(run.parts())[:2]
    for name, manifest in ((first, run.key), (second, "another")):
        (run.out / f"{name}.json").write_text(json.dumps({"manifest": manifest}))
        (run.out / f"{name}.npz").write_bytes(b"raw")
    for name in ("device.json", "sensors.jsonl"):
        (run.out / name).write_text("{}")
    run._conclude(run.parts(), "ended", "")
    files = json.loads((run.out / "result.json").read_text())["files"]
    assert set(files) == {f"{first}.json", f"{first}.npz", "device.json", "sensors.jsonl"}


def test_a_signal_that_is_ignored_stays_so_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    """A run begun by nohup outlives its terminal, and a second Ctrl-C does not take the results."""
    run = _run_of(tmp_path / "run", ["a"])
    before = [signal.getsignal(number) for number in SIGNALS]

    def twice(name: str, part: object) -> int:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it did not end")

    def again(recorder: object) -> None:
        keep(recorder)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    keep, run._keep = run._keep, again  # type: ignore[method-assign]
    run._do = twice  # type: ignore[method-assign]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert run.go() == 130
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
    found = json.loads((run.out / "result.json").read_text())
    assert (found["state"], found["why"]) == ("ended", "it got the signal SIGTERM")


def test_readings_of_another_start_of_the_device_are_not_mixed(tmp_path: Path) -> None:
    """The clock begins anew when a device starts: a part has the readings of its own run alone."""
    readings: list[dict[str, Any]] = [{"t": 100.0, "what": "a", "run": 1}, {"t": 102.0, "what": "b", "run": 2}]
    readings += [{"t": (101.0, 102.5)[run - 1] + at, "run": run} for run in (1, 2) for at in range(5)]
    pulled = Pulled(tmp_path, {}, {}, "finished", "", {}, readings)
    assert [one["t"] for one in pulled.during("a")] == [101.0, 102.0, 103.0, 104.0, 105.0]
    assert {one["run"] for one in pulled.during("b")} == {2}


@pytest.mark.slow
def test_a_sample_that_fails_is_named_and_those_before_it_are_kept(tmp_path: Path) -> None:
    """Sample 7 has no answer: seven outputs and the error come home, and the other parts are measured."""
    made = bundle(tmp_path / "made", {"net": dense(tmp_path / "net.onnx", 16, fails_at=9.0)})
    done = run_here(made)
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    (part,) = pulled.of_kind("accuracy")
    assert part.error.startswith("sample 7: ")
    assert len(outputs_of(part)["y"]) == 7
    (result,) = results_of(pulled)
    assert any("sample 7" in note for note in result.notes)
    assert result.stages[0].latency


@pytest.mark.slow
def test_a_run_that_is_ended_goes_on(tmp_path: Path) -> None:
    """After SIGTERM no process is left, the state says why, and the next run does only what was not finished."""
    models = {"wide": dense(tmp_path / "wide.onnx", 512), "narrow": dense(tmp_path / "narrow.onnx", 16)}
    made = bundle(tmp_path / "made", models, seconds=30.0)
    command = [sys.executable, "-m", PROGRAM]
    process = subprocess.Popen(command, cwd=made.path, stdout=subprocess.PIPE, text=True)
    state = made.path / "out/status.json"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = json.loads(state.read_text()) if state.is_file() else {}
        if found.get("part", "").startswith("latency"):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    found = json.loads(state.read_text())
    assert (found["state"], found["done"], found["of"]) == ("ended", 2, 5)
    assert "SIGTERM" in found["why"]
    assert not _processes(made.path)
    described = json.loads((made.path / "edge.json").read_text())
    kept = {path.name: path.stat().st_mtime_ns for path in (made.path / "out").glob("cold-*.json")}
    assert len(kept) == 2
    pulled = read_results(made.path, made.path / "out")
    assert (pulled.state, described["reference"]) == ("ended", "wide")
    second = subprocess.Popen(command, cwd=made.path, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    refused = run_here(made)
    assert (refused.returncode, "another run writes to" in refused.stderr) == (2, True)
    second.send_signal(signal.SIGTERM)  # a shell in the background lets its commands ignore SIGINT
    assert second.wait(30) == 130
    assert {name: (made.path / "out" / name).stat().st_mtime_ns for name in kept} == kept


def _processes(folder: Path) -> list[int]:
    """Processes whose command names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def test_samples_have_a_sample_that_fails() -> None:
    """The samples of these tests are as the tests need them."""
    values = splits().test.read(range(40))[0]["x"]
    assert [row for row in range(40) if values[row, 0] == 9] == [7]


def test_few_starts_are_not_all_of_cold_files(tmp_path: Path) -> None:
    """At most half of the starts find the file outside of the page cache, so that both kinds are measured."""
    for starts, cold in ((1, 0), (2, 1), (3, 1), (10, 3)):
        folder = tmp_path / str(starts)
        folder.mkdir()
        made = bundle(folder / "b", {"a": dense(folder / "a.onnx", 4)}, starts=starts, cold_file_starts=3)
        policy = json.loads((made.path / "edge.json").read_text())["policy"]
        assert policy["cold_file_starts"] == cold


def test_readings_of_a_finished_part_outlive_a_kill(tmp_path: Path) -> None:
    """What the sensors said is written after every part, so a run that is killed later does not lose a throttling."""
    run = _run_of(tmp_path / "run", ["a"])
    done: list[str] = []

    def part(name: str, described: object) -> int:
        if done:
            raise MemoryError  # stands for the end of the process
        time.sleep(0.05)
        done.append(name)
        return 0

    run._do = part  # type: ignore[method-assign, assignment]
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        with pytest.raises(MemoryError):
            run.go()
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
    lines = [json.loads(line) for line in (run.out / "sensors.jsonl").read_text().splitlines()]
    assert [one["what"] for one in lines if "what" in one] == done
    assert any("what" not in one for one in lines)
