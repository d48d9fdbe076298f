"""What devices say of themselves, as public sources show it: sensors, cores, power, and whether they were throttled.

A file of ``recordings`` is a device. ``seen`` has values that stand in a source, ``by_hand`` those that do not, or only
in part. Each case has moments, whose files replace those before; an empty file stands for a read that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from retort.benchmarks.edge import throttling
from retort.benchmarks.edge.energy import total_domains, total_rails
from retort.benchmarks.edge.runner.device import clusters
from retort.benchmarks.edge.runner.sensors import Sensors

FOLDER = Path(__file__).with_name("recordings")
DEVICES: dict[str, dict[str, Any]] = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")}
CASES = [(device, case) for device, found in sorted(DEVICES.items()) for case in found["cases"]]
PAGE = Path(__file__).resolve().parents[3] / "docs/benchmarks/edge.md"
EXPECTED = ("clusters", "power", "total", "watts", "hottest")


def _write(root: Path, *trees: Mapping[str, object] | None) -> None:
    """Files of a tree, by their path."""
    for name, content in {name: value for tree in trees for name, value in (tree or {}).items()}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def _played(root: Path, device: Mapping[str, Any], case: Mapping[str, Any]) -> tuple[Sensors, list[dict[str, Any]]]:
    """The sensors of a device, and what they read in each moment of a case."""
    moments = case["moments"]
    _write(root, device.get("seen"), device.get("by_hand"), case.get("by_hand"))
    _write(root, moments[0].get("seen"), moments[0].get("by_hand"))
    for name in case.get("without", ()):
        (root / name).unlink()
    sensors = Sensors(root)
    sensors.asks_power, sensors.asks_gpu = True, bool(device.get("gpu"))
    readings = []
    for moment in moments:
        _write(root, moment.get("seen"), moment.get("by_hand"))
        readings += [{"t": float(t), **sensors.read()} for t in moment["t"]]
    return sensors, readings


@pytest.mark.parametrize(("device", "case"), CASES, ids=[f"{device}: {case}" for device, case in CASES])
def test_a_recording_is_judged_right(device: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdict with its reasons, what could have told it, kinds of cores, and what counts as the power of the whole."""
    recorded = DEVICES[device]
    found = recorded["cases"][case]
    expected = {key: {**recorded["expected"], **found}.get(key) for key in EXPECTED}
    sensors, readings = _played(tmp_path, recorded, found)
    assert throttling.reasons(readings, sensors.limits()) == found["reasons"]
    assert throttling.signals(readings, sensors.limits()) == found["signals"]
    monkeypatch.setattr("retort.benchmarks.edge.runner.device.usable", lambda: list(range(recorded["processors"])))
    assert clusters(tmp_path) == expected["clusters"]
    assert sensors.measures_power() == expected["power"]
    watts, microjoules = readings[0].get("watts", {}), readings[0].get("microjoules", {})
    total = total_domains(microjoules) if microjoules else total_rails(watts) if watts else []
    assert total == expected["total"]
    if expected["watts"] is not None:
        assert sum(watts[name] for name in total) == pytest.approx(expected["watts"], abs=0.05)
    if expected["hottest"] is not None:
        assert sensors.hottest() == expected["hottest"]


@pytest.mark.parametrize("device", sorted(DEVICES))
def test_each_recording_names_its_sources(device: str) -> None:
    """Every case has a source that the file describes, and every source is of use to a case."""
    recorded = DEVICES[device]
    named = [set(case["sources"]) for case in recorded["cases"].values()]
    assert all(named)
    assert set().union(*named) == set(recorded["sources"])


def test_the_page_lists_every_recording() -> None:
    """Device, case and verdict of each recording stand in the table of the page, and no others."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    table = {tuple(row[:2]): row[3] for row in rows if len(row) == 5}
    wanted = {
        (DEVICES[device]["device"], case): "throttled" if found["reasons"] else "not" if found["signals"] else "unknown"
        for device, recorded in DEVICES.items()
        for case, found in recorded["cases"].items()
    }
    assert {key: verdict.partition(":")[0] for key, verdict in table.items() if key in wanted} == wanted
    assert len(table) == len(wanted) + 2, "one row is the heading, one the line below it"


def test_rails_that_are_none(tmp_path: Path) -> None:
    """Sums and shunts of an INA3221, and channels that are not connected, are no rails."""
    recorded = DEVICES["jetson_agx_orin"]
    _, readings = _played(tmp_path, recorded, recorded["cases"]["cool"])
    names = {name.partition(":")[2] for name in readings[0]["watts"]}
    assert names == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}


def test_trip_points_that_are_not_in_use(tmp_path: Path) -> None:
    """Zero and -274 °C are no limits; they would make every lower frequency throttling."""
    recorded = DEVICES["intel_nuc"]
    sensors, _ = _played(tmp_path, recorded, recorded["cases"]["throttled"])
    assert sensors.limits()["trips_celsius"] == {"acpitz (0)": 127.0}


def test_short_over_current_events_are_told(tmp_path: Path) -> None:
    """What is too short to be throttling is told with its share of the time."""
    recorded = DEVICES["jetson_orin_nano"]
    _, readings = _played(tmp_path, recorded, recorded["cases"]["short over-current events"])
    assert throttling.short_events(readings) == "64 over-current events of a millisecond, 0.12 % of the time"
    assert throttling.short_events(readings[:1]) == ""
