"""python -m catdog.aws train s3://BUCKET/PHOTOS [-- any setting of train.py]"""

from __future__ import annotations

from typing import Annotated

import typer

from catdog.aws.account import find_account
from catdog.aws.app import (
    EXIT_CODES,
    Bucket,
    DryRun,
    Owner,
    Region,
    Role,
    app,
    exit_on_error,
    print_dry_run,
    print_result,
    say,
)
from catdog.aws.inventory import make_job_name
from catdog.aws.jobs.requests import (
    FRAMEWORK,
    FRAMEWORKS,
    INSTANCE,
    Machines,
    TrainingRequest,
    estimate_jobs,
    make_channels,
    make_checkpoints_uri,
    parse_job_settings,
)
from catdog.aws.jobs.sdk import start_training
from catdog.aws.jobs.status import watch_job
from catdog.aws.source_code import stage_training_code

_HELP = f"""Train on SageMaker: train.py in AWS's PyTorch container.

PHOTOS is the address that upload gave: a dataset of catdog.dataset, raw photos, or an archive of them. What follows --
goes to train.py and is checked before anything is sent; weights may be an s3:// address. The model is written to
s3://BUCKET/catdog/jobs/NAME/output/model.tar.gz.

A checkpoint is kept after every epoch, so a spot job that AWS interrupts goes on by itself, and --resume NAME goes on
where an earlier job stopped, with the same settings.

\b
Examples:
  python -m catdog.aws train s3://bucket/catdog/datasets/data/ --dry-run
  python -m catdog.aws train s3://bucket/catdog/datasets/data/ --spot --wait -- --epochs 12 --arch resnet34
  python -m catdog.aws train s3://bucket/photos.zip --instance-type ml.g5.12xlarge -- --config runs/best/config.yaml

\b
{EXIT_CODES}"""

# The options that train and tune share.
InstanceType = Annotated[
    str, typer.Option("--instance-type", "--instance", metavar="TYPE", help="SageMaker's instance type.")
]
Instances = Annotated[
    int, typer.Option("--instances", min=1, metavar="N", help="Machines; more than 1 train together.")
]
Validation = Annotated[
    str | None, typer.Option("--validation", metavar="S3", help="Photos to validate on, if they are separate.")
]
Test = Annotated[str | None, typer.Option("--test", metavar="S3", help="Photos to test on, if they are separate.")]
Spot = Annotated[
    bool, typer.Option("--spot", help="Use spare capacity: cheaper; an interrupted job goes on by itself.")
]
MaxHours = Annotated[float, typer.Option("--max-hours", metavar="H", help="End each training after this.")]
MaxWaitHours = Annotated[
    float | None,
    typer.Option("--max-wait-hours", metavar="H", help="With --spot: waiting and training together; default: twice."),
]
Volume = Annotated[int, typer.Option("--volume", min=1, metavar="GB", help="Disk of each machine.")]
KmsKey = Annotated[
    str | None, typer.Option("--kms-key", metavar="ID|ARN", help="Your key for volume and model; default: AWS's own.")
]
Framework = Annotated[
    str, typer.Option("--framework-version", metavar="V", help=f"PyTorch container: {', '.join(FRAMEWORKS)}.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Show the log until the job has ended.")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Default: catdog-COMMAND-<time>.")]


@app.command(help=_HELP)
def train(
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help="s3://bucket/prefix/ or an archive there.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="-- SETTINGS...", help="Any of python train.py --help.")
    ] = None,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    instance_type: InstanceType = INSTANCE,
    instances: Instances = 1,
    spot: Spot = False,
    max_hours: MaxHours = 6.0,
    max_wait_hours: MaxWaitHours = None,
    keep_alive: Annotated[
        int, typer.Option("--keep-alive", metavar="MIN", help="Keep the machines (and pay them) for the next job.")
    ] = 0,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Go on from the checkpoint of this job.")
    ] = None,
    volume: Volume = 50,
    kms_key: KmsKey = None,
    framework_version: Framework = FRAMEWORK,
    wait: Wait = False,
    region: Region = None,
    role: Role = None,
    bucket: Bucket = None,
    owner: Owner = None,
    dry_run: DryRun = False,
) -> None:
    with exit_on_error("train"):
        account = find_account(region, role, bucket, owner, dry_run)
        machines = Machines(
            instance_type=instance_type, instances=instances, volume_gb=volume, max_hours=max_hours, spot=spot,
            max_wait_hours=max_wait_hours, keep_alive_minutes=keep_alive, kms_key=kms_key, framework=framework_version,
        )  # fmt: skip
        photo_channels = make_channels(photos, validation, test)
        hyperparameters, weight_channels = parse_job_settings(settings or [], photo_channels)
        job = make_job_name("train", name)
        earlier = make_job_name("train", resume, flag="--resume") if resume else None
        home = account.require_bucket()
        with stage_training_code() as code:
            request = TrainingRequest(
                name=job,
                code=code,
                role=account.find_role_arn(),
                bucket=home,
                machines=machines,
                channels=photo_channels | weight_channels,
                hyperparameters=hyperparameters,
                checkpoints=make_checkpoints_uri(home, earlier or job),
                tags=account.make_tags(Command="train"),
            )
            start_training(account, request)
        cost = estimate_jobs(account, machines)
        if dry_run:
            print_dry_run(account.recorded, cost)
            return
        say(f"{job}: started on {instances} x {instance_type}")
        if not wait:
            started = {"name": job, "state": "InProgress", "cost": cost}
            print_result(started, f"catdog.aws status {job} --logs", region)
            return
        result = watch_job(account, job, "training")
        print_result(result | {"cost": cost}, f"catdog.aws deploy --from-job {job} --ttl 2h", region)
