"""The command line of catdog score: arguments to a run, its outcome to a summary and an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from catdog.contract import UNSURE, Task
from catdog.edge import EXIT_FAILED, EXIT_SIGNAL, edge, write_summary
from catdog.errors import DataError, SettingsError
from catdog.files import check_local, check_output_file, replace_file
from catdog.sources.names import INSIDE, MAGIC, check_apart, expand_braces, is_object_uri, is_url
from catdog.text import printable

if TYPE_CHECKING:
    from catdog.classifier import Classifier

EXIT_TOO_MANY_ERRORS: Final = 3
SUMMARY_MARK: Final = b'"photos_per_second"'
SHEET_MARK: Final = b"Software\0catdog"
MOST_WORKERS: Final = 4096
DRY_RUN_TASKS: Final = 4  # of 16 photos, for each worker

_HELP: Final = """Score every photo of a large collection, once.

SOURCE is a photo, a folder (with all below it), a quoted pattern, a .zip or .tar archive, a set of shards, or an s3://,
gs:// or az:// address of these. --out gets one row an input, also for one that can't be read: source, status (ok,
corrupt, unsupported, missing, too_large, out_of_memory), label, confidence, a probability a class, width, height,
sha256, error, model, version. With a detector as --model it gets one row a head, and one for a photo without: head (its
number), xmin, ymin, xmax and ymax are there in place of the probabilities.

Killed at any moment and started again with the same command, it goes on where it was. Given again later, the command
brings the result up to date: only photos that are new or were replaced are scored.

\b
Examples:
  catdog score photos/ --out results.parquet
  catdog score "shards/photos-{000..099}.tar" more.zip --out results.csv
  catdog score --list paths.csv --out results.jsonl --max-errors 1%
  catdog score s3://bucket/photos/ --out s3://bucket/results.parquet
  catdog score photos/ --out results.parquet --sort-into sorted/ --contact-sheet sample.png
  catdog score photos/ --out heads.parquet --model heads.onnx
  catdog score photos/ --out results.parquet --dry-run

\b
Exit codes: 0 every input is answered, 1 some rows have no answer, 2 a bad argument, model, source or disk,
3 stopped by --max-errors, 130 interrupted (143 by SIGTERM)."""


class EngineName(str, Enum):
    """What ``--engine`` takes."""

    local = "local"
    ray = "ray"


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog score", extra="score")
def main(
    out: Annotated[str, typer.Option(metavar="FILE", help="The result: .parquet, .csv or .jsonl; a path or s3://.")],
    sources: Annotated[list[str] | None, typer.Argument(metavar="SOURCE...", show_default=False)] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="FILE", help="Paths to score: a line each, or a CSV or Parquet column."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="An ONNX model, also a detector, instead of the embedded one.")
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="What the model has to be for; without --model, which embedded one.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T", help=f'Confidence, 0 to 1, under which the answer is "{UNSURE}", or a head is not given.'
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at a smaller picture first: cheaper, a few answers differ.")
    ] = False,
    workers: Annotated[
        str, typer.Option(metavar="N", help="Processes, each with a model on one core; auto: one a core.")
    ] = "auto",
    max_errors: Annotated[
        str | None, typer.Option(metavar="N|P%", help="Stop when more rows than this have no answer.")
    ] = None,
    summary: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the summary there, as JSON.")] = None,
    sort_into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Link each photo into DIR/<its label>/; never overwrites.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --sort-into: copy, not link.")] = False,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw a sample of the answers, to look at.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --contact-sheet: show on it where the model looked.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, also over another run's result.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Score rows without an answer once more, though nothing changed.")
    ] = False,
    private_urls: Annotated[
        bool, typer.Option("--private-urls", help="Also fetch URLs of a list that lead into a private network.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, try a few, estimate; write nothing.")] = False,
    engine: Annotated[
        EngineName, typer.Option(help="ray: on a Ray cluster, with pip install '.[ray]'.")
    ] = EngineName.local,
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of an existing Ray cluster.")] = None,
    part_rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, hidden=True, help="Rows a part: what a kill can cost.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="ONNX Runtime's execution provider, where one is installed.")
    ] = None,
) -> None:
    stopped = _StopSignal()
    # Imported after parsing, so that --help and a typo answer at once; pyarrow before anything is written.
    import pyarrow  # noqa: F401

    from catdog.score import run
    from catdog.score.sample import draw_sample
    from catdog.score.sorting import Sorter

    _check_arguments(sources, lists, threshold, copy, sort_into)
    limit = run.MaxErrors.parse(max_errors) if max_errors else None
    job, class_names = run.prepare_job(model, threshold, provider, task, fast)
    if job.task == "detect":
        for option, is_given in (("--sort-into", sort_into), ("--explain", explain)):
            if is_given:
                raise SettingsError(f"{option}: goes with a classifier; a detector has no label for a whole photo")
    if explain and not contact_sheet:
        raise SettingsError("--explain says how --contact-sheet shows photos; give that, too")
    looking = _open_looking_model(model, threshold, provider) if explain else None
    chosen, count = _make_engine(engine, workers, ray_address)
    if dry_run:
        trial = _try_a_few(sources or [], lists or [], job, chosen, count)
        if trial["estimated_seconds"] is not None:
            rate, left = trial["photos_per_second"], timedelta(seconds=round(trial["estimated_seconds"]))
            _say(f"{trial['photos']:,} photos; {trial['tried']} were tried, {rate:,.1f}/s, so all take about {left}")
        write_summary(trial)
        return
    _check_outputs(sources, lists, out, model, summary, contact_sheet)
    if sort_into:
        job = replace(job, sorter=Sorter(sort_into, [*class_names, UNSURE], copy=copy))
    with stopped.watch(), _show_progress(sources or [], lists or []) as progress:
        outcome = run.score(
            sources or [], lists or [], out, job, class_names, chosen, count,
            max_errors=limit, restart=restart, retry_failed=retry_failed, private_urls=private_urls,
            part_rows=part_rows or run.PART_ROWS, stop=stopped.event, progress=progress,
        )  # fmt: skip
    report = _make_report(out, outcome, job.model_sha256, count)
    _print_report(report)
    if sort_into and outcome.changes and (outcome.changes.changed or outcome.changes.gone):
        _say(f"{sort_into}: what was sorted there before for photos that changed or went is still there")
    if summary:
        with _explain_write_errors("--summary", summary), replace_file(summary) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    if contact_sheet and outcome.finished:
        with _explain_write_errors("--contact-sheet", contact_sheet):
            draw_sample(out, contact_sheet, looking)
    write_summary(report)
    if outcome.too_many_errors:
        raise typer.Exit(EXIT_TOO_MANY_ERRORS)
    if not outcome.finished:
        raise typer.Exit(EXIT_SIGNAL + stopped.signal)
    if outcome.totals.failed or not outcome.totals.rows:
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def _explain_write_errors(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{option} {path}: can't be written ({error.strerror or error})") from error


class _StopSignal:
    """Ctrl-C and SIGTERM: the first lets the run finish what it has begun, the second ends it at once."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.event.is_set():
            os._exit(EXIT_SIGNAL + number)  # nothing half-written can be left behind
        self.signal = number
        self.event.set()


