"""The outputs of a Batch Transform job, joined with its inputs: the table of batch scoring, a row an input object.

    rows(Place(bucket, "photos/"), Place(bucket, "out/")) -> ("s3://bucket/photos/1.jpg", Row), ...
    write("results.parquet", rows, model) -> Totals

Batch Transform leaves ``<key below the input prefix>.out`` for each object that it answered, and nothing for others.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from catdog.aws.account import CloudError
from catdog.aws.runtime import in_order, read_answer
from catdog.errors import DataError, ImageError
from catdog.image import SUFFIXES
from catdog.prediction import Prediction
from catdog.score import output
from catdog.score.rows import MAX_ERROR_LENGTH, Row, Status, table
from catdog.sources import objects
from catdog.sources.stores import open_store

ENDING: Final = ".out"
PART_ROWS: Final = 10_000
PARALLEL: Final = 16  # outputs that are read at once


class Place(NamedTuple):
    """A prefix in S3 that ends in a slash, or is empty."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, uri: str) -> Place:
        """From ``s3://bucket/folder``; raises SettingsError."""
        bucket, key = objects.split_s3_uri(uri)
        return cls(bucket, key if not key or key.endswith("/") else f"{key}/")

    @property
    def uri(self) -> str:
        """As an address."""
        return f"{objects.S3_SCHEME}{self.bucket}/{self.prefix}"


class Joined(NamedTuple):
    """One input object and what the job answered."""

    source: str
    row: Row
    class_names: tuple[str, ...]
    """Of its answer; empty without one."""


@dataclass
class Totals:
    """What a result holds."""

    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        """How many in all."""
        return sum(self.statuses.values())


def rows(inputs: Place, outputs: Place, most_bytes: int) -> Iterator[Joined]:
    """All input objects in key order, each once, whatever became of it. ``most_bytes``: of an object that was sent.

    Raises DataError when a bucket can't be read, CloudError for an output that isn't catdog's.
    """
    answered = objects.list_objects(f"s3://{outputs.bucket}", outputs.prefix)
    there = {item.key[len(outputs.prefix) :] for item in answered if item.key.endswith(ENDING)}
    listed = ((item.key, item.size) for item in objects.list_objects(f"s3://{inputs.bucket}", inputs.prefix))

    def join(item: tuple[str, int]) -> Joined:
        key, size = item
        source = f"{objects.S3_SCHEME}{inputs.bucket}/{key}"
        found = next((name for name in _names(key, inputs) if name in there), None)
        if found is None:
            return Joined(source, _unanswered(source, size, most_bytes), ())
        try:
            body = objects.read_object(f"{outputs.uri}{found}")
        except ImageError as error:
            return Joined(source, _failed("missing", str(error)), ())
        return _joined(source, read_answer(source, body, "the transform job"))

    return in_order(join, listed, PARALLEL)


def write(out: str, joined: Iterable[Joined], class_names: tuple[str, ...], model: str) -> Totals:
    """Write the table to ``out``, .parquet, .csv or .jsonl, here or in S3. ``model``: its SHA-256.

    ``class_names``: where no answer tells them. Raises SettingsError, DataError (no input at all).
    """
    store, name = open_store(out)
    output.ending(name)
    totals, folder = Totals(), f"{name}.parts"
    names, stream = _class_names(iter(joined), class_names)
    with store.lock(name):
        try:
            parts: list[str] = []
            while chunk := list(islice(stream, PART_ROWS)):
                part = f"{folder}/{len(parts):06}.parquet"
                made = table([item.source for item in chunk], [item.row for item in chunk], names, model)
                store.put(part, output.encode(made))
                parts.append(part)
                totals.statuses.update(item.row.status for item in chunk)
                totals.labels.update(item.row.label for item in chunk if item.row.label)
            if not parts:
                raise DataError("there is no object under the job's input prefix")
            output.write(store, parts, name, folder)
        finally:
            with suppress(DataError):
                store.clear(folder)
    return totals


def _names(key: str, inputs: Place) -> Iterator[str]:
    """Where an object's output may be below the output prefix.

    As it is seen (relative to the input prefix), and as the API reference has it (its last folder kept, too).
    """
    below = key[len(inputs.prefix) :]
    yield below + ENDING
    last = inputs.prefix.rstrip("/").rpartition("/")[2]
    yield f"{last}/{below}{ENDING}"
    yield key + ENDING


def _joined(source: str, answer: Prediction) -> Joined:
    if answer.error is not None:
        ending = os.path.splitext(source)[1].lower()  # noqa: PTH122 - a key is no path
        return Joined(source, _failed("corrupt" if ending in SUFFIXES else "unsupported", answer.error), ())
    assert answer.probabilities is not None
    values = tuple(answer.probabilities.values())
    return Joined(source, Row("ok", answer.label, answer.confidence, values), tuple(answer.probabilities))


def _unanswered(source: str, size: int, most_bytes: int) -> Row:
    if size > most_bytes:
        return _failed("too_large", f"{source}: {size} bytes, over the job's limit of {most_bytes}")
    return _failed("missing", f"{source}: the transform job left no answer for it")


def _failed(status: Status, error: str) -> Row:
    return Row(status, error=error[:MAX_ERROR_LENGTH])


def _class_names(joined: Iterator[Joined], otherwise: tuple[str, ...]) -> tuple[tuple[str, ...], Iterator[Joined]]:
    """The classes, as the first answer tells them, and all rows again."""
    failed: list[Joined] = []
    for item in joined:
        if item.class_names:
            return item.class_names, (_same(item.class_names, i) for i in itertools.chain(failed, [item], joined))
        failed.append(item)
    return otherwise, iter(failed)


def _same(class_names: tuple[str, ...], item: Joined) -> Joined:
    if item.class_names not in ((), class_names):
        raise CloudError(f"{item.source}: was answered with other classes; do two jobs write to the same prefix?")
    return item
