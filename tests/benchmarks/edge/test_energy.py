"""Energy of an inference: counters that wrap, rails, a power chip, a meter in another time, and nothing at all."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_devices import bundle, dense, run_here

from retort.benchmarks.edge.energy import energies, rows_of_energy, total_domains, total_rails
from retort.benchmarks.edge.meter import read_meter
from retort.benchmarks.edge.pulled_results import Part, Pulled, read_results
from retort.benchmarks.edge.runner.sensors import SYSROOT, Sensors
from retort.core.errors import DataError, MissingFileError

IDLE_W, SECONDS, CALLS = 3.0, 10.0, 1000
WATTS = {"wide": 8.0, "narrow": 5.0}
UNIX = 1_780_000_000.0
ADC = """\
   3V3_SYS_A current(1)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
   3V3_SYS_V volt(9)=3.30000000V
   VDD_CORE_V volt(15)=0.90000000V
   EXT5V_V volt(24)=5.10000000V
"""
"""Part of what a Raspberry Pi 5 answers to ``vcgencmd pmic_read_adc``; EXT5V has no current."""


def _spans() -> list[tuple[str, dict[str, Any], float, float]]:
    """Name, description, beginning and power of each part; a second passes between two parts."""
    plan: list[tuple[str, dict[str, Any]]] = [("idle-0", {"kind": "idle"})]
    for turn in range(3):
        for name in WATTS:
            plan.append((f"energy-{turn}-{name}", {"kind": "energy", "candidate": name, "turn": turn}))
        plan.append((f"idle-{turn + 1}", {"kind": "idle"}))
    return [
        (name, said, 100.0 + (SECONDS + 1) * at, WATTS.get(said.get("candidate", ""), IDLE_W))
        for at, (name, said) in enumerate(plan)
    ]


def _pulled(counters: bool = False, rails: bool = False, wrap: int = 0) -> Pulled:
    """A run of two candidates, as its files say it."""
    parts, readings, used = {}, [], 0.0
    for name, said, begun, watts in _spans():
        ends = []
        for at, t in enumerate((begun, begun + SECONDS)):
            used += watts * SECONDS * 1e6 * at
            count = int(used) % wrap if wrap else int(used)
            domains = {"package-0 (intel-rapl:0)": count, "core (intel-rapl:0:0)": count // 2}
            ends.append({"t": t, "unix_s": UNIX + t, "microjoules": domains if counters else {}})
        readings.append({"t": begun, "what": name})
        if rails:
            readings += [
                {"t": begun + at / 2, "watts": {"ina3221:VDD_IN": watts, "ina3221:VDD_CPU": watts / 2}}
                for at in range(int(2 * SECONDS) + 1)
            ]
        parts[name] = Part(name, {**said, "calls": CALLS, "rows": 2, "begun": ends[0], "ended": ends[1]})
    described = {"candidates": [{"name": name} for name in WATTS]}
    limits = {"microjoules_wrap": {"package-0 (intel-rapl:0)": wrap}} if wrap else {}
    return Pulled(Path(), described, {"limits": limits}, "finished", "", parts, readings)


@pytest.mark.parametrize(
    ("made", "source"),
    [
        (_pulled(counters=True), "package-0 (intel-rapl:0)"),
        (_pulled(counters=True, wrap=150_000_000), "package-0 (intel-rapl:0)"),
        (_pulled(rails=True), "ina3221:VDD_IN"),
    ],
    ids=["counter", "counter that begins again", "rail"],
)
def test_the_energy_of_a_sample_is_that_above_idle(made: Pulled, source: str) -> None:
    """Net is power above idle, gross all of it; a domain inside of another and a rail behind another count once."""
    wide, narrow = energies(made)
    assert (wide.source, wide.turns, wide.remark) == (source, 3, "")
    for found in (wide, narrow):
        samples = CALLS * 2
        assert found.gross_mj == pytest.approx(1e3 * WATTS[found.name] * SECONDS / samples)
        assert found.net_mj == pytest.approx(1e3 * (WATTS[found.name] - IDLE_W) * SECONDS / samples)
        assert found.low_mj <= found.net_mj <= found.high_mj
        assert found.idle_watts == pytest.approx(IDLE_W)
    assert rows_of_energy([wide])[0][0] == "wide"


def test_nothing_is_guessed() -> None:
    """Without a counter, a rail or a meter there is no energy; with a power that does not rise there is a remark."""
    assert energies(_pulled()) == []
    made = _pulled(rails=True)
    for one in made.readings:
        if "watts" in one:
            one["watts"] = {"ina3221:VDD_IN": 4.0}
    assert {one.remark for one in energies(made)} == {"the device uses no more than when it is idle"}


def test_the_whole_is_chosen_among_rails_and_domains() -> None:
    """The platform contains packages, packages contain cores; a module's input feeds its rails."""
    assert total_domains(["psys (a)", "package-0 (b)", "core (c)"]) == ["psys (a)"]
    assert total_domains(["package-0 (b)", "package-1 (c)", "dram (d)", "uncore (e)"]) == [
        "package-0 (b)",
        "package-1 (c)",
        "dram (d)",
    ]
    assert total_rails({"ina3221:VDD_GPU_SOC": 9.0, "ina3221:VDD_IN": 8.0}) == ["ina3221:VDD_IN"]
    orin = {"ina3221:VDD_GPU_SOC": 2.0, "ina3221:VDD_CPU_CV": 1.0, "ina3221:VIN_SYS_5V0": 3.0}
    assert total_rails(orin) == list(orin)
    assert total_rails({"pmic": 3.0, "other:1": 9.0}) == ["pmic"]
    assert total_rails({"power_meter:1": 50.0, "amdgpu:PPT": 9.0}) == ["power_meter:1"]


