"""What a device says about itself while it computes: temperatures, frequencies, throttling, load and energy.

Each value is read where the kernel or the board's firmware gives it, and is absent where it does not. Sources: the
kernel's documentation of thermal zones, cpufreq, powercap, hwmon and PSI; the Raspberry Pi documentation of
``vcgencmd get_throttled`` and ``pmic_read_adc``; NVIDIA's documentation of the INA3221 rails of a Jetson.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

THROTTLED = {
    0: "the voltage is too low",
    1: "the frequency is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is active",
}
"""Bits of ``vcgencmd get_throttled`` that are true now; 16 higher they say that it has occurred since the start."""
SYSROOT = "RETORT_EDGE_SYSROOT"
"""Environment variable: a recorded tree with ``proc``, ``sys`` and ``firmware`` instead of the machine's own."""
EVERY_S = 0.5
_FIRMWARE_S = 2.0
"""The firmware of a Raspberry Pi answers through a program, which costs a few milliseconds."""
_ADC = re.compile(r"(\w+)_([AV])\b[^=\n]*=\s*([0-9.]+)")
"""A current or a voltage of a rail in the answer of ``vcgencmd pmic_read_adc``, of either form that firmware has."""


class Sensors:
    """Reads everything that a device reports, without rights that a user does not have.

    Args:
        root: folder that contains ``proc`` and ``sys``.

    Attributes:
        asks_power: whether the power chip of a Raspberry Pi 5 is asked, too, through a program.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(os.environ.get(SYSROOT, "/")) if root is None else root
        self._zones = sorted(self.root.glob("sys/class/thermal/thermal_zone*/temp"))
        self._clocks = sorted(self.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._counts = sorted(self.root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"))
        self._domains = [path for path in self.root.glob("sys/class/powercap/*/energy_uj") if os.access(path, os.R_OK)]
        self._rails = list(_rails(self.root))
        self._events = sorted(self.root.glob("sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt"))
        self._firmware_at = 0.0
        self._firmware: int | None = None
        self.asks_power = False

    def measures_power(self) -> bool:
        """Whether anything here counts energy or measures power."""
        return bool(self._domains or self._rails or self._power_chip())

    def read(self) -> dict[str, Any]:
        """All present values by kind; kinds that the device does not report are absent."""
        found: dict[str, Any] = {
            "celsius": {_zone(path): value / 1000 for path in self._zones if (value := _number(path)) is not None},
            "mhz": {path.parts[-3]: value / 1000 for path in self._clocks if (value := _number(path)) is not None},
            "throttle_counts": _numbers(self._counts),
            "microjoules": self.microjoules(),
            "watts": {
                **{name: watts for name, parts in self._rails if (watts := _watts(parts)) is not None},
                **(self._power_chip() if self.asks_power else {}),
            },
            "over_current": _numbers(self._events),
            "firmware": self._throttled(),
            "pressure_us": _pressure_us(self.root),
            "ticks": _ticks(self.root),
        }
        return {kind: value for kind, value in found.items() if value not in (None, {})}

    def microjoules(self) -> dict[str, int]:
        """The energy counters by domain."""
        return {_domain(path): value for path in self._domains if (value := _number(path)) is not None}

    def limits(self) -> dict[str, Any]:
        """What belongs to the readings and does not change: where counters wrap, and temperatures that throttle."""
        ranges = {_domain(path): _number(path.with_name("max_energy_range_uj")) for path in self._domains}
        trips: dict[str, float] = {}
        for zone in self._zones:
            passive = [
                value / 1000
                for kind in zone.parent.glob("trip_point_*_type")
                if _text(kind) in ("passive", "hot", "critical")
                and (value := _number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
            ]
            trips.update({_zone(zone): min(passive)} if passive else {})
        return {"microjoules_wrap": {name: value for name, value in ranges.items() if value}, "trips_celsius": trips}

    def hottest(self) -> float | None:
        """The highest temperature in °C; None if there is none."""
        return max((value / 1000 for path in self._zones if (value := _number(path)) is not None), default=None)

    def _throttled(self) -> int | None:
        """The bits of a Raspberry Pi's firmware; None on other boards."""
        recorded = self.root / "firmware/get_throttled"
        if recorded.is_file():
            return _hex(_text(recorded))
        if self.root != Path("/") or time.monotonic() - self._firmware_at < _FIRMWARE_S:
            return self._firmware
        self._firmware_at = time.monotonic()
        said = _vcgencmd("get_throttled")
        if said is None:
            self._firmware_at = float("inf")  # this board has no such program
        else:
            self._firmware = _hex(said)
        return self._firmware

    def _power_chip(self) -> dict[str, float]:
        """The power of all rails of a Raspberry Pi 5's power chip, without its own losses; empty on other boards."""
        recorded = self.root / "firmware/pmic_read_adc"
        said = _text(recorded) if self.root != Path("/") else _vcgencmd("pmic_read_adc") or ""
        found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
        for rail, unit, value in _ADC.findall(said):
            found[unit][rail] = float(value)
        watts = [amperes * found["V"][rail] for rail, amperes in found["A"].items() if rail in found["V"]]
        return {"pmic": sum(watts)} if watts else {}


