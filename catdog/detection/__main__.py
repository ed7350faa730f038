"""catdog detect: photos in, a box around each cat's and dog's head out.

    catdog detect photo.jpg photos/ "more/**/*.png" https://example.org/cat.jpg
    catdog detect holiday/ --draw drawn --crop heads

Arguments become photos in ``catdog.sources``, photos become answers in ``catdog.detection.detector``, answers become
text in ``catdog.answers``; this file adds the table for a terminal.

Exit codes: 0 all answered, 1 some input failed, and those of ``catdog.edge``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("detect")

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.answers import Form, as_json, as_jsonl
from catdog.detection.answers import NO_PET, Detection, as_csv
from catdog.detection.detector import load_detector
from catdog.edge import EXIT_FAILED, edge
from catdog.machine import usable_cores
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
from catdog.sources.names import check_apart
from catdog.text import printable

EXAMPLES: Final = """\b
Examples:
  catdog detect cats.jpg                       a line a head
  catdog detect photos/ "old/**/*.png"         folders and patterns
  catdog detect photos/ --draw drawn           the photos with their boxes
  catdog detect photos/ --crop heads           the heads, cut out
  catdog detect photos/ --format csv > heads.csv

Exit codes: 0 all answered, 1 some photo could not be read, 2 a bad argument or model, 130 Ctrl-C.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES, help="Find the heads of cats and dogs in photos.")
@edge("catdog detect", prefix="Error")
def detect(
    paths: Paths,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A detector's ONNX file or run folder, instead of the embedded one."),
    ] = None,
    format: ChosenFormat = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", callback=check_share, help="Confidence, 0 to 1, from which a head is given."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each photo with its boxes, as NAME.jpg.")
    ] = None,
    crop: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each head, cut out, as NAME-1.jpg, NAME-2.jpg ...")
    ] = None,
) -> None:
    chosen, detector, photos = choose_format(format), load_detector(model), list_photos(paths)
    if draw is None and crop is None:
        answers = answer_photos(detector.stream, photos, threshold)
    else:
        from catdog.detection.pictures import write_pictures  # which most runs don't need

        for flag, folder in (("--draw", draw), ("--crop", crop)):
            if folder:
                check_apart(flag, folder, paths)

        def answer(source: str, data: bytes) -> Detection:
            return next(detector.stream([data], names=[source], threshold=threshold))

        answers = write_pictures(answer, photos, draw, crop, min(usable_cores(), 8))
    if write_answers(show_bar(answers, paths, chosen), chosen, FORMATS, detector.contract.class_names):
        raise typer.Exit(EXIT_FAILED)


def as_table(rows: Iterable[Detection], class_names: Sequence[str]) -> Iterator[str]:
    """A line a head, as the answers come: its label, confidence and box, and last the source."""
    width = max(map(len, [*class_names, NO_PET]))
    yield f"{'label':{width}}  confidence  {'box, px':19}  source\n"
    for row in rows:
        for head in row.objects or ():
            cell = paint(f"{head.label:{width}}", choose_colour(head.label, class_names))
            box = " ".join(f"{edge:.0f}" for edge in head.box.corners)
            yield f"{cell}  {head.confidence:>10.1%}  {box:19}  {printable(row.source)}\n"
        if not row.objects:
            label, colour, named = (NO_PET, "yellow", row.source) if row.error is None else ("error", "red", row.error)
            yield f"{paint(f'{label:{width}}', colour)}  {'':10}  {'':19}  {printable(named)}\n"


FORMATS: Final[dict[Format, Form[Detection]]] = {
    Format.table: as_table,
    Format.json: as_json,
    Format.jsonl: as_jsonl,
    Format.csv: as_csv,
}
