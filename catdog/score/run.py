"""A whole run: inputs to tasks, tasks to answers, answers to parts, parts to the result."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from catdog.classifier import load
from catdog.errors import CatdogError, SettingsError
from catdog.score import output
from catdog.score.former import FormerRows, Kind
from catdog.score.ledger import Ledger, Totals
from catdog.score.rows import Row, columns
from catdog.score.scorer import Answer, Job, Scorer, Seconds
from catdog.sources import Input, SourceChangedError, list_inputs
from catdog.sources.contents import Bytes
from catdog.sources.stores import open_store
from catdog.sources.web import redact

TASK_PHOTOS: Final = 16
TASK_BYTES: Final = 16 * 2**20  # that a task carries with it, of archives that can only be read from their start
PART_ROWS: Final = 5_000
PART_SECONDS: Final = 30.0  # of work that a kill can cost, at most
FORMER_PART_ROWS: Final = 50_000  # rows that were taken over, which cost little to take over again
MOST_WAITING: Final = 20_000  # rows that were taken over, behind one that is being scored
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

    def are_exceeded(self, totals: Totals, at_end: bool = False) -> bool:
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


class Changes(NamedTuple):
    """Inputs of an update, compared with the former result."""

    new: int
    changed: int
    gone: int
    retried: int
    kept: int


@dataclass(frozen=True)
class Outcome:
    """What a run did, before this time and now."""

    totals: Totals
    """Of all rows of the result, or of those that are done."""
    before: int
    """Rows that this run did not have to score."""
    seconds: float
    """Of this run."""
    photos_per_second: float
    """From when every worker has answered to the end, the writing of the result included."""
    spent: Seconds
    """Of this run's workers, together."""
    finished: bool
    too_many_errors: bool = False
    changes: Changes | None = None
    """What an update found; None in a first run."""
    first_error: str | None = None
    """Why the first photo that this run could not answer has no answer."""


def prepare_job(model: str | None, threshold: float | None, provider: str | None) -> tuple[Job, tuple[str, ...]]:
    """The job for a model, and its class names; raises ModelError or ContractError."""
    classifier = load(model, threads=1, provider=provider)
    names = classifier.contract.class_names
    columns(names)
    return Job(model, classifier.sha256, threshold, provider), names


def score(
    sources: Sequence[str],
    lists: Sequence[str | Path],
    out: str,
    job: Job,
    class_names: Sequence[str],
    engine: Engine,
    workers: int,
    *,
    max_errors: MaxErrors | None = None,
    restart: bool = False,
    retry_failed: bool = False,
    private_urls: bool = False,
    part_rows: int = PART_ROWS,
    stop: threading.Event | None = None,
    progress: Callable[[Totals, int], None] = lambda totals, before: None,
) -> Outcome:
    """Score what is not scored yet and write ``out``. When ``stop`` is set, what was begun is finished and kept.

    A result that is there already is brought up to date: what is new or was replaced is scored, with ``retry_failed``
    also what has no answer, and the rows of what is gone are dropped. ``workers``: of the engine, to know when all of
    them are at work. ``private_urls``: as for ``list_inputs``. ``part_rows``: how many scored rows are put on the disk
    together; those after them a kill can cost. ``progress`` is given the totals so far, and how many of them this run
    did not score. Raises SettingsError for a result of another run's, DataError for a source or a disk that fails; all
    rows that were done are kept.
    """
    output.ending(out)
    stop = stop or threading.Event()
    max_errors = max_errors or MaxErrors()
    store, name = open_store(out)
    listing = partial(list_inputs, sources, lists, private_urls=private_urls)
    begin = time.monotonic()
    scored, spent, clock = 0, Seconds(), Clock(workers)
    changes: Changes | None = None
    first_error: str | None = None
    with store.lock(name):
        ledger = Ledger(store, name, _describe_job(sources, lists, job), class_names, job.model_sha256, restart)
        ledger.open()
        may_be_outdated = ledger.finished or ledger.totals.rows > 0
        while True:
            if ledger.finished:
                ledger.finish()  # a kill may have left its parts
                if _is_up_to_date(ledger, listing, retry_failed):
                    changes = changes or Changes(0, 0, 0, 0, ledger.totals.rows)
                    break
                ledger.begin_update()
                may_be_outdated = False
            former = None if ledger.listed else ledger.find_former(retry_failed)
            collected = _Collected(ledger, former, listing, part_rows, stop)
            if not ledger.listed and not max_errors.are_exceeded(ledger.totals):
                done = scored
                try:
                    for took in collected.rows_from(engine(collected.tasks(), partial(Scorer, job))):
                        spent = spent.plus(took)
                        scored = done + collected.scored
                        first_error = first_error or collected.first_error
                        clock.tick(scored)
                        progress(collected.totals, collected.totals.rows - scored)
                        if max_errors.are_exceeded(collected.totals):
                            stop.set()
                except SourceChangedError:
                    ledger.put_parts_aside()
                    scored = done + collected.scored
                    continue
            if not ledger.listed:
                break
            if former:
                changes = collected.count_changes()
            ledger.finish()
            if not may_be_outdated:
                break
        clock.tick(scored)
        seconds = time.monotonic() - begin
        too_many = max_errors.are_exceeded(ledger.totals, at_end=ledger.listed)
        before = ledger.totals.rows - scored
        return Outcome(
            ledger.totals, before, seconds, clock.rate, spent, ledger.finished, too_many, changes, first_error
        )