class Recorder:
    """Reads the sensors every half second in a thread of its own, and notes when something happened.

    Attributes:
        readings: in order, each with ``t``, seconds of the monotonic clock.
        marks: what began when.
    """

    def __init__(self, sensors: Sensors, every_s: float = EVERY_S) -> None:
        self.sensors, self.every_s = sensors, every_s
        self.readings: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._note()

    def mark(self, what: str) -> None:
        """Note that something begins now."""
        self.marks.append({"t": time.monotonic(), "what": what})

    def _run(self) -> None:
        self._note()
        while not self._done.wait(self.every_s):
            self._note()

    def _note(self) -> None:
        self.readings.append({"t": time.monotonic(), **self.sensors.read()})


def _vcgencmd(question: str) -> str | None:
    """What the firmware of a Raspberry Pi answers; None on other boards."""
    try:
        return subprocess.run(["vcgencmd", question], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _rails(root: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Power rails of hwmon drivers: each with its power, or its voltage and current."""
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = _text(chip / "name")
        for power in sorted(chip.glob("power[0-9]*_input")):
            yield f"{name}:{_label(power, 'power')}", (power,)
        for current in sorted(chip.glob("curr[0-9]*_input")):
            voltage = chip / current.name.replace("curr", "in")
            if voltage.is_file() and name.startswith("ina"):
                yield f"{name}:{_label(voltage, 'in')}", (voltage, current)


def _label(path: Path, kind: str) -> str:
    number = path.name[len(kind) :].split("_")[0]
    return _text(path.with_name(f"{kind}{number}_label")) or number


def _watts(parts: tuple[Path, ...]) -> float | None:
    """The power of a rail, from microwatts or from millivolts and milliamperes."""
    values = [_number(path) for path in parts]
    if any(value is None for value in values):
        return None
    return values[0] / 1e6 if len(values) == 1 else values[0] * values[1] / 1e6  # type: ignore[operator]


def _zone(path: Path) -> str:
    return f"{_text(path.with_name('type')) or 'zone'} ({path.parent.name[12:]})"


def _domain(path: Path) -> str:
    return f"{_text(path.with_name('name')) or 'energy'} ({path.parent.name})"


def _numbers(paths: list[Path]) -> dict[str, int]:
    found = {"/".join(path.parts[-3:]): _number(path) for path in paths}
    return {name: value for name, value in found.items() if value is not None}


def _pressure_us(root: Path) -> int | None:
    """Microseconds since the start in which some task waited for a CPU."""
    _, _, total = _text(root / "proc/pressure/cpu").partition("\n")[0].rpartition("total=")
    return int(total) if total.isdigit() else None


def _ticks(root: Path) -> list[int] | None:
    """Clock ticks of all processors since the start: all, idle (also waiting for a disk), and stolen."""
    words = _text(root / "proc/stat").partition("\n")[0].split()[1:9]
    if len(words) < 8 or not all(word.isdigit() for word in words):
        return None
    ticks = [int(word) for word in words]
    return [sum(ticks), ticks[3] + ticks[4], ticks[7]]


def _hex(text: str) -> int | None:
    try:
        return int(text.strip().rpartition("=")[2], 16)
    except ValueError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return ""
