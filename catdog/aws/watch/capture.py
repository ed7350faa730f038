"""catdog aws capture: what an endpoint answered lately, and whether that differs from when its model was measured."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import Account
from catdog.aws.app import command, parse_duration, print_result, say
from catdog.aws.endpoints.deploy import CAPTURE_PREFIX
from catdog.aws.failures import find
from catdog.aws.hosting import VARIANT
from catdog.aws.inventory import check_endpoint_name, describe_endpoint
from catdog.aws.watch.captured import CapturedAnswer, read_captured
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
from catdog.drift.tables import read_reference
from catdog.drift.tally import Tally
from catdog.edge import EXIT_FAILED
from catdog.progress import show_progress

_HELP: Final = """Show what an endpoint answered lately, from the requests that deploy --capture keeps in S3.

Photos a day, the shares of each answer, of "unsure" and of errors. --reference is how the model answered when it was
measured: an evaluation's folder (its predictions.csv), a result of catdog score, or the --out of an earlier report; the
confidences are compared with it by the population stability index (PSI): under 0.1 little has changed, from 0.25 on
much. --out gets the numbers, a chart, and a contact sheet of the least sure photos, which are your callers' photos.

With a bound the command is an alarm. A PSI that chance alone explains, as of a few photos, doesn't ring it; silence
does: where nothing was captured, nothing can be said.

\b
Examples:
  catdog aws capture catdog-prod --since 7d
  catdog aws capture catdog-prod --since 7d --reference evaluation --out drift
  catdog aws capture catdog-prod --since 1d --reference evaluation --max-psi 0.25 --max-unsure 10% --max-errors 1%

\b
Exit codes: 0 within the bounds, 1 a bound is passed, or nothing was captured, 2 a bad argument, or AWS refuses."""


@command(_HELP, "region", "bucket")
def capture(
    account: Account,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name, as deploy gave it.")],
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 90m, 12h or 7d.")] = "7d",
    reference: ReferencePlace = None,
    out: Out = None,
    max_psi: MaxPsi = None,
    max_unsure: MaxUnsure = None,
    max_errors: MaxErrors = None,
) -> None:
    bounds = Bounds.parse(max_psi, max_unsure, max_errors, has_reference=reference is not None)
    check_endpoint_name(endpoint)
    until = datetime.now(timezone.utc)
    begin = until - parse_duration("--since", since)
    if out is not None:
        import matplotlib  # noqa: F401  so that it is missed here, and not after the reading

        check_out(out)
    tally = Tally(read_reference(reference) if reference else None)
    place, variants, percent = find_captures(account, endpoint)
    least_sure = LeastSure()
    for days in range((until.date() - begin.date()).days + 1):
        tally.open(f"{begin + timedelta(days):%Y-%m-%d}")
    with show_progress("read", unit="answers", after_s=1.0, last_line=False) as progress:
        for captured in read_captured(place, variants, begin, until, lambda reason: tally.skipped.update([reason])):
            tally.add(f"{captured.time:%Y-%m-%d}", captured.answer)
            if out is not None and least_sure.wants(captured.answer):
                _keep(least_sure, captured)
            progress(tally.photos)
    about = {
        "of": endpoint,
        "place": place,
        "since": f"{begin:%Y-%m-%dT%H:%M:%SZ}",
        "captured_percent": percent,
    }
    report = write_report(tally, about, bounds, least_sure, out)
    for line in describe_report(report):
        say(line)
    if not tally.photos:
        kept = "" if percent else "; catdog aws deploy --capture 10 keeps a tenth of all requests"
        say(f"{endpoint}: no answer was captured under {place} since {begin:%Y-%m-%d %H:%M} UTC{kept}")
    print_result(report)
    if report["passed"] or not tally.photos:
        raise typer.Exit(EXIT_FAILED)


def find_captures(account: Account, endpoint: str) -> tuple[str, list[str], int | None]:
    """Return the s3:// prefix of an endpoint's captures, its variants, and the share of requests kept now, in percent.

    For an endpoint that is gone, or captures nothing now, the place is where deploy puts them; the share is None.
    """
    sagemaker = account.client("sagemaker")
    description: dict[str, Any] = describe_endpoint(sagemaker, endpoint) or {}
    config: dict[str, Any] = {}
    if description:
        named = find(sagemaker.describe_endpoint_config, EndpointConfigName=description["EndpointConfigName"]) or {}
        config = named.get("DataCaptureConfig") or {}
    place = config.get("DestinationS3Uri")
    if not place:
        place = f"s3://{account.require_bucket()}/{CAPTURE_PREFIX}/{endpoint}"
    variants = [str(variant["VariantName"]) for variant in description.get("ProductionVariants", ())] or [VARIANT]
    percent = config.get("InitialSamplingPercentage") if config.get("EnableCapture", True) else None
    return f"{str(place).rstrip('/')}/{endpoint}", variants, percent


def _keep(least_sure: LeastSure, captured: CapturedAnswer) -> None:
    """Keep the photo as it will be drawn, since its request may be large."""
    photo = captured.read_thumbnail()
    if photo is not None:
        least_sure.add(captured.answer, captured.name, lambda: photo)
