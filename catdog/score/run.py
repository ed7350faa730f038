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

from catdog.contract import Task as ModelTask
from catdog.detection.answers import BOX_COLUMNS
from catdog.detection.models import load_model
from catdog.errors import CatdogError, DataError, SettingsError
from catdog.score import output
from catdog.score.former import FormerRows, Kind
from catdog.score.ledger import Ledger, Totals
from catdog.score.rows import Row, columns
from catdog.score.scorer import Answer, Job, Scorer, Seconds
from catdog.sources import Input, SourceChangedError, list_inputs
from catdog.sources.archives import Bytes
from catdog.sources.contents import Failed
from catdog.sources.lists import check_list
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


def prepare_job(
    model: str | None,
    threshold: float | None,
    provider: str | None,
    task: ModelTask | None = None,
    fast: bool = False,
) -> tuple[Job, tuple[str, ...]]:
    """The job for a model, and the columns of its answers: its class names, or BOX_COLUMNS.

    Raises ModelError, ContractError or SettingsError, also where the model is not for ``task`` or can't be ``fast``.
    """
    opened = load_model(model, task, threads=1, provider=provider, fast=fast)
    names = BOX_COLUMNS if opened.task == "detect" else opened.contract.class_names
    columns(names)
    return Job(model, opened.sha256, threshold, provider, task=opened.task, fast=fast), names


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
    for path in lists:
        check_list(str(path))
    store, name = open_store(out)
    listing = partial(list_inputs, sources, lists, private_urls=private_urls)
    begin = time.monotonic()
    scored, spent, clock = 0, Seconds(), Clock(workers)
    changes: Changes | None = None
    first_error: str | None = None
    with store.lock(name):
        ledger = Ledger(store, name, _describe_job(sources, lists, job), class_names, job.model_sha256, restart)
        ledger.open()
        is_second_look = False
        must_look_again = not ledger.finished and ledger.totals.rows > 0  # for what was replaced since it began
        while True:
            if ledger.finished:
                ledger.begin_update()
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
                        if max_errors.are_exceeded(collected.judged):
                            stop.set()
                except SourceChangedError:
                    ledger.put_parts_aside()
                    scored = done + collected.scored
                    continue
                if former and ledger.has_result and collected.is_listed:
                    found = collected.count_changes()
                    if not is_second_look or found.new or found.changed or found.gone:
                        changes = found
            if ledger.listed:
                ledger.finish()
            if not ledger.finished or not must_look_again:
                break
            must_look_again, is_second_look, retry_failed = False, True, False
        clock.tick(scored)
        seconds = time.monotonic() - begin
        too_many = max_errors.are_exceeded(ledger.totals, at_end=ledger.finished)
        before = max(0, ledger.totals.rows - scored)
        return Outcome(
            ledger.totals, before, seconds, clock.rate, spent, ledger.finished, too_many, changes, first_error
        )


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
        recalled = {"recall_sources": former.sources_of} if former else {}
        self._inputs = listing(after=ledger.cursor, **recalled)
        self._waiting: deque[tuple[Input, Row | None, Kind]] = deque()
        """Inputs without their bytes, from the oldest that is being scored on; those behind it may have rows."""
        self._sources: list[str] = []
        self._rows: list[Row] = []
        self._cursor = ledger.cursor
        self.is_listed = False
        self._scored_before_part = 0
        self._last_part = time.monotonic()
        self._changes = ledger.changes.copy()
        self._lost_place: str | None = None
        """Why a source could not be listed that could be when the former result was made."""
        self.scored = 0
        """Rows that are no former ones."""
        self.first_error: str | None = None
        self.totals = Totals(ledger.totals.statuses.copy(), ledger.totals.labels.copy())
        self.judged = Totals(ledger.totals.statuses.copy(), ledger.totals.labels.copy())
        """Without the former rows, of which nobody is told to stop."""

    def tasks(self) -> Iterator[Task]:
        """Give the inputs to be scored. An empty task means: nothing for now, ask again after the next answer."""
        task: list[Input] = []
        carried = 0
        for item in self._inputs:
            kind, row = self._former.take(item.source, item.version) if self._former else ("new", None)
            if kind in ("new", "changed") and isinstance(item.content, Failed) and item.content.of_listing:
                self._lost_place = self._lost_place or item.content.message
            self._waiting.append((item._replace(content=None), row, kind))  # type: ignore[arg-type]
            if row is None:
                task.append(item)
                carried += _count_carried(item)
            else:
                self._put_former_rows()
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
        self.is_listed = True

    def rows_from(self, answers: Iterator[Answer]) -> Iterator[Seconds]:
        """Put rows into parts as they come; yields what each answer took.

        Raises DataError, and leaves the former result, where an update would drop rows since a source can't be listed.
        """
        try:
            for answer in answers:
                for row in answer.rows:
                    self._put_former_rows()
                    item, _, kind = self._waiting.popleft()
                    self.scored += 1
                    self.first_error = self.first_error or row.error
                    self.judged.add([row])
                    self._put(item, row._replace(version=item.version), kind)
                self._put_former_rows()
                yield answer.seconds
            self._put_former_rows()
        except CatdogError:
            if self._rows:  # what is done is done
                self._commit()
            raise
        if not self.is_listed:
            if self._rows:
                self._commit()
            return
        gone = self._former.count_gone() if self._former and self._ledger.has_result else 0
        if gone and self._lost_place:
            self._ledger.abandon_update()
            raise DataError(
                f"{self._lost_place}; the result has {gone:,} rows of photos that aren't listed now, and stays as it "
                "is; bring the source back and start again, or give --restart to score what is there"
            )
        is_same = self._former and self._former.is_in_order and not gone and self._changes.keys() <= {"kept"}
        if is_same and self._ledger.has_result:
            self._ledger.keep_result(self.totals)
        else:
            self._commit(at_end=True)

    def count_changes(self) -> Changes:
        """Say what the update found, when all is listed."""
        found = self._changes
        gone = self._former.count_gone() if self._former else 0
        return Changes(found["new"], found["changed"], gone, found["retried"], found["kept"])

    def _put_former_rows(self) -> None:
        """Put down the former rows at the head of what waits: no row that is still being scored comes before them."""
        while self._waiting and (row := self._waiting[0][1]) is not None:
            item, _, kind = self._waiting.popleft()
            self._put(item, row, kind)
        scored = self.scored - self._scored_before_part
        is_due = scored > 0 and time.monotonic() - self._last_part > PART_SECONDS
        if scored >= self._part_rows or len(self._rows) >= FORMER_PART_ROWS + self._part_rows or is_due:
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
        "fast": job.fast or None,  # as it is in records of runs that had no such choice
        "sort_into": job.sorter and [str(job.sorter.folder), job.sorter.copy],
        "sources": [redact(source) for source in sources],
        "lists": [str(path) for path in lists],
        "folder": str(Path.cwd()),
    }
