"""What this machine lets the process use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may use: under taskset, or in a container with a limit, fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Microseconds: "QUOTA PERIOD" or "max PERIOD" in cgroup v2 (kernel.org, cgroup-v2.rst); v1: two files, -1 for none.
    words = _words(cgroup / "cpu.max") or _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(
        cgroup / "cpu/cpu.cfs_period_us"
    )
    quota, period = map(_number, words if len(words) == 2 else ("max", "max"))
    return math.ceil(min(allowed, quota / period)) if math.isfinite(quota) and period > 0 else allowed


def free_memory(cgroup: Path = CGROUP, meminfo: Path = _MEMINFO) -> float:
    """Bytes that may still be taken without swapping; infinite where the machine doesn't say."""
    words = _words(meminfo)
    free = [_number(words[words.index("MemAvailable:") + 1]) * 1024] if "MemAvailable:" in words else []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        bound, taken = _words(cgroup / limit), _words(cgroup / used)
        if bound and taken:
            free.append(max(0.0, _number(bound[0]) - _number(taken[0])))
    return min(free, default=math.inf)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(word: str) -> float:
    return float(word) if word.isdecimal() else math.inf
