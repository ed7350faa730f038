"""The cores and the memory that a container leaves, read from files as the kernel writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from catdog.machine import free_memory, usable_cores

CORES = usable_cores(Path("no-such-folder"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(CORES, 2)),
        ({"cpu.max": "6400000 100000\n"}, CORES),
        ({"cpu.max": "nonsense"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n"}, CORES),
    ],
)
def test_a_container_s_share_of_the_cores(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == expected


def test_the_smallest_limit_on_memory_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert free_memory(tmp_path, meminfo) == math.inf
    meminfo.write_text("MemTotal:       8000 kB\nMemAvailable:   4000 kB\n")
    assert free_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory(tmp_path, meminfo) == 4000
    (tmp_path / "memory.max").write_text("500\n")
    assert free_memory(tmp_path, meminfo) == 0


@pytest.mark.parametrize(
    ("folder", "limit", "used", "cache"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_a_container_s_cache_of_files_counts_as_free(
    tmp_path: Path, folder: str, limit: str, used: str, cache: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / limit).write_text("16000\n")
    (tmp_path / folder / used).write_text("15900\n")
    assert free_memory(tmp_path, tmp_path / "none") == 100
    (tmp_path / folder / "memory.stat").write_text(f"anon 900\nactive_file 3000\n{cache} 12000\n")
    assert free_memory(tmp_path, tmp_path / "none") == 12100
    (tmp_path / folder / "memory.stat").write_text(f"{cache} 99000\n")  # read a moment later than the use
    assert free_memory(tmp_path, tmp_path / "none") == 16000
