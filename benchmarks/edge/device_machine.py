"""A device as the machine of a result, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..machine import cpu_features


def device_name(device: Mapping[str, Any], where: str = "") -> str:
    """The device as the user calls it, with its board."""
    board = str(device.get("board") or device["cpu"]["model"] or device["machine"])
    return f"{where} ({board})" if where else board


def machine_of(device: Mapping[str, Any]) -> dict[str, Any]:
    """The device as the machine of a result."""
    cpu = device["cpu"]
    known = {"logical": cpu["logical"], "usable": float(cpu["usable"]), "governor": cpu["governor"] or None}
    name = cpu["model"] or device["board"] or cpu["part"] or device["machine"]
    return {
        **{key: device[key] for key in ("os", "kernel", "machine", "python", "memory_bytes", "packages")},
        "cpu": {"model": name, "features": list(cpu_features(flags=cpu["flags"])), "max_mhz": None, **known},
        "device": dict(device),
        "gpu": [],
    }
