"""How many threads a worker may use: its share of the cores that this process may use (serve.md H11).

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from .settings import Settings

WORKERS = "RETORT_SERVER_WORKERS"
"""Environment variable with the number of workers of all models of a server, which share its cores."""


def thread_budget(settings: Settings, cores: int | None = None, workers: int = 0) -> int:
    """Runtime threads of one worker: the requested number, at most its share of the usable cores (serve.md H11).

    Args:
        cores: number of usable cores; by default derived from affinity and cgroup quota.
        workers: number of workers of the whole server; 0 if there are only those of the archive.
    """
    share = max(1, (cores or usable_cores()) // max(1, workers or settings.workers))
    return min(settings.threads, share) if settings.threads else share


def workers_of_server() -> int:
    """How many workers the server has that started this one; 0 if it does not say."""
    text = os.environ.get(WORKERS, "")
    return int(text) if text.isdecimal() else 0


def usable_cores() -> int:
    """Number of cores that this process may use: its affinity, limited by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
