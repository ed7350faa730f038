"""How far a run is, on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from catdog.score.ledger import Totals

SECONDS_BETWEEN_LINES: Final = 10.0
_SECONDS_BEFORE_RATE: Final = 1.0  # a rate over less is a guess

Report = Callable[[Totals, int], None]


@contextmanager
def show_progress(console: Console, count: Callable[[], int] | None) -> Iterator[Report]:
    """What to call with the totals so far and how many of them an earlier run had done.

    ``count``: gives the number of all inputs; it runs on a thread of its own, and until it is done there is no ETA.
    """
    how_many: list[int] = []
    if count:
        threading.Thread(target=_append, args=(how_many, count), daemon=True).start()
    clock = _Rate()
    if console.is_terminal:
        with Progress(
            TextColumn("photos"), BarColumn(), TextColumn("{task.fields[line]}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=None, line="")

            def update(totals: Totals, before: int) -> None:
                total = how_many[0] if how_many else None
                bar.update(
                    task, completed=totals.rows, total=total, line=describe(totals, total, clock(totals, before))
                )

            yield update
        return
    last = time.monotonic()

    def plain(totals: Totals, before: int) -> None:
        nonlocal last
        rate = clock(totals, before)
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            console.print(describe(totals, how_many[0] if how_many else None, rate), soft_wrap=True)

    yield plain


def describe(totals: Totals, total: int | None, rate: float | None) -> str:
    """``scored 12,300 of 100,000 photos, 148.2/s, 0:09:52 left, failed: 2 corrupt``"""
    text = f"scored {totals.rows:,}" + (f" of {total:,}" if total is not None else "") + " photos"
    if rate:
        text += f", {rate:.1f}/s"
        if total is not None and total >= totals.rows:
            text += f", {duration((total - totals.rows) / rate)} left"
    if totals.failed:
        text += ", failed: " + ", ".join(f"{n:,} {status}" for status, n in totals.failed.items())
    return text


def duration(seconds: float) -> str:
    """``0:09:52``, with days in front where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02}:{rest:02}"


def _append(how_many: list[int], count: Callable[[], int]) -> None:
    with suppress(Exception):  # the run itself says what is wrong with a source
        how_many.append(count())


class _Rate:
    """Photos/s since the first report."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def __call__(self, totals: Totals, before: int) -> float | None:
        now = time.monotonic()
        if self._first is None:
            self._first = now, totals.rows
        since, rows = self._first
        return (totals.rows - rows) / (now - since) if now - since > _SECONDS_BEFORE_RATE else None
