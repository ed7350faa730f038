"""A whole run: inputs to tasks, tasks to answers, answers to parts, parts to the result."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from catdog.classifier import load
from catdog.dataset.archives import is_archive_name
from catdog.errors import CatdogError, SettingsError
from catdog.fetch import redact
from catdog.score import output
from catdog.score.contents import Bytes
from catdog.score.ledger import Ledger, Totals
from catdog.score.rows import Row, columns
from catdog.score.scorer import Answer, Job, Scorer, Seconds
from catdog.score.sources import Input, file_state, list_inputs
from catdog.score.store import open_store

TASK_PHOTOS: Final = 16
TASK_BYTES: Final = 16 * 2**20  # that a task carries with it, of archives that can only be read from their start
PART_ROWS: Final = 5_000
PART_SECONDS: Final = 30.0  # of work that a kill can cost, at most
MIN_JUDGED: Final = 1000  # rows before which a share of failures says nothing

Task = Sequence[Input]
Engine = Callable[[Iterator[Task], Callable[[], Scorer]], Iterator[Answer]]
"""Answers to tasks, in their order, by scorers that the engine makes where it works."""


@dataclass(frozen=True)
class MaxErrors:
    """How many rows may fail: a number, or a share of all."""

    number: int | None = None
    share: float | None = None
    """[0, 1]; judged from MIN_JUDGED rows on, and at the end."""

    def exceeded(self, totals: Totals, at_end: bool = False) -> bool:
        """Whether these are too many."""
        failed = sum(totals.failed.values())
        if self.number is not None:
            return failed > self.number
        if self.share is not None and (at_end or totals.rows >= MIN_JUDGED):
            return failed > self.share * totals.rows
        return False

    @classmethod
    def parse(cls, text: str) -> MaxErrors:
        """``"100"`` or ``"0.5%"``; raises SettingsError."""
        try:
            if text.endswith("%") and 0 <= (share := float(text[:-1]) / 100) <= 1:
                return cls(share=share)
            if text.isdecimal():
                return cls(number=int(text))
        except ValueError:
            pass
        raise SettingsError(f"--max-errors {text}: must be a number of rows like 100, or a share like 0.5%")


@dataclass(frozen=True)
class Outcome:
    """What a run did, before this time and now."""

    totals: Totals
    """Of all rows of the result, or of those that are done."""
    before: int
    """Rows that were done when this run began."""
    seconds: float
    """Of this run."""
    photos_per_second: float
    """From when every worker has answered to the end, the writing of the result included."""
    spent: Seconds
    """Of this run's workers, together."""
    finished: bool
    too_many_errors: bool = False


def prepare_job(model: str | None, threshold: float | None, provider: str | None) -> tuple[Job, tuple[str, ...]]:
    """The job for a model, and its class names; raises ModelError or ContractError."""
    classifier = load(model, threads=1, provider=provider)
    names = classifier.contract.class_names
    columns(names)
    return Job(model, classifier.sha256, threshold, provider), names


def score(
    sources: Sequence[str],
    lists: Sequence[Path],
    out: str,
    job: Job,
    class_names: Sequence[str],
    engine: Engine,
    workers: int,
    *,
    max_errors: MaxErrors | None = None,
    restart: bool = False,
    part_rows: int = PART_ROWS,
    stop: threading.Event | None = None,
    progress: Callable[[Totals, int], None] = lambda totals, before: None,
) -> Outcome:
    """Score what is not scored yet and write ``out``. When ``stop`` is set, what was begun is finished and kept.

    ``workers``: of the engine, to know when all of them are at work. ``part_rows``: as many rows are put on the disk
    together; those after them a kill can cost.
    ``progress`` is given the totals so far, and how many of them were there before. Raises SettingsError for a result
    of another run's, DataError for a source or a disk that fails; all rows that were done are kept.
    """
    output.ending(out)
    stop = stop or threading.Event()
    max_errors = max_errors or MaxErrors()
    store, name = open_store(out)
    begin = time.monotonic()
    with store.lock(name):
        ledger = Ledger(store, name, _asked(sources, lists, job), class_names, job.model_sha256)
        ledger.open(restart)
        before, spent, clock = ledger.totals.rows, Seconds(), Clock(workers)
        if not ledger.listed and not max_errors.exceeded(ledger.totals):
            collected = _Collected(ledger, sources, lists, part_rows, stop)
            for took in collected.rows_from(engine(collected.tasks(), partial(Scorer, job))):
                spent = spent.plus(took)
                clock.tick(collected.totals.rows - before)
                progress(collected.totals, before)
                if max_errors.exceeded(collected.totals):
                    stop.set()
        too_many = max_errors.exceeded(ledger.totals, at_end=ledger.listed)
        if ledger.listed:
            ledger.finish()
        clock.tick(ledger.totals.rows - before)
        seconds = time.monotonic() - begin
        return Outcome(ledger.totals, before, seconds, clock.rate, spent, ledger.finished, too_many)


