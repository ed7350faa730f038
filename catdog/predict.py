"""catdog predict: photos in, one answer each out.

    catdog predict photo.jpg photos/ "more/**/*.png" https://example.org/cat.jpg
    cat photo.jpg | catdog predict - --format json

Arguments become photos in ``catdog.sources``, photos become answers in ``catdog.classifier``, answers become text in
``catdog.answers``; this file adds the table for a terminal.

Exit codes: 0 all answered, 1 some input failed, and those of ``catdog.edge``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("predict")

import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.classifier import Classifier, load
from catdog.contract import UNSURE
from catdog.edge import EXIT_FAILED, edge
from catdog.prediction import Prediction
from catdog.sources import Input, list_inputs
from catdog.sources.listing import STDIN
from catdog.sources.names import check_apart
from catdog.text import printable

BAR_AFTER_S: Final = 2.0

EXAMPLES: Final = """\b
Examples:
  catdog predict cat.jpg                       one photo
  catdog predict photos/ "old/**/*.png"        folders and patterns
  catdog predict https://example.org/dog.jpg   from the web
  cat dog.jpg | catdog predict -               from standard input
  catdog predict photos/ --explain pictures    where the model looked
  catdog predict photos/ --format csv > answers.csv
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Format(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def _check_share(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:  # also refuses nan, which typer's own min and max let through
        raise typer.BadParameter("must be in [0, 1]")
    return value


@app.command(epilog=EXAMPLES, help="Tell cats from dogs in photos.")
@edge("catdog predict", prefix="Error")
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help=f"Files, folders, archives, quoted patterns, http(s) URLs, s3://, gs://, az://, or {STDIN} for stdin.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An ONNX file or a run folder, instead of the embedded model.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Default: a table in a terminal, else JSON lines.", show_default=False)
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T", callback=_check_share, help=f'Confidence, 0 to 1, under which the answer is "{UNSURE}".'
        ),
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write a picture a photo that shows where the model looked.")
    ] = None,
) -> None:
    chosen = format or (Format.table if sys.stdout.isatty() else Format.jsonl)
    if _answer_paths(paths, chosen, load(model), threshold, explain):
        raise typer.Exit(EXIT_FAILED)


def _answer_paths(
    paths: list[str], chosen: Format, classifier: Classifier, threshold: float | None, folder: Path | None
) -> int:
    if folder is None:
        photos, named = itertools.tee(list_photos(paths))
        reads = (partial(photo.content.read, photo.source) for photo in photos)
        answers = classifier.stream(reads, names=(photo.source for photo in named), threshold=threshold)
    else:
        from catdog.explain import write_pictures  # which most runs don't need

        check_apart("--explain", folder, paths)
        answers = write_pictures(classifier, list_photos(paths), folder, threshold)
    # The bar would tear lines that go to the same terminal, and there the answers themselves show the progress.
    if sys.stderr.isatty() and not sys.stdout.isatty() and chosen is not Format.jsonl:
        answers = _show_bar(answers, paths)
    return write_answers(answers, chosen, classifier.contract.class_names)


def write_answers(answers: Iterable[Prediction], chosen: Format, class_names: Sequence[str]) -> int:
    """Write all answers to stdout, flushed one by one; returns how many of them are failures."""
    failures = 0

    def counted() -> Iterator[Prediction]:
        nonlocal failures
        for answer in answers:
            failures += answer.error is not None
            yield answer

    # A table is in the terminal's encoding, which may lack a name's letters; the other formats are always UTF-8.
    encoding = None if chosen is Format.table else "utf-8"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")
    for text in FORMATS[chosen](counted(), class_names):
        sys.stdout.write(text)
        sys.stdout.flush()
    return failures


def list_photos(paths: list[str]) -> Iterator[Input]:
    """The photos that the arguments stand for, standard input among them."""
    return list_inputs(paths, stdin=True)


def as_table(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """A line an answer, as it comes; the source is last, so no column waits for the longest name."""
    width = max(map(len, [*class_names, UNSURE, "label"]))
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ  # https://no-color.org
    yield f"{'label':{width}}  confidence  source\n"
    for row in rows:
        if row.label is None or row.confidence is None:
            label, hue, share, source = "error", "red", "", row.error or ""
        else:
            label, share, source = row.label, f"{row.confidence:.1%}", row.source
            hue = "yellow" if label == UNSURE else ("cyan", "green", "magenta", "blue")[class_names.index(label) % 4]
        cell = f"{label:{width}}"
        yield f"{typer.style(cell, fg=hue, bold=True) if colour else cell}  {share:>10}  {printable(source)}\n"


FORMATS: Final[dict[Format, Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]]] = {
    Format.table: as_table,
    Format.json: as_json,
    Format.jsonl: as_jsonl,
    Format.csv: as_csv,
}


def _show_bar(rows: Iterable[Prediction], paths: list[str]) -> Iterator[Prediction]:
    """The same rows, with a progress bar on stderr once they take longer than BAR_AFTER_S."""
    from catdog.progress import show_progress  # which most runs are too short for

    with show_progress("answered", count=lambda: sum(1 for _ in list_photos(paths)), after_s=BAR_AFTER_S) as report:
        for done, row in enumerate(rows, start=1):
            report(done)
            yield row
