"""Whether a device can measure: versions, its kind, free memory and free space; the folder is the argument."""

import ctypes
import json
import platform
import shutil
import sys
from importlib import import_module, metadata, util

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
TENSORRT = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
MAJOR, MINOR = 75, 76


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
        **{name: version(name) for name in TENSORRT},
        "gpu": gpu(),
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


def gpu() -> "dict[str, str]":
    """Name and compute capability of the first NVIDIA GPU; why there is none otherwise."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"why": "the device has no NVIDIA driver"}
    device, name, values = ctypes.c_int(), ctypes.create_string_buffer(256), [ctypes.c_int(), ctypes.c_int()]
    code = driver.cuInit(ctypes.c_uint(0)) or driver.cuDeviceGet(ctypes.byref(device), ctypes.c_int(0))
    if code:
        return {"why": f"the device's NVIDIA driver finds none (error {code})"}
    driver.cuDeviceGetName(name, ctypes.c_int(256), device)
    for value, which in zip(values, (MAJOR, MINOR)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(which), device)
    return {"name": name.value.decode(errors="replace"), "compute_capability": ".".join(str(v.value) for v in values)}


def version(name: str) -> str:
    """The version of an installed package; empty if it is not there, and unknown if it is there without one."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return module_version(name) if name in TENSORRT and util.find_spec(name) else ""


def module_version(name: str) -> str:
    """The version that a module says of itself, as some systems install TensorRT without a package's description."""
    try:
        return str(getattr(import_module(name), "__version__", ""))
    except Exception:  # it is there without its libraries, and raises what it wants
        return ""


if __name__ == "__main__":
    main()
