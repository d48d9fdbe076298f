"""What a device says about itself while it computes: temperatures, frequencies, throttling, load and energy.

Each value is read where the kernel or the board's firmware gives it, and is absent where it does not. The recordings of
the tests have the sources.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .device import text_of

SYSROOT = "RETORT_EDGE_SYSROOT"
"""Environment variable: a recorded tree with ``proc``, ``sys`` and ``firmware`` instead of the machine's own."""
EVERY_S = 0.5
_ASKED_S = 2.0
"""A program that is asked costs a few milliseconds."""
_ADC = re.compile(r"(\w+)_([AV])\b[^=\n]*=\s*([0-9.]+)")
"""A current or a voltage of a rail in the answer of ``vcgencmd pmic_read_adc``, of either form that firmware has."""
_GPU = (
    "nvidia-smi --format=csv,noheader,nounits"
    " --query-gpu=pstate,temperature.gpu,power.draw,clocks.sm,clocks_event_reasons.active"
)


class Sensors:
    """Reads everything that a device reports, without rights that a user does not have.

    Args:
        root: contains ``proc`` and ``sys``.

    Attributes:
        asks_power: whether a Raspberry Pi 5's power chip is asked, too, through a program.
        asks_gpu: whether NVIDIA's driver is.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(os.environ.get(SYSROOT, "/")) if root is None else root

        def found(pattern: str) -> list[Path]:
            return sorted(self.root.glob(f"sys/{pattern}"))

        cpu, hwmon = "devices/system/cpu/cpu[0-9]*", "class/hwmon/hwmon*"
        self._zones = found("class/thermal/thermal_zone*/temp")
        self._zones += _of("k10temp|zenpower", found(f"{hwmon}/temp1_input"), "name")
        slows = "cpufreq|devfreq|throttle|Processor|powerclamp"  # and not a fan
        self._cooling = _of(slows, found("class/thermal/cooling_device*/cur_state"), "type")
        self._clocks = found(f"{cpu}/cpufreq/scaling_cur_freq")
        self._counts = found(f"{cpu}/thermal_throttle/*_count")
        self._domains = [path for path in found("class/powercap/*/energy_uj") if os.access(path, os.R_OK)]
        self._rails = list(_rails(self.root))
        self._events = found(f"{hwmon}/oc[0-9]*_event_cnt")
        self._alarms = _of("rpi_volt", found(f"{hwmon}/in0_lcrit_alarm"), "name")
        self._answers: dict[tuple[str, ...], tuple[float, str]] = {}
        self.asks_power = self.asks_gpu = False

    def measures_power(self) -> bool:
        """Whether anything here counts energy or measures power."""
        return bool(self._domains or self._rails or self._power_chip())

    def read(self) -> dict[str, Any]:
        """All present values by kind; kinds that the device does not report are absent."""
        found: dict[str, Any] = {
            "celsius": _thousandths(self._zones, _zone),
            "mhz": _thousandths(self._clocks, lambda path: path.parts[-3]),
            "throttle_counts": _numbers(self._counts),
            "microjoules": self.microjoules(),
            "watts": {
                **{name: watts for name, parts in self._rails if (watts := _watts(parts)) is not None},
                **(self._power_chip() if self.asks_power else {}),
            },
            "over_current": _numbers(self._events),
            "under_voltage": _numbers(self._alarms),
            "cooling": {name: state for name, state in _numbers(self._cooling, _zone).items() if state > 0},
            "firmware": _hex(self._said(_ASKED_S, "vcgencmd", "get_throttled")),
            "gpu": self._said(_ASKED_S, *_GPU.split()).splitlines() if self.asks_gpu else [],
            "pressure_us": _pressure_us(self.root),
            "ticks": _ticks(self.root),
        }
        return {kind: value for kind, value in found.items() if value not in (None, {}, [])}

    def microjoules(self) -> dict[str, int]:
        """The energy counters by domain."""
        return _numbers(self._domains, _domain)

    def limits(self) -> dict[str, Any]:
        """What does not change: where counters wrap, power allowed for long, temperatures that throttle, what slows."""
        trips: dict[str, float] = {}
        for zone in self._zones:
            passive = [
                value / 1000
                for kind in zone.parent.glob("trip_point_*_type")
                if text_of(kind) in ("passive", "hot", "critical")
                and (value := _number(kind.with_name(kind.name.replace("_type", "_temp"))) or 0) > 0  # 0: not in use
            ]
            trips.update({_zone(zone): min(passive)} if passive else {})
        return {
            "microjoules_wrap": _numbers([path.with_name("max_energy_range_uj") for path in self._domains], _domain),
            "microwatts": _numbers([path.with_name("constraint_0_power_limit_uw") for path in self._domains], _domain),
            "trips_celsius": trips,
            "cooling": [_zone(path) for path in self._cooling],
        }

    def hottest(self) -> float | None:
        """The highest temperature in °C; None if there is none."""
        return max(_thousandths(self._zones, _zone).values(), default=None)

    def _said(self, every_s: float, *command: str) -> str:
        """What a program answers, or in a recorded tree a file; empty where there is none."""
        if self.root != Path("/"):
            return text_of(self.root / "firmware" / command[-1].partition("=")[0].strip("-"))
        at, said = self._answers.get(command, (-every_s, ""))
        if time.monotonic() - at >= every_s:
            at = time.monotonic()
            try:
                said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
            except OSError:
                at = float("inf")  # this board has no such program
            except subprocess.SubprocessError:
                said = ""
            self._answers[command] = at, said
        return said

    def _power_chip(self) -> dict[str, float]:
        """The power of all rails of a Raspberry Pi 5's power chip, without its own losses; empty on other boards."""
        said = self._said(0.0, "vcgencmd", "pmic_read_adc")
        found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
        for rail, unit, value in _ADC.findall(said):
            found[unit][rail] = float(value)
        watts = [amperes * found["V"][rail] for rail, amperes in found["A"].items() if rail in found["V"]]
        return {"pmic": sum(watts)} if watts else {}


