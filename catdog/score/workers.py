"""The engine for one machine: a process a core, each with a model on one thread.

A photo that kills or hangs its process (a decoder's bug, no memory left) takes nobody along: the task it was in is
done again one photo at a time, and the one that does it twice becomes a row that says so. A worker ends at the moment
its parent does, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final, NamedTuple

from catdog.errors import CatdogError, DataError, ImageError, ImageReason
from catdog.machine import free_memory, usable_cores
from catdog.score.rows import Row
from catdog.score.scorer import Answer, Seconds, read_ahead
from catdog.sources import Input

WORKER_BYTES: Final = 300 * 2**20  # that a worker takes with photos of 12 megapixels
HANGS_AFTER_S: Final = 600.0  # without an answer to one task; S3's own timeouts and retries end before
_STARTS: Final = 3  # that may fail one after the other
_READERS: Final = 8  # threads a worker that wait for disks and networks
_AT_HAND: Final = 2  # tasks that a worker has: one in work, one whose bytes it fetches meanwhile
_AHEAD: Final = 16  # tasks a worker that may be answered before the oldest open one is

Task = Sequence[Input]
MakeScorer = Callable[[], Callable[..., Answer]]
"""Made anew in each worker, so it must be picklable: ``partial(Scorer, job)``."""


def auto_workers(cores: int | None = None, memory: float | None = None) -> int:
    """One worker a core that this process may use, fewer where memory would not last; ``memory``: bytes, may be inf.

    One-thread sessions side by side beat one session with many threads on a quiet machine, keep their share on a busy
    one (benchmarks/execution.py), and don't wait for each other, so the same rule holds for any number of cores.
    """
    cores = usable_cores() if cores is None else cores
    memory = free_memory() if memory is None else memory
    return max(1, int(min(cores, memory // WORKER_BYTES)))


class _OpenTask(NamedTuple):
    """A task that is not answered yet."""

    number: int
    """Of the task it is, or is a part of."""
    first: int
    """Place of its first input in that task."""
    inputs: Task
    alone: bool
    """Whether its worker has nothing else, to know whom to blame."""


class _Worker:
    def __init__(self, make_scorer: MakeScorer) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.tasks: deque[_OpenTask] = deque()
        self.process: SpawnProcess = context.Process(target=_run_worker, args=(theirs, make_scorer), daemon=True)
        with _block_signals():
            self.process.start()
        theirs.close()
        self.ready = False
        self.since = time.monotonic()
        self._unsent: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_tasks, daemon=True)
        self._sender.start()

    def give(self, task: _OpenTask) -> None:
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self._unsent.put(task.inputs)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self._unsent.put(None)
        self._sender.join()  # at once: nobody has the other end of the pipe any more
        self.connection.close()

    def _send_tasks(self) -> None:
        """Send tasks, on a thread: a pipe holds 64 KiB, and a process that starts or hangs doesn't read it."""
        with contextlib.suppress(OSError):  # it has died; that is noticed when its end of the pipe is read
            while (inputs := self._unsent.get()) is not None:
                self.connection.send(inputs)


def run_workers(
    tasks: Iterator[Task], make_scorer: MakeScorer, count: int, hangs_after_s: float = HANGS_AFTER_S
) -> Iterator[Answer]:
    """Yield the answers to ``tasks`` in their order, which are read a few a worker ahead; empty ones are passed over.

    Raises CatdogError for what is wrong with the model or with all photos, RuntimeError with the worker's traceback for
    a bug.
    """
    pool = Pool(make_scorer, count, hangs_after_s)
    try:
        yield from pool.answers(tasks)
    finally:
        pool.end()


