"""python -m catdog.aws tune SPACE.yaml s3://BUCKET/PHOTOS; and tune --best NAME --out config.yaml"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from catdog.aws.account import Account, CloudError, account
from catdog.aws.app import EXIT_CODES, Bucket, DryRun, Owner, Region, Role, app, edge, say, show, show_dry_run
from catdog.aws.jobs import (
    CHANNEL_ROOT,
    FRAMEWORK,
    INSTANCE,
    MAX_TUNING_NAME,
    OBJECTIVES,
    Machines,
    TrainingRequest,
    TuningRequest,
    channels,
    estimate,
    job_name,
    weights_from_s3,
)
from catdog.aws.train import (
    Framework,
    Instance,
    Instances,
    KmsKey,
    MaxHours,
    MaxWaitHours,
    Name,
    Spot,
    Test,
    Validation,
    Volume,
    Wait,
    follow,
)
from catdog.errors import SettingsError
from catdog.files import replace_file
from catdog.training.settings import Settings, parse
from catdog.training.space import read_space

_HELP = f"""Search for good settings on SageMaker.

SPACE is the file that catdog.training.tune takes; docs/space.yaml is one to start from. Each trial is a training job of
SageMaker's automatic model tuning; those without a chance are ended early. When the search has ended, --best NAME
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
    best: Annotated[str | None, typer.Option("--best", metavar="NAME", help="A search: write what it found.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="With --best: the file.")] = Path("config.yaml"),
    max_jobs: Annotated[int, typer.Option("--max-jobs", min=1, max=750, help="Trials in all.")] = 20,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=100, help="Trials at once.")] = 2,
    objective: Annotated[
        str, typer.Option("--objective", metavar="METRIC", help=f"What to judge by: {', '.join(OBJECTIVES)}.")
    ] = "val_accuracy",
    strategy: Annotated[str, typer.Option("--strategy", help="Bayesian, or Random.")] = "Bayesian",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of points.")] = 0,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    instance: Instance = INSTANCE,
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
    with edge("tune"):
        me = account(region, role, bucket, owner, dry_run)
        if best is not None:
            _fetch_best(me, best, out, region)
            return
        if space is None or photos is None:
            raise SettingsError("give SPACE and PHOTOS to search, or --best NAME to see what a search found")
        if objective not in OBJECTIVES:
            raise SettingsError(f"--objective {objective}: must be one of {', '.join(OBJECTIVES)}")
        if strategy not in ("Bayesian", "Random"):
            raise SettingsError(f"--strategy {strategy}: must be Bayesian or Random")
        machines = Machines(
            instance_type=instance, instances=instances, volume_gb=volume, max_hours=max_hours, spot=spot,
            max_wait_hours=max_wait_hours, kms_key=kms_key, framework=framework_version,
        )  # fmt: skip
        asked = read_space(space)
        inputs = channels(photos, validation, test)
        hyperparameters, more = weights_from_s3(
            {key: value for key, value in asked.settings.items() if value is not None}
        )
        chosen = job_name("tune", name, MAX_TUNING_NAME)
        home = me.default_bucket()
        from catdog.aws.sdk import start_tuning
        from catdog.aws.staging import staged

        with staged() as code:
            training = TrainingRequest(
                name=chosen,
                code=code,
                role=me.role_arn(),
                bucket=home,
                machines=machines,
                channels=inputs | more,
                hyperparameters=hyperparameters,
                checkpoints=None,  # trials would share it, and one would go on from another's
                tags=me.tags(Command="tune"),
            )
            start_tuning(
                me,
                TuningRequest(
                    name=chosen, training=training, ranges=asked.search, objective=objective, max_jobs=max_jobs,
                    parallel=parallel, strategy="Random" if strategy == "Random" else "Bayesian", seed=seed,
                ),
            )  # fmt: skip
        cost = estimate(me, machines, jobs=max_jobs, parallel=parallel)
        if dry_run:
            show_dry_run(me.recorded, cost)
            return
        say(f"{chosen}: up to {max_jobs} trainings, {parallel} at once, on {instances} x {instance} each")
        if not wait:
            show({"name": chosen, "state": "InProgress", "cost": cost}, f"catdog.aws status {chosen}", region)
            return
        job = follow(me, chosen, "tuning")
        show(job | {"cost": cost}, f"catdog.aws tune --best {chosen} --out config.yaml", region)


def _fetch_best(me: Account, name: str, out: Path, region: str | None) -> None:
    """Write the best trial's settings to ``out``; raises CloudError where no trial has a result yet."""
    from catdog.aws.watch import describe

    describe(me, name, "tuning")  # says it in one sentence where there is none
    found = me.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    winner = found.get("BestTrainingJob") or {}
    if not winner.get("TunedHyperParameters"):
        raise CloudError(f"{name}: no trial has a result yet; python -m catdog.aws status {name} shows how far it is")
    definition = found.get("TrainingJobDefinition", {})
    settings = best_settings(definition, winner["TunedHyperParameters"])
    with replace_file(out) as temporary:
        temporary.write_text(settings.to_yaml(), encoding="utf-8")
    objective = winner.get("FinalHyperParameterTuningJobObjectiveMetric", {})
    photos = next((uri for channel, uri in _channels(definition).items() if channel == "train"), "s3://...")
    show(
        {
            "name": name,
            "best": winner.get("TrainingJobName"),
            "objective": {objective.get("MetricName"): objective.get("Value")} if objective else {},
            "params": {key: _decoded(value) for key, value in winner["TunedHyperParameters"].items()},
            "config": str(out),
        },
        f"catdog.aws train {photos} -- --config {out}",
        region,
    )


def best_settings(definition: dict[str, Any], tuned: dict[str, str]) -> Settings:
    """The settings of a trial, from the search's definition and what was tuned, both as SageMaker keeps them: text.

    Weights that came by a channel get their s3:// address again, which ``catdog.aws train`` understands.
    """
    known = Settings.__dataclass_fields__.keys()
    values = {**definition.get("StaticHyperParameters", {}), **tuned}
    found = {key: _decoded(value) for key, value in values.items() if key in known}
    if "weights" in found:
        sources = _channels(definition)
        found["weights"] = ",".join(_source(path, sources) for path in found["weights"].split(","))
    return parse([part for key, value in found.items() for part in (f"--{key}", value)], {})


def _source(path: str, sources: dict[str, str]) -> str:
    below = PurePosixPath(path)
    return sources.get(below.parent.name, path) if below.is_relative_to(CHANNEL_ROOT) else path


def _channels(definition: dict[str, Any]) -> dict[str, str]:
    return {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in definition.get("InputDataConfig", [])
    }


def _decoded(text: str) -> str:
    """SageMaker's JSON in text (``"\\"layer2\\""``, ``"0.05"``) as train.py's parser takes it."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text
