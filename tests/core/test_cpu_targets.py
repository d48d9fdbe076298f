"""Which targets ONNX Runtime runs on a CPU, and whose times this machine can measure."""

from __future__ import annotations

import platform
from typing import get_args

import pytest

from retort.core.cpu_targets import NOT_TIMED, can_be_timed, is_for_cpu, why_not_timed
from retort.core.options.stage_options import Target


@pytest.mark.parametrize(("machine", "arm"), [("x86_64", False), ("AMD64", False), ("aarch64", True), ("arm64", True)])
def test_times_of_x86_decide_nothing_about_arm(monkeypatch: pytest.MonkeyPatch, machine: str, arm: bool) -> None:
    """Files for Arm are timed on an Arm processor only, and the reason is given where they are not."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert [can_be_timed(target) for target in ("cpu", "arm", "tensorrt")] == [True, arm, False]
    assert [can_be_timed(target, "edge:pi") for target in ("cpu", "arm", "tensorrt")] == [True, True, False]
    assert why_not_timed("arm", "edge:pi") == ""
    assert why_not_timed("arm") == ("" if arm else NOT_TIMED)


def test_only_cpu_targets_are_explained() -> None:
    """`tensorrt` is no target of a CPU, and never timed with its kernels, so there is nothing to explain."""
    assert [target for target in get_args(Target) if is_for_cpu(target)] == ["cpu", "arm"]
    assert why_not_timed("cpu") == why_not_timed("tensorrt") == ""
