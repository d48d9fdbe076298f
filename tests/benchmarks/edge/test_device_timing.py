"""Files that are timed on a device for pruning and quantization: ratios, own inputs, and what is left there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_devices import dense, fake_ssh

from retort.benchmarks.edge.device_timing import TimedFile, description_of, device_named, time_on_device
from retort.core.errors import MachineError, UserError
from retort.core.options.edge_options import EdgeOptions

OPTIONS = EdgeOptions(batch_sizes=(4,), seconds=0.6, block_ms=2.0)


def test_a_timer_names_a_device() -> None:
    """Host, interpreter and folder; anything else is refused with the form that is right."""
    found = device_named("edge:pi@board.local,python=/opt/py/bin/python3,folder=/mnt/x")
    assert (found.host, found.python, found.folder) == ("pi@board.local", "/opt/py/bin/python3", "/mnt/x")
    assert device_named("edge:board").folder == "~/retort-edge"
    for name in ("edge:board,pyton=3", "edge:board,python=", "edge:", "edge:-oProxyCommand=x"):
        with pytest.raises(UserError):
            device_named(name)


def test_models_with_inputs_of_their_own_are_timed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide net takes longer than a narrow one, also if their inputs differ; nothing stays on the device."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    device = device_named(f"edge:pi@board,python={sys.executable}")
    assert "onnxruntime" in description_of(device)
    files = {}
    for name, width in (("wide", 40_000), ("narrow", 16)):
        model = dense(tmp_path / f"{name}.onnx", width).main.read_bytes()
        files[name] = TimedFile(model, {"x": np.ones((1 if name == "wide" else 3, 8), np.float32)})
    found = time_on_device(device, files, OPTIONS).comparison
    ratio = found.ratio_of("narrow")
    assert ratio.low is not None
    assert ratio.low > 1.5
    assert found.candidates["wide"].median_ms.value > found.candidates["narrow"].median_ms.value
    assert not (tmp_path / "home/retort-edge").exists()


def test_a_device_that_is_away_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be opened there and a link that fails name the device."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    device = device_named(f"edge:pi@board,python={sys.executable}")
    model = dense(tmp_path / "net.onnx", 16).main.read_bytes()
    monkeypatch.setenv("FAKE_SSH_FAILS", "ssh: connect to host board port 22: Connection refused")
    with pytest.raises(MachineError, match="pi@board cannot be reached: nothing listens there"):
        time_on_device(device, {"net": TimedFile(model, {"x": np.ones((1, 8), np.float32)})}, OPTIONS)
