"""python -m catdog.aws invoke: photos to an endpoint, one answer each, as ``catdog.predict`` prints them."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

import typer

from catdog.aws.account import account
from catdog.aws.app import Bucket, DryRun, Region, app, edge, say, show, show_dry_run
from catdog.aws.asynchronous import PREFIX as ASYNC_PREFIX
from catdog.aws.asynchronous import AsyncEndpoint
from catdog.aws.bench import measure
from catdog.aws.hosting import check_name
from catdog.aws.runtime import MOST_PARALLEL, Endpoint, answers, content
from catdog.contract import Contract
from catdog.edge import EXIT_FAILED
from catdog.errors import CatdogError, ImageError
from catdog.predict import FORMATS, Format
from catdog.prediction import Prediction
from catdog.sources import Input
from catdog.sources.listing import STDIN, list_inputs

PARALLEL: Final = 4
"""Requests at once; a worker answers one at a time, and an ml.m5.large has two."""

_HELP: Final = """Ask an endpoint about photos.

The answers have the format, the fields and the exit codes of python -m catdog.predict. A photo that can't be read, or
that the endpoint refuses, is answered with its error; throttling and overload are met with patience.

--bench N sends N requests of these photos and gives the latency's percentiles and the rate instead.

\b
Examples:
  python -m catdog.aws invoke NAME cat.jpg
  python -m catdog.aws invoke NAME photos/ "old/**/*.png" --format csv > answers.csv
  cat dog.jpg | python -m catdog.aws invoke NAME -
  python -m catdog.aws invoke NAME cat.jpg dog.jpg --bench 200 --parallel 8

\b
Exit codes: 0 all answered, 1 some photo has no answer, 2 a bad argument, or AWS refuses, 130 interrupted, 141 the
reader went away."""


@app.command(help=_HELP)
def invoke(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name, as deploy gave it.")],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO...", help=f"Files, folders, quoted patterns, URLs, or {STDIN} for stdin."),
    ],
    format: Annotated[
        Format | None, typer.Option(help="Default: a table in a terminal, else JSON lines.", show_default=False)
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=MOST_PARALLEL, help="Requests at once.")] = PARALLEL,
    bench: Annotated[
        int | None, typer.Option("--bench", metavar="N", min=1, help="Measure N requests; print JSON.")
    ] = None,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="It was made with deploy --async; photos go through --bucket.")
    ] = False,
    region: Region = None,
    bucket: Bucket = None,
    dry_run: DryRun = False,
) -> None:
    with edge("invoke"):
        me = account(region, bucket=bucket, dry_run=dry_run)
        runtime = me.client("sagemaker-runtime")
        target: Endpoint | AsyncEndpoint = Endpoint(runtime, check_name(endpoint))
        if asynchronous:
            place = f"s3://{me.default_bucket()}/{ASYNC_PREFIX}/{endpoint}"
            target = AsyncEndpoint(runtime, me.client("s3"), endpoint, place)
        if dry_run:
            _dry_run(target, list_inputs(paths, stdin=True))
            show_dry_run(
                me.recorded, {"note": "an endpoint costs by the hour, whoever asks; a serverless one by the answer"}
            )
            return
        if bench:
            result = measure(target, list_inputs(paths, stdin=True), bench, parallel)
            show(result)
            failed = result["failed"]
        else:
            failed = _print(answers(target, list_inputs(paths, stdin=True), parallel), format)
        raise typer.Exit(EXIT_FAILED if failed else 0)


def _dry_run(target: Endpoint | AsyncEndpoint, photos: Iterable[Input]) -> None:
    """Have the requests recorded; photos that can't be read have none."""
    for photo in photos:
        try:
            data = content(photo)
        except ImageError as error:
            say(str(error))
        else:
            target.send(data)


def _print(found: Iterator[Prediction], format: Format | None) -> int:
    """All answers to stdout, flushed one by one; returns how many of them are failures."""
    chosen = format or (Format.table if sys.stdout.isatty() else Format.jsonl)
    failures = 0

    def counted(rows: Iterable[Prediction]) -> Iterator[Prediction]:
        nonlocal failures
        for row in rows:
            failures += row.error is not None
            yield row

    names, rows = _class_names(found) if chosen in (Format.csv, Format.table) else ((), found)
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding = None if chosen is Format.table else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace", newline="\n")
    for text in FORMATS[chosen](counted(rows), names):
        sys.stdout.write(text)
        sys.stdout.flush()
    return failures


def _class_names(found: Iterator[Prediction]) -> tuple[Sequence[str], Iterator[Prediction]]:
    """The classes, which an endpoint tells with its first answer, and all answers; cat and dog without any."""
    failed: list[Prediction] = []
    for row in found:
        if row.probabilities:
            return tuple(row.probabilities), itertools.chain(failed, [row], found)
        failed.append(row)
    return embedded_class_names(), iter(failed)


def embedded_class_names() -> tuple[str, ...]:
    """Those of the embedded model."""
    from importlib.resources import files

    try:
        text = files("catdog").joinpath("assets", "contract.json").read_bytes()
        return Contract.from_json(text).class_names
    except (OSError, CatdogError):
        return ("cat", "dog")
