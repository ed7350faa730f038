"""python -m catdog.aws deploy: put a model into service at an endpoint that is known to answer rightly."""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import PROJECT, Account, find_account
from catdog.aws.app import Bucket, DryRun, Owner, Region, Role, app, exit_on_error, print_dry_run, print_result, say
from catdog.aws.calls.endpoint import ASYNC_PREFIX
from catdog.aws.endpoints.rollout import Patience, Plan, roll_out
from catdog.aws.endpoints.scaling import read_scaling
from catdog.aws.hosting import VARIANT, Hosting, Mode
from catdog.aws.instances import estimate_cost, estimate_serverless_cost
from catdog.aws.inventory import (
    EXPIRY_TAG,
    TIME_FORMAT,
    check_own_endpoint_name,
    delete_versions,
    describe_endpoint,
    list_models_of,
    read_tags,
)
from catdog.aws.jobs.requests import FRAMEWORK
from catdog.aws.jobs.sdk import find_inference_image
from catdog.aws.package import ARCHIVE_NAME, EMBEDDED, find_job_model, prepare_upload
from catdog.errors import SettingsError
from catdog.sources.addresses import S3_SCHEME as SCHEME
from catdog.sources.addresses import split_s3_uri as split_uri

INSTANCE: Final = "ml.m5.large"
CAPTURE_PREFIX: Final = "catdog/capture"

_HELP: Final = f"""Serve a model at an endpoint.

MODEL is a run folder of train.py with its ONNX file, a {ARCHIVE_NAME} here or in S3, or "{EMBEDDED}"; --from-job names
a training job instead. It is packed with the handler, uploaded, and served. If --name names an endpoint that exists,
that one is updated without downtime.

Once the endpoint is in service it is asked about test photos: those that catdog draws, and yours (--test-photo). After
wrong answers, an error or Ctrl-C, all that was made is deleted; an endpoint that was updated serves its former model
again.

An endpoint costs by the hour until it is deleted, whether it is asked or not; a serverless one by the second of its
answers. --ttl notes when it may go: python -m catdog.aws delete --expired deletes what is past it. Nothing is deleted
by itself.

\b
Examples:
  python -m catdog.aws deploy runs/mine --ttl 2h
  python -m catdog.aws deploy --from-job catdog-train-20261121-120000 --name {PROJECT}-prod
  python -m catdog.aws deploy {EMBEDDED} --serverless --memory 3072
  python -m catdog.aws deploy runs/mine --instance-type ml.c5.xlarge --autoscale 1..4 --capture 10
  python -m catdog.aws deploy runs/mine --name {PROJECT}-prod --dry-run

\b
Exit codes: 0 in service and tested, 1 it isn't, 2 a bad argument or model, or AWS refuses, 130 Ctrl-C, 143 SIGTERM."""


