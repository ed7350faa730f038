"""Parts to one result: Parquet, CSV or JSON lines, told by the name's ending."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from catdog.answers import make_csv_writer
from catdog.errors import DataError, SettingsError
from catdog.sources.stores import Store

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS: Final = (".parquet", ".csv", ".jsonl")
ROW_GROUP: Final = 50_000  # rows, of a Parquet result; what is in memory at once while it is written
READ_ROWS: Final = 10_000  # at once
_COMPRESSION: Final = "zstd"


def ending(name: str) -> str:
    """The result's format; raises SettingsError for another one."""
    found = Path(name).suffix.lower()
    if found not in ENDINGS:
        raise SettingsError(f"--out {name}: must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    return found


def encode(part: pa.Table) -> bytes:
    """A table as a Parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(part, buffer, compression=_COMPRESSION)
    return buffer.getvalue()


def write(store: Store, parts: Sequence[str], name: str, scratch: str) -> None:
    """All rows of the parts, in order, as the file ``name``, which appears whole or not at all.

    ``scratch``: the folder of the store that a half-written file may be in.
    """
    with store.scratch(scratch) as path:
        _WRITERS[ending(name)](_read_groups(store, parts), path)
        store.put_file(name, path)


def read_columns(store: Store, name: str) -> Iterator[dict[str, list[Any]]]:
    """A table's rows by column, some thousand at once; a CSV's values are text. Raises DataError for a damaged file."""
    with store.open(name) as file:
        try:
            if name.endswith(".parquet"):
                import pyarrow.parquet as pq

                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(batch_size=READ_ROWS):
                        yield _check_columns(batch.to_pydict())
                return
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            rows = csv.DictReader(text) if ending(name) == ".csv" else map(json.loads, text)
            while some := list(islice(rows, READ_ROWS)):
                yield _check_columns({column: [row[column] for row in some] for column in dict(some[0])})
        # Arrow's own errors are children of ValueError, OSError, KeyError, TypeError and RuntimeError.
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, csv.Error) as error:
            raise damaged(name) from error


def damaged(name: str) -> DataError:
    """The error for a table that can't be read."""
    return DataError(f"{name}: is no result of catdog score, or damaged; give --restart")


def _check_columns(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if missing := {"source", "status", "label", "confidence"} - batch.keys():
        raise KeyError(f"without {', '.join(sorted(missing))}")
    for name in {"source", "version"} & batch.keys():
        if not all(isinstance(value, str) or (value is None and name == "version") for value in batch[name]):
            raise ValueError(f"{name} is no text")
    return batch


def _read_groups(store: Store, parts: Sequence[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.Table] = []
    for part in parts:
        with store.open(part) as file:
            try:
                parquet = pq.ParquetFile(file)  # not read_table: it loads Arrow's dataset engine, and takes 60 MB more
                waiting.append(parquet.schema_arrow.remove_metadata().empty_table())
                for batch in parquet.iter_batches(batch_size=ROW_GROUP, use_threads=False):
                    waiting.append(pa.Table.from_batches([batch]).replace_schema_metadata())
                    if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                        yield pa.concat_tables(waiting)
                        waiting = []
            except (OSError, pa.ArrowException) as error:
                raise damaged(part) from error
    if waiting:
        yield pa.concat_tables(waiting)


def _write_parquet(tables: Iterator[pa.Table], path: Path) -> None:
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression=_COMPRESSION) as file:
        for table in chain([first], tables):
            file.write_table(table)


def _write_csv(tables: Iterator[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_row = make_csv_writer(file)
        for number, table in enumerate(tables):
            if number == 0:
                write_row(table.column_names)
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                write_row(row)


def _write_jsonl(tables: Iterator[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for table in tables:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


_WRITERS: Final = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
