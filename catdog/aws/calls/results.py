"""Join the outputs of a batch transform job with its inputs: the table of batch scoring, a row a photo.

    join_outputs(S3Folder(bucket, "photos/"), S3Folder(bucket, "out/"), most_bytes) -> JoinedRow, JoinedRow, ...
    write_table("results.parquet", joined_rows, model) -> Totals

A transform job leaves an output ``<key below the input prefix>.out`` for each object that it answered, and nothing for
the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from catdog.ahead import map_in_order
from catdog.aws.calls.endpoint import Answer, list_columns, parse_answer, peek_class_names
from catdog.aws.failures import CloudError
from catdog.detection.answers import Detection
from catdog.errors import DataError, ImageError, SettingsError
from catdog.score import output
from catdog.score.ledger import Totals
from catdog.score.rows import Row, table
from catdog.sources import objects
from catdog.sources.addresses import S3_SCHEME, split_s3_uri
from catdog.sources.names import is_junk, is_photo_name
from catdog.sources.stores import Store, open_store

ENDING: Final = ".out"
PART_ROWS: Final = 10_000
PARALLEL: Final = 16  # outputs that are read at once
_RECORD_ENDING: Final = ".run.json"  # catdog score has its own record there, so each refuses the other's results
_RECORD: Final = b'{"written_by": "catdog.aws transform"}'


class S3Folder(NamedTuple):
    """A prefix in S3 that ends in a slash, or is empty."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Folder:
        """Parse ``s3://bucket/folder``; raises SettingsError."""
        bucket, key = split_s3_uri(uri)
        return cls(bucket, key if not key or key.endswith("/") else f"{key}/")

    @property
    def uri(self) -> str:
        """The folder as an s3:// address."""
        return f"{S3_SCHEME}{self.bucket}/{self.prefix}"

    def list(self) -> Iterator[objects.Listed]:
        """List the objects in it; raises DataError if the bucket can't be read."""
        return objects.list_objects(f"{S3_SCHEME}{self.bucket}", self.prefix)


class JoinedRow(NamedTuple):
    """One input object and what the job answered."""

    source: str
    row: Row
    class_names: tuple[str, ...]
    """The classes of its answer, or BOX_COLUMNS; empty without one."""


def join_outputs(inputs: S3Folder, outputs: S3Folder, most_bytes: int) -> Iterator[JoinedRow]:
    """Yield all photos among the input objects in key order, each once, whatever became of it.

    What has neither a photo's name nor an answer is no photo: a dataset's manifest.json, say. ``most_bytes`` is the
    size of the largest object that the job sent to the model. Raises DataError if a bucket can't be read, CloudError
    for an output that catdog's model did not write.
    """
    has_outputs = next(outputs.list(), None) is not None

    def is_photo(joined: JoinedRow) -> bool:
        name = joined.source.removeprefix(inputs.uri)
        return joined.row.status == "ok" or (is_photo_name(name) and not is_junk(name))

    def join(item: objects.Listed) -> JoinedRow:
        source = f"{S3_SCHEME}{inputs.bucket}/{item.key}"
        for name in _list_output_names(item.key, inputs) if has_outputs else ():
            try:
                body = objects.read_object(outputs.uri + name)
            except ImageError as error:
                if error.reason != "missing":
                    return JoinedRow(source, Row.failed(error), ())
            else:
                return _make_joined_row(source, parse_answer(source, body, "the transform job"))
        why = ImageError(f"{source}: the transform job left no answer for it", "missing")
        if item.size > most_bytes:
            why = ImageError(f"{source}: {item.size} bytes, over the job's limit of {most_bytes}", "too_large")
        return JoinedRow(source, Row.failed(why), ())

    return filter(is_photo, map_in_order(join, inputs.list(), PARALLEL))


def open_table(out: str) -> tuple[Store, str]:
    """Return the store and the name of the table ``out``, .parquet, .csv or .jsonl, here or in S3.

    Raises SettingsError for another ending, and if something lies there that a transform did not write: a file, or
    the parts of a run of catdog score that isn't finished.
    """
    store, name = open_store(out)
    output.ending(name)
    record = store.get(f"{name}{_RECORD_ENDING}")
    is_free = record is None and not store.exists(name) and not store.names(f"{name}.parts")
    if record != _RECORD and not is_free:
        raise SettingsError(
            f"--out {out}: holds what catdog aws transform didn't write; name another file, or remove that one"
        )
    return store, name


def write_table(out: str, joined: Iterator[JoinedRow], model: str) -> Totals:
    """Write the table to ``out``; ``model`` is the model's SHA-256.

    Raises SettingsError as ``open_table`` does, and DataError if there is no input at all.
    """
    store, name = open_table(out)
    totals, folder = Totals(), f"{name}.parts"
    names, joined = peek_class_names(joined, lambda item: item.class_names)
    with store.lock(name):
        open_table(out)  # again, since nobody else can begin to write now
        store.put(f"{name}{_RECORD_ENDING}", _RECORD)
        try:
            parts: list[str] = []
            while chunk := [_check_class_names(names, item) for item in islice(joined, PART_ROWS)]:
                rows = [item.row for item in chunk]
                part = f"{folder}/{len(parts):06}.parquet"
                store.put(part, output.encode(table([item.source for item in chunk], rows, names, model)))
                parts.append(part)
                totals.add(rows)
            if not parts:
                raise DataError("there is no photo under the job's input prefix")
            output.write(store, parts, name, folder)
        finally:
            with suppress(DataError):
                store.clear(folder)
                if not store.exists(name):
                    store.delete(f"{name}{_RECORD_ENDING}")
    return totals


def _list_output_names(key: str, inputs: S3Folder) -> Iterator[str]:
    """Yield the names below the output prefix that an object's output may have.

    The first is relative to the input prefix, as it is seen in practice; the others are how the API reference may be
    read: with the prefix's last folder, and with the whole key.
    """
    below = key[len(inputs.prefix) :]
    yield below + ENDING
    last_folder = inputs.prefix.rstrip("/").rpartition("/")[2]
    yield f"{last_folder}/{below}{ENDING}"
    yield key + ENDING


def _make_joined_row(source: str, answer: Answer) -> JoinedRow:
    if answer.error is not None:
        return JoinedRow(source, Row.failed(ImageError(answer.error, "corrupt")), ())
    if isinstance(answer, Detection):
        row = Row("ok", width=answer.width, height=answer.height, heads=answer.objects or ())
    else:
        row = Row("ok", answer.label, answer.confidence, tuple((answer.probabilities or {}).values()))
    return JoinedRow(source, row, list_columns(answer))


def _check_class_names(class_names: tuple[str, ...], item: JoinedRow) -> JoinedRow:
    if item.class_names not in ((), class_names):
        raise CloudError(f"{item.source}: was answered with other classes; do two jobs write to the same prefix?")
    return item
