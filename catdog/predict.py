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

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.answers import Form, as_csv, as_json, as_jsonl
from catdog.classifier import Classifier, load
from catdog.contract import UNSURE
from catdog.edge import EXIT_FAILED, edge
from catdog.photo_command import (
    ChosenFormat,
    Format,
    Paths,
    answer_photos,
    check_share,
    choose_colour,
    choose_format,
    list_photos,
    paint,
    show_bar,
    write_answers,
)
from catdog.prediction import Prediction
from catdog.sources.names import check_apart
from catdog.text import printable

EXAMPLES: Final = """\b
Examples:
  catdog predict cat.jpg                       one photo
  catdog predict photos/ "old/**/*.png"        folders and patterns
  catdog predict https://example.org/dog.jpg   from the web
  cat dog.jpg | catdog predict -               from standard input
  catdog predict photos/ --explain pictures    where the model looked
  catdog predict photos/ --detect              one more answer for each pet
  catdog predict photos/ --format csv > answers.csv

Exit codes: 0 all answered, 1 some photo could not be read, 2 a bad argument or model, 130 Ctrl-C.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES, help="Tell cats from dogs in photos.")
@edge("catdog predict", prefix="Error")
def predict(
    paths: Paths,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An ONNX file or a run folder, instead of the embedded model.")
    ] = None,
    format: ChosenFormat = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T", callback=check_share, help=f'Confidence, 0 to 1, under which the answer is "{UNSURE}".'
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at a smaller picture first: cheaper, a few answers differ.")
    ] = False,
    explain: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write a picture a photo that shows where the model looked.")
    ] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="Also answer each pet in a photo, where catdog detect finds its head.")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What --detect finds heads with, instead of the embedded detector."),
    ] = None,
) -> None:
    if (detector and not detect) or (detect and explain):
        raise typer.BadParameter("--detector goes with --detect, and --detect without --explain")
    chosen, classifier, photos = choose_format(format), load(model, fast=fast), list_photos(paths)
    names = classifier.contract.class_names
    if detect:
        failures = _answer_heads(classifier, detector, paths, chosen, threshold)
    else:
        if explain is None:
            answers = answer_photos(classifier.stream, photos, threshold)
        else:
            from catdog.explain import write_pictures  # which most runs don't need

            check_apart("--explain", explain, paths)
            answers = write_pictures(classifier, photos, explain, threshold)
        failures = write_answers(show_bar(answers, paths, chosen), chosen, FORMATS, names)
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _answer_heads(
    classifier: Classifier, detector: str | None, paths: list[str], chosen: Format, threshold: float | None
) -> int:
    from catdog.detection import heads  # which most runs don't need
    from catdog.detection.detector import load_detector

    forms: dict[Format, Form[heads.PredictionWithHeads]] = {
        Format.table: lambda rows, names: as_table(heads.list_answers(rows), names),
        Format.json: as_json,
        Format.jsonl: as_jsonl,
        Format.csv: heads.as_csv,
    }
    answers = heads.answer_heads(classifier, load_detector(detector), list_photos(paths), threshold)
    return write_answers(show_bar(answers, paths, chosen), chosen, forms, classifier.contract.class_names)


def as_table(rows: Iterable[Prediction], class_names: Sequence[str]) -> Iterator[str]:
    """A line an answer, as it comes; the source is last, so no column waits for the longest name."""
    width = max(map(len, [*class_names, UNSURE, "label"]))
    yield f"{'label':{width}}  confidence  source\n"
    for row in rows:
        if row.label is None or row.confidence is None:
            label, hue, share, source = "error", "red", "", row.error or ""
        else:
            label, share, source = row.label, f"{row.confidence:.1%}", row.source
            hue = "yellow" if label == UNSURE else choose_colour(label, class_names)
        yield f"{paint(f'{label:{width}}', hue)}  {share:>10}  {printable(source)}\n"


FORMATS: Final[dict[Format, Form[Prediction]]] = {
    Format.table: as_table,
    Format.json: as_json,
    Format.jsonl: as_jsonl,
    Format.csv: as_csv,
}
