"""Threads that prepare the next batch while the model works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from catdog.machine import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def batches_ahead(function: Callable[[T], R], items: Iterable[T], size: int) -> Iterator[list[R]]:
    """Yield what ``function`` returns for each item, in order and ``size`` results at a time.

    Threads, one a core and at most 8, work one batch ahead of the caller, and ``items`` is read no further than that.
    What ``function`` raises is raised with its batch. A caller that stops early does not wait for the rest.
    """
    pool, waiting = ThreadPoolExecutor(min(usable_cores(), 8), "catdog-ahead"), iter(items)

    def submit() -> list[Future[R]]:
        return [pool.submit(function, item) for item in islice(waiting, size)]

    try:
        batch = submit()
        while batch:
            following = submit()
            yield [future.result() for future in batch]
            batch = following
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def map_in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield ``function`` of each item, in order, computed by ``threads`` threads.

    ``items`` is read no further than the threads work at once. What ``function`` raises is raised in its item's place.
    Whoever stops early need not wait for what was begun.
    """
    pool, waiting = ThreadPoolExecutor(threads, "catdog-map"), iter(items)
    try:
        begun = deque(pool.submit(function, item) for item in islice(waiting, threads))
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(function, item) for item in islice(waiting, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
