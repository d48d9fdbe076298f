"""Whether a device can measure: versions, its kind, free memory and free space; the folder is the argument."""

import json
import platform
import shutil
import sys
from importlib import metadata

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def main() -> None:
    """Print what is there."""
    memory = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            words = [line.replace(":", "").split() for line in file]
        memory = {line[0]: int(line[1]) * 1024 for line in words if len(line) > 1 and line[1].isdigit()}
    except OSError:
        pass
    found = {
        "python": platform.python_version(),
        "new": sys.version_info >= (3, 9),
        "machine": platform.machine(),
        "bits": platform.architecture()[0],
        "libc": " ".join(platform.libc_ver()),
        "system": platform.system(),
        "numpy": version("numpy"),
        "onnxruntime": next(filter(None, map(version, RUNTIMES)), ""),
        "openvino": version("openvino"),
        "free": shutil.disk_usage(sys.argv[1]).free,
        "available": min((one for one in (memory.get("MemAvailable"), headroom()) if one is not None), default=None),
        "executable": sys.executable,
        "board": board(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


def headroom() -> "int | None":
    """Memory that the control group of this process may still use; None without a limit."""
    found = []
    for line in words_of("/proc/self/cgroup"):
        number, kinds, own = line.split(":", 2)
        if number != "0" and "memory" not in kinds.split(","):
            continue
        names = ("max", "current") if number == "0" else ("limit_in_bytes", "usage_in_bytes")
        for group in {"", own.rstrip("/")}:
            base = "/sys/fs/cgroup" + ("" if number == "0" else "/memory") + group
            most, used = ("".join(words_of(f"{base}/memory.{name}")) for name in names)
            files = [line.split()[1] for line in words_of(f"{base}/memory.stat") if line.startswith("inactive_file ")]
            if most.isdigit() and used.isdigit():
                found.append(max(0, int(most) - int(used) + int(*files)))
    return min(found, default=None)


def words_of(path: str) -> "list[str]":
    """The lines of a file; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def board() -> str:
    """The board of an Arm computer, or the processor; empty if the kernel tells neither."""
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name"), ("/proc/cpuinfo", "Model")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line for line in file if line.startswith(key)]
        except OSError:
            continue
        if lines:
            return lines[0].partition(":")[2].strip() if key else lines[0].strip().strip("\0")
    return ""


def version(name: str) -> str:
    """The version of an installed package; empty if it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
