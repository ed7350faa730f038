"""Tables of answers, and references made of them.

    read_answers("results.parquet") -> Answer, Answer, ...
    read_reference("evaluation")    -> Reference

A table is what catdog score, predict, evaluate (predictions.csv) or aws transform wrote: Parquet, CSV or JSON lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Final

from catdog.detection.answers import HEAD, NO_PET, group_photos
from catdog.drift.tally import Answer, Reference, Tally
from catdog.errors import DataError
from catdog.sources.names import is_object_uri
from catdog.sources.stores import open_store

REPORT_NAME: Final = "drift.json"
PREDICTIONS_NAME: Final = "predictions.csv"  # in the folder of an evaluation
METRICS_NAME: Final = "metrics.json"  # likewise
MOST_LINE_BYTES: Final = 2**20
_MOST_PHOTOS: Final = 2**31  # that an evaluation's metrics.json may claim
_MOST_REPORT_BYTES: Final = 64 * 2**20
_READ_ROWS: Final = 10_000  # at once
_BY_HEAD: Final = frozenset((HEAD, "width"))  # columns by which a detector's table, with a row a head, is known
_NEEDED: Final = frozenset(("label", "confidence"))
_COLUMNS: Final = ("source", "status", "label", "confidence", "error", *_BY_HEAD)


def read_answers(table: str) -> Iterator[Answer]:
    """Yield a table's answers, some thousand rows in memory at once; raises DataError, one sentence."""
    store, name = open_store(table)
    ending = Path(name).suffix.lower()
    if ending not in _READERS:
        raise DataError(f"{table}: must end in {', '.join(_READERS)}, as catdog score's results do")
    with store.open(name) as file:
        try:
            for row in join_photos(_READERS[ending](file)):
                if "xmin" in row and HEAD not in row:
                    if "truth" not in row:
                        raise ValueError("boxes that don't say which are of one photo")
                    raise DataError(
                        f"{table}: lists all boxes of an evaluation, also those under the detector's threshold; give "
                        "its folder as --reference, or a result of catdog score"
                    )
                yield Answer.from_row(row)
        # Arrow's own errors are children of ValueError, OSError, KeyError, TypeError and RuntimeError.
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, csv.Error) as error:
            raise DataError(f"{table}: is no table of catdog's answers, or damaged") from error


def join_photos(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield one row a photo of a table; a detector's has a list ``objects``, as its JSON has.

    Raises ValueError for more heads than a photo has.
    """
    for photo in group_photos(rows):
        if photo[0].keys() >= _BY_HEAD:
            yield _join_photo(photo)
        elif photo[0].get(HEAD) in (None, ""):  # else rows of catdog predict --detect, which follow their photo's own
            yield photo[0]


def _join_photo(rows: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    told = {name: rows[0].get(name) for name in ("source", "status", "error")}
    has_failed = told["error"] or told["status"] not in (None, "", "ok")
    return told | {"objects": None if has_failed else [row for row in rows if row.get("label")]}


def read_reference(place: str) -> Reference:
    """Return how sure a model was: from a table of its answers, an evaluation's folder, or an earlier report's.

    Raises DataError.
    """
    if not is_object_uri(place) and Path(place).is_dir():
        names = [name for name in (PREDICTIONS_NAME, REPORT_NAME) if (Path(place) / name).is_file()]
        if not names:
            raise DataError(f"{place}: holds neither {PREDICTIONS_NAME} of catdog evaluate nor {REPORT_NAME}")
        if names[0] == PREDICTIONS_NAME and (boxes := _read_evaluated_boxes(Path(place))):
            return boxes
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
        of_detector = "heads_per_photo" in report
        told = report["heads_per_photo" if of_detector else "shares"]
        shares = {str(label): float(share) for label, share in told.items()}
        with_head = float(report["with_head"] or 0) if of_detector else None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{place}: is no {REPORT_NAME} of catdog drift or catdog aws capture") from error
    return Reference(place, edges, photos, shares, with_head)


def _read_evaluated_boxes(folder: Path) -> Reference | None:
    """Return what a detector's evaluation says at the detector's threshold; None for a classifier's evaluation."""
    tally, place = Tally(), str(folder / PREDICTIONS_NAME)
    try:
        metrics = json.loads((folder / METRICS_NAME).read_bytes()) if (folder / METRICS_NAME).is_file() else {}
        if metrics.get("task") != "detect":
            return None
        threshold, photos = metrics["at_threshold"]["threshold"], metrics["photos"]
        with (folder / PREDICTIONS_NAME).open("rb") as file:
            for path, boxes in groupby(_read_csv(file), lambda row: row["path"]):
                sure = [box for box in boxes if float(box["confidence"]) >= threshold]
                tally.add(place, Answer.from_row({"source": path, "objects": sure}))
        if (without := min(photos, _MOST_PHOTOS) - tally.photos) > 0:  # those without any box are not in the table
            tally.add(place, Answer("", NO_PET, None, ()), times=without)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise DataError(f"{folder}: is no evaluation of catdog's, or damaged") from error
    return tally.make_reference(place)


def _read_text(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(read_lines(file, MOST_LINE_BYTES)):
        if line is None:
            raise ValueError("a line without end")
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def _read_parquet(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        chosen = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
        _check_columns(chosen)
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=chosen):
            yield from batch.to_pylist()


def _read_csv(file: BinaryIO) -> Iterable[Mapping[str, Any]]:
    table = csv.DictReader(_read_text(file))
    _check_columns(table.fieldnames or ())  # which a table without rows has, too
    return table


def _read_jsonl(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    for row in map(json.loads, _read_text(file)):
        if "objects" not in row:
            _check_columns(row)
        yield row


def _check_columns(names: Iterable[str]) -> None:
    if not _NEEDED.issubset(names):
        raise ValueError("without label and confidence")


_READERS: Final = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}
