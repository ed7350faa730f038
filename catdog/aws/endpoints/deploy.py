"""catdog aws deploy: put a model into service at an endpoint that is known to answer rightly."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import command, parse_duration, print_dry_run, print_result, say, say_support
from catdog.aws.endpoints.alarms import delete_alarms, list_alarms, name_alarms
from catdog.aws.endpoints.permissions import check_role_reads
from catdog.aws.endpoints.rollout import Patience, Plan, roll_out
from catdog.aws.endpoints.running import FORMER_TAG, Running, inherit, list_changes, read_running
from catdog.aws.failures import explain_error, is_aws_error
from catdog.aws.hosting import ASYNC_PREFIX, Hosting, choose_image
from catdog.aws.instances import estimate_cost, estimate_serverless_cost
from catdog.aws.inventory import (
    EXPIRY_TAG,
    TIME_FORMAT,
    check_endpoint_name,
    delete_versions,
    list_models_of,
    make_version_name,
)
from catdog.aws.package import ARCHIVE_NAME, find_job_model, prepare_upload
from catdog.edge import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, stop_on_sigterm
from catdog.errors import SettingsError
from catdog.onnx_model import EMBEDDED
from catdog.sources.addresses import S3_SCHEME as SCHEME

CAPTURE_PREFIX: Final = "catdog/capture"

_HELP: Final = f"""Serve a model at an endpoint.

MODEL is a run folder of catdog train with its ONNX file, a {ARCHIVE_NAME} here or in S3, or "{EMBEDDED}"; --from-job
names a training job instead. It is packed, uploaded, and served by AWS's PyTorch container, which gets no patches any
more; --image names catdog's own instead, which you build and patch (catdog aws image).

If --name names an endpoint that exists, that one is updated without downtime. Whatever you don't give stays as it runs:
instances, container, data capture, key, kind, timeouts, variables; what changes is shown, and asked about on a
terminal. The new model gets one instance in ten first, then all, --bake minutes each; if more than 5% of its requests
fail, or they take over 20 seconds, SageMaker goes back by itself. That holds for real-time and asynchronous endpoints;
a single instance can't be divided, so it is watched after all requests have moved. Serverless endpoints AWS moves at
once and unwatched. catdog aws rollback goes back later.

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
  catdog aws deploy runs/mine --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1
  catdog aws deploy {EMBEDDED} --serverless --memory 3072
  catdog aws deploy runs/mine --instance-type ml.c5.xlarge --autoscale 1..4 --capture 10
  catdog aws deploy runs/better --name {PROJECT}-prod --bake 15
  catdog aws deploy runs/mine --async --autoscale 0..4
  catdog aws deploy runs/mine --name {PROJECT}-prod --dry-run

