"""python -m catdog.aws tune SPACE.yaml s3://BUCKET/PHOTOS; and tune --best NAME --out config.yaml"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from catdog.aws.account import Account, find_account
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
from catdog.aws.failures import CloudError
from catdog.aws.inventory import make_job_name
from catdog.aws.jobs.requests import (
    CHANNEL_ROOT,
    FRAMEWORK,
    INSTANCE,
    MAX_TUNING_NAME,
    OBJECTIVES,
    Machines,
    TrainingRequest,
    TuningRequest,
    estimate_jobs,
    make_channels,
    take_weights_from_s3,
)
from catdog.aws.jobs.sdk import start_tuning
from catdog.aws.jobs.status import describe_job, watch_job
from catdog.aws.jobs.train import (
    Framework,
    Instances,
    InstanceType,
    KmsKey,
    MaxHours,
    MaxWaitHours,
    Name,
    Spot,
    Test,
    Validation,
    Volume,
    Wait,
)
from catdog.aws.source_code import stage_training_code
from catdog.errors import SettingsError
from catdog.files import replace_file
from catdog.training.settings import Settings, parse
from catdog.training.space import read_space

_HELP = f"""Search for good settings on SageMaker.

SPACE is the file that catdog.training.tune takes; docs/space.yaml is one to start from. Each trial is a training job of
SageMaker's automatic model tuning; trials that do badly are ended early. When the search has ended, --best NAME
--out FILE writes the best trial's settings for train.py --config.

\b
Examples:
  python -m catdog.aws tune docs/space.yaml s3://bucket/catdog/datasets/data/ --max-jobs 20 --parallel 4 --spot
  python -m catdog.aws tune --best catdog-tune-20261121-120000-1a2b --out config.yaml
  python -m catdog.aws train s3://bucket/catdog/datasets/data/ -- --config config.yaml

