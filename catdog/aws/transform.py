"""python -m catdog.aws transform: all photos under an S3 prefix, by a Batch Transform job, into one table."""

from __future__ import annotations

import secrets
import time
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer

from catdog.aws import prices
from catdog.aws.account import PROJECT, Account, CloudError, account, explain, is_aws_error
from catdog.aws.app import Bucket, DryRun, Owner, Region, Role, app, edge, say, show, show_dry_run
from catdog.aws.artifact import Artifact, prepare, upload
from catdog.aws.deploy import FRAMEWORK
from catdog.aws.hosting import NAME_LENGTH, Hosting, Tags, environment, model_request
from catdog.aws.inventory import tags_of
from catdog.aws.invoke import embedded_class_names
from catdog.aws.joined import Place, rows, write
from catdog.aws.undo import Undo, gone, made
from catdog.errors import SettingsError
from catdog.score import output

INSTANCE: Final = "ml.m5.xlarge"
PREFIX: Final = "catdog/transform"
POLL_S: Final = 15.0
MOST_MB: Final = 100  # of a request, and of all that are under way on an instance (CreateTransformJob)
ENDED: Final = ("Completed", "Failed", "Stopped")
ANSWER_ALL: Final = "CATDOG_ANSWER_ALL"
"""Tells the handler to answer a photo that can't be read with 200 and its error: a 4xx would fail the whole job."""
MODEL_TAG: Final = "ModelSha256"

_HELP: Final = """Score all photos under an S3 prefix with a Batch Transform job.

MODEL is one as for deploy. SOURCE and TARGET are s3:// prefixes: each object below SOURCE gets its answer as a small
file below TARGET, by default s3://BUCKET/catdog/transform/JOB. --out joins them to one table, a row an object, with the
columns of python -m catdog.score. The instances end with the job. For a few thousand photos catdog.score is faster: a
job takes minutes to start.

--no-wait returns once the job has begun; --job NAME --out FILE waits for it and joins later.

\b
Examples:
  python -m catdog.aws transform runs/mine s3://bucket/catdog/datasets/mine/ --out results.parquet
  python -m catdog.aws transform embedded s3://bucket/photos/ s3://bucket/answers/ --no-wait
  python -m catdog.aws transform --job catdog-transform-20261121-120000-1a2b --out s3://bucket/results.csv

\b
Exit codes: 0 every object is answered, 1 some isn't or the job failed, 2 a bad argument, or AWS refuses, 130 Ctrl-C
(the job goes on)."""


