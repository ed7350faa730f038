"""What the commands that answer photos have in common: their arguments, their formats, the bar and standard output."""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Annotated, Final, TypeVar

import typer

from catdog.answers import Answer, Form
from catdog.sources import Input, list_inputs
from catdog.sources.listing import STDIN, can_count

A = TypeVar("A", bound=Answer)

BAR_AFTER_S: Final = 2.0


class Format(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help=f"Files, folders, archives, quoted patterns, http(s) URLs, s3://, gs://, az://, or {STDIN} for stdin.",
    ),
]
ChosenFormat = Annotated[
    Format | None, typer.Option("--format", help="Default: a table in a terminal, else JSON lines.", show_default=False)
]


def check_share(value: float | None) -> float | None:
    """Return an option's value; raises BadParameter unless it is in [0, 1]."""
    if value is not None and not 0 <= value <= 1:  # also refuses nan, which typer's own min and max let through
        raise typer.BadParameter("must be in [0, 1]")
    return value


def choose_format(asked: Format | None) -> Format:
    """Return the format that was asked for, or the one that suits whoever reads standard output."""
    return asked or (Format.table if sys.stdout.isatty() else Format.jsonl)


def list_photos(paths: list[str]) -> Iterator[Input]:
    """The photos that the arguments stand for, standard input among them."""
    return list_inputs(paths, stdin=True)


def answer_photos(stream: Callable[..., Iterator[A]], photos: Iterable[Input], threshold: float | None) -> Iterator[A]:
    """Yield a model's answers to inputs, which are read on the model's decoding threads."""
    inputs, named = itertools.tee(photos)
    reads = (partial(photo.content.read, photo.source) for photo in inputs)
    return stream(reads, names=(photo.source for photo in named), threshold=threshold)


def show_bar(answers: Iterator[A], paths: list[str], chosen: Format) -> Iterator[A]:
    """The same answers, with a progress bar on stderr once they take longer than BAR_AFTER_S.

    There is none where the answers show the progress themselves, or where the bar would tear their lines.
    """
    if not sys.stderr.isatty() or sys.stdout.isatty() or chosen is Format.jsonl:
        return answers
    return _report(answers, paths)


def _report(answers: Iterable[A], paths: list[str]) -> Iterator[A]:
    from catdog.progress import show_progress  # which most runs are too short for

    with show_progress("answered", count=find_counter(paths), after_s=BAR_AFTER_S) as report:
        for done, answer in enumerate(answers, start=1):
            report(done)
            yield answer


def find_counter(paths: list[str]) -> Callable[[], int] | None:
    """Return what counts the photos, None where an archive would have to be read, or downloaded, a second time."""
    return (lambda: sum(1 for _ in list_photos(paths))) if can_count(paths) else None


def write_answers(
    answers: Iterable[A], chosen: Format, forms: Mapping[Format, Form[A]], class_names: Sequence[str]
) -> int:
    """Write all answers to stdout, flushed one by one; returns how many of them are failures."""
    failures = 0

    def counted() -> Iterator[A]:
        nonlocal failures
        for answer in answers:
            failures += answer.error is not None
            yield answer

    # A table is in the terminal's encoding, which may lack a name's letters; the other formats are always UTF-8.
    encoding = None if chosen is Format.table else "utf-8"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")
    for text in forms[chosen](counted(), class_names):
        sys.stdout.write(text)
        sys.stdout.flush()
    return failures


def paint(cell: str, colour: str) -> str:
    """Return a table's cell in bold and in a colour, where standard output shows colours."""
    shows = sys.stdout.isatty() and "NO_COLOR" not in os.environ  # https://no-color.org
    return typer.style(cell, fg=colour, bold=True) if shows else cell


def choose_colour(label: str, class_names: Sequence[str]) -> str:
    """Return the colour of a class in a table."""
    return ("cyan", "green", "magenta", "blue")[class_names.index(label) % 4]
