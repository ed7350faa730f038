"""How far a pass is: its lines, and the bar in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.progress import describe, duration, show_progress


@pytest.mark.parametrize(
    ("done", "total", "rate", "note", "text"),
    [
        (0, None, None, "", "scored 0 photos"),
        (12_300, None, 148.21, "", "scored 12,300 photos, 148.2/s"),
        (
            12_300,
            100_000,
            148.21,
            "failed: 2 corrupt",
            "scored 12,300 of 100,000 photos, 148.2/s, 0:09:52 left, failed: 2 corrupt",
        ),
        (10, 10, 5.0, "", "scored 10 of 10 photos, 5.0/s, 0:00:00 left"),
        (11, 10, 5.0, "", "scored 11 of 10 photos, 5.0/s"),  # some came after they were counted
        (1, 10, None, "", "scored 1 of 10 photos"),
        (1, 10, 0.0, "", "scored 1 of 10 photos"),
    ],
)
def test_a_line_says_how_many_how_fast_how_long_and_what_else(
    done: int, total: int | None, rate: float | None, note: str, text: str
) -> None:
    assert describe("scored", "photos", done, total, rate, note) == text


def test_durations_have_days_where_they_are_that_long() -> None:
    assert [duration(s) for s in (0, 59.6, 3599, 86_399, 86_400, 200_000)] == [
        "0:00:00", "0:01:00", "0:59:59", "23:59:59", "1 d 0:00:00", "2 d 7:33:20",
    ]  # fmt: skip


def test_away_from_a_terminal_a_short_pass_leaves_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("checked") as report:
        for done in range(1, 4):
            report(done, 3)
    with show_progress("epoch 1/2: trained on", last_line=False) as report:
        report(3, 3)
    assert capsys.readouterr().err == "checked 3 of 3 photos\n"


def test_a_count_that_fails_leaves_the_total_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    def count() -> int:
        raise OSError

    with show_progress("scored", count=count) as report:
        report(3)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_again_and_stdout_is_left_alone() -> None:
    ours, theirs = pty.openpty()
    code = (
        "from catdog.progress import show_progress\n"
        "with show_progress('checked', 'resamples') as report:\n"
        "    for done in range(50): report(done, 50); print('to stdout')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stdout.count(b"to stdout") == 50
    assert "━" in drawn
    assert "of 50 resamples" in drawn
