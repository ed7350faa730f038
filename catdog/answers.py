"""Answers to text: JSON, JSON lines and CSV, written as the answers come.

The command line and the endpoint both write with these, so that one reader understands both.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Protocol, TypeVar

from catdog.prediction import Prediction
from catdog.text import escape_name


class Answer(Protocol):
    """What every answer about a photo has."""

    @property
    def source(self) -> str:
        """The path or URL as it was given."""

    @property
    def error(self) -> str | None:
        """Why there is no answer; one line."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""


A = TypeVar("A", bound=Answer)
Form = Callable[[Iterable[A], Sequence[str]], Iterator[str]]
"""Answers and the class names -> the pieces of a text."""


def as_jsonl(rows: Iterable[Answer], class_names: Sequence[str]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(row.to_dict(), ensure_ascii=False) + "\n"


def as_json(rows: Iterable[Answer], class_names: Sequence[str]) -> Iterator[str]:
    """One JSON array, an object a line, written as the answers come."""
    yield "["
    for i, row in enumerate(rows):
        yield (",\n  " if i else "\n  ") + json.dumps(row.to_dict(), ensure_ascii=False)
    yield "\n]\n"


def as_csv(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """A header and one record an answer: source, label, confidence, a column for each class, error."""
    header = ["source", "label", "confidence", *class_names, "error"]

    def tell(row: Prediction) -> list[Any]:
        probabilities = row.probabilities or {}
        values = [probabilities.get(name) for name in class_names]
        return [escape_name(row.source), row.label, row.confidence, *values, row.error]

    return stream_csv(header, ([tell(row)] for row in rows))


def stream_csv(header: Sequence[str], answers: Iterable[Sequence[Sequence[Any]]]) -> Iterator[str]:
    """A header and the records of each answer, as they come."""
    buffer = io.StringIO()
    write_row = make_csv_writer(buffer)
    write_row(header)
    for records in answers:
        for record in records:
            write_row(record)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def make_csv_writer(file: IO[str]) -> Callable[[Sequence[Any]], object]:
    """Return what writes a row; a carriage return is quoted, which Python before 3.13 forgets."""
    plain, careful = (
        csv.writer(file, lineterminator="\n", quoting=quoting) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )

    def write_row(row: Sequence[Any]) -> object:
        has_return = any(isinstance(value, str) and "\r" in value for value in row)
        return (careful if has_return else plain).writerow(row)

    return write_row
