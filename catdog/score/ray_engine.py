"""The engine for a cluster: Ray Data runs the scorers, on whichever nodes there are.

    tasks -> blocks of a few -> a queue -> one read task that never ends -> a Ray task a block, one CPU each -> answers
    `------------ on the driver's node, kept short ------------'          `---- any node, with one worker ----'

The inputs are never a data set of their own: Ray Data reads them from a queue while they are listed, so that a hundred
million of them go through one execution that keeps all CPUs busy.

A Ray process keeps one worker of ``catdog.score.workers`` from block to block. The model is loaded once a CPU, bytes
are read ahead, and a photo that kills its decoder becomes a row, as it does on one machine. What a node was at when it
died is done again by the others, without waiting for another node, as it would wait for the CPU of a lost actor.

Every node needs the same Python packages, with catdog among them, and what the command names at the same place:
photos and models on a shared disk, the folder that the command is started in, credentials for S3. The command itself
runs on a node of the cluster (``ray job submit`` sees to that).
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from catdog.errors import CatdogError, DataError, SettingsError
from catdog.score.scorer import Answer, Scorer
from catdog.score.workers import Pool
from catdog.sources import Input

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import pyarrow as pa
    import ray
    from ray.data import DataContext, Datasource, ReadTask, TaskPoolStrategy
    from ray.data.block import BlockMetadata
    from ray.util.queue import Queue
except ImportError as error:
    raise SettingsError(f"--engine ray needs Ray Data: pip install '.[ray]' ({error})") from error

BLOCK_TASKS: Final = 4  # 64 photos, half a second to a second of a core: Ray's own work is little beside it
_AHEAD: Final = 8  # blocks a scorer that may be answered before the oldest open one is
_CONNECT_SECONDS: Final = 10.0
_AHEAD_BYTES: Final = 2**30  # of all these together; only inputs out of streamed archives have any size
_NODE_LABEL: Final = "ray.io/node-id"  # that Ray gives each node
_START: Final = b"start"

Task = Sequence[Input]


def connect(address: str | None, workers: int | None) -> int:
    """Join the Ray cluster at ``host:port``; None: that of RAY_ADDRESS, or the one that this machine is a node of.

    Returns the number of scorers: ``workers``, or one for each CPU that the cluster has now (a cluster that grows on
    demand needs the number). Raises SettingsError where there is no cluster: one machine alone needs no Ray.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address.startswith("ray://"):
        raise SettingsError(f"{address}: run this on a node of the cluster (ray job submit does), and give host:port")
    try:
        host, _, port = address.rpartition(":")
        if host:  # Ray itself would try for two minutes, and write about it
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError, another version of Ray, a bad address
        reason = str(error).strip().partition("\n")[0]
        raise SettingsError(
            f"no Ray cluster to join at {address} ({reason}); start one with ray start --head, or give --ray-address"
        ) from error
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if not (workers or cpus):
        raise SettingsError("the Ray cluster has no CPU yet; give --workers")
    return workers or cpus


