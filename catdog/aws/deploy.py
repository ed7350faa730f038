"""python -m catdog.aws deploy: a model to an endpoint that is known to answer rightly, or to nothing at all."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, Final

import typer

from catdog.aws import prices, scaling
from catdog.aws.account import PROJECT, Account, account
from catdog.aws.app import Bucket, DryRun, Owner, Region, Role, app, edge, say, show, show_dry_run
from catdog.aws.artifact import ARCHIVE, EMBEDDED, Artifact, of_job, prepare, upload
from catdog.aws.asynchronous import PREFIX as ASYNC_PREFIX
from catdog.aws.asynchronous import AsyncEndpoint
from catdog.aws.hosting import VARIANT, Hosting, Mode, check_new_name, parse_range, parse_ttl
from catdog.aws.inventory import delete_version, models_of, tags_of
from catdog.aws.rollout import Patience, Plan, roll_out
from catdog.aws.runtime import Endpoint
from catdog.aws.smoke import smoke_test
from catdog.aws.undo import describe_endpoint
from catdog.errors import SettingsError
from catdog.serving.golden import TOLERANCE
from catdog.serving.loading import TORCH_TOLERANCE
from catdog.sources.objects import S3_SCHEME as SCHEME
from catdog.sources.objects import split_s3_uri as split_uri

FRAMEWORK: Final = "2.6.0"  # PyTorch, of the newest inference container
INSTANCE: Final = "ml.m5.large"
CAPTURE_PREFIX: Final = "catdog/capture"

_HELP: Final = f"""Serve a model at an endpoint.

MODEL is a run folder of train.py with its ONNX file, a {ARCHIVE} here or in S3, or "{EMBEDDED}"; --from-job names
a training job instead. It is packed with the handler, uploaded, and served; --name with the name of an endpoint that
is there updates that without downtime.

When the endpoint is in service it is asked about test photos: those drawn by catdog, and yours (--test-photo). Wrong
answers, an error or Ctrl-C take back all that was made; an endpoint that was updated serves its former model again.

An endpoint costs by the hour until it is deleted, asked or not; a serverless one by the second of its answers. --ttl
writes down when it ends: python -m catdog.aws delete --expired ends those that are past it, nothing does by itself.

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
        str | None, typer.Argument(metavar="MODEL", help=f"A folder, {ARCHIVE}, s3:// or {EMBEDDED}.")
    ] = None,
    from_job: Annotated[str | None, typer.Option("--from-job", metavar="NAME", help="A training job's model.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Of the endpoint, new or not; default: {PROJECT}-<time>.")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help=f"Default: {INSTANCE}; one with a GPU runs torch.")
    ] = None,
    instances: Annotated[int, typer.Option(metavar="N", min=1, help="How many.")] = 1,
    serverless: Annotated[bool, typer.Option("--serverless", help="No instances; paid by the answer.")] = False,
    memory: Annotated[int, typer.Option(metavar="MB", help="Serverless: 1024 to 6144.")] = 2048,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Serverless: requests at once.")] = 5,
    asynchronous: Annotated[
        bool, typer.Option("--async", help="Photos and answers go through S3; up to 256 MB a photo.")
    ] = False,
    async_output: Annotated[
        str | None,
        typer.Option(metavar="S3", help=f"For answers; default: s3://BUCKET/{ASYNC_PREFIX}/NAME."),
    ] = None,
    autoscale: Annotated[str | None, typer.Option(metavar="MIN..MAX", help="Instances, by the load.")] = None,
    autoscale_target: Annotated[
        float | None,
        typer.Option(metavar="N", help="Requests a minute and instance to aim at: 600; --async: those that wait: 5."),
    ] = None,
    capture: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Keep this share of requests and answers in S3.")
    ] = None,
    allow_s3: Annotated[
        list[str] | None, typer.Option(metavar="S3", help="Requests may name photos under this prefix.")
    ] = None,
    ttl: Annotated[str | None, typer.Option(metavar="TIME", help="90m, 2h or 3d: when it may be deleted.")] = None,
    kms_key: Annotated[str | None, typer.Option(metavar="KEY", help="For disks, package and captured data.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="URI", help=f"Of the container; default: AWS's PyTorch {FRAMEWORK}.")
    ] = None,
    test_photo: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Also test with this photo; it goes into the package.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait, don't test.")] = False,
    timeout: Annotated[float, typer.Option(metavar="MINUTES", min=0, help="For it to get into service.")] = 30.0,
    test_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="In which tests may meet server errors.")
    ] = 180.0,
    region: Region = None,
    role: Role = None,
    bucket: Bucket = None,
    owner: Owner = None,
    dry_run: DryRun = False,
) -> None:
    with edge("deploy"), stoppable():
        if (model is None) == (from_job is None):
            raise SettingsError("give a MODEL or --from-job NAME, one of them")
        if serverless and (asynchronous or instance_type):
            raise SettingsError("--serverless: has no instances, and no --async")
        if no_wait and autoscale:
            raise SettingsError("--autoscale: needs an endpoint in service; leave --no-wait out")
        me = account(region, role, bucket, owner, dry_run)
        moment = datetime.now(timezone.utc)
        endpoint = check_new_name(name or f"{PROJECT}-{moment:%Y%m%d-%H%M%S}")
        mode: Mode = "serverless" if serverless else "async" if asynchronous else "realtime"
        place = f"s3://{me.default_bucket()}"
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
        expiry = {"ExpiresAt": f"{moment + parse_ttl(ttl):%Y-%m-%dT%H:%M:%SZ}"} if ttl else {}
        role_arn, now = me.role_arn(), {} if dry_run else _state(me, endpoint, mode)
        with TemporaryDirectory(prefix="catdog-") as folder:
            source = model if model is not None else _job_model(me, str(from_job))
            if dry_run and source.startswith(SCHEME):
                say(f"{source} isn't fetched in a dry run, so the upload of its package is not among the requests")
            artifact = prepare(me, source, Path(folder), test_photo or ())
            plan = Plan(
                name=endpoint,
                stamp=f"{moment:%Y%m%d%H%M%S}-{secrets.token_hex(2)}",
                hosting=hosting,
                image=image or _image(me, hosting),
                package_uri=artifact.uri,
                role_arn=role_arn,
                tags=me.tags(Command="deploy", Endpoint=endpoint, **expiry),
                **now,
            )
            tested = _roll_out(me, plan, artifact, None if no_wait else Patience(timeout * 60), test_timeout)
        if dry_run:
            show_dry_run(me.recorded, estimate(hosting, me.region))
            return
        _report(me, plan, tested, not no_wait)


