"""What a person said of suspects: a reviewed CSV -> which photos to leave out, and which to give another label.

A photo is known by its content, so that it is found again under any name and in any source.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from catdog.contract import NEITHER
from catdog.dataset.manifest import PETS
from catdog.errors import DataError
from catdog.text import first_line

Exclusions = Mapping[str, str | None]
"""The SHA-256 of a photo's bytes -> its right label, or None where it is to be left out."""

HASH_COLUMN: Final = "sha256"
LABEL_COLUMN: Final = "corrected"
_LABELS: Final = (*PETS, NEITHER)
_LONGEST: Final = 2**16  # characters of the first line
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def read_exclusions(paths: Iterable[str | Path]) -> Exclusions:
    """Read CSV files with a column ``sha256``, and ``corrected`` where labels were mended; other columns are ignored.

    Commas, semicolons and tabs may part the columns, as spreadsheets write any of them. Raises DataError, which names
    the file and the line, for a file that can't be read, is damaged or names no photo, and for two lines that
    contradict each other.
    """
    exclusions: dict[str, str | None] = {}
    for path in paths:
        for line, digest, label in _read_lines(path):
            if exclusions.setdefault(digest, label) != label:
                before = exclusions[digest] or "nothing"
                raise DataError(
                    f"{path}, line {line}: corrects this photo to {label or 'nothing'}, and an earlier line to {before}"
                )
    return exclusions


def _read_lines(path: str | Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield the number of each line, its hash and its label."""
    line, is_empty = 1, True
    try:
        # Names of photos are ignored, and need not be UTF-8; a hash or a label that isn't is refused with its line.
        with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            head = file.readline(_LONGEST)
            if "\0" in head and HASH_COLUMN in head.replace("\0", ""):
                raise DataError(f"{path}, line 1: is text in UTF-16; save the file as CSV in UTF-8")
            mark = max(",;\t", key=head.count)
            columns = [name.strip() for name in next(csv.reader([head], delimiter=mark), [])]
            if columns.count(HASH_COLUMN) != 1:
                raise DataError(
                    f"{path}, line 1: names no column {HASH_COLUMN}; give a suspects.csv of catdog dataset --suspects"
                )
            rows = csv.reader(file, delimiter=mark, strict=True)
            line += 1
            for row in rows:
                if row:
                    is_empty = False
                    cells = dict(zip(columns, map(str.strip, row), strict=False))
                    yield line, *_check_cells(cells, f"{path}, line {line}")
                line = rows.line_num + 2  # the next one's, should it be damaged
        if is_empty:
            raise DataError(f"{path}, line 1: names no photo, only columns; leave the file out where no label is wrong")
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: is no CSV ({first_line(error)}); mend it or take it out") from error
    except OSError as error:
        raise DataError(f"{path}: the exclusions can't be read ({error.strerror})") from error


def _check_cells(cells: Mapping[str, str], place: str) -> tuple[str, str | None]:
    digest, label = cells.get(HASH_COLUMN, "").lower(), cells.get(LABEL_COLUMN, "").lower()
    if not _SHA256.fullmatch(digest):
        raise DataError(f"{place}: {digest[:80]!r} is no SHA-256 of a photo; mend the line or take it out")
    if label and label not in _LABELS:
        raise DataError(
            f"{place}: {LABEL_COLUMN} is {label[:80]!r}; write {', '.join(_LABELS)}, or nothing to leave the photo out"
        )
    return digest, label or None
