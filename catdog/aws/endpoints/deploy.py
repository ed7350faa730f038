"""catdog aws deploy: put a model into service at an endpoint that is known to answer rightly."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import command, parse_duration, print_dry_run, print_result, say
from catdog.aws.endpoints.rollout import Patience, Plan, roll_out
from catdog.aws.endpoints.scaling import read_scaling
from catdog.aws.hosting import ASYNC_PREFIX, VARIANT, Hosting, Mode
from catdog.aws.instances import estimate_cost, estimate_serverless_cost
from catdog.aws.inventory import (
    EXPIRY_TAG,
    TIME_FORMAT,
    check_endpoint_name,
    delete_versions,
    describe_endpoint,
    list_models_of,
    make_version_name,
    read_tags,
)
from catdog.aws.jobs.requests import FRAMEWORK
from catdog.aws.jobs.sdk import find_inference_image
from catdog.aws.package import ARCHIVE_NAME, find_job_model, prepare_upload
from catdog.errors import SettingsError
from catdog.onnx_model import EMBEDDED
from catdog.sources.addresses import S3_SCHEME as SCHEME

CAPTURE_PREFIX: Final = "catdog/capture"

_HELP: Final = f"""Serve a model at an endpoint.

MODEL is a run folder of catdog train with its ONNX file, a {ARCHIVE_NAME} here or in S3, or "{EMBEDDED}"; --from-job
names a training job instead. It is packed with the handler, uploaded, and served. If --name names an endpoint that
exists, that one is updated without downtime.

Once the endpoint is in service it is asked about test photos: those that catdog draws, and yours (--test-photo). After
wrong answers, an error or Ctrl-C, all that was made is deleted; an endpoint that was updated serves its former model
again.

An endpoint costs by the hour until it is deleted, whether it is asked or not; a serverless one by the second of its
answers. --ttl notes when it may go: catdog aws delete --expired deletes what is past it. Nothing is deleted
by itself.

\b
Examples:
  catdog aws deploy runs/mine --ttl 2h
  catdog aws deploy --from-job catdog-train-20261121-120000 --name {PROJECT}-prod
  catdog aws deploy {EMBEDDED} --serverless --memory 3072
  catdog aws deploy runs/mine --instance-type ml.c5.xlarge --autoscale 1..4 --capture 10
  catdog aws deploy runs/mine --name {PROJECT}-prod --dry-run

\b
Exit codes: 0 in service and tested, 1 it isn't, 2 a bad argument or model, or AWS refuses, 130 Ctrl-C, 143 SIGTERM."""


@command(_HELP, "region", "role", "bucket", "owner", "dry_run")
def deploy(
    account: Account,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help=f"A folder, {ARCHIVE_NAME}, s3:// or {EMBEDDED}.")
    ] = None,
    *,
    from_job: Annotated[str | None, typer.Option(metavar="NAME", help="A training job's model.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The endpoint, new or existing; default: {PROJECT}-<time>.")
    ] = None,
    hosting: Hosting,
    ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="90m, 2h or 3d: after that it may be deleted.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="URI", help=f"The container; default: AWS's PyTorch {FRAMEWORK}.")
    ] = None,
    test_photo: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Also test with this photo; it goes into the package.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait, don't test.")] = False,
    patience: Patience,
) -> None:
    if (model is None) == (from_job is None):
        raise SettingsError("give a MODEL or --from-job NAME, one of them")
    if no_wait and hosting.autoscale:
        raise SettingsError("--autoscale: needs an endpoint in service; leave --no-wait out")
    now = datetime.now(timezone.utc)
    endpoint = check_endpoint_name(name or f"{PROJECT}-{now:%Y%m%d-%H%M%S}", must_be_ours=True)
    place = f"s3://{account.require_bucket()}"
    hosting = replace(
        hosting,
        async_output=hosting.async_output or f"{place}/{ASYNC_PREFIX}/{endpoint}",
        capture_to=f"{place}/{CAPTURE_PREFIX}/{endpoint}",
    )
    expiry = {EXPIRY_TAG: f"{now + parse_duration('--ttl', ttl):{TIME_FORMAT}}"} if ttl else {}
    role_arn = account.find_role_arn()
    with treat_sigterm_as_ctrl_c(), TemporaryDirectory(prefix="catdog-") as folder:
        current = None if account.dry_run else _read_current(account, endpoint, hosting.mode)
        source = model if model is not None else find_job_model(account, str(from_job))
        if account.dry_run and source.startswith(SCHEME):
            say(f"{source} isn't fetched in a dry run, so the upload of its package is not among the requests")
        upload = prepare_upload(account, source, Path(folder), test_photo or ())
        upload.check_machine(hosting.on_gpu)
        plan = Plan(
            name=endpoint,
            version=make_version_name(endpoint, f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(2)}"),
            hosting=hosting,
            image=image or find_inference_image(account.region, hosting.machine),
            upload=upload,
            role_arn=role_arn,
            tags=account.make_tags(Command="deploy", Endpoint=endpoint, **expiry),
            current=current,
            is_scaled=current is not None and not hosting.serverless and bool(read_scaling(account, endpoint)[0]),
        )
        tested = roll_out(account, plan, None if no_wait else patience)
        if account.dry_run:
            print_dry_run(account.recorded, estimate_hosting(hosting, account.region))
        else:
            _print_report(account, plan, tested, not no_wait)


