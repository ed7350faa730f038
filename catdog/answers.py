"""Answers to text: JSON, JSON lines and CSV, written as the answers come.

The command line and the endpoint both write with these, so that one reader understands both.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from catdog.prediction import Prediction


def as_jsonl(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(row.to_dict(), ensure_ascii=False) + "\n"


def as_json(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """One JSON array, an object a line, written as the answers come."""
    yield "["
    for i, row in enumerate(rows):
        yield (",\n  " if i else "\n  ") + json.dumps(row.to_dict(), ensure_ascii=False)
    yield "\n]\n"


def as_csv(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """A header and one record an answer: source, label, confidence, a column for each class, error."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["source", "label", "confidence", *class_names, "error"])
    for row in rows:
        probabilities = row.probabilities or {}
        values = [probabilities.get(name) for name in class_names]
        writer.writerow([row.source, row.label, row.confidence, *values, row.error])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()
