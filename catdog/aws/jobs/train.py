"""catdog aws train s3://BUCKET/PHOTOS [-- any setting of catdog train]"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import typer

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import EXIT_CODES, command, say_support
from catdog.aws.inventory import make_job_name
from catdog.aws.jobs.requests import Machines, estimate_jobs, make_channels, parse_job_settings, training_request
from catdog.aws.jobs.sending import start_training
from catdog.aws.jobs.status import report_start

_HELP = f"""Train on SageMaker: catdog train in AWS's PyTorch container, or in another one (--image).

PHOTOS is the address that upload gave: a dataset of catdog dataset, raw photos, or an archive of them. What follows --
goes to catdog train and is checked before anything is sent; weights may be an s3:// address. The model is written to
s3://BUCKET/catdog/jobs/NAME/output/model.tar.gz.

Checkpoints are kept at the ends of epochs and every 10 minutes, so a spot job that AWS interrupts goes on by itself,
and --resume NAME goes on where an earlier job stopped, with the same settings. SageMaker's toolkit doesn't tell the
training that its machine is taken away, so what it learnt since the last checkpoint is lost; with --spot one is kept
every 2 minutes, unless --checkpoint-minutes behind the -- says otherwise.

\b
Examples:
  catdog aws train s3://bucket/catdog/datasets/data/ --dry-run
  catdog aws train s3://bucket/catdog/datasets/data/ --spot --wait -- --epochs 12 --arch resnet34
  catdog aws train s3://bucket/photos.zip --instance-type ml.g5.12xlarge -- --config runs/best/config.yaml

\b
{EXIT_CODES}"""

SPOT_SETTINGS: Final = ("--checkpoint-minutes", "2")
"""Defaults of a spot job: the toolkit tells no training that its machine goes (sagemaker-training-toolkit #125)."""

# The options that train and tune share, beside Machines.
Validation = Annotated[str | None, typer.Option(metavar="S3", help="Photos to validate on, if they are separate.")]
Test = Annotated[str | None, typer.Option(metavar="S3", help="Photos to test on, if they are separate.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Default: catdog-COMMAND-<time>.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show the log until the job has ended.")]


@command(_HELP, "region", "role", "bucket", "owner", "dry_run")
def train(
    account: Account,
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help="s3://bucket/prefix/ or an archive there.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="-- SETTINGS...", help="Any of catdog train --help.")
    ] = None,
    *,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    machines: Machines,
    keep_alive: Annotated[
        int, typer.Option(metavar="MIN", help="Keep the machines (and pay them) for the next job.")
    ] = 0,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Go on from the checkpoint of this job.")] = None,
    wait: Wait = False,
) -> None:
    machines = replace(machines, keep_alive=keep_alive)
    channels = make_channels(photos, validation, test)
    hyperparameters, weight_channels = parse_job_settings(
        [*(SPOT_SETTINGS if machines.spot else ()), *(settings or ())], channels
    )
    job = make_job_name("train", name)
    earlier = make_job_name("train", resume, flag="--resume") if resume else job
    checkpoints = f"s3://{account.require_bucket()}/{PROJECT}/checkpoints/{earlier}/"
    request = training_request(account, job, machines, channels | weight_channels, hyperparameters, checkpoints)
    start_training(account, request)
    say_support(account, machines.find_image(account.region))
    begun = f"started on {machines.instances} x {machines.instance_type}"
    report_start(account, job, "training", begun, estimate_jobs(account, machines), wait)
