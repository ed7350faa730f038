"""catdog aws transform: score all photos under an S3 prefix with a batch transform job, into one table."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import command, lengthen_pauses, print_dry_run, print_result, say, say_support
from catdog.aws.calls.results import S3Folder, join_outputs, open_table, write_table
from catdog.aws.failures import CloudError, Undo, create_once, delete_if_present, explain_error, is_aws_error
from catdog.aws.hosting import Hosting, choose_image, container_environment, model_request
from catdog.aws.instances import estimate_cost
from catdog.aws.inventory import make_job_name, read_tags
from catdog.aws.jobs.status import ENDED
from catdog.aws.package import PackageUpload, prepare_upload, upload_package
from catdog.errors import SettingsError
from catdog.score import output
from catdog.serving.endpoint import ANSWER_ALL

INSTANCE: Final = "ml.m5.xlarge"
PREFIX: Final = "catdog/transform"
POLL_S: Final = 15.0
MOST_MB: Final = 100  # of a request, and of all that are under way on an instance (CreateTransformJob)
MODEL_TAG: Final = "ModelSha256"

_HELP: Final = """Score all photos under an S3 prefix with a Batch Transform job.

MODEL is what it is for deploy. SOURCE and TARGET are s3:// prefixes: each object below SOURCE gets its answer as a
small file below TARGET, by default s3://BUCKET/catdog/transform/JOB. --out joins them into one table, a row a photo (of
a detector, a head), with the columns of catdog score; what is no photo by its name, such as a dataset's manifest.json,
has no row. The instances end with the job. For a few thousand photos catdog score is faster: a job takes minutes to
start.

--no-wait returns once the job has begun; --job NAME --out FILE waits for it and joins later.

\b
Examples:
  catdog aws transform runs/mine s3://bucket/catdog/datasets/mine/ --out results.parquet
  catdog aws transform embedded s3://bucket/photos/ s3://bucket/answers/ --no-wait
  catdog aws transform --job catdog-transform-20261121-120000-1a2b --out s3://bucket/results.csv

