"""catdog aws invoke: ask an endpoint about photos, or measure how fast it answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from catdog.ahead import map_in_order
from catdog.aws.account import Account
from catdog.aws.app import command, print_dry_run, print_result, say
from catdog.aws.calls.endpoint import (
    ASYNC_PATIENCE_S,
    MOST_PARALLEL,
    Answer,
    AnyEndpoint,
    AsyncEndpoint,
    Endpoint,
    answer_photos,
    list_columns,
    peek_class_names,
)
from catdog.aws.hosting import ASYNC_PREFIX
from catdog.aws.inventory import check_endpoint_name, find_payload_limit
from catdog.detection.__main__ import FORMATS as BOX_FORMATS
from catdog.detection.answers import BOX_COLUMNS, Detection
from catdog.detection.pictures import write_pictures
from catdog.edge import EXIT_FAILED
from catdog.errors import DataError, ImageError, SettingsError
from catdog.photo_command import Format, choose_format, write_answers
from catdog.predict import FORMATS
from catdog.prediction import Prediction
from catdog.sources import Input, list_inputs
from catdog.sources.listing import STDIN
from catdog.sources.names import check_apart

PARALLEL: Final = 4
"""Requests at once; a worker answers one at a time, and an ml.m5.large has two."""
WARM_UP: Final = 2  # unmeasured requests, times those at once: for connections and the container's first answers
MOST_BENCH_PHOTOS: Final = 200  # in memory

_HELP: Final = """Ask an endpoint about photos.

The answers have the format, the fields and the exit codes of catdog predict, and those of catdog detect where a
detector is deployed. A photo that can't be read, or
that the endpoint refuses, is answered with its error. Requests that are throttled, or that meet an overload, are tried
again after a pause.

With --async, photos go through S3 and are deleted there once they are answered, after Ctrl-C as well. Where an answer
takes longer than --timeout, its photo stays, and a line says where the answer will come.

--draw DIR writes each photo with the boxes that a detector found, as catdog detect does; only its own pictures are
replaced.

--bench N sends N requests of these photos and gives the latency's percentiles and the rate instead.

\b
Examples:
  catdog aws invoke NAME cat.jpg
  catdog aws invoke NAME photos/ "old/**/*.png" --format csv > answers.csv
  cat dog.jpg | catdog aws invoke NAME -
  catdog aws invoke NAME holiday/ --draw drawn
  catdog aws invoke NAME cat.jpg dog.jpg --bench 200 --parallel 8

\b
Exit codes: 0 all answered, 1 some photo has no answer, 2 a bad argument, or AWS refuses, 130 interrupted, 141 the
reader went away."""


@command(_HELP, "region", "bucket", "dry_run")
def invoke(
    account: Account,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name, as deploy gave it.")],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO...", help=f"Files, folders, quoted patterns, URLs, or {STDIN} for stdin."),
    ],
    format: Annotated[
        Format | None, typer.Option(help="Default: a table in a terminal, else JSON lines.", show_default=False)
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a detector: also write each photo with its boxes.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=MOST_PARALLEL, help="Requests at once.")] = PARALLEL,
    bench: Annotated[int | None, typer.Option(metavar="N", min=1, help="Measure N requests; print JSON.")] = None,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="It was made with deploy --async; photos go through --bucket.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="With --async: how long to wait for each answer.")
    ] = ASYNC_PATIENCE_S,
) -> None:
    if draw is not None:
        if bench:
            raise SettingsError("--draw: shows answers, and --bench only measures them; give one of them")
        check_apart("--draw", draw, paths)
    runtime = account.client("sagemaker-runtime")
    name = check_endpoint_name(endpoint)
    find_limit = partial(find_payload_limit, account.client("sagemaker"), name)
    target: AnyEndpoint = Endpoint(runtime, name, find_limit=find_limit)
    if asynchronous:
        place = f"s3://{account.require_bucket()}/{ASYNC_PREFIX}/{endpoint}"
        target = AsyncEndpoint(runtime, account.client("s3"), endpoint, place, timeout, say)
    photos = list_inputs(paths, stdin=True)
    if account.dry_run:
        for _, data in _read_photos(photos):
            target.send(data)
        note = "an endpoint costs by the hour, whoever asks; a serverless one by the answer"
        print_dry_run(account.recorded, {"note": note})
        return
    try:
        if bench:
            result = measure(target, photos, bench, parallel)
            print_result(result)
            failures = result["failed"]
        elif draw is not None:
            drawn = write_pictures(partial(detect, target), photos, draw, None, parallel)
            failures = _print(drawn, format)
        else:
            failures = _print(answer_photos(target, photos, parallel), format)
    finally:
        if isinstance(target, AsyncEndpoint):
            target.close()
    raise typer.Exit(EXIT_FAILED if failures else 0)


def detect(endpoint: AnyEndpoint, source: str, data: bytes) -> Detection:
    """Return a detector's answer about one encoded photo; raises SettingsError where a classifier is deployed."""
    answer = endpoint.answer(source, data)
    if isinstance(answer, Detection):
        return answer
    if answer.error is not None:
        return Detection.failed(source, answer.error)
    raise SettingsError(
        f"--draw: {endpoint.name} serves a classifier, whose answers have no boxes; leave --draw out, or name an "
        "endpoint with a detector"
    )


def measure(endpoint: AnyEndpoint, photos: Iterable[Input], requests: int, parallel: int) -> dict[str, Any]:
    """Send ``requests`` requests, ``parallel`` at once, and return percentiles of the latency (ms) and the rate.

    The photos take turns. Latency is what the caller of ``answer`` sees: network, queue and pauses between attempts
    included. Raises DataError if no photo can be read.
    """
    samples = list(islice(_read_photos(photos), MOST_BENCH_PHOTOS))
    if not samples:
        raise DataError("no photo to measure with could be read")

    def time_request(sample: tuple[str, bytes]) -> tuple[float, str | None]:
        start = time.perf_counter()
        answer = endpoint.answer(*sample)
        return time.perf_counter() - start, answer.error

    turns = cycle(samples)
    for _ in map_in_order(time_request, islice(turns, WARM_UP * parallel), parallel):
        pass
    start = time.perf_counter()
    measured = list(map_in_order(time_request, islice(turns, requests), parallel))
    wall = time.perf_counter() - start
    milliseconds = np.array([seconds for seconds, _ in measured]) * 1000
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(milliseconds, (50, 95, 99)))
    errors = [error for _, error in measured if error is not None]
    return {
        "endpoint": endpoint.name,
        "requests": requests,
        "parallel": parallel,
        "photos": len(samples),
        "failed": len(errors),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": round(float(milliseconds.max()), 2),
        "requests_per_s": round(requests / wall, 2),
        "seconds": round(wall, 2),
        "first_error": errors[0] if errors else None,
    }


def _print(answers: Iterable[Answer], format: Format | None) -> int:
    """Print all answers to stdout, and return how many of them are failures."""
    names, answers = peek_class_names(iter(answers), list_columns)
    chosen = choose_format(format)
    if names != BOX_COLUMNS:
        return write_answers((row for row in answers if isinstance(row, Prediction)), chosen, FORMATS, names)
    found = (row if isinstance(row, Detection) else Detection.failed(row.source, row.error) for row in answers)
    return write_answers(found, chosen, BOX_FORMATS, ("cat", "dog"))


def _read_photos(photos: Iterable[Input]) -> Iterator[tuple[str, bytes]]:
    """Yield source and bytes of the photos that can be read, and tell of the others."""
    for photo in photos:
        try:
            yield photo.source, photo.content.read(photo.source)
        except ImageError as error:
            say(str(error))