def _check_arguments(
    sources: list[str] | None, lists: list[str] | None, threshold: float | None, copy: bool, sort_into: Path | None
) -> None:
    if not sources and not lists:
        raise SettingsError("nothing to score; name a SOURCE or a --list")
    if threshold is not None and not 0 <= threshold <= 1:  # also refuses nan
        raise SettingsError(f"--threshold {threshold}: must be in [0, 1]")
    is_missing = [_is_missing(source) for source in sources or []]
    if is_missing and all(is_missing) and not lists:
        raise SettingsError(f"{(sources or [''])[0]}: no such file or folder")
    if sort_into:
        check_local("--sort-into", sort_into)
        check_apart("--sort-into", sort_into, sources or ())
    if copy and not sort_into:
        raise SettingsError("--copy says how --sort-into puts photos; give that, too")


def _is_missing(source: str) -> bool:
    """Whether a source is a plain name, and of nothing."""
    is_plain = not (is_url(source) or is_object_uri(source) or INSIDE in source or MAGIC.search(source))
    return is_plain and not any(map(os.path.lexists, expand_braces(source)))


def _check_outputs(
    sources: list[str] | None,
    lists: list[str] | None,
    out: str,
    model: str | None,
    summary: Path | None,
    contact_sheet: Path | None,
) -> None:
    """Refuse outputs that would replace something else, before the hours that their content takes."""
    if contact_sheet and contact_sheet.suffix.lower() != ".png":
        raise SettingsError(f"--contact-sheet {contact_sheet}: is drawn as a PNG; give a name that ends in .png")
    given = {os.path.realpath(path) for path in (out, model, *(sources or ()), *(lists or ())) if path}
    for option, path, mark in (("--summary", summary, SUMMARY_MARK), ("--contact-sheet", contact_sheet, SHEET_MARK)):
        if not path:
            continue
        if os.path.realpath(path) in given:
            raise SettingsError(f"{option} {path}: is what another argument names; name another file")
        check_output_file(option, path, mark)
        with _explain_write_errors(option, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
    if contact_sheet:
        check_apart("--contact-sheet", contact_sheet, sources or ())


def _make_engine(engine: EngineName, workers: str, ray_address: str | None) -> tuple[Any, int]:
    from catdog.score.workers import auto_workers, run_workers

    if workers != "auto" and not (workers.isdecimal() and 1 <= int(workers) <= MOST_WORKERS):
        raise SettingsError(f"--workers {workers}: must be auto, or a number from 1 to {MOST_WORKERS}")
    if engine is EngineName.ray:
        from catdog.score.ray_engine import connect, run_on_ray

        count = connect(ray_address, None if workers == "auto" else int(workers))
        return lambda tasks, make: run_on_ray(tasks, make, count), count
    if ray_address:
        raise SettingsError("--ray-address is for --engine ray")
    count = auto_workers() if workers == "auto" else int(workers)
    return lambda tasks, make: run_workers(tasks, make, count), count


@contextmanager
def _show_progress(sources: list[str], lists: list[str]) -> Iterator[Any]:
    from catdog.progress import show_progress
    from catdog.sources.listing import can_count, list_inputs

    def count() -> int:
        return sum(1 for _ in list_inputs(sources, lists))

    with show_progress("scored", count=count if can_count(sources) else None) as report:
        yield lambda totals, before: report(totals.rows, note=_format_failures(totals.failed))


def _format_failures(failed: dict[str, int]) -> str:
    return "failed: " + ", ".join(f"{n:,} {status}" for status, n in failed.items()) if failed else ""


def _make_report(out: str, outcome: Any, model: str, workers: int) -> dict[str, Any]:
    totals, spent = outcome.totals, outcome.spent
    worked = sum(spent) or 1.0
    return {
        "out": out if outcome.finished else None,
        "photos": totals.rows,
        "ok": totals.statuses["ok"],
        "failed": totals.failed,
        "first_error": outcome.first_error,
        "labels": dict(sorted(totals.labels.items())),
        "scored_before": outcome.before,
        "changes": outcome.changes and outcome.changes._asdict(),
        "seconds": round(outcome.seconds, 2),
        "photos_per_second": round(outcome.photos_per_second, 1),
        "share": {name: round(value / worked, 3) for name, value in spent._asdict().items()},
        "workers": workers,
        "model": model,
        "stopped": None if outcome.finished else "errors" if outcome.too_many_errors else "signal",
        "too_many_errors": outcome.too_many_errors,
    }


def _say(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")


def _print_report(report: dict[str, Any]) -> None:
    """Print the summary for a person."""
    labels = ", ".join(f"{n:,} {label}" for label, n in report["labels"].items()) or "none"
    so_far = " so far" if report["stopped"] else ""
    lines = [f"{report['ok']:,} of {report['photos']:,} photos answered{so_far}: {labels}"]
    if report["failed"]:
        lines.append(_format_failures(report["failed"]))
    if report["first_error"]:
        lines.append(f"the first: {report['first_error']}")
    if not report["photos"]:
        lines.append("the sources and lists name no photo")
    if report["changes"]:
        lines.append(", ".join(f"{n:,} {kind}" for kind, n in report["changes"].items() if n or kind != "retried"))
    if report["scored_before"] < report["photos"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in report["share"].items())
        lines.append(
            f"{report['photos_per_second']:,.1f} photos/s with {report['workers']} workers, {report['seconds']:,.1f} s "
            f"in all ({shares})"
        )
    if report["too_many_errors"]:
        lines.append("more errors than --max-errors allows")
    if report["stopped"] == "errors":
        lines.append("stopped; the rows are kept, and the same command with a larger --max-errors goes on")
    elif report["stopped"]:
        lines.append("stopped; the same command goes on")
    elif report["changes"] and report["changes"]["kept"] == report["photos"] and not report["changes"]["gone"]:
        lines.append(f"{report['out']} is up to date")
    else:
        lines.append(f"wrote {report['out']}")
    for line in lines:
        _say(line)


def _try_a_few(sources: list[str], lists: list[str], job: Any, engine: Any, workers: int) -> dict[str, Any]:
    """Count all inputs, and score a few of them to know how long the rest would take."""
    from functools import partial

    from catdog.score import run
    from catdog.score.ledger import Totals
    from catdog.score.scorer import Scorer
    from catdog.sources import list_inputs

    begin = time.monotonic()
    inputs = list_inputs(sources, lists)
    first = list(islice(inputs, DRY_RUN_TASKS * run.TASK_PHOTOS * workers))
    count = len(first) + sum(1 for _ in inputs)
    listed = time.monotonic()
    trial, clock, tried = replace(job, sorter=None), run.Clock(workers), Totals()
    for answer in engine(run.batch_inputs(iter(first)), partial(Scorer, trial)):
        tried.add(answer.rows)
        clock.tick(tried.rows)
    return {
        "photos": count,
        "listing_seconds": round(listed - begin, 2),
        "tried": tried.rows,
        "tried_failed": tried.failed,
        "photos_per_second": round(clock.rate, 1),
        "estimated_seconds": round(count / clock.rate, 1) if clock.rate else None,
        "workers": workers,
    }


def _open_looking_model(model: str | None, threshold: float | None, provider: str | None) -> Classifier:
    """Return the model; raises ModelError, before anything is scored, where it can't show where it looked."""
    from catdog.classifier import load

    classifier = load(model, provider=provider, threshold=threshold)
    classifier.check_evidence()
    return classifier