def test_the_power_chip_of_a_raspberry_pi_is_summed(tmp_path: Path) -> None:
    """Volts times amperes of every rail that has both; it is asked only while energy is measured."""
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware/pmic_read_adc").write_text(ADC)
    sensors = Sensors(tmp_path)
    assert sensors.measures_power()
    assert "watts" not in sensors.read()
    sensors.asks_power = True
    assert sensors.read()["watts"] == {"pmic": pytest.approx(0.1 * 3.3 + 2.0 * 0.9)}
    (tmp_path / "firmware/pmic_read_adc").write_text("VDD_CORE_A=2.0A\nVDD_CORE_V=0.9V\n")
    assert sensors.read()["watts"] == {"pmic": pytest.approx(1.8)}


def _recorded(hertz: float, late_s: float, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """What a meter between the wall and the device reads, in its own time."""
    times = np.arange(60.0, 100 + 12 * (SECONDS + 1), 1 / hertz)
    watts = np.full(len(times), IDLE_W)
    for _, _, begun, power in _spans():
        watts[(times >= begun) & (times < begun + SECONDS)] = power
    return times + late_s, watts + np.random.default_rng(0).normal(0, noise, len(times))


def _write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("form", "late_s"), [("seconds", 1234.5), ("unix", UNIX + 77), ("iso", UNIX - 120), ("volts", UNIX), ("semi", 0.0)]
)
def test_a_meter_in_another_time_is_aligned(tmp_path: Path, form: str, late_s: float) -> None:
    """The energy is within 5 % of the truth, whatever the meter's clock, its units and its delimiter."""
    times, watts = _recorded(5.0, late_s)
    if form == "iso":
        stamps = [datetime.fromtimestamp(float(t), UTC).isoformat() for t in times]
        path = _write(tmp_path / "m.csv", "Time,Power [mW]", [f"{t},{w * 1e3:.1f}" for t, w in zip(stamps, watts)])
    elif form == "volts":
        rows = [f"{t:.3f},5.1,{w / 5.1:.4f}" for t, w in zip(times, watts)]
        path = _write(tmp_path / "m.csv", "timestamp,Voltage (V),Current (A)", rows)
    elif form == "semi":
        rows = [f"{t:.2f};{w:.3f}".replace(".", ",") for t, w in zip(times, watts)]
        path = _write(tmp_path / "m.csv", "t;W", rows)
    else:
        path = _write(tmp_path / "m.csv", "time,watts", [f"{t:.3f},{w:.4f}" for t, w in zip(times, watts)])
    made = _pulled()
    meter = read_meter(path, made)
    assert meter.correlation > 0.6
    for found in energies(made, meter):
        right = 1e3 * (WATTS[found.name] - IDLE_W) * SECONDS / (2 * CALLS)
        assert found.net_mj == pytest.approx(right, rel=0.05)
        assert found.source == "m.csv"


