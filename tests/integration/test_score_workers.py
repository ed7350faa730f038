"""run_workers with scorers that crash, hang and fail: nothing is lost, nothing waits for ever, no process stays."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from catdog.errors import DataError, ModelError
from catdog.score.run import batch_inputs
from catdog.score.scorer import Answer
from catdog.score.workers import WORKER_BYTES, Task, auto_workers, run_workers
from catdog.sources.archives import Bytes
from catdog.sources.contents import Failed
from catdog.sources.listing import Cursor, Input
from tests.integration.odd_scorers import BAD, Odd, dies_at_start, dies_twice_at_start, no_model

HANGS_AFTER_S = 3.0  # more than a process takes to start on a busy machine
MiB = 2**20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def inputs_named(names: list[str], data: bytes = b"12345") -> list[Input]:
    return [Input(name, Bytes(data), Cursor(0, i)) for i, name in enumerate(names)]


def in_tasks(inputs: list[Input], size: int = 4) -> Iterator[Task]:
    return batch_inputs(iter(inputs), size, 2**40)


def with_bad_one(count: int = 40, at: int = 17) -> list[Input]:
    return inputs_named([BAD if i == at else f"{i}.jpg" for i in range(count)])


def names(answers: Iterator[Answer]) -> list[str | None]:
    return [row.error for answer in answers for row in answer.rows]


def processes() -> list[int]:
    """Process ids of the workers."""
    return [process.pid for process in multiprocessing.active_children() if process.pid]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert processes() == []


@pytest.fixture(autouse=True)
def no_endless_wait() -> Iterator[None]:
    """A hang fails with a traceback that shows where."""

    def give_up(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_answers_come_in_order_however_long_each_takes() -> None:
    inputs = inputs_named([f"{i}.jpg" for i in range(202)])
    answers = list(run_workers(in_tasks(inputs), partial(Odd, pause_s=0.01), 3))
    assert names(iter(answers)) == [item.source for item in inputs]
    assert [len(answer.rows) for answer in answers] == [4] * 50 + [2]
    assert {answer.seconds.decoding for answer in answers} == {1.0}


def test_no_tasks_start_no_process() -> None:
    assert list(run_workers(iter([]), dies_at_start, 3)) == []


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("kill", "out_of_memory", "crashed the process (SIGKILL)"),  # as the kernel does
        ("segfault", "corrupt", "crashed the process (SIGSEGV)"),
        ("exit", "corrupt", "crashed the process (exit code 3)"),
        ("hang in C", "corrupt", f"gave no answer in {HANGS_AFTER_S:g} s"),
    ],
)
def test_the_one_input_that_kills_or_hangs_its_process_is_to_blame_and_no_other(
    trouble: str, status: str, words: str
) -> None:
    inputs = with_bad_one()
    answers = run_workers(in_tasks(inputs), partial(Odd, trouble), 2, HANGS_AFTER_S)
    rows = [row for answer in answers for row in answer.rows]
    bad = rows.pop(17)
    assert (bad.status, bad.label, bad.error) == (status, None, f"{BAD}: reading it {words}")
    assert [row.error for row in rows] == [item.source for item in inputs if item.source != BAD]
    assert {(row.status, row.width) for row in rows} == {("ok", 5)}


def test_two_bad_inputs_in_one_task_and_one_at_each_end() -> None:
    bad = {0, 21, 22, 39}
    inputs = inputs_named([BAD if i in bad else f"{i}.jpg" for i in range(40)])
    answers = run_workers(in_tasks(inputs), partial(Odd, "exit"), 2)
    rows = [row for answer in answers for row in answer.rows]
    assert [i for i, row in enumerate(rows) if row.status != "ok"] == sorted(bad)
    assert len(rows) == 40


def test_trouble_that_does_not_come_again_costs_no_row(tmp_path: Path) -> None:
    inputs = with_bad_one()
    answers = run_workers(in_tasks(inputs), partial(Odd, "kill", tmp_path / "came"), 2)
    assert names(answers) == [item.source for item in inputs]


def test_large_tasks_for_a_process_that_hangs_do_not_hang_the_run() -> None:
    """The pipe to it is full, and nobody will ever read it."""
    inputs = inputs_named([BAD if i == 3 else f"{i}.jpg" for i in range(12)], bytes(8 * MiB))
    answers = run_workers(in_tasks(inputs, 2), partial(Odd, "stop"), 2, HANGS_AFTER_S)
    rows = [row for answer in answers for row in answer.rows]
    assert [row.status for row in rows] == ["ok"] * 3 + ["corrupt"] + ["ok"] * 8


def test_large_tasks_and_large_answers_at_once() -> None:
    inputs = inputs_named([f"{i}.jpg" for i in range(20)], bytes(16 * MiB))
    answers = run_workers(in_tasks(inputs, 1), partial(Odd, answer=4 * MiB), 2)
    for item, answer in zip(inputs, answers, strict=True):
        assert [(row.error, row.width, len(row.sha256 or "")) for row in answer.rows] == [
            (item.source, 16 * MiB, 4 * MiB)
        ]


def test_processes_start_side_by_side_with_large_tasks_too() -> None:
    """None waits until the one before it has loaded its model and read its task."""
    started = []

    def tasks() -> Iterator[Task]:
        for task in in_tasks(inputs_named(["0.jpg", "1.jpg", "2.jpg"], bytes(8 * MiB)), 1):
            started.append(time.monotonic())
            yield task

    assert names(run_workers(tasks(), partial(Odd, pause_s=0.2), 3)) == ["0.jpg", "1.jpg", "2.jpg"]
    assert started[2] - started[0] < 0.2  # a process takes longer than this to start


def test_a_scorer_that_can_not_be_made() -> None:
    with pytest.raises(ModelError, match="the file was replaced during the run"):
        list(run_workers(in_tasks(with_bad_one()), no_model, 2))


def test_processes_that_die_at_start_are_tried_three_times(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"worker processes end while they start \(exit code 7\); give fewer --workers"):
        list(run_workers(in_tasks(with_bad_one()), dies_at_start, 1))
    inputs = with_bad_one()
    assert names(run_workers(in_tasks(inputs), partial(dies_twice_at_start, tmp_path), 1)) == [i.source for i in inputs]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed:\nTraceback.*in __call__.*ZeroDivisionError"):
        list(run_workers(in_tasks(with_bad_one()), partial(Odd, "bug"), 2))


def test_what_is_wrong_with_all_photos_ends_the_run_with_its_own_words() -> None:
    with pytest.raises(DataError, match=r"^s3://photos: the AWS credentials are refused"):
        list(run_workers(in_tasks(with_bad_one()), partial(Odd, "credentials"), 2))


def test_a_listing_that_fails_says_so_and_leaves_no_process() -> None:
    def tasks() -> Iterator[Task]:
        yield from in_tasks(inputs_named([f"{i}.jpg" for i in range(200)]))
        raise DataError("s3://photos: can't be reached")

    answers = run_workers(tasks(), Odd, 2)
    with pytest.raises(DataError, match="can't be reached"):
        list(answers)


def test_a_reader_that_stops_early_leaves_no_process() -> None:
    answers = run_workers(in_tasks(with_bad_one(400, at=399)), Odd, 2)
    assert len(next(answers).rows) == 4
    started = processes()
    assert len(started) == 2
    answers.close()  # type: ignore[attr-defined]
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_an_unreadable_input_is_no_trouble() -> None:
    failed = [Input("gone.jpg", Failed("gone.jpg: no such file", "missing"), Cursor(0, 0)), *inputs_named(["1.jpg"])]
    answers = run_workers(iter([failed[1:], [failed[1]]]), Odd, 1)
    assert names(answers) == ["1.jpg", "1.jpg"]


@pytest.mark.parametrize("count", [1, 3])
def test_tasks_are_read_a_bounded_number_ahead(count: int) -> None:
    read = 0

    def tasks() -> Iterator[Task]:
        nonlocal read
        for task in in_tasks(inputs_named([f"{i}.jpg" for i in range(1000)]), 2):
            read += 1
            yield task

    most = 0
    for given, answer in enumerate(run_workers(tasks(), Odd, count)):
        most = max(most, read - given)
        assert len(answer.rows) == 2
    assert read == 500
    assert most <= 16 * count + 1
    assert most >= 2 * count  # each has one in work and one at hand


def test_one_slow_task_stops_the_reading_ahead() -> None:
    """While the oldest is in work, others are answered, and wait; but not without end."""
    read = 0

    def tasks() -> Iterator[Task]:
        nonlocal read
        for item in inputs_named([BAD, *(f"{i}.jpg" for i in range(300))]):
            read += 1
            yield [item]

    answers = run_workers(tasks(), partial(Odd, "slow"), 2)
    next(answers)
    assert read <= 16 * 2 + 1
    assert len(names(answers)) == 300


def test_memory_does_not_grow_with_the_number_of_inputs() -> None:
    def measure(count: int) -> int:
        inputs = (Input(f"photos/some/folder/{i}.jpg", Bytes(b"1"), Cursor(0, i)) for i in range(count))
        tracemalloc.start()
        assert sum(len(answer.rows) for answer in run_workers(batch_inputs(inputs, 16, MiB), Odd, 2)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = measure(2_000), measure(20_000)
    assert many < few + 300_000  # 20,000 rows alone would take 5 MB


@pytest.mark.parametrize(
    ("cores", "free_workers", "expected"),
    [(1, 100, 1), (8, 100, 8), (8, 3.9, 3), (8, 0.5, 1), (64, math.inf, 64), (2, 0, 1)],
)
def test_a_worker_a_core_and_fewer_where_memory_is_short(cores: int, free_workers: float, expected: int) -> None:
    assert auto_workers(cores, free_workers * WORKER_BYTES) == expected


def test_auto_asks_the_machine() -> None:
    assert 1 <= auto_workers() <= len(os.sched_getaffinity(0))
