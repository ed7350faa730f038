"""Lists of photos: the entries of a text file, or a column of a CSV, TSV or Parquet table.

read_entries("paths.csv") -> "a.jpg", "photos.zip!/b.jpg", "s3://bucket/c.jpg", ...
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from catdog.errors import SettingsError
from catdog.sources.names import is_object_uri
from catdog.text import first_line, printable

_LOOKED_AT: Final = 4096  # bytes
COLUMNS: Final = ("source", "path", "file", "filename", "image", "uri", "url")
"""The column of a CSV or Parquet list that holds the paths is the first of these names that it has."""


def read_entries(path: str) -> Iterator[str]:
    """The entries of a list in order, a file or an object; blanks around them are no part of a line's entry.

    Raises SettingsError, which names the list, when it can't be read, has no column of paths, or is no regular file: a
    pipe can be read only once, and so neither counted nor gone on with.
    """
    kind = Path(path).suffix.lower()
    try:
        with _open_list(path) as file:
            if kind == ".parquet":
                yield from _read_parquet(path, file)
                return
            if b"\0" in file.read(_LOOKED_AT):
                raise SettingsError(f"--list {path}: is no text; give a list of names, a CSV or a Parquet file")
            file.seek(0)
            newline = "" if kind in (".csv", ".tsv") else None
            with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
                if kind in (".csv", ".tsv"):
                    table = csv.DictReader(text, delimiter="\t" if kind == ".tsv" else ",")
                    column = _choose_column(path, list(table.fieldnames or ()))
                    yield from ((row[column] or "").strip() for row in table)
                else:
                    yield from (entry for line in text if (entry := line.strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise SettingsError(f"--list {path}: can't be read ({why})") from error


def check_list(path: str) -> None:
    """Raise SettingsError, as ``read_entries`` does, for a list that can't be read, before anything is begun."""
    next(read_entries(path), None)


def _open_list(path: str) -> BinaryIO:
    if is_object_uri(path):
        from catdog.sources.stores import open_store

        store, name = open_store(path)
        return store.open(name)
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise SettingsError(f"--list {path}: is not a regular file; save the list to one")
    return Path(path).open("rb")


def _read_parquet(path: str, file: BinaryIO) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            column = _choose_column(path, table.schema_arrow.names)
            for batch in table.iter_batches(columns=[column]):
                yield from map(_decode, batch.column(0).to_pylist())
    except (pa.ArrowException, OSError) as error:  # an OSError, too, is how Arrow says that bytes are damaged
        raise SettingsError(f"--list {path}: not a Parquet file that can be read ({first_line(error)})") from error


def _decode(value: object) -> str:
    if isinstance(value, bytes):  # as names that are not UTF-8 have to be kept
        return os.fsdecode(value)
    return "" if value is None else str(value)


def _choose_column(path: str, names: Sequence[str]) -> str:
    by_lower = {name.lower(): name for name in reversed(names)}
    for name in COLUMNS:
        if name in by_lower:
            return by_lower[name]
    raise SettingsError(
        f"--list {path}: needs a column named {' or '.join(COLUMNS)}; it has {printable(', '.join(names)) or 'none'}"
    )