def test_a_meter_of_something_else_is_refused(tmp_path: Path) -> None:
    """Power that does not follow the run, a file without power, too few readings and no file: one sentence each."""
    times, _ = _recorded(5.0, UNIX)
    flat = [f"{t:.3f},{5 + at % 7}" for at, t in enumerate(times)]
    with pytest.raises(DataError, match="does not follow the run"):
        read_meter(_write(tmp_path / "flat.csv", "time,watts", flat), _pulled())
    with pytest.raises(DataError, match="has the columns time, humidity"):
        read_meter(_write(tmp_path / "other.csv", "time,humidity", flat), _pulled())
    with pytest.raises(DataError, match="line 2"):
        read_meter(_write(tmp_path / "words.csv", "time,watts", ["soon,1", *flat]), _pulled())
    with pytest.raises(DataError, match="has 1 reading"):
        read_meter(_write(tmp_path / "short.csv", "time,watts", flat[:1]), _pulled())
    with pytest.raises(MissingFileError):
        read_meter(tmp_path / "none.csv", _pulled())
    made = _pulled()
    without = Pulled(made.bundle, made.described, made.device, "finished", "", {}, [])
    with pytest.raises(DataError, match="measured no energy"):
        read_meter(_write(tmp_path / "flat.csv", "time,watts", flat), without)


def test_a_run_has_turns_between_pauses(tmp_path: Path) -> None:
    """Where something counts energy, each candidate works alone three times, in another order each time."""
    domain = tmp_path / "root/sys/class/powercap/intel-rapl:0"
    domain.mkdir(parents=True)
    (domain / "name").write_text("package-0")
    (domain / "energy_uj").write_text("5")
    models = {"wide": dense(tmp_path / "wide.onnx", 4000), "narrow": dense(tmp_path / "narrow.onnx", 16)}
    made = bundle(tmp_path / "bundle", models, energy_seconds=0.1, starts=0, accuracy=False, rows=8, seconds=0.1)
    done = run_here(made, **{SYSROOT: str(tmp_path / "root")})
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    order = [name for name, part in pulled.parts.items() if part.said["kind"] in ("energy", "idle")]
    first, second = "0-wide", "1-narrow"
    turns = [[first, second], [second, first], [first, second]]
    wanted = ["idle-0"]
    for number, turn in enumerate(turns):
        wanted += [*(f"energy-{number}-{name}" for name in turn), f"idle-{number + 1}"]
    assert order == wanted
    assert [one.name for one in energies(pulled)] == ["wide", "narrow"]


@pytest.mark.slow
def test_a_run_measures_energy_where_the_device_can(tmp_path: Path) -> None:
    """With a power rail each candidate has three turns between pauses; without one there are none."""
    models = {"wide": dense(tmp_path / "wide.onnx", 4000), "narrow": dense(tmp_path / "narrow.onnx", 16)}
    root = tmp_path / "root"
    chip = root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("power_meter")
    (chip / "power1_input").write_text("7000000")
    options: dict[str, Any] = {"energy_seconds": 1.6, "starts": 0, "accuracy": False, "rows": 8, "seconds": 0.2}
    made = bundle(tmp_path / "bundle", models, **options)
    done = run_here(made, **{SYSROOT: str(root)})
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    wide, narrow = energies(pulled)
    assert (wide.turns, narrow.turns, wide.source) == (3, 3, "power_meter:1")
    assert wide.gross_mj > narrow.gross_mj > 0
    assert wide.watts == pytest.approx(7.0)
    assert wide.remark == "the device uses no more than when it is idle"
    starts = [json.loads((made.path / "out" / f"energy-{turn}-0-wide.json").read_text()) for turn in range(3)]
    assert all(one["calls"] > 0 and one["ended"]["t"] - one["begun"]["t"] >= 1.6 for one in starts)


def test_files_that_are_no_recording_of_the_run_are_refused(tmp_path: Path) -> None:
    """A file of one endless cell, and days of recording; times in milliseconds are read by their name."""
    limit = csv.field_size_limit(131_072)  # Python's own, which other readers may have raised in this process
    try:
        with pytest.raises(DataError, match="is no CSV file"):
            read_meter(_write(tmp_path / "x.json", "time,watts", ["x" * 200_000]), _pulled())
    finally:
        csv.field_size_limit(limit)
    times, watts = _recorded(5.0, 0.0)
    rows = [f"{1e3 * t:.0f},{w:.4f}" for t, w in zip(times, watts)]
    assert read_meter(_write(tmp_path / "ms.csv", "time_ms,watts", rows), _pulled()).correlation > 0.6
    calendar = [f"{1e3 * (UNIX + t):.0f},{w:.4f}" for t, w in zip(times, watts)]
    for name in ("time_ms", "time"):
        assert read_meter(_write(tmp_path / "ms.csv", f"{name},watts", calendar), _pulled()).correlation > 0.6
    with pytest.raises(DataError, match="lasts 48 hours"):
        read_meter(_write(tmp_path / "long.csv", "time,watts", rows), _pulled())