\b
{EXIT_CODES}"""


@app.command(help=_HELP)
def tune(
    space: Annotated[Path | None, typer.Argument(metavar="SPACE", help="A YAML file: what to search.")] = None,
    photos: Annotated[str | None, typer.Argument(metavar="PHOTOS", help="s3://bucket/prefix/ or an archive.")] = None,
    best: Annotated[
        str | None, typer.Option("--best", metavar="NAME", help="A search: write its best settings.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="With --best: the file to write.")] = Path(
        "config.yaml"
    ),
    max_jobs: Annotated[int, typer.Option("--max-jobs", min=1, max=750, help="Trials in all.")] = 20,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=100, help="Trials at once.")] = 2,
    objective: Annotated[
        str, typer.Option("--objective", metavar="METRIC", help=f"What to judge by: {', '.join(OBJECTIVES)}.")
    ] = "val_accuracy",
    strategy: Annotated[str, typer.Option("--strategy", help="Bayesian, or Random.")] = "Bayesian",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice of trials.")] = 0,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    instance_type: InstanceType = INSTANCE,
    instances: Instances = 1,
    spot: Spot = False,
    max_hours: MaxHours = 2.0,
    max_wait_hours: MaxWaitHours = None,
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
    with exit_on_error("tune"):
        account = find_account(region, role, bucket, owner, dry_run)
        if best is not None:
            _write_best(account, best, out, region)
            return
        if space is None or photos is None:
            raise SettingsError("give SPACE and PHOTOS to search, or --best NAME to see what a search found")
        if objective not in OBJECTIVES:
            raise SettingsError(f"--objective {objective}: must be one of {', '.join(OBJECTIVES)}")
        if strategy not in ("Bayesian", "Random"):
            raise SettingsError(f"--strategy {strategy}: must be Bayesian or Random")
        machines = Machines(
            instance_type=instance_type, instances=instances, volume_gb=volume, max_hours=max_hours, spot=spot,
            max_wait_hours=max_wait_hours, kms_key=kms_key, framework=framework_version,
        )  # fmt: skip
        search_space = read_space(space)
        fixed = {key: value for key, value in search_space.settings.items() if value is not None}
        photo_channels = make_channels(photos, validation, test)
        hyperparameters, weight_channels = take_weights_from_s3(fixed)
        job = make_job_name("tune", name, MAX_TUNING_NAME)
        home = account.require_bucket()
        with stage_training_code() as code:
            training = TrainingRequest(
                name=job,
                code=code,
                role=account.find_role_arn(),
                bucket=home,
                machines=machines,
                channels=photo_channels | weight_channels,
                hyperparameters=hyperparameters,
                checkpoints=None,  # trials would share it, and one would go on from another's
                tags=account.make_tags(Command="tune"),
            )
            request = TuningRequest(
                name=job, training=training, ranges=search_space.search, objective=objective, max_jobs=max_jobs,
                parallel=parallel, strategy="Random" if strategy == "Random" else "Bayesian", seed=seed,
            )  # fmt: skip
            start_tuning(account, request)
        cost = estimate_jobs(account, machines, jobs=max_jobs, parallel=parallel)
        if dry_run:
            print_dry_run(account.recorded, cost)
            return
        say(f"{job}: up to {max_jobs} trainings, {parallel} at once, on {instances} x {instance_type} each")
        if not wait:
            print_result({"name": job, "state": "InProgress", "cost": cost}, f"catdog.aws status {job}", region)
            return
        result = watch_job(account, job, "tuning")
        print_result(result | {"cost": cost}, f"catdog.aws tune --best {job} --out config.yaml", region)


def _write_best(account: Account, name: str, out: Path, region: str | None) -> None:
    """Write the best trial's settings to ``out``; raises CloudError if no trial has a result yet."""
    describe_job(account, name, "tuning")  # raises one clear sentence if there is no such search
    sagemaker = account.client("sagemaker")
    search = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    winner = search.get("BestTrainingJob") or {}
    tuned = winner.get("TunedHyperParameters")
    if not tuned:
        raise CloudError(f"{name}: no trial has a result yet; python -m catdog.aws status {name} shows how far it is")
    definition = search.get("TrainingJobDefinition", {})
    settings = read_trial_settings(definition, tuned)
    with replace_file(out) as temporary:
        temporary.write_text(settings.to_yaml(), encoding="utf-8")
    objective = winner.get("FinalHyperParameterTuningJobObjectiveMetric", {})
    print_result(
        {
            "name": name,
            "best": winner.get("TrainingJobName"),
            "objective": {objective.get("MetricName"): objective.get("Value")} if objective else {},
            "params": {key: _decode(value) for key, value in tuned.items()},
            "config": str(out),
        },
        f"catdog.aws train {_read_channels(definition).get('train', 's3://...')} -- --config {out}",
        region,
    )


def read_trial_settings(definition: dict[str, Any], tuned: dict[str, str]) -> Settings:
    """Return the settings of a trial from the search's definition and its tuned values, both text from SageMaker.

    Weights that came by a channel get their s3:// address again, which ``catdog.aws train`` understands.
    """
    known = Settings.__dataclass_fields__.keys()
    texts = {**definition.get("StaticHyperParameters", {}), **tuned}
    values = {key: _decode(text) for key, text in texts.items() if key in known}
    if "weights" in values:
        channels = _read_channels(definition)
        values["weights"] = ",".join(_restore_uri(path, channels) for path in values["weights"].split(","))
    return parse([part for key, value in values.items() for part in (f"--{key}", value)], {})


def _restore_uri(path: str, channels: dict[str, str]) -> str:
    """Return the s3:// address of a file that a channel brought into the container; other paths stay as they are."""
    place = PurePosixPath(path)
    return channels.get(place.parent.name, path) if place.is_relative_to(CHANNEL_ROOT) else path


def _read_channels(definition: dict[str, Any]) -> dict[str, str]:
    return {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in definition.get("InputDataConfig", [])
    }


def _decode(text: str) -> str:
    """Turn SageMaker's JSON in text (``"\\"layer2\\""``, ``"0.05"``) into what train.py's parser takes."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text
