"""Whether OpenVINO is installed; it is not imported to find out, because its import reports itself over the network."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def require_openvino() -> None:
    """Skip the test where OpenVINO is not installed."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
