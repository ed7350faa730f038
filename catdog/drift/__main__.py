"""catdog drift: whether the answers in catdog score's results differ from those when the model was measured."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("drift")

import sys
from functools import partial
from typing import Annotated, Final

import typer
from PIL import Image

from catdog.contact_sheet import thumbnail
from catdog.drift.report import (
    Bounds,
    LeastSure,
    MaxErrors,
    MaxPsi,
    MaxUnsure,
    Out,
    ReferencePlace,
    check_out,
    describe_report,
    write_report,
)
from catdog.drift.tables import read_answers, read_reference
from catdog.drift.tally import Tally
from catdog.edge import EXIT_FAILED, edge, write_summary
from catdog.errors import ImageError
from catdog.sources import content_for
from catdog.text import restore_name

_HELP: Final = """Compare results of catdog score with each other, and with a reference.

RESULT is what catdog score, predict or aws transform wrote: .parquet, .csv or .jsonl, here or in a bucket. Each one is
a period, in the order given: the photos of a day, a month, a camera. --reference is how the model answered when it was
measured: an evaluation's folder (its predictions.csv), another result, or the --out of an earlier report. The
confidences are compared by the population stability index (PSI): under 0.1 little has changed, from 0.25 on much.

\b
Examples:
  catdog drift monday.parquet tuesday.parquet --reference evaluation --out drift
  catdog drift results.parquet --reference evaluation --max-psi 0.25 --max-errors 1%

\b
Exit codes: 0 within the bounds, 1 a bound is passed, or there was nothing to compare, 2 a bad argument or table."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog drift", extra="drift")
def main(
    results: Annotated[list[str], typer.Argument(metavar="RESULT...", show_default=False)],
    reference: ReferencePlace = None,
    out: Out = None,
    max_psi: MaxPsi = None,
    max_unsure: MaxUnsure = None,
    max_errors: MaxErrors = None,
) -> None:
    bounds = Bounds.parse(max_psi, max_unsure, max_errors, has_reference=reference is not None)
    if out is not None:
        import matplotlib  # noqa: F401  so that it is missed here, and not after the reading

        check_out(out)
    tally = Tally(read_reference(reference) if reference else None)
    least_sure = LeastSure()
    for result in results:
        tally.open(result)
        for answer in read_answers(result):
            tally.add(result, answer)
            if out is not None and least_sure.wants(answer):
                least_sure.add(answer, answer.source, partial(_read_thumbnail, answer.source))
    about = {"of": results[0] if len(results) == 1 else f"{len(results)} results"}
    report = write_report(tally, about, bounds, least_sure, out)
    for line in describe_report(report):
        sys.stderr.write(line + "\n")
    write_summary(report)
    if report["passed"] or not tally.photos:
        raise typer.Exit(EXIT_FAILED)


def _read_thumbnail(source: str) -> Image.Image:
    name = restore_name(source)
    try:
        photo: bytes | ImageError = content_for(name, typed=False).read(name)
    except ImageError as error:
        photo = error
    return thumbnail(photo)


if __name__ == "__main__":
    app(prog_name="catdog drift")
