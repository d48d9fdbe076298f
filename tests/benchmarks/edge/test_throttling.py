"""Sensors of boards from recorded trees, and whether a device was throttled by what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from retort.benchmarks.edge import throttling
from retort.benchmarks.edge.device_runtimes import run_by
from retort.benchmarks.edge.runner.device import clusters
from retort.benchmarks.edge.runner.parts_in_turn import Run
from retort.benchmarks.edge.runner.sensors import Recorder, Sensors
from retort.core.options.edge_options import EdgeRuntime

PI5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "61250",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000",
    "firmware/get_throttled": "throttled=0x0",
    "proc/pressure/cpu": "some avg10=1.00 avg60=0.50 avg300=0.10 total=123456\nfull avg10=0 avg60=0 avg300=0 total=0\n",
    "proc/stat": "cpu  100 0 50 1000 10 0 5 20 0 0\n",
}
ORIN = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "52000",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "5000",
    "sys/class/hwmon/hwmon1/curr1_input": "1800",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": "4984",
    "sys/class/hwmon/hwmon1/curr2_input": "640",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4",
}
NUC = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "262143328850",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "7",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3100000",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder with the files of a board."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_raspberry_pi_is_read(tmp_path: Path) -> None:
    """Temperature, frequency, the firmware's bits, load, and the temperature that is a limit."""
    sensors = Sensors(tree(tmp_path, PI5))
    found = sensors.read()
    assert found["celsius"] == {"cpu-thermal (0)": 61.25}
    assert found["mhz"] == {"cpu0": 2400.0}
    assert (found["firmware"], found["pressure_us"], found["ticks"]) == (0, 123456, [1185, 1010, 20])
    assert sensors.limits()["trips_celsius"] == {"cpu-thermal (0)": 110.0}
    assert sensors.hottest() == 61.25
    assert "watts" not in found


def test_the_rails_of_a_jetson_are_read(tmp_path: Path) -> None:
    """Power is voltage times current of each rail, by its label, and over-current events are counted."""
    found = Sensors(tree(tmp_path, ORIN)).read()
    assert found["watts"] == pytest.approx({"ina3221:VDD_IN": 9.0, "ina3221:VDD_CPU_GPU_CV": 3.18976})
    assert found["over_current"] == {"hwmon/hwmon2/oc1_event_cnt": 0, "hwmon/hwmon2/oc3_event_cnt": 4}
    assert "firmware" not in found


def test_the_counters_of_an_x86_are_read(tmp_path: Path) -> None:
    """Energy with the value at which it wraps, and throttle counters; what is absent is absent."""
    sensors = Sensors(tree(tmp_path, NUC))
    found = sensors.read()
    assert found["microjoules"] == {"package-0 (intel-rapl:0)": 262143328850}
    assert sensors.limits()["microjoules_wrap"] == {"package-0 (intel-rapl:0)": 262143328850}
    assert sum(found["throttle_counts"].values()) == 10
    assert not {"celsius", "watts", "pressure_us"} & found.keys()


def test_a_board_without_sensors_says_nothing(tmp_path: Path) -> None:
    """An empty tree gives no values, and no guess."""
    sensors = Sensors(tmp_path)
    assert (sensors.read(), sensors.hottest()) == ({}, None)
    with Recorder(sensors, 0.01) as recorder:
        recorder.mark("part")
    readings = [one for one in recorder.readings if "what" not in one]
    assert {frozenset(one) for one in readings} == {frozenset({"t"})}
    assert throttling.signals(readings, sensors.limits()) == []


def _pi(*bits: int) -> list[dict[str, Any]]:
    return [{"t": float(at), "firmware": value} for at, value in enumerate(bits)]


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        ((0x0, 0x0), []),
        ((0x50000, 0x50000), []),
        ((0x0, 0x1), ["the voltage is too low"]),
        ((0x0, 0x20002), ["the frequency is capped"]),
        ((0x50000, 0x50000 | 0x40000 | 0x4), ["the processor is throttled"]),
        ((0x0, 0x80000), ["the soft temperature limit is active"]),
        ((0x0, 0x50005, 0x50000), ["the voltage is too low", "the processor is throttled"]),
    ],
)
def test_bits_of_the_firmware(bits: tuple[int, ...], told: list[str]) -> None:
    """What is true in a reading counts, and what happened between two; what happened before the part does not."""
    found = throttling.reasons(_pi(*bits), {})
    assert found == [f"the firmware says that {one}" for one in told]


def test_counters_that_grow() -> None:
    """Throttling and over-current events count from the first to the last reading; cores count their package, too."""
    core, package, supply = "cpu0/core_throttle_count", "cpu0/package_throttle_count", "hwmon2/oc1_event_cnt"
    first = {"t": 0.0, "throttle_counts": {core: 3, package: 7}, "over_current": {supply: 4}}
    same = [first, {**first, "t": 1.0}]
    more = [first, {**first, "t": 1.0, "throttle_counts": {core: 4, package: 9}, "over_current": {supply: 5}}]
    assert throttling.reasons(same, {}) == []
    assert throttling.reasons(more, {}) == [
        "the kernel counted thermal throttling 2 times",
        "the kernel counted 1 over-current event",
    ]