def _is_up_to_date(ledger: Ledger, listing: Callable[..., Iterator[Input]], retry_failed: bool) -> bool:
    former = ledger.find_former(retry_failed)
    return former is not None and former.is_complete(listing(known=former.sources_of))


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
    """Tasks on their way out, rows on their way in, and the rows of a former run between them, all in listing order."""

    def __init__(
        self,
        ledger: Ledger,
        former: FormerRows | None,
        listing: Callable[..., Iterator[Input]],
        part_rows: int,
        stop: threading.Event,
    ) -> None:
        self._ledger, self._former, self._part_rows, self._stop = ledger, former, part_rows, stop
        known = {"known": former.sources_of} if former else {}
        self._inputs = listing(after=ledger.cursor, **known)
        self._waiting: deque[tuple[Input, Row | None, Kind]] = deque()
        """Inputs without their bytes whose rows can't be put down yet, since one before them is being scored."""
        self._sources: list[str] = []
        self._rows: list[Row] = []
        self._cursor = ledger.cursor
        self._listed = False
        self._scored_before_part = 0
        self._last_part = time.monotonic()
        self._changes = ledger.changes.copy()
        self.scored = 0
        """Rows that are no former ones."""
        self.first_error: str | None = None
        self.totals = Totals(ledger.totals.statuses.copy(), ledger.totals.labels.copy())

    def tasks(self) -> Iterator[Task]:
        """The inputs to be scored; an empty task says that there is none before one that is out was answered."""
        task: list[Input] = []
        carried = 0
        for item in self._inputs:
            kind, row = self._former.take(item.source, item.version) if self._former else ("new", None)
            self._waiting.append((item._replace(content=None), row, kind))  # type: ignore[arg-type]
            if row is None:
                task.append(item)
                carried += _count_carried(item)
            else:
                self._settle()
            while (
                len(task) == TASK_PHOTOS
                or carried >= TASK_BYTES
                or (len(self._waiting) >= MOST_WAITING and self._waiting[0][1] is None)
            ):
                yield task
                task, carried = [], 0
                if self._stop.is_set():
                    return
            if self._stop.is_set() and not task:
                return
        if task:
            yield task
        self._listed = True

    def rows_from(self, answers: Iterator[Answer]) -> Iterator[Seconds]:
        """Put rows into parts as they come; yields what each answer took."""
        try:
            for answer in answers:
                for row in answer.rows:
                    self._settle()
                    item, _, kind = self._waiting.popleft()
                    self.scored += 1
                    self.first_error = self.first_error or row.error
                    self._put(item, row._replace(version=item.version), kind)
                self._settle()
                yield answer.seconds
            self._settle()
        except CatdogError:
            if self._rows:  # what is done is done
                self._commit()
            raise
        if self._listed or self._rows:
            self._commit(at_end=self._listed)

    def count_changes(self) -> Changes:
        """What the update found, when all is listed."""
        found = self._changes
        matched = found["kept"] + found["changed"] + found["retried"]
        gone = self._former.rows - matched if self._former else 0
        return Changes(found["new"], found["changed"], max(0, gone), found["retried"], found["kept"])

    def _settle(self) -> None:
        """Put down the former rows that no other row has to come before."""
        while self._waiting and (row := self._waiting[0][1]) is not None:
            item, _, kind = self._waiting.popleft()
            self._put(item, row, kind)
        scored = self.scored - self._scored_before_part
        overdue = bool(self._rows) and time.monotonic() - self._last_part > PART_SECONDS
        if scored >= self._part_rows or len(self._rows) >= FORMER_PART_ROWS + self._part_rows or overdue:
            self._commit()

    def _put(self, item: Input, row: Row, kind: Kind) -> None:
        self._changes[kind] += 1
        self._sources.append(item.source)
        self._rows.append(row)
        self._cursor = item.cursor
        self.totals.add([row])

    def _commit(self, at_end: bool = False) -> None:
        sources, rows = self._sources, self._rows
        self._sources, self._rows = [], []  # first, so that a part that can't be written is not tried again
        self._last_part, self._scored_before_part = time.monotonic(), self.scored
        self._ledger.changes = self._changes.copy()
        self._ledger.commit(sources, rows, None if at_end else self._cursor)


def _count_carried(item: Input) -> int:
    """Bytes that a task carries with this input."""
    return len(item.content.data) if isinstance(item.content, Bytes) else 0


def batch_inputs(inputs: Iterator[Input], most: int = TASK_PHOTOS, most_bytes: int = TASK_BYTES) -> Iterator[Task]:
    """Inputs in tasks of ``most``, fewer where they carry more than ``most_bytes``."""
    task: list[Input] = []
    for item in inputs:
        task.append(item)
        if len(task) == most or sum(map(_count_carried, task)) >= most_bytes:
            yield task
            task = []
    if task:
        yield task


def _describe_job(sources: Sequence[str], lists: Sequence[str | Path], job: Job) -> dict[str, Any]:
    """What the rows depend on: other values mean another run."""
    return {
        "model": job.model_sha256,
        "threshold": job.threshold,
        "sort_into": job.sorter and [str(job.sorter.folder), job.sorter.copy],
        "sources": [redact(source) for source in sources],
        "lists": [str(path) for path in lists],
        "folder": str(Path.cwd()),
    }
