"""Runs of catdog score that are cut off, at any moment and in any way, end as one that isn't."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("pyarrow", reason="needs catdog[score]")
if not Path("/proc/self/stat").exists():
    pytest.skip("looks for processes in /proc", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PART_ROWS = 16
COMMAND = [sys.executable, "-m", "catdog.score", "--workers", "2", "--part-rows", str(PART_ROWS)]
"""What a kill in the few microseconds before a rename leaves beside the result."""

Run = subprocess.Popen[str]


class Collection(NamedTuple):
    arguments: list[str]
    rows: int


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., bytes], tiny_model: Path) -> Collection:
    """Photos in every kind of place, some damaged, that take about a second to score."""
    folder = tmp_path_factory.mktemp("collection")
    encoded = [photo(colour, "PNG", size=(500, 375)) for colour in ("red", "blue", "purple")]
    encoded += [encoded[0][:-40], b"", b"no photo at all"]

    def some(count: int) -> Iterator[tuple[str, bytes]]:
        for i in range(count):
            yield f"{i:03}.png", encoded[i % 3 if i % 20 else 3 + i // 20 % 3]

    for name, data in some(220):
        place = folder / "photos" / ("deep" if int(name[:3]) % 3 else "") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    with zipfile.ZipFile(folder / "some.zip", "w") as archive:
        for name, data in some(90):
            archive.writestr(f"in/{name}", data)
    for ending, count in (("tar", 90), ("tar.gz", 90)):
        with tarfile.open(folder / f"some.{ending}", "w:gz" if ending.endswith("gz") else "w") as tar:
            for name, data in some(count):
                entry = tarfile.TarInfo(f"in/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    listed = sorted(str(path) for path in (folder / "photos" / "deep").iterdir())[:60]
    (folder / "list.txt").write_text("\n".join([*listed, "gone.png"]) + "\n")
    sources = [str(folder / name) for name in ("photos", "some.zip", "some.tar", "some.tar.gz")]
    return Collection([*sources, "--list", str(folder / "list.txt"), "--model", str(tiny_model)], 220 + 3 * 90 + 61)


@pytest.fixture(scope="module")
def uninterrupted(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """uninterrupted(".csv") -> the result of a run in one part."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    def result(ending: str) -> bytes:
        out = folder / f"r{ending}"
        if not out.exists():
            ended = end(start(collection, out, "--part-rows", "100000"))
            assert ended.code == 1, ended.error
            assert ended.report["photos"] == collection.rows
        return out.read_bytes()

    return result


class Ended(NamedTuple):
    code: int
    report: dict[str, Any]
    error: str