class Pool:
    """Workers that answer tasks, and wait for more."""

    def __init__(self, make_scorer: MakeScorer, count: int, hangs_after_s: float = HANGS_AFTER_S) -> None:
        self._make, self._count, self._hangs_after_s = make_scorer, count, hangs_after_s
        self._tasks: Iterator[Task] = iter(())
        self._workers: list[_Worker] = []
        self._again: deque[_OpenTask] = deque()
        self._parts: dict[int, dict[int, Answer]] = {}
        """Of each open task: what was answered, by the number of its first input."""
        self._sizes: dict[int, int] = {}
        self._given = 0
        self._listed = False
        self._failed_starts = 0

    def answers(self, tasks: Iterator[Task]) -> Iterator[Answer]:
        """As ``run_workers``, but what these tasks started stays for the next ones."""
        self._tasks, self._given, self._listed = tasks, 0, False
        oldest = 0
        while True:
            self._hand_out_tasks(oldest)
            if not self._sizes:
                return
            self._receive_answers()
            while oldest in self._sizes and (answer := self._join_parts(oldest)):
                yield answer
                oldest += 1

    def end(self) -> None:
        """End the workers, also in the middle of a task; no more tasks after that."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _hand_out_tasks(self, oldest: int) -> None:
        """Give every worker one task before any worker gets a second; start workers while there are tasks for them."""
        for most in range(1, _AT_HAND + 1):
            for worker in self._workers:
                if len(worker.tasks) < most and (task := self._take_task(worker.tasks, oldest)):
                    worker.give(task)
            while len(self._workers) < self._count and (task := self._take_task((), oldest)):
                self._workers.append(_Worker(self._make))
                self._workers[-1].give(task)

    def _take_task(self, at_hand: Sequence[_OpenTask], oldest: int) -> _OpenTask | None:
        """Return the next task for a worker that has ``at_hand``; None when it can take none, or there is none."""
        if at_hand and at_hand[0].alone:
            return None
        if self._again:
            return None if at_hand and self._again[0].alone else self._again.popleft()
        if self._listed or self._given >= oldest + _AHEAD * self._count:
            return None
        inputs = next(self._tasks, None)
        if inputs is None:
            self._listed = True
        if not inputs:  # an empty task: none before one that is out was answered
            return None
        index, self._given = self._given, self._given + 1
        self._sizes[index], self._parts[index] = len(inputs), {}
        return _OpenTask(index, 0, inputs, alone=False)

    def _receive_answers(self) -> None:
        connections = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(connections), timeout=1.0):
            worker = connections[connection]  # type: ignore[index]  # these are what wait() was given
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._end_lost_worker(worker, "crashed the process")
                continue
            if isinstance(message, CatdogError):
                raise message
            if isinstance(message, str):
                raise RuntimeError(f"a worker failed:\n{message}")
            worker.ready, worker.since, self._failed_starts = True, time.monotonic(), 0
            if isinstance(message, Answer):
                task = worker.tasks.popleft()
                self._parts[task.number][task.first] = message
        for worker in list(self._workers):
            if worker.tasks and time.monotonic() - worker.since > self._hangs_after_s:
                self._end_lost_worker(worker, f"gave no answer in {self._hangs_after_s:g} s")

    def _end_lost_worker(self, worker: _Worker, how: str) -> None:
        """End a worker that died or hangs, and give its tasks to others: the one it was at photo by photo.

        A photo that it was at alone is to blame, and gets a row that says ``how``.
        """
        worker.process.join(0.5)
        code = worker.process.exitcode
        worker.end()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise DataError(f"worker processes end while they start ({_describe_exit(code)}); give fewer --workers")
            self._again.extendleft(reversed(worker.tasks))
            return
        if not worker.tasks:
            return
        blamed = worker.tasks.popleft()
        self._again.extendleft(reversed(worker.tasks))
        if blamed.alone:
            name = blamed.inputs[0].source
            ending = f" ({_describe_exit(code)})" if code is not None else ""
            # The kernel kills a process that way where memory runs out, which says nothing about the photo.
            reason: ImageReason = "out_of_memory" if code == -signal.SIGKILL else "corrupt"
            error = ImageError(f"{name}: reading it {how}{ending}", reason)
            self._parts[blamed.number][blamed.first] = Answer([Row.failed(error)], Seconds())
        else:
            alone = [
                _OpenTask(blamed.number, blamed.first + i, [item], alone=True) for i, item in enumerate(blamed.inputs)
            ]
            self._again.extend(alone)

    def _join_parts(self, index: int) -> Answer | None:
        """Return the answer to a task when all parts of it were answered, else None."""
        parts = self._parts[index]
        if sum(len(part.rows) for part in parts.values()) < self._sizes[index]:
            return None
        del self._parts[index], self._sizes[index]
        rows: list[Row] = []
        seconds = Seconds()
        for _, part in sorted(parts.items()):
            rows += part.rows
            seconds = seconds.plus(part.seconds)
        return Answer(rows, seconds)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Start processes in this block that never see Ctrl-C or SIGTERM, which reach whole groups: the parent decides."""
    resource_tracker.ensure_running()  # when a first process starts it, it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(connection: Connection, make_scorer: MakeScorer) -> None:
    """Be a worker: answer the tasks that come through the pipe until it is closed."""
    try:
        scorer = make_scorer()
        connection.send(None)  # ready
        with ThreadPoolExecutor(_READERS, "catdog-read") as pool:
            waiting: queue.SimpleQueue[tuple[Task, list[Future[bytes | ImageError | None]]]] = queue.SimpleQueue()
            threading.Thread(target=_receive_tasks, args=(connection, pool, waiting), daemon=True).start()
            while True:
                inputs, ahead = waiting.get()
                connection.send(scorer(inputs, [_make_reader(i, f) for i, f in zip(inputs, ahead, strict=True)]))
    except CatdogError as error:
        connection.send(error)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)
    except Exception:
        connection.send(traceback.format_exc())
    os._exit(1)


def _receive_tasks(
    connection: Connection,
    pool: ThreadPoolExecutor,
    waiting: queue.SimpleQueue[tuple[Task, list[Future[bytes | ImageError | None]]]],
) -> None:
    while True:
        try:
            inputs = connection.recv()
        except (EOFError, OSError):
            os._exit(1)  # the parent is gone, and nobody waits for the task in work
        waiting.put((inputs, [pool.submit(read_ahead, item) for item in inputs]))


def _make_reader(item: Input, ahead: Future[bytes | ImageError | None]) -> Callable[[], bytes]:
    def read() -> bytes:
        found = ahead.result()
        if isinstance(found, ImageError):
            raise found
        return item.content.read(item.source) if found is None else found

    return read