def estimate(hosting: Hosting, region: str) -> dict[str, Any]:
    """What the endpoint costs, from the price table."""
    if hosting.mode == "serverless":
        return prices.serverless_cost(hosting.memory_mb, region)
    found = prices.cost("hosting", hosting.instance_type, region, hosting.instances)
    if hosting.autoscale:
        most = prices.cost("hosting", hosting.instance_type, region, hosting.autoscale[1])
        found["usd_per_hour_at_most"] = most["usd_per_hour"]
    return found


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM takes the way of Ctrl-C, so that it, too, leaves nothing behind; exit codes as shells have them."""
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


def _job_model(me: Account, job: str) -> str:
    if me.dry_run:
        return f"s3://{me.default_bucket()}/catdog/jobs/{job}/output/{ARCHIVE}"
    return of_job(me, job)


def _image(me: Account, hosting: Hosting) -> str:
    from catdog.aws.sdk import image_uri  # takes seconds to import

    instance_type = INSTANCE if hosting.mode == "serverless" else hosting.instance_type
    return image_uri("inference", me.region, instance_type, FRAMEWORK)


def _state(me: Account, name: str, mode: Mode) -> dict[str, Any]:
    """What serves under this name now; raises SettingsError where it can't be updated to ``mode``."""
    sagemaker = me.client("sagemaker")
    now = describe_endpoint(sagemaker, name)
    if now is None:
        return {}
    if tags_of(sagemaker, now["EndpointArn"]).get("Project") != PROJECT:
        raise SettingsError(f"--name {name}: that endpoint isn't catdog's (it has no tag Project={PROJECT})")
    if now["EndpointStatus"] != "InService":
        raise SettingsError(f"--name {name}: is {now['EndpointStatus']}; wait until it is in service, or delete it")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=now["EndpointConfigName"])
    variants = config["ProductionVariants"]
    was: Mode = "async" if config.get("AsyncInferenceConfig") else "realtime"
    was = "serverless" if any("ServerlessConfig" in variant for variant in variants) else was
    if was != mode:
        raise SettingsError(f"--name {name}: is {was}, and SageMaker doesn't turn that into {mode}; take another name")
    if [variant["VariantName"] for variant in variants] != [VARIANT]:
        raise SettingsError(f"--name {name}: wasn't made by catdog.aws deploy (it has other variants)")
    return {"now": now, "now_scaled": mode != "serverless" and scaling.is_on(me, name)}


def _roll_out(
    me: Account, plan: Plan, artifact: Artifact, patience: Patience | None, test_timeout: float
) -> dict[str, Any]:
    tested: dict[str, Any] = {}

    def test() -> None:
        runtime, hosting = me.client("sagemaker-runtime"), plan.hosting
        ask: Any = Endpoint(runtime, plan.name, pauses_s=()).call  # smoke_test has its own patience
        if hosting.mode == "async":
            ask = AsyncEndpoint(runtime, me.client("s3"), plan.name, str(hosting.async_output)).call
        tolerance = TORCH_TOLERANCE if hosting.on_gpu else TOLERANCE
        tested.update(smoke_test(plan.name, ask, artifact.golden(), tolerance, test_timeout))

    roll_out(me, plan, lambda: upload(me, artifact, plan.hosting.kms_key), test, patience)
    return tested


def _report(me: Account, plan: Plan, tested: dict[str, Any], waited: bool) -> None:
    replaced, tags = None, {tag["Key"]: tag["Value"] for tag in plan.tags}
    if plan.now is not None:
        replaced = plan.now["EndpointConfigName"]
        tags = tags_of(me.client("sagemaker"), plan.now["EndpointArn"])  # without --ttl, a former one still holds
        if waited:  # before, the former config is still in use
            _tidy(me, replaced)
    report = {
        "endpoint": plan.name,
        "status": "InService" if waited else "Creating" if plan.now is None else "Updating",
        "mode": plan.hosting.mode,
        "version": plan.version,
        "replaced": replaced,
        "package": plan.package_uri,
        "tested": tested or None,
        "expires_at": tags.get("ExpiresAt"),
        "region": me.region,
        "cost": estimate(plan.hosting, me.region),
    }
    flags = " --async" if plan.hosting.mode == "async" else ""
    show(report, f"catdog.aws invoke {plan.name} photo.jpg{flags}")


def _tidy(me: Account, config: str) -> None:
    """Delete the config and model that were replaced; should that fail, ``delete`` finds them later."""
    sagemaker = me.client("sagemaker")
    try:
        delete_version(sagemaker, config, models_of(sagemaker, config))
    except Exception as error:
        say(f"the former config {config} could not be deleted ({error}); python -m catdog.aws delete does, later")