def run_on_ray(tasks: Iterator[Task], make_scorer: Callable[[], Scorer], count: int) -> Iterator[Answer]:
    """Answers to ``tasks`` in their order, by ``count`` scorers at most. ``tasks`` is read a few blocks a scorer ahead.

    Raises CatdogError for what is wrong with the model or with all photos, RuntimeError with the worker's traceback for
    a bug.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # a block leaves the read task at once, and is not joined to others
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    node = ray.get_runtime_context().get_node_id()
    queue = Queue(actor_options={"num_cpus": 0, "label_selector": {_NODE_LABEL: node}})
    queue.put(_START)
    make = pickle.dumps(partial(_make_in_folder, str(Path.cwd()), make_scorer))
    blocks = ray.data.read_datasource(
        _QueueSource(queue), override_num_blocks=1, num_cpus=0, label_selector={_NODE_LABEL: node}
    )
    answered = blocks.map_batches(
        _answer_batch,
        fn_args=(make,),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=TaskPoolStrategy(count),
    )
    batches = iter(answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        yield from _answer_in_order(tasks, queue, batches, count)
    finally:
        with suppress(Exception):  # Ray itself may be what has failed
            queue.put(None)
            batches.close()
            queue.shutdown(force=True)


def _answer_in_order(tasks: Iterator[Task], queue: Any, batches: Iterator[pa.Table], scorers: int) -> Iterator[Answer]:
    open_bytes: dict[int, int] = {}
    done: dict[int, list[Answer]] = {}
    oldest, listed = 0, False
    blocks = _make_blocks(tasks, scorers)
    while True:
        while not listed and len(open_bytes) < _AHEAD * scorers and sum(open_bytes.values()) < _AHEAD_BYTES:
            block = next(blocks, None)
            if block and not block.content:  # none before one that is out was answered
                break
            if block:
                packed = pickle.dumps(block)
                open_bytes[block.number] = len(packed)
                queue.put(packed)
            else:
                listed = True
                queue.put(None)
        if not open_bytes:
            return
        for packed in next(batches)["block"].to_pylist():
            block = pickle.loads(packed)  # noqa: S301  our own, from our own cluster
            if isinstance(block.content, CatdogError):
                raise block.content
            if isinstance(block.content, str):
                raise RuntimeError(f"a worker failed:\n{block.content}")
            done[block.number] = block.content
        while oldest in done:
            yield from done.pop(oldest)
            del open_bytes[oldest]
            oldest += 1


class _Block(NamedTuple):
    """What goes to a Ray task, and what comes back."""

    number: int
    content: Any
    """Tasks; then their answers, a CatdogError, or the traceback of a bug."""


def _make_blocks(tasks: Iterator[Task], scorers: int) -> Iterator[_Block]:
    """Pack tasks into blocks, small ones at first so that each scorer gets one; empty ones while no task is due."""
    number = 0
    while some := list(islice(tasks, 1 if number < scorers else BLOCK_TASKS)):
        content = [task for task in some if task]
        yield _Block(number, content)
        number += bool(content)


class _QueueSource(Datasource):
    """Gives Ray what comes out of a queue, up to a None, as blocks of one row."""

    def __init__(self, queue: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue = queue

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, *_: object, **__: object) -> list[Any]:
        about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_read_queue, self._queue), about)]


def _read_queue(queue: Any) -> Iterator[pa.Table]:
    if queue.get() != _START:  # what the first one took out is nowhere else; its node is the driver's, so it lasts
        raise RuntimeError("the process that hands tasks to Ray ended; the same command goes on")
    while (packed := queue.get()) is not None:
        yield pa.table({"block": pa.array([packed], pa.large_binary())})


def _answer_batch(batch: pa.Table, make_scorer: bytes) -> pa.Table:
    """Answer blocks, on any node. What goes wrong comes back as a value: Ray would wrap an exception in others."""
    packed = []
    for block in map(pickle.loads, batch["block"].to_pylist()):
        try:
            content: Any = list(_get_pool(make_scorer).answers(iter(block.content)))
        except CatdogError as error:
            content = error
        except Exception:
            content = traceback.format_exc()
        packed.append(pickle.dumps(_Block(block.number, content)))
    return pa.table({"block": pa.array(packed, pa.large_binary())})


@lru_cache(maxsize=1)
def _get_pool(make_scorer: bytes) -> Pool:
    """Return the pool of this process; its worker ends when this process does."""
    return Pool(pickle.loads(make_scorer), 1)  # noqa: S301  our own, from the driver


def _make_in_folder(folder: str, make_scorer: Callable[[], Scorer]) -> Scorer:
    """Make a scorer in the folder that the command was started in, for paths that are relative to it."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: can't be entered on node {platform.node()} ({error.strerror}); start the command from a folder "
            "that every node has"
        ) from error
    return make_scorer()
