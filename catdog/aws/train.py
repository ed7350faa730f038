"""python -m catdog.aws train s3://BUCKET/PHOTOS [-- any setting of train.py]"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from catdog.aws.account import Account, account, is_aws_error
from catdog.aws.app import EXIT_CODES, Bucket, DryRun, Owner, Region, Role, app, edge, say, show, show_dry_run
from catdog.aws.jobs import (
    FRAMEWORK,
    FRAMEWORKS,
    INSTANCE,
    Machines,
    TrainingRequest,
    channels,
    checkpoints_uri,
    estimate,
    job_name,
    job_settings,
)

_HELP = f"""Train on SageMaker: train.py in AWS's PyTorch container.

PHOTOS is what upload gave: a dataset of catdog.dataset, raw photos, or an archive of them. What follows -- goes to
train.py and is checked before anything is sent; weights may be an s3:// address. The model comes to
s3://BUCKET/catdog/jobs/NAME/output/model.tar.gz.

A checkpoint is kept after every epoch, so a spot job that AWS interrupts goes on by itself, and --resume NAME begins
where an earlier job stopped, with the same settings.

\b
Examples:
  python -m catdog.aws train s3://bucket/catdog/datasets/data/ --dry-run
  python -m catdog.aws train s3://bucket/catdog/datasets/data/ --spot --wait -- --epochs 12 --arch resnet34
  python -m catdog.aws train s3://bucket/photos.zip --instance ml.g5.12xlarge -- --config runs/best/config.yaml

\b
{EXIT_CODES}"""

# The options that train and tune share.
Instance = Annotated[str, typer.Option("--instance", metavar="TYPE", help="SageMaker's instance type.")]
Instances = Annotated[
    int, typer.Option("--instances", min=1, metavar="N", help="Machines; more than 1 train together.")
]
Validation = Annotated[
    str | None, typer.Option("--validation", metavar="S3", help="Photos to validate on, when they are apart.")
]
Test = Annotated[str | None, typer.Option("--test", metavar="S3", help="Photos to test on, when they are apart.")]
Spot = Annotated[bool, typer.Option("--spot", help="Spare capacity: cheaper, may be interrupted, and then goes on.")]
MaxHours = Annotated[float, typer.Option("--max-hours", metavar="H", help="End each training after this.")]
MaxWaitHours = Annotated[
    float | None,
    typer.Option("--max-wait-hours", metavar="H", help="With --spot: waiting and training together; default: twice."),
]
Volume = Annotated[int, typer.Option("--volume", min=1, metavar="GB", help="Disk of each machine.")]
KmsKey = Annotated[
    str | None,
    typer.Option("--kms-key", metavar="ID|ARN", help="Your key for volume and model; default: AWS's own."),
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
    instance: Instance = INSTANCE,
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
    with edge("train"):
        me = account(region, role, bucket, owner, dry_run)
        machines = Machines(
            instance_type=instance, instances=instances, volume_gb=volume, max_hours=max_hours, spot=spot,
            max_wait_hours=max_wait_hours, keep_alive_minutes=keep_alive, kms_key=kms_key, framework=framework_version,
        )  # fmt: skip
        inputs = channels(photos, validation, test)
        hyperparameters, more = job_settings(settings or [], inputs)
        chosen = job_name("train", name)
        earlier = job_name("train", resume, flag="--resume") if resume else None
        home = me.default_bucket()
        # Imported after all checks, so that a typo answers at once; the SDK takes seconds.
        from catdog.aws.sdk import start_training
        from catdog.aws.staging import staged

        with staged() as code:
            start_training(
                me,
                TrainingRequest(
                    name=chosen,
                    code=code,
                    role=me.role_arn(),
                    bucket=home,
                    machines=machines,
                    channels=inputs | more,
                    hyperparameters=hyperparameters,
                    checkpoints=checkpoints_uri(home, earlier or chosen),
                    tags=me.tags(Command="train"),
                ),
            )
        cost = estimate(me, machines)
        if dry_run:
            show_dry_run(me.recorded, cost)
            return
        say(f"{chosen}: started on {instances} x {instance}")
        if not wait:
            show({"name": chosen, "state": "InProgress", "cost": cost}, f"catdog.aws status {chosen} --logs", region)
            return
        job = follow(me, chosen, "training")
        show(job | {"cost": cost}, f"catdog.aws deploy --from-job {chosen} --ttl 2h", region)


def follow(me: Account, name: str, kind: Any) -> dict[str, Any]:
    """Wait for a job that was started; whatever ends the waiting, the person knows that the job goes on."""
    from catdog.aws.watch import watch

    try:
        return watch(me, name, kind, say)
    except Exception as error:
        if is_aws_error(error):
            say(f"{name}: goes on without being watched: python -m catdog.aws status {name} --logs")
        raise
