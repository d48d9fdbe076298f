"""The machine's fingerprint and the doctor, on this machine and with recorded files of others."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from retort.benchmarks import machine
from retort.pipeline.diagnosis import environment

PI5 = {
    "proc/cpuinfo": """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
""",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
    "proc/pressure/cpu": "some avg10=42.50 avg60=1.00 avg300=0.10 total=5\n",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "proc/self/cgroup": "0::/box\n",
    "sys/fs/cgroup/box/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/box/memory.max": "1073741824\n",
}


@pytest.fixture
def pi5(tmp_path: Path) -> Path:
    """The system files of a Raspberry Pi 5 under a cgroup limit."""
    for name, text in PI5.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_fingerprint_of_this_machine_is_complete_json() -> None:
    """The fingerprint is valid JSON and has the processor, the cores and the relevant packages."""
    found = machine.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]["model"]
    assert 0 < found["cpu"]["usable"] <= found["cpu"]["logical"]
    assert found["memory_bytes"] > 1 << 28
    assert found["packages"]["numpy"]
    assert found["cpu"]["model"] in machine.describe(found)


def test_recorded_arm_board_is_understood(pi5: Path) -> None:
    """A Pi 5 has its name, dotprod, its governor, and half a core if the cgroup grants no more."""
    found = machine.fingerprint(pi5)
    assert found["cpu"]["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["cpu"]["features"] == ["neon", "dotprod"]
    assert (found["cpu"]["governor"], found["cpu"]["max_mhz"]) == ("ondemand", 2400)
    assert found["cpu"]["usable"] == 0.5
    assert found["cgroup"] == {"cpus": 0.5, "memory_bytes": 1 << 30}
    assert found["pressure_percent"] == 42.5
    assert found["os"] == "Debian GNU/Linux 12 (bookworm)"


def test_old_cgroups_and_unlimited_ones_are_read(tmp_path: Path) -> None:
    """A v1 quota is read; ``max``, -1 and the largest number mean no limit."""
    base = tmp_path / "sys/fs/cgroup"
    (base / "cpu").mkdir(parents=True)
    (base / "memory").mkdir()
    (base / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    (base / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (base / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.cgroup_limits(tmp_path) == (1.5, None)
    (base / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert machine.cgroup_limits(tmp_path) == (None, None)
    (base / "cpu.max").write_text("max 100000\n")
    assert machine.cgroup_limits(tmp_path) == (None, None)
    assert machine.fingerprint(tmp_path / "nowhere")["cpu"]["governor"] is None


@pytest.mark.parametrize(
    ("features", "good", "word"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), True, "amx_int8"),
        (("avx2", "avx_vnni"), True, "UINT8 activations"),
        (("avx2",), False, "without VNNI"),
        (("neon", "dotprod", "i8mm"), True, "i8mm"),
        (("neon",), False, "without dotprod"),
        ((), False, "no instruction set"),
    ],
)
def test_int8_outlook_follows_the_instruction_sets(features: tuple[str, ...], good: bool, word: str) -> None:
    """INT8 is promising if the hardware has integer dot products, and doubtful otherwise, with the reason."""
    found, why = machine.int8_outlook(features)
    assert found is good
    assert word in why


@pytest.mark.torch
def test_doctor_looks_at_every_part_of_the_line(tmp_path: Path) -> None:
    """Each part has a check with details, each failure a remedy, and only ONNX Runtime is imported."""
    checks = {check.name: check for check in environment.doctor(tmp_path / "runs" / "deep")}
    assert {"torch", "onnx", "onnxruntime", "tensorrt", "torchserve", "java", "gpu", "int8 on cpu", "disk"} <= set(
        checks
    )
    assert all(check.detail for check in checks.values())
    assert all(check.remedy for check in checks.values() if check.status == "warn")
    assert "CPU" in checks["onnxruntime"].detail
    columns, rows = environment.table(checks.values())
    assert len(rows) == len(checks)
    assert all(len(row) == len(columns) for row in rows)
    code = (
        "import sys; from retort.pipeline.diagnosis.environment import doctor; doctor(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.torch
def test_doctor_warns_of_a_loaded_slow_machine(pi5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressure, and more threads than cores, are warnings with the command that fixes them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    checks = {check.name: check for check in environment.doctor(Path(), pi5)}
    assert checks["quiet"].status == "warn"
    assert "42 %" in checks["quiet"].detail
    assert checks["threads"].remedy == "export OMP_NUM_THREADS=1"
    assert checks["int8 on cpu"].status == "ok"


def test_missing_packages_are_named_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without packages, every package is missing and pip's command is given."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks = {check.name: check for check in environment.doctor()}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "torchserve", "tensorrt-rtx"):
        assert checks[name].status == "missing"
        assert checks[name].remedy.startswith("pip install")


def test_the_table_of_the_doctor_has_no_empty_column() -> None:
    """Remedies have a column only if there is one."""
    fine, bad = (
        environment.Check("disk", "ok", "80 GB free"),
        environment.Check("java", "missing", "none found", "install Java 17"),
    )
    assert environment.table([fine])[0] == ["what", "status", "found"]
    assert environment.table([fine, bad]) == (
        ["what", "status", "found", "remedy"],
        [["disk", "ok", "80 GB free", ""], ["java", "missing", "none found", "install Java 17"]],
    )