@app.command(help=_HELP)
def transform(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", show_default=False)] = None,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", show_default=False)] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The table: .parquet, .csv or .jsonl; a path or s3://.")
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Wait for a job that is there, and join.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the job has begun.")] = False,
    instance_type: Annotated[str, typer.Option(metavar="TYPE")] = INSTANCE,
    instances: Annotated[int, typer.Option(metavar="N", min=1)] = 1,
    max_payload: Annotated[
        int | None, typer.Option(metavar="MB", min=1, max=MOST_MB, help="Of the largest photo; default: 100 / vCPUs.")
    ] = None,
    kms_key: Annotated[str | None, typer.Option(metavar="KEY", help="For disks, package and answers.")] = None,
    image: Annotated[str | None, typer.Option(metavar="URI", help="Of the container.")] = None,
    region: Region = None,
    role: Role = None,
    bucket: Bucket = None,
    owner: Owner = None,
    dry_run: DryRun = False,
) -> None:
    with edge("transform"):
        if out is not None:
            output.ending(out)
        me = account(region, role, bucket, owner, dry_run)
        if job is not None:
            if model or out is None or no_wait:
                raise SettingsError("--job: goes with --out, and without MODEL, SOURCE, TARGET and --no-wait")
            _finish(me, job, out)
            return
        if not (model and source):
            raise SettingsError("give MODEL and SOURCE, or --job and --out")
        name = f"{PROJECT}-transform-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        assert len(name) <= NAME_LENGTH
        inputs, outputs = Place.of(source), Place.of(target or f"s3://{me.default_bucket()}/{PREFIX}/{name}")
        if outputs.uri.startswith(inputs.uri):
            raise SettingsError(f"{outputs.uri}: lies below {source}, so answers would be scored as photos")
        hosting = Hosting(instance_type=instance_type, instances=instances, kms_key=kms_key)
        concurrency = min(hosting.workers, MOST_MB // (max_payload or 1))
        payload_mb = max_payload or MOST_MB // concurrency
        with TemporaryDirectory(prefix="catdog-") as folder:
            artifact = prepare(me, model, Path(folder))
            tags = me.tags(Command="transform", **{MODEL_TAG: artifact.model_sha256})
            request = job_request(name, inputs, outputs, hosting, concurrency, payload_mb, tags)
            _start(me, name, artifact, image or _image(me, instance_type), hosting, request)
        if dry_run:
            show_dry_run(me.recorded, prices.cost("transform", instance_type, me.region, instances))
        elif no_wait:
            show({"job": name, "status": "InProgress"}, f"catdog.aws transform --job {name} --out results.parquet")
        else:
            say(f"{name}: begun; after Ctrl-C it goes on, and --job {name} joins it later")
            _finish(me, name, out)


def job_request(
    name: str, inputs: Place, outputs: Place, hosting: Hosting, concurrency: int, payload_mb: int, tags: Tags
) -> dict[str, Any]:
    """CreateTransformJob: one object a request, of any photo format."""
    key = {"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    volume_key = {"VolumeKmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    return {
        "TransformJobName": name,
        "ModelName": name,
        "MaxConcurrentTransforms": concurrency,
        "MaxPayloadInMB": payload_mb,
        "BatchStrategy": "SingleRecord",
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": 60, "InvocationsMaxRetries": 3},
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": inputs.uri}},
            "ContentType": "application/x-image",
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": outputs.uri.rstrip("/"),
            "Accept": "application/json",
            "AssembleWith": "None",
            **key,
        },
        "TransformResources": {
            "InstanceType": hosting.instance_type,
            "InstanceCount": hosting.instances,
            **volume_key,
        },
        "Tags": tags,
    }


def _start(me: Account, name: str, artifact: Artifact, image: str, hosting: Hosting, request: dict[str, Any]) -> None:
    """Upload, CreateModel, CreateTransformJob; a model without a job isn't left behind."""
    sagemaker = me.client("sagemaker")
    model = model_request(name, image, artifact.uri, me.role_arn(), hosting, me.region, request["Tags"])
    payload = int(request["MaxPayloadInMB"]) * 2**20
    model["PrimaryContainer"]["Environment"] = environment(hosting, me.region, payload) | {ANSWER_ALL: "1"}
    with Undo() as undo:
        upload(me, artifact, hosting.kms_key)
        undo.add(f"model {name}", lambda: gone(lambda: sagemaker.delete_model(ModelName=name)))
        made(lambda: sagemaker.create_model(**model))
        undo.add(f"transform job {name}", lambda: gone(lambda: _stop(sagemaker, name)))
        made(lambda: sagemaker.create_transform_job(**request))


def _stop(sagemaker: Any, job: str) -> None:
    status = sagemaker.describe_transform_job(TransformJobName=job)["TransformJobStatus"]
    if status not in ENDED:
        sagemaker.stop_transform_job(TransformJobName=job)


def _finish(me: Account, job: str, out: str | None) -> None:
    """Wait, delete the job's model, join; raises CloudError when the job failed, typer.Exit(1) for missing answers."""
    sagemaker = me.client("sagemaker")
    try:
        found = _wait(sagemaker, job)
    except KeyboardInterrupt:
        say(f"{job}: goes on; python -m catdog.aws transform --job {job} --out FILE waits and joins")
        raise
    tags = tags_of(sagemaker, found["TransformJobArn"])
    if tags.get("Project") == PROJECT:
        _drop_model(sagemaker, found["ModelName"])
    status, reason = found["TransformJobStatus"], found.get("FailureReason") or "no reason given"
    report: dict[str, Any] = {"job": job, "status": status, "out": out}
    unanswered = 0
    if out is not None:
        inputs = Place.of(found["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        outputs = Place.of(found["TransformOutput"]["S3OutputPath"])
        most_bytes = int(found.get("MaxPayloadInMB", 6)) * 2**20
        totals = write(out, rows(inputs, outputs, most_bytes), embedded_class_names(), tags.get(MODEL_TAG, ""))
        unanswered = totals.rows - totals.statuses["ok"]
        failed = {name: n for name, n in sorted(totals.statuses.items()) if name != "ok"}
        report |= {"photos": totals.rows, "ok": totals.statuses["ok"], "failed": failed}
        report["labels"] = dict(sorted(totals.labels.items()))
    show(report)
    if status != "Completed":
        kept = f"; {out} has what it did answer" if out else ""
        raise CloudError(f"{job}: {status}: {reason} (log: /aws/sagemaker/TransformJobs){kept}")
    if unanswered:
        raise typer.Exit(1)


def _wait(sagemaker: Any, job: str) -> dict[str, Any]:
    told = ""
    while True:
        found: dict[str, Any] = sagemaker.describe_transform_job(TransformJobName=job)
        status = found["TransformJobStatus"]
        if status in ENDED:
            return found
        if status != told:
            say(f"{job}: {status}; this takes some minutes")
            told = status
        time.sleep(POLL_S)


def _drop_model(sagemaker: Any, name: str) -> None:
    try:
        gone(lambda: sagemaker.delete_model(ModelName=name))
    except Exception as error:
        if not is_aws_error(error):
            raise
        say(f"model {name} could not be deleted ({explain(error)}); it costs nothing")


def _image(me: Account, instance_type: str) -> str:
    from catdog.aws.sdk import image_uri  # takes seconds to import

    return image_uri("inference", me.region, instance_type, FRAMEWORK)