\b
Exit codes: 0 every photo is answered, 1 some isn't or the job failed, 2 a bad argument, or AWS refuses, 130 Ctrl-C
(the job goes on)."""


@command(_HELP, "region", "role", "bucket", "owner", "dry_run")
def transform(
    account: Account,
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
    image: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The container, as for deploy.")] = None,
) -> None:
    if out is not None:
        output.ending(out)
        if not account.dry_run:
            open_table(out)  # refuses before a job is begun
    if job is not None:
        if model or out is None or no_wait:
            raise SettingsError("--job: goes with --out, and without MODEL, SOURCE, TARGET and --no-wait")
        _finish(account, job, out)
        return
    if not (model and source):
        raise SettingsError("give MODEL and SOURCE, or --job and --out")
    name = make_job_name("transform")
    inputs = S3Folder.parse(source)
    outputs = S3Folder.parse(target or f"s3://{account.require_bucket()}/{PREFIX}/{name}")
    if outputs.uri.startswith(inputs.uri):
        raise SettingsError(f"{outputs.uri}: lies below {source}, so answers would be scored as photos")
    hosting = Hosting(instance_type=instance_type, instances=instances, kms_key=kms_key)
    image = choose_image(image, account.region, hosting)
    say_support(account, image)
    with TemporaryDirectory(prefix="catdog-") as folder:
        upload = prepare_upload(account, model, Path(folder), image)
        upload.check_machine(hosting.on_gpu)
        _start(account, name, upload, image, hosting, inputs, outputs, max_payload)
    if account.dry_run:
        print_dry_run(account.recorded, estimate_cost("transform", instance_type, account.region, instances))
    elif no_wait:
        print_result({"job": name, "status": "InProgress"}, f"catdog aws transform --job {name} --out results.parquet")
    else:
        say(f"{name}: begun; after Ctrl-C it goes on, and --job {name} joins it later")
        _finish(account, name, out)


def _start(
    account: Account,
    name: str,
    upload: PackageUpload,
    image: str,
    hosting: Hosting,
    inputs: S3Folder,
    outputs: S3Folder,
    max_payload: int | None,
) -> None:
    """Upload the package, create the model and the job; if the job can't be created, the model is deleted again.

    A request is one object, of any photo format and of at most ``max_payload`` MB.
    """
    concurrency = min(hosting.workers, MOST_MB // (max_payload or 1))
    payload_mb = max_payload or MOST_MB // concurrency
    tags = account.make_tags(Command="transform", **{MODEL_TAG: upload.package.model_sha256 if upload.package else ""})
    environment = container_environment(hosting, account.region, image, payload_mb * 2**20) | {ANSWER_ALL: "1"}
    key = {"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    volume_key = {"VolumeKmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    sagemaker, role_arn = account.client("sagemaker"), account.find_role_arn()
    with Undo(say) as undo:
        upload_package(account, upload, hosting.kms_key)
        undo.add_deletion(f"model {name}", sagemaker.delete_model, ModelName=name)
        create_once(sagemaker.create_model, **model_request(name, image, upload.uri, role_arn, environment, tags))
        undo.add_deletion(f"transform job {name}", _stop, sagemaker=sagemaker, job=name)
        create_once(
            sagemaker.create_transform_job,
            TransformJobName=name,
            ModelName=name,
            MaxConcurrentTransforms=concurrency,
            MaxPayloadInMB=payload_mb,
            BatchStrategy="SingleRecord",
            ModelClientConfig={"InvocationsTimeoutInSeconds": 60, "InvocationsMaxRetries": 3},
            TransformInput={
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": inputs.uri}},
                "ContentType": "application/x-image",
                "CompressionType": "None",
                "SplitType": "None",
            },
            TransformOutput={
                "S3OutputPath": outputs.uri.rstrip("/"),
                "Accept": "application/json",
                "AssembleWith": "None",
                **key,
            },
            TransformResources={"InstanceType": hosting.machine, "InstanceCount": hosting.instances, **volume_key},
            Tags=tags,
        )


def _stop(sagemaker: Any, job: str) -> None:
    status = sagemaker.describe_transform_job(TransformJobName=job)["TransformJobStatus"]
    if status not in ENDED:
        sagemaker.stop_transform_job(TransformJobName=job)


def _finish(account: Account, job: str, out: str | None) -> None:
    """Wait for the job, delete its model, and write the table.

    Raises CloudError if the job failed, and typer.Exit(1) if some photo has no answer.
    """
    sagemaker = account.client("sagemaker")
    try:
        description = _wait(sagemaker, job)
    except KeyboardInterrupt:
        say(f"{job}: goes on; catdog aws transform --job {job} --out FILE waits and joins")
        raise
    tags = read_tags(sagemaker, description["TransformJobArn"])
    if tags.get("Project") == PROJECT:
        _delete_model(sagemaker, description["ModelName"])
    status = description["TransformJobStatus"]
    result: dict[str, Any] = {"job": job, "status": status, "out": out}
    unanswered = 0
    if out is not None:
        inputs = S3Folder.parse(description["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        outputs = S3Folder.parse(description["TransformOutput"]["S3OutputPath"])
        most_bytes = int(description.get("MaxPayloadInMB", 6)) * 2**20
        joined = join_outputs(inputs, outputs, most_bytes)
        totals = write_table(out, joined, tags.get(MODEL_TAG, ""))
        ok = totals.statuses["ok"]
        unanswered = totals.rows - ok
        result |= {"photos": totals.rows, "ok": ok, "failed": dict(sorted(totals.failed.items()))}
        result["labels"] = dict(sorted(totals.labels.items()))
    print_result(result)
    if status != "Completed":
        reason = description.get("FailureReason") or "no reason given"
        kept = f"; {out} has what it did answer" if out else ""
        raise CloudError(f"{job}: {status}: {reason} (log: /aws/sagemaker/TransformJobs){kept}")
    if unanswered:
        raise typer.Exit(1)


def _wait(sagemaker: Any, job: str) -> dict[str, Any]:
    """Return the job's description once it has ended."""
    last_status, pauses = "", lengthen_pauses(POLL_S)
    while True:
        description: dict[str, Any] = sagemaker.describe_transform_job(TransformJobName=job)
        status = description["TransformJobStatus"]
        if status in ENDED:
            return description
        if status != last_status:
            say(f"{job}: {status}; this takes some minutes")
            last_status = status
        time.sleep(next(pauses))


def _delete_model(sagemaker: Any, name: str) -> None:
    try:
        delete_if_present(sagemaker.delete_model, ModelName=name)
    except Exception as error:
        if not is_aws_error(error):
            raise
        say(f"model {name} could not be deleted ({explain_error(error)}); it costs nothing")