@pytest.mark.parametrize(("celsius", "mhz", "slow"), [(86, 1500, True), (70, 1500, False), (86, 2390, False)])
def test_a_frequency_that_falls_in_the_heat(celsius: float, mhz: float, slow: bool) -> None:
    """A lower frequency is throttling only while a zone is at its limit."""
    cool = [{"t": float(at), "celsius": {"cpu": 60.0}, "mhz": {"cpu0": 2400.0}} for at in range(6)]
    hot = [{"t": float(at), "celsius": {"cpu": celsius}, "mhz": {"cpu0": mhz}} for at in range(6, 12)]
    found = throttling.reasons([*cool, *hot], {"trips_celsius": {"cpu": 85.0}})
    assert found == ([f"at {celsius} °C the frequency fell from 2400 to {mhz} MHz"] if slow else [])


def test_load_is_a_share_of_the_time() -> None:
    """Pressure by the time between two readings, and steal by the ticks."""
    readings = [
        {"t": 10.0, "pressure_us": 1_000_000, "ticks": [1000, 500, 10]},
        {"t": 14.0, "pressure_us": 1_400_000, "ticks": [2000, 900, 60]},
    ]
    assert list(throttling.load(readings)) == pytest.approx([10.0, 5.0])
    assert throttling.load(readings[:1]) == (None, None)


def test_big_and_little_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores of different capacity are two kinds; where all are alike, or nothing is known, there is one."""
    monkeypatch.setattr("retort.benchmarks.edge.runner.device.usable", lambda: [0, 1, 2])
    assert clusters(tmp_path) == {"all": [0, 1, 2]}
    capacity = {0: "446", 1: "446", 2: "1024"}
    tree(tmp_path, {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": value for core, value in capacity.items()})
    assert clusters(tmp_path) == {"all": [0, 1, 2], "big": [2], "little": [0, 1]}
    tree(tmp_path, {"sys/devices/system/cpu/cpu2/cpu_capacity": "446"})
    assert clusters(tmp_path) == {"all": [0, 1, 2]}
    tree(tmp_path, {"sys/devices/system/cpu/cpu2/cpu_capacity": "500"})
    assert clusters(tmp_path) == {"all": [0, 1, 2]}, "the best core of a kind is no kind of its own"
    tree(tmp_path, {"sys/devices/cpu_atom/cpus": "1-2,7\n"})
    assert clusters(tmp_path) == {"all": [0, 1, 2], "big": [0], "little": [1, 2]}


def _program(path: Path, said: str, code: int = 0) -> None:
    """A program that notes that it was asked, and answers."""
    path.write_text(f"#!/bin/sh\necho \"$*\" >> {path}.asked\necho '{said}'\nexit {code}\n")
    path.chmod(0o755)


def test_programs_are_asked_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware and driver are asked once in two seconds; the driver only if a model runs on a GPU."""
    _program(tmp_path / "vcgencmd", "throttled=0x50000")
    _program(tmp_path / "nvidia-smi", "P0, 71, 699.81, 1590, 0x0000000000000004")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    sensors = Sensors(Path("/"))
    first = sensors.read()
    assert first["firmware"] == 0x50000
    assert "gpu" not in first
    sensors.asks_gpu = True
    assert [sensors.read()["gpu"] for _ in range(2)] == [["P0, 71, 699.81, 1590, 0x0000000000000004"]] * 2
    assert (tmp_path / "nvidia-smi.asked").read_text().count("--query-gpu=") == 1
    assert (tmp_path / "vcgencmd.asked").read_text().count("get_throttled") == 1


def test_programs_that_fail_tell_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firmware that answers with an error, and a driver that is not there."""
    _program(tmp_path / "vcgencmd", "VCHI initialization failed", code=255)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    sensors = Sensors(Path("/"))
    sensors.asks_gpu = True
    assert not {"firmware", "gpu"} & sensors.read().keys()


@pytest.mark.parametrize(("runtime", "asks"), [("ort", False), ("openvino", False), ("cuda", True), ("tensorrt", True)])
def test_the_driver_is_asked_for_models_on_a_gpu(runtime: EdgeRuntime, asks: bool, tmp_path: Path) -> None:
    """The manifest says where its models run."""
    (tmp_path / "edge.json").write_text("{}")
    manifest = {"candidates": [{"name": "a"}, {"name": "b", **run_by(runtime)}], "policy": {"minutes": 1}}
    assert Run(tmp_path, manifest, tmp_path).sensors.asks_gpu == asks