@app.command(help=_HELP)
def deploy(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help=f"A folder, {ARCHIVE_NAME}, s3:// or {EMBEDDED}.")
    ] = None,
    from_job: Annotated[str | None, typer.Option("--from-job", metavar="NAME", help="A training job's model.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The endpoint, new or existing; default: {PROJECT}-<time>.")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help=f"Default: {INSTANCE}; one with a GPU runs torch.")
    ] = None,
    instances: Annotated[int, typer.Option(metavar="N", min=1, help="How many.")] = 1,
    serverless: Annotated[bool, typer.Option("--serverless", help="No instances; you pay for each answer.")] = False,
    memory: Annotated[int, typer.Option(metavar="MB", help="Serverless: 1024 to 6144.")] = 2048,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Serverless: requests at once.")] = 5,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="Photos and answers go through S3; up to 256 MB a photo.")
    ] = False,
    async_output: Annotated[
        str | None, typer.Option(metavar="S3", help=f"Where answers go; default: s3://BUCKET/{ASYNC_PREFIX}/NAME.")
    ] = None,
    autoscale: Annotated[str | None, typer.Option(metavar="MIN..MAX", help="Number of instances, by the load.")] = None,
    autoscale_target: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Load of an instance to aim at: 600 requests a minute; with --async, 5 that wait."
        ),
    ] = None,
    capture: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Keep this share of requests and answers in S3.")
    ] = None,
    allow_s3: Annotated[
        list[str] | None, typer.Option(metavar="S3", help="Requests may name photos under this prefix.")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="90m, 2h or 3d: after that it may be deleted.")
    ] = None,
    kms_key: Annotated[str | None, typer.Option(metavar="KEY", help="For disks, package and captured data.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="URI", help=f"The container; default: AWS's PyTorch {FRAMEWORK}.")
    ] = None,
    test_photo: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Also test with this photo; it goes into the package.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait, don't test.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="How long it may take to get into service.")
    ] = 30.0,
    test_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long tests accept server errors.")
    ] = 180.0,
    region: Region = None,
    role: Role = None,
    bucket: Bucket = None,
    owner: Owner = None,
    dry_run: DryRun = False,
) -> None:
    with exit_on_error("deploy"), treat_sigterm_as_ctrl_c():
        if (model is None) == (from_job is None):
            raise SettingsError("give a MODEL or --from-job NAME, one of them")
        if serverless and (asynchronous or instance_type):
            raise SettingsError("--serverless: has no instances, and no --async")
        if no_wait and autoscale:
            raise SettingsError("--autoscale: needs an endpoint in service; leave --no-wait out")
        account = find_account(region, role, bucket, owner, dry_run)
        now = datetime.now(timezone.utc)
        endpoint = check_own_endpoint_name(name or f"{PROJECT}-{now:%Y%m%d-%H%M%S}")
        mode: Mode = "serverless" if serverless else "async" if asynchronous else "realtime"
        place = f"s3://{account.require_bucket()}"
        output = async_output or f"{place}/{ASYNC_PREFIX}/{endpoint}"
        for uri in [output, *(allow_s3 or [])]:
            split_uri(uri)
        hosting = Hosting(
            mode=mode,
            instance_type=instance_type or INSTANCE,
            instances=instances,
            memory_mb=memory,
            concurrency=concurrency,
            async_output=output if asynchronous else None,
            autoscale=parse_range(autoscale) if autoscale else None,
            autoscale_target=autoscale_target,
            capture_percent=capture,
            capture_to=f"{place}/{CAPTURE_PREFIX}/{endpoint}",
            kms_key=kms_key,
            allowed_s3=tuple(allow_s3 or ()),
        )
        expiry = {EXPIRY_TAG: f"{now + parse_ttl(ttl):{TIME_FORMAT}}"} if ttl else {}
        role_arn = account.find_role_arn()
        current = None if dry_run else _read_current(account, endpoint, mode)
        with TemporaryDirectory(prefix="catdog-") as folder:
            source = model if model is not None else find_job_model(account, str(from_job))
            if dry_run and source.startswith(SCHEME):
                say(f"{source} isn't fetched in a dry run, so the upload of its package is not among the requests")
            upload = prepare_upload(account, source, Path(folder), test_photo or ())
            plan = Plan(
                name=endpoint,
                stamp=f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(2)}",
                hosting=hosting,
                image=image or find_inference_image(account.region, INSTANCE if serverless else hosting.instance_type),
                upload=upload,
                role_arn=role_arn,
                tags=account.make_tags(Command="deploy", Endpoint=endpoint, **expiry),
                current=current,
                is_scaled=current is not None and mode != "serverless" and bool(read_scaling(account, endpoint)[0]),
            )
            tested = roll_out(account, plan, None if no_wait else Patience(timeout * 60, test_timeout))
        if dry_run:
            print_dry_run(account.recorded, estimate_hosting(hosting, account.region))
            return
        _print_report(account, plan, tested, not no_wait)


def estimate_hosting(hosting: Hosting, region: str) -> dict[str, Any]:
    """Return what the endpoint costs, from the price table."""
    if hosting.mode == "serverless":
        return estimate_serverless_cost(hosting.memory_mb, region)
    cost = estimate_cost("hosting", hosting.instance_type, region, hosting.instances)
    if hosting.autoscale:
        most = estimate_cost("hosting", hosting.instance_type, region, hosting.autoscale[1])
        cost["usd_per_hour_at_most"] = most["usd_per_hour"]
    return cost


def parse_ttl(text: str) -> timedelta:
    """Parse ``90m``, ``2h`` or ``3d``; raises SettingsError."""
    found = re.fullmatch(r"(\d+)([mhd])", text.strip())
    if not found or not int(found[1]):
        raise SettingsError(f"--ttl {text}: give minutes, hours or days, like 90m, 2h or 3d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[found[2]]
    try:
        return timedelta(**{unit: int(found[1])})
    except OverflowError as error:
        raise SettingsError(f"--ttl {text}: too long") from error


def parse_range(text: str) -> tuple[int, int]:
    """Parse ``1..4`` into (1, 4); raises SettingsError."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if not found:
        raise SettingsError(f"--autoscale {text}: give the least and the most instances, like 1..4")
    return int(found[1]), int(found[2])


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
        raise SettingsError(f"--name {name}: wasn't made by catdog.aws deploy (it has other variants)")
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
    flags = " --async" if plan.hosting.mode == "async" else ""
    print_result(report, f"catdog.aws invoke {plan.name} photo.jpg{flags}")


def _delete_former(account: Account, config: str) -> None:
    """Delete the config and model that were replaced; if that fails, ``delete`` finds them later."""
    sagemaker = account.client("sagemaker")
    try:
        delete_versions(sagemaker, [config], list_models_of(sagemaker, config))
    except Exception as error:
        say(f"the former config {config} could not be deleted ({error}); python -m catdog.aws delete does, later")