def estimate_hosting(hosting: Hosting, region: str) -> dict[str, Any]:
    """Return what the endpoint costs, from the price table."""
    if hosting.serverless:
        return estimate_serverless_cost(hosting.memory, region)
    cost = estimate_cost("hosting", hosting.machine, region, hosting.instances)
    if hosting.bounds:
        most = estimate_cost("hosting", hosting.machine, region, hosting.bounds[1])
        cost["usd_per_hour_at_most"] = most["usd_per_hour"]
    return cost


@contextmanager
def treat_sigterm_as_ctrl_c() -> Iterator[None]:
    """Make SIGTERM undo what was done, as Ctrl-C does; the exit code is 128 plus the signal's number."""
    number = signal.SIGINT

    def stop(received: int, _: FrameType | None) -> None:
        nonlocal number
        number = signal.Signals(received)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(128 + number) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_current(account: Account, name: str, mode: Mode) -> dict[str, Any] | None:
    """Return DescribeEndpoint of the endpoint that has this name now, or None if there is none.

    Raises SettingsError if it can't be updated to ``mode``.
    """
    sagemaker = account.client("sagemaker")
    current = describe_endpoint(sagemaker, name)
    if current is None:
        return None
    if read_tags(sagemaker, current["EndpointArn"]).get("Project") != PROJECT:
        raise SettingsError(f"--name {name}: that endpoint isn't catdog's (it has no tag Project={PROJECT})")
    if current["EndpointStatus"] != "InService":
        raise SettingsError(f"--name {name}: is {current['EndpointStatus']}; wait until it is in service, or delete it")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=current["EndpointConfigName"])
    variants = config["ProductionVariants"]
    current_mode: Mode = "async" if config.get("AsyncInferenceConfig") else "realtime"
    if any("ServerlessConfig" in variant for variant in variants):
        current_mode = "serverless"
    if current_mode != mode:
        raise SettingsError(
            f"--name {name}: is {current_mode}, and SageMaker doesn't turn that into {mode}; take another name"
        )
    if [variant["VariantName"] for variant in variants] != [VARIANT]:
        raise SettingsError(f"--name {name}: wasn't made by catdog aws deploy (it has other variants)")
    return current


def _print_report(account: Account, plan: Plan, tested: dict[str, Any], has_waited: bool) -> None:
    replaced, tags = None, {tag["Key"]: tag["Value"] for tag in plan.tags}
    if plan.current is not None:
        replaced = plan.current["EndpointConfigName"]
        tags = read_tags(account.client("sagemaker"), plan.current["EndpointArn"])  # an earlier --ttl still holds
        if has_waited:  # until then the former config is in use
            _delete_former(account, replaced)
    report = {
        "endpoint": plan.name,
        "status": "InService" if has_waited else "Creating" if plan.current is None else "Updating",
        "mode": plan.hosting.mode,
        "version": plan.version,
        "replaced": replaced,
        "package": plan.upload.uri,
        "tested": tested or None,
        "expires_at": tags.get(EXPIRY_TAG),
        "region": account.region,
        "cost": estimate_hosting(plan.hosting, account.region),
    }
    flags = " --async" if plan.hosting.asynchronous else ""
    print_result(report, f"catdog aws invoke {plan.name} photo.jpg{flags}")


def _delete_former(account: Account, config: str) -> None:
    """Delete the config and model that were replaced; if that fails, ``delete`` finds them later."""
    sagemaker = account.client("sagemaker")
    try:
        delete_versions(sagemaker, [config], list_models_of(sagemaker, config))
    except Exception as error:
        say(f"the former config {config} could not be deleted ({error}); catdog aws delete does, later")
