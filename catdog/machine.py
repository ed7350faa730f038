"""What this machine lets the process use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may use: under taskset or in a container, fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Microseconds: "QUOTA PERIOD" or "max PERIOD" in cgroup v2 (kernel.org, cgroup-v2.rst); v1: two files, -1 for none.
    words = _read_words(cgroup / "cpu.max") or [
        word for name in ("quota", "period") for word in _read_words(cgroup / f"cpu/cpu.cfs_{name}_us")
    ]
    quota, period = map(_to_number, words if len(words) == 2 else ("max", "max"))
    return math.ceil(min(allowed, quota / period)) if math.isfinite(quota) and period > 0 else allowed


def free_memory(cgroup: Path = CGROUP, meminfo: Path = _MEMINFO) -> float:
    """Return how many bytes may still be taken without swapping; infinite where the machine doesn't say.

    What a container uses includes the kernel's cache of files. The part of it that was not read lately counts as free,
    since the kernel gives it up first: ``inactive_file`` in cgroup v2, ``total_inactive_file`` in v1.
    """
    free = [_read_field(meminfo, "MemAvailable:", math.inf) * 1024]
    for folder, limit, used, cache in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        bound, taken = _read_words(folder / limit), _read_words(folder / used)
        if bound and taken:
            needed = max(0.0, _to_number(taken[0]) - _read_field(folder / "memory.stat", cache, 0))
            free.append(max(0.0, _to_number(bound[0]) - needed))
    return min(free)


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _read_field(path: Path, name: str, default: float) -> float:
    """Return the number that follows ``name`` in a file of names and numbers."""
    words = _read_words(path)
    return _to_number(words[words.index(name) + 1]) if name in words[:-1] else default


def _to_number(word: str) -> float:
    return float(word) if word.isdecimal() else math.inf