class Clock:
    """The rate once every worker has answered, so that their start and first task don't count."""

    def __init__(self, workers: int) -> None:
        self._skipped = workers
        self._first: tuple[float, int] | None = None
        self._start = time.monotonic()
        self.rate = 0.0
        """Photos/s; of a run that is too short for it, with the start."""

    def tick(self, rows: int) -> None:
        """An answer has come, or the end has; ``rows``: of this run so far."""
        now = time.monotonic()
        if self._skipped > 0:
            self._skipped -= 1
            self.rate = rows / (now - self._start)
            self._first = now, rows
        elif self._first and rows > self._first[1]:
            self.rate = (rows - self._first[1]) / (now - self._first[0])


class _Collected:
    """Tasks on their way out, rows on their way in."""

    def __init__(
        self, ledger: Ledger, sources: Sequence[str], lists: Sequence[Path], part_rows: int, stop: threading.Event
    ) -> None:
        self._ledger, self._part_rows, self._stop = ledger, part_rows, stop
        self._inputs = list_inputs(sources, lists, ledger.cursor)
        self._waiting: deque[Input] = deque()
        """Inputs that are out, without their bytes."""
        self._sources: list[str] = []
        self._rows: list[Row] = []
        self._cursor = ledger.cursor
        self._listed = False
        self.totals = Totals(ledger.totals.statuses.copy(), ledger.totals.labels.copy())

    def tasks(self) -> Iterator[Task]:
        for task in batched(self._inputs, TASK_PHOTOS, TASK_BYTES):
            self._waiting.extend(item._replace(content=None) for item in task)  # type: ignore[arg-type]
            yield task
            if self._stop.is_set():
                return
        self._listed = True

    def rows_from(self, answers: Iterator[Answer]) -> Iterator[Seconds]:
        """Put rows into parts as they come; yields what each answer took."""
        last_part = time.monotonic()
        try:
            for answer in answers:
                for row in answer.rows:
                    item = self._waiting.popleft()
                    self._sources.append(item.source)
                    self._rows.append(row)
                    self._cursor = item.cursor
                self.totals.add(answer.rows)
                yield answer.seconds
                if len(self._rows) >= self._part_rows or time.monotonic() - last_part > PART_SECONDS:
                    self._commit()
                    last_part = time.monotonic()
        except CatdogError:
            if self._rows:  # what is done is done
                self._commit()
            raise
        if self._listed or self._rows:
            self._commit(at_end=self._listed)

    def _commit(self, at_end: bool = False) -> None:
        sources, rows = self._sources, self._rows
        self._sources, self._rows = [], []  # first, so that a part that can't be written is not tried again
        self._ledger.commit(sources, rows, None if at_end else self._cursor)


def batched(inputs: Iterator[Input], most: int, most_bytes: int) -> Iterator[Task]:
    """Inputs in tasks of ``most``, fewer where they carry more than ``most_bytes``."""
    task: list[Input] = []
    carried = 0
    for item in inputs:
        task.append(item)
        carried += item.content.size() if isinstance(item.content, Bytes) else 0
        if len(task) == most or carried >= most_bytes:
            yield task
            task, carried = [], 0
    if task:
        yield task


def _asked(sources: Sequence[str], lists: Sequence[Path], job: Job) -> dict[str, Any]:
    """What the rows depend on: other values mean another run."""
    files = [*(Path(source) for source in sources if is_archive_name(source)), *lists]
    return {
        "model": job.model_sha256,
        "threshold": job.threshold,
        "sort_into": job.sorter and [str(job.sorter.folder), job.sorter.copy],
        "sources": [redact(source) for source in sources],
        "lists": [str(path) for path in lists],
        "folder": str(Path.cwd()),
        "files": {str(path): state for path in files if (state := file_state(path))},
    }