class Recorder:
    """Reads the sensors every half second in a thread of its own, and notes when something happened.

    Attributes:
        readings: in order, each with ``t``, seconds of the monotonic clock, and those with ``what``, which began then.
    """

    def __init__(self, sensors: Sensors, every_s: float = EVERY_S) -> None:
        self.sensors, self.every_s = sensors, every_s
        self.readings: list[dict[str, Any]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._note()

    def taken(self) -> list[dict[str, Any]]:
        """What is new since the last time."""
        found = self.readings[:]
        del self.readings[: len(found)]
        return found

    def mark(self, what: str) -> None:
        """Note that something begins now."""
        self.readings.append({"t": time.monotonic(), "what": what})

    def _run(self) -> None:
        self._note()
        while not self._done.wait(self.every_s):
            self._note()

    def _note(self) -> None:
        self.readings.append({"t": time.monotonic(), **self.sensors.read()})


def _rails(root: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Power rails of hwmon drivers: each with its power, or its voltage and current."""
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = text_of(chip / "name")
        for power in sorted([*chip.glob("power[0-9]*_average"), *chip.glob("power[0-9]*_input")]):
            yield f"{name}:{_label(power, 'power')}", (power,)
        for current in sorted(chip.glob("curr[1-3]_input")):  # the 4th of an INA3221 is their sum
            voltage = chip / current.name.replace("curr", "in")
            if voltage.is_file() and name.startswith("ina") and _label(voltage, "in") != "NC":
                yield f"{name}:{_label(voltage, 'in')}", (voltage, current)


def _label(path: Path, kind: str) -> str:
    number = path.name[len(kind) :].split("_")[0]
    return text_of(path.with_name(f"{kind}{number}_label")) or number


def _watts(parts: tuple[Path, ...]) -> float | None:
    """The power of a rail, from microwatts or from millivolts and milliamperes."""
    values = [_number(path) for path in parts]
    if any(value is None for value in values):
        return None
    return values[0] / 1e6 if len(values) == 1 else values[0] * values[1] / 1e6  # type: ignore[operator]


def _of(pattern: str, paths: list[Path], beside: str) -> list[Path]:
    return [path for path in paths if re.search(pattern, text_of(path.with_name(beside)))]


def _zone(path: Path) -> str:
    kind = text_of(path.with_name("type")) or text_of(path.with_name("name")) or "zone"
    return f"{kind} ({re.sub('[^0-9]', '', path.parent.name)})"


def _domain(path: Path) -> str:
    return f"{text_of(path.with_name('name')) or 'energy'} ({path.parent.name})"


def _numbers(paths: list[Path], name: Callable[[Path], str] = lambda path: "/".join(path.parts[-3:])) -> dict[str, int]:
    return {name(path): value for path in paths if (value := _number(path)) is not None}


def _thousandths(paths: list[Path], name: Callable[[Path], str]) -> dict[str, float]:
    return {key: value / 1000 for key, value in _numbers(paths, name).items()}


def _pressure_us(root: Path) -> int | None:
    """Microseconds since the start in which some task waited for a CPU."""
    _, _, total = text_of(root / "proc/pressure/cpu").partition("\n")[0].rpartition("total=")
    return int(total) if total.isdigit() else None


def _ticks(root: Path) -> list[int] | None:
    """Clock ticks of all processors since the start: all, idle (also waiting for a disk), and stolen."""
    words = text_of(root / "proc/stat").partition("\n")[0].split()[1:9]
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
