"""How far a pass over many photos is, on stderr: a bar in a terminal, elsewhere a plain line now and then.

with show_progress("checked") as report:
    report(done, total)             # checked 12,300 of 100,000 photos, 148.2/s, 0:09:52 left
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, Protocol

from catdog.text import printable

SECONDS_BETWEEN_LINES: Final = 10.0
_SECONDS_BEFORE_RATE: Final = 1.0  # a rate over less is a guess


class Report(Protocol):
    """Say how many are done, of how many if that is known, and what else there is to know."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@contextmanager
def show_progress(
    doing: str,
    unit: str = "photos",
    *,
    count: Callable[[], int] | None = None,
    after_s: float = 0.0,
    last_line: bool = True,
) -> Iterator[Report]:
    """Give the function to report to; ``doing`` is the verb in its lines, such as "checked".

    ``count`` finds the total where ``report`` isn't told; it runs on a thread of its own, and until it is done no time
    left is shown. The bar appears after ``after_s`` seconds. Without ``last_line``, a pass that is done within seconds
    leaves no plain line behind.
    """
    counted: list[int] = []
    if count:
        threading.Thread(target=_append, args=(counted, count), daemon=True).start()
    started = said = time.monotonic()
    first: tuple[float, int] | None = None
    terminal = sys.stderr.isatty()
    with ExitStack() as stack:
        draw: Callable[[int, int | None, str], None] | None = None

        def report(done: int, total: int | None = None, note: str = "") -> None:
            nonlocal said, first, draw
            now = time.monotonic()
            first = first or (now, done)
            due = now - said >= SECONDS_BETWEEN_LINES or (last_line and done == total)
            if not (now - started >= after_s if terminal else due):
                return
            if total is None and counted:
                total = counted[0]
            since, before = first
            rate = (done - before) / (now - since) if now - since > _SECONDS_BEFORE_RATE else None
            line = printable(describe(doing, unit, done, total, rate, note))
            if terminal:
                draw = draw or _open_bar(stack)
                draw(done, total, line)
            else:
                said = now
                sys.stderr.write(line + "\n")
                sys.stderr.flush()

        yield report


def describe(doing: str, unit: str, done: int, total: int | None, rate: float | None, note: str = "") -> str:
    """Return a line such as ``scored 12,300 of 100,000 photos, 148.2/s, 0:09:52 left, failed: 2 corrupt``."""
    text = f"{doing} {done:,}" + (f" of {total:,}" if total is not None else "") + f" {unit}"
    if rate:
        text += f", {rate:,.1f}/s"
        if total is not None and total >= done:
            text += f", {duration((total - done) / rate)} left"
    return f"{text}, {note}" if note else text


def duration(seconds: float) -> str:
    """Return ``0:09:52``, with days in front where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02}:{rest:02}"


def _open_bar(stack: ExitStack) -> Callable[[int, int | None, str], None]:
    """Draw a bar until the stack is closed, and return what moves it."""
    from rich.console import Console  # takes as long to import as a photo to classify
    from rich.progress import BarColumn, Progress, TextColumn

    columns: tuple[Any, ...] = (BarColumn(), TextColumn("{task.description}", markup=False))
    # redirect_stdout: rich would print what goes to stdout to its own console, which is stderr.
    bar = stack.enter_context(
        Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    )
    task = bar.add_task("", total=None)
    return lambda done, total, line: bar.update(task, completed=done, total=total, description=line)


def _append(counted: list[int], count: Callable[[], int]) -> None:
    with suppress(Exception):  # the pass itself says what is wrong with its photos
        counted.append(count())
