"""How many threads are worth starting: the processor cores that this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores of this process, at least 1: its affinity, cut by the quota of its control group.

    `OMP_NUM_THREADS`, where a user sets it, is the answer: whoever runs many processes beside each
    other knows better.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return math.ceil(min(n_cores or 1, _quota_cores(cgroup)))


def _quota_cores(cgroup: Path) -> float:
    """Cores that a container may fill, by control groups of version 2 or 1; else infinite."""
    try:
        try:
            quota, period = (cgroup / "cpu.max").read_text().split()
        except OSError:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no Linux, or "max"
        return math.inf
    return share if share > 0 else math.inf  # -1: no quota
