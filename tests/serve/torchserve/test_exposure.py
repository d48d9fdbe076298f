"""Who can reach what stops a served model, on systems where TorchServe cannot be closed to others."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from retort.serve.settings import Settings
from retort.serve.torchserve.config import FrontEnd, config_properties, exposure
from retort.serve.torchserve.ports import Ports

SYSTEMS = {
    ("linux", "x86_64"): (),
    ("linux", "aarch64"): (),
    ("linux", "riscv64"): ("management interface is a port",),
    ("darwin", "x86_64"): ("gRPC interfaces cannot be turned off",),
    ("darwin", "arm64"): ("management interface is a port", "gRPC interfaces cannot be turned off"),
    ("win32", "AMD64"): ("management interface is a port", "gRPC interfaces cannot be turned off"),
}
"""What is open to every user of the machine, by system and processor."""


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_open_to_every_user_is_told(system: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning names the port of the management interface and gRPC exactly where they are open."""
    monkeypatch.setattr(sys, "platform", system[0])
    monkeypatch.setattr(platform, "machine", lambda: system[1])
    told = exposure()
    ports = Ports(1, 2, 3, 4, 5, 6, 7)
    properties = config_properties(
        {"m.mar": Settings()}, ports, "127.0.0.1", Path("store"), FrontEnd(1, "unix:x", "unix:y")
    ).decode()
    grpc_is_open = "grpc_management_address=127.0.0.1" in properties
    assert grpc_is_open == (system[0] != "linux")
    assert grpc_is_open == (told is not None and "gRPC" in told)
    assert (told is None) == (not SYSTEMS[system])
    for part in SYSTEMS[system]:
        assert told is not None
        assert told.startswith("every user of this machine can stop the model")
        assert part in told
