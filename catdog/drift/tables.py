"""Tables of answers, and references made of them.

    read_answers("results.parquet") -> Answer, Answer, ...
    read_reference("evaluation")    -> Reference

A table is what catdog score, predict, evaluate (predictions.csv) or aws transform wrote: Parquet, CSV or JSON lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from catdog.drift.tally import Answer, Reference, Tally
from catdog.errors import DataError
from catdog.sources.names import is_object_uri
from catdog.sources.stores import open_store

REPORT_NAME: Final = "drift.json"
PREDICTIONS_NAME: Final = "predictions.csv"  # in the folder of an evaluation
MOST_LINE_BYTES: Final = 2**20
_MOST_REPORT_BYTES: Final = 64 * 2**20
_READ_ROWS: Final = 10_000  # at once
_COLUMNS: Final = ("source", "status", "label", "confidence", "error")


def read_answers(table: str) -> Iterator[Answer]:
    """Yield a table's answers, some thousand rows in memory at once; raises DataError, one sentence."""
    store, name = open_store(table)
    ending = Path(name).suffix.lower()
    if ending not in _READERS:
        raise DataError(f"{table}: must end in {', '.join(_READERS)}, as catdog score's results do")
    with store.open(name) as file:
        try:
            for row in _READERS[ending](file):
                if not {"label", "confidence"} <= row.keys():
                    raise ValueError("without label and confidence")
                yield Answer.from_row(row)
        # Arrow's own errors are children of ValueError, OSError, KeyError, TypeError and RuntimeError.
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, csv.Error) as error:
            raise DataError(f"{table}: is no table of catdog's answers, or damaged") from error


def read_reference(place: str) -> Reference:
    """Return how sure a model was: from a table of its answers, an evaluation's folder, or an earlier report's.

    Raises DataError.
    """
    if not is_object_uri(place) and Path(place).is_dir():
        names = [name for name in (PREDICTIONS_NAME, REPORT_NAME) if (Path(place) / name).is_file()]
        if not names:
            raise DataError(f"{place}: holds neither {PREDICTIONS_NAME} of catdog evaluate nor {REPORT_NAME}")
        place = str(Path(place) / names[0])
    if Path(place).suffix.lower() == ".json":
        return _read_report(place)
    tally = Tally()
    for answer in read_answers(place):
        tally.add(place, answer)
    return tally.make_reference(place)


def read_lines(stream: BinaryIO, most_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines, and None in place of one that is longer than ``most_bytes``, which is never held as a whole."""
    while line := stream.readline(most_bytes + 1):
        if len(line) <= most_bytes:
            yield line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(2**20)):
            pass
        yield None


def _read_report(place: str) -> Reference:
    store, name = open_store(place)
    with store.open(name) as file:
        data = file.read(_MOST_REPORT_BYTES)
    try:
        report = json.loads(data)
        edges, photos = (tuple(report["confidence"][key]) for key in ("edges", "photos"))
        sound = (
            len(photos) == len(edges) + 1
            and all(isinstance(count, int) and 0 <= count < 2**53 for count in photos)
            and all(isinstance(edge, float) and 0 <= edge <= 1 for edge in edges)
            and list(edges) == sorted(set(edges))
        )
        if not sound:
            raise ValueError("no histogram")
        shares = {str(label): float(share) for label, share in report["shares"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{place}: is no {REPORT_NAME} of catdog drift or catdog aws capture") from error
    return Reference(place, edges, photos, shares)


def _read_text(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(read_lines(file, MOST_LINE_BYTES)):
        if line is None:
            raise ValueError("a line without end")
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def _read_parquet(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        chosen = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=chosen):
            yield from batch.to_pylist()


def _read_csv(file: BinaryIO) -> Iterable[Mapping[str, Any]]:
    return csv.DictReader(_read_text(file))


def _read_jsonl(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    return map(json.loads, _read_text(file))


_READERS: Final = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}
