"""The cache folder: its place, its users, and how to change it."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from retort.compress.pruning.latency.latency_table import Table
from retort.core.options.stage_options import EngineOptions
from retort.core.system import cache
from retort.export.trt import stage

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RETORT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
@pytest.mark.parametrize("installed", [True, False])
def test_the_place_on_linux_does_not_change(home: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """On Linux it is ~/.cache/retort, or in XDG_CACHE_HOME, also on a serving host without platformdirs."""
    if not installed:
        monkeypatch.setattr(cache, "find_spec", lambda name: None)
    assert cache.cache_folder("timing") == home / ".cache" / "retort" / "timing"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert cache.cache_folder("latency") == home / "elsewhere" / "retort" / "latency"


def test_other_systems_have_their_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable, the folder is that of platformdirs."""
    monkeypatch.delenv("RETORT_CACHE", raising=False)
    named = import_module("platformdirs").user_cache_dir("retort", appauthor=False)
    assert cache.cache_folder("engines") == Path(named) / "engines"


def test_one_variable_moves_all_of_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RETORT_CACHE has priority, for latency tables and timing caches, and ~ is expanded."""

    class Timer:
        """A timer that is not called."""

        identity = "none"

    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("RETORT_CACHE", "~/mine")
    assert Table(Timer()).path.parent == home / "mine" / "latency"  # type: ignore[arg-type]
    assert stage._folder(EngineOptions()) == home / "mine" / "timing"
    assert stage._folder(EngineOptions(timing_cache="~/other")) == home / "other"


def test_no_other_module_has_a_cache_path() -> None:
    """Only `core/system/cache.py` has the path of a cache folder of the system."""
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    paths = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    named = re.compile(r'XDG_CACHE|user_cache|"\.cache"|~/\.cache/')
    assert [path.relative_to(ROOT).as_posix() for path in paths if named.search(path.read_text())] == [
        "core/system/cache.py"
    ]