def start(collection: Collection, out: Path, *more: str, limit: Callable[[], None] | None = None) -> Run:
    return subprocess.Popen(
        [*COMMAND, *collection.arguments, "--out", str(out), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )


def end(run: Run) -> Ended:
    """Wait until it ends by itself."""
    output, error = run.communicate(timeout=100)
    assert "Traceback" not in error, error
    return Ended(run.returncode, json.loads(output) if output else {}, error)


def group(leader: int) -> set[int]:
    """The processes of a process group that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]  # proc(5)
            if state != "Z" and int(its_group) == leader:
                found.add(int(stat.parent.name))
    return found


def kill(run: Run) -> None:
    """End the parent, only that; the workers have to notice."""
    run.kill()
    run.communicate()
    check_gone(run)


def check_gone(run: Run) -> None:
    """All processes of a run end within seconds."""
    deadline = time.monotonic() + 10
    while left := group(run.pid):
        assert time.monotonic() < deadline, f"processes outlive their parent: {left}"
        time.sleep(0.02)


def parts(out: Path) -> int:
    return len(list(Path(f"{out}.parts").glob("part-*")))


def wait_until(run: Run, true: Callable[[], bool]) -> None:
    """Returns when the run has ended, too."""
    while run.poll() is None and not true():
        time.sleep(0.001)


def check(out: Path, expected: bytes) -> None:
    """The same rows in the same order, and nothing else beside them."""
    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(out).equals(pq.read_table(io.BytesIO(expected)))
    else:
        assert out.read_bytes() == expected
    found = {path.name for path in out.parent.iterdir()}
    assert found == {out.name, f"{out.name}.run.json"}


@pytest.mark.parametrize(("ending", "seed"), [(".parquet", 0), (".csv", 1)])
def test_a_run_killed_again_and_again_ends_as_if_it_never_was(
    collection: Collection, uninterrupted: Callable[[str], bytes], tmp_path: Path, ending: str, seed: int
) -> None:
    expected, dice, out = uninterrupted(ending), random.Random(seed), tmp_path / f"r{ending}"
    moments = ["start", "list", "score", "score"]
    dice.shuffle(moments)
    for moment in moments:
        run, done = start(collection, out), parts(out)
        if moment == "start":
            time.sleep(dice.uniform(0, 0.5))
        elif moment == "list":  # with workers that start
            wait_until(run, lambda: len(group(run.pid)) > 1)  # noqa: B023
            time.sleep(dice.uniform(0, 0.3))
        else:
            wait_until(run, partial(lambda n: parts(out) >= n, done + dice.randint(1, 4)))
            time.sleep(dice.uniform(0, 0.05))
        kill(run)
        assert run.returncode == -signal.SIGKILL, moment
        assert not out.exists()
    assert 2 <= parts(out) < collection.rows / PART_ROWS
    for marker in (Path(f"{out}.parts") / ".result.tmp", out):  # merging, and after it
        run = start(collection, out)
        wait_until(run, marker.exists)
        kill(run)  # if it has not ended meanwhile
    ended = end(start(collection, out))
    assert ended.code == 1, ended.error
    assert ended.report["photos"] == collection.rows
    assert ended.report["scored_before"] >= PART_ROWS * 2
    check(out, expected)


def test_a_killed_worker_costs_no_row(
    collection: Collection, uninterrupted: Callable[[str], bytes], tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    run = start(collection, out)
    wait_until(run, lambda: parts(out) >= 2)
    os.kill(max(group(run.pid) - {run.pid}), signal.SIGKILL)
    ended = end(run)
    assert ended.code == 1, ended.error
    check(out, uninterrupted(".csv"))


def test_sigterm_to_all_processes_is_answered_with_what_is_done(
    collection: Collection, uninterrupted: Callable[[str], bytes], tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    run = start(collection, out)
    wait_until(run, lambda: parts(out) >= 2)
    os.killpg(run.pid, signal.SIGTERM)
    ended = end(run)
    assert ended.code == 143, ended.error
    assert ended.report["stopped"] == "signal"
    check_gone(run)
    again = end(start(collection, out))
    assert again.code == 1
    assert again.report["scored_before"] == ended.report["photos"] >= 2 * PART_ROWS
    check(out, uninterrupted(".csv"))


def test_a_limit_on_the_size_of_files_that_the_result_is_over(
    collection: Collection, uninterrupted: Callable[[str], bytes], tmp_path: Path
) -> None:
    expected, out = uninterrupted(".csv"), tmp_path / "r.csv"
    largest = 50_000  # bytes
    assert len(expected) > largest
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, largest))
    ended = end(start(collection, out, limit=limit))
    assert ended.code == 2
    assert ended.error.startswith(f"catdog score: error: {tmp_path}")
    assert ended.error.endswith("start the same command again: it goes on\n")
    assert ended.error.count("\n") == 1
    assert not out.exists()
    again = end(start(collection, out))
    assert again.code == 1, again.error
    assert again.report["scored_before"] == collection.rows
    check(out, expected)


def test_a_full_disk(collection: Collection, uninterrupted: Callable[[str], bytes], small_disk: Path) -> None:
    out = small_disk / "r.csv"
    ended = end(start(collection, out))
    assert ended.code == 2, ended.error
    assert "the disk is full; free some space and start the same command again: it goes on\n" in ended.error
    assert ended.error.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = end(start(collection, out))
    assert again.code == 1, again.error
    assert again.report["scored_before"] >= PART_ROWS
    check(out, uninterrupted(".csv"))


def test_a_second_run_on_the_same_result_is_refused(
    collection: Collection, uninterrupted: Callable[[str], bytes], tmp_path: Path
) -> None:
    out = tmp_path / "r.csv"
    first = start(collection, out)
    wait_until(first, lambda: parts(out) >= 1)
    os.kill(first.pid, signal.SIGSTOP)
    second = end(start(collection, out))
    os.kill(first.pid, signal.SIGCONT)
    assert second.code == 2
    assert second.error == (f"catdog score: error: {out}: another run is writing it; wait for that one, or stop it\n")
    assert end(first).code == 1
    check(out, uninterrupted(".csv"))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["status"] for row in rows} == {"ok", "corrupt", "unsupported", "missing"}