\b
Exit codes: 0 in service and tested, 1 it isn't, or you said no, 2 a bad argument or model, or AWS refuses, 130 Ctrl-C,
143 SIGTERM."""


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
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="catdog's own (catdog aws image): so is any whose repository isn't called pytorch-inference, as AWS's "
            "is; '': AWS's PyTorch 2.6, the default.",
        ),
    ] = None,
    test_photo: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Also test with this photo; it goes into the package.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait, don't test.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before an update.")] = False,
    patience: Patience,
) -> None:
    if (model is None) == (from_job is None):
        raise SettingsError("give a MODEL or --from-job NAME, one of them")
    if no_wait and hosting.autoscale:
        raise SettingsError("--autoscale: needs an endpoint in service; leave --no-wait out")
    now = datetime.now(timezone.utc)
    endpoint = check_endpoint_name(name or f"{PROJECT}-{now:%Y%m%d-%H%M%S}", must_be_ours=True)
    choose_image(image, account.region, hosting)  # refused before AWS is asked about anything
    expiry = {EXPIRY_TAG: f"{now + parse_duration('--ttl', ttl):{TIME_FORMAT}}"} if ttl else {}
    with end_quietly(), TemporaryDirectory(prefix="catdog-") as folder:
        running = None if account.dry_run else read_running(account, endpoint)
        if account.dry_run and name:
            say(
                f"a dry run doesn't ask whether {name} exists, and shows a new one; an update keeps what you don't give"
            )
        hosting = _complete(account, endpoint, hosting, running)
        image = choose_image(running.user_image if running and image is None else image, account.region, hosting)
        if no_wait and running and running.is_scaled and running.hosting.instance_type != hosting.instance_type:
            raise SettingsError("--no-wait: autoscaling can begin again only on the new instance type; leave it out")
        role_arn = (running and not account.named_role and running.role_arn) or account.find_role_arn()
        check_role_reads(account, role_arn, hosting.allowed_s3)
        source = model if model is not None else find_job_model(account, str(from_job))
        if account.dry_run and source.startswith(SCHEME):
            say(f"{source} isn't fetched in a dry run, so the upload of its package is not among the requests")
        upload = prepare_upload(account, source, Path(folder), image, test_photo or ())
        upload.check_machine(hosting.on_gpu)
        say_support(account, image)
        plan = Plan(
            name=endpoint,
            version=make_version_name(endpoint, f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(2)}"),
            hosting=hosting,
            image=image,
            upload=upload,
            role_arn=role_arn,
            tags=account.make_tags(Command="deploy", Endpoint=endpoint, **expiry),
            running=running,
            environment=running.user_environment if running else {},
        )
        if running and not _agree_to_changes(running, plan, yes):
            say("nothing was changed")
            raise typer.Exit(1)
        tested = roll_out(account, plan, None if no_wait else patience)
        if account.dry_run:
            print_dry_run(account.recorded, estimate_hosting(hosting, account.region))
        else:
            _print_report(account, plan, tested, not no_wait)


def estimate_hosting(hosting: Hosting, region: str) -> dict[str, Any]:
    """Return what the endpoint costs, from the price table."""
    if hosting.serverless:
        return estimate_serverless_cost(hosting.memory_mb, region)
    cost = estimate_cost("hosting", hosting.machine, region, hosting.count)
    if hosting.bounds:
        most = estimate_cost("hosting", hosting.machine, region, hosting.bounds[1])
        cost["usd_per_hour_at_most"] = most["usd_per_hour"]
    return cost


@contextmanager
def end_quietly() -> Iterator[None]:
    """End Ctrl-C and SIGTERM with their exit codes alone, since what was begun is undone and nothing of it goes on."""
    try:
        with stop_on_sigterm():
            yield
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED) from error


def _complete(account: Account, name: str, hosting: Hosting, running: Running | None) -> Hosting:
    """Return ``hosting`` with what wasn't given: as it runs, or in the bucket; raises SettingsError."""
    if running is not None:
        hosting = inherit(hosting, running)
    hosting.check_unused()
    place = f"s3://{account.require_bucket()}"
    if hosting.bounds and hosting.bounds[0] == 0 and not hosting.asynchronous:
        raise SettingsError(f"--autoscale {hosting.autoscale}: only an endpoint made with --async may have no instance")
    return replace(
        hosting,
        async_output=hosting.async_output or (f"{place}/{ASYNC_PREFIX}/{name}" if hosting.asynchronous else None),
        capture_to=hosting.capture_to or f"{place}/{CAPTURE_PREFIX}/{name}",
    )


def _agree_to_changes(running: Running, plan: Plan, yes: bool) -> bool:
    """Show what an update changes, and ask about it where somebody can answer."""
    more: dict[str, tuple[object, object]] = {
        "package": (running.container.get("ModelDataUrl"), plan.upload.uri),
        "container": (running.container.get("Image"), plan.image),
        "role": (running.role_arn, plan.role_arn),
    }
    if plan.hosting.autoscale:
        more["autoscaling"] = ("as it is" if running.is_scaled else None, plan.hosting.autoscale)
    say(f"{plan.name}: exists; this update changes")
    for line in list_changes(running, plan.hosting, more) or ["nothing but the time that it was made"]:
        say(f"  {line}")
    return yes or not sys.stdin.isatty() or typer.confirm("Update it?", err=True)


def _print_report(account: Account, plan: Plan, tested: dict[str, Any], has_waited: bool) -> None:
    replaced, running = None, plan.running
    tags = {tag["Key"]: tag["Value"] for tag in plan.tags}
    if running is not None:
        replaced = running.config_name
        tags = {**running.tags, **tags}  # an earlier --ttl still holds
        if has_waited:  # until then SageMaker may still need it
            _delete_last_but_one(account, running)
    report = {
        "endpoint": plan.name,
        "status": "InService" if has_waited else "Creating" if running is None else "Updating",
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
    if replaced:
        say(f"{replaced} is kept: catdog aws rollback {plan.name} goes back to it")
    print_result(report, f"catdog aws invoke {plan.name} photo.jpg{flags}")


def _delete_last_but_one(account: Account, running: Running) -> None:
    """Delete what was served before the version that is now replaced; if that fails, ``delete`` does, later."""
    config, sagemaker = running.tags.get(FORMER_TAG), account.client("sagemaker")
    if config is None or config == running.config_name:
        return
    try:
        delete_alarms(account, [name for name in list_alarms(account, running.name) if name in name_alarms(config)])
        delete_versions(sagemaker, [config], list_models_of(sagemaker, config))
    except Exception as error:
        if not is_aws_error(error):
            raise
        say(f"{config}, of before, could not be deleted ({explain_error(error)}); catdog aws delete does, later")
