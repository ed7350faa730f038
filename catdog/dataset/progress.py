"""How far a pass over photos is, on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from catdog.dataset.building import Progress as Report

_SECONDS_BETWEEN_LINES: Final = 10.0


@contextmanager
def show_progress(
    console: Console, doing: str = "checking photos", line: str = "checked {done} of {total} photos"
) -> Iterator[Report]:
    """A bar named ``doing`` in a terminal; elsewhere a plain ``line`` now and then."""
    if console.is_terminal:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def plain(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = time.monotonic()
            console.print(line.format(done=done, total=total), soft_wrap=True)

    yield plain
