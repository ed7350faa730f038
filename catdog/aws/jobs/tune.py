"""catdog aws tune SPACE.yaml s3://BUCKET/PHOTOS; and tune --best NAME --out config.yaml"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import Account
from catdog.aws.app import EXIT_CODES, command, print_result, say_support
from catdog.aws.failures import CloudError
from catdog.aws.inventory import make_job_name
from catdog.aws.jobs.requests import (
    MAX_TUNING_NAME,
    OBJECTIVES,
    Machines,
    Search,
    estimate_jobs,
    find_task,
    make_channels,
    take_weights_from_s3,
    tuning_request,
)
from catdog.aws.jobs.sending import start_tuning
from catdog.aws.jobs.status import describe, report_start
from catdog.aws.jobs.train import Name, Test, Validation, Wait
from catdog.errors import SettingsError
from catdog.files import replace_file
from catdog.training.settings import Settings, parse
from catdog.training.space import read_space

MACHINES: Final = Machines(max_hours=2.0)
_OBJECTIVES: Final = "; of a detector ".join(", ".join(names) for names in OBJECTIVES.values())

_HELP = f"""Search for good settings on SageMaker.

SPACE is the file that catdog tune takes; docs/space.yaml is one to start from. Each trial is a training job of
SageMaker's automatic model tuning; trials that do badly are ended early. When the search has ended, --best NAME
--out FILE writes the best trial's settings for catdog train --config.

\b
Examples:
  catdog aws tune docs/space.yaml s3://bucket/catdog/datasets/data/ --max-jobs 20 --parallel 4 --spot
  catdog aws tune --best catdog-tune-20261121-120000-1a2b --out config.yaml
  catdog aws train s3://bucket/catdog/datasets/data/ -- --config config.yaml

\b
{EXIT_CODES}"""


@command(_HELP, "region", "role", "bucket", "owner", "dry_run")
def tune(
    account: Account,
    space: Annotated[Path | None, typer.Argument(metavar="SPACE", help="A YAML file: what to search.")] = None,
    photos: Annotated[str | None, typer.Argument(metavar="PHOTOS", help="s3://bucket/prefix/ or an archive.")] = None,
    best: Annotated[str | None, typer.Option(metavar="NAME", help="A search: write its best settings.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="With --best: the file to write.")] = Path("config.yaml"),
    max_jobs: Annotated[int, typer.Option(min=1, max=750, help="Trials in all.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, max=100, help="Trials at once.")] = 2,
    objective: Annotated[
        str | None, typer.Option(metavar="METRIC", help=f"What to judge by: {_OBJECTIVES}; default: the first.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="Bayesian, or Random.")] = "Bayesian",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of trials.")] = 0,
    validation: Validation = None,
    test: Test = None,
    name: Name = None,
    machines: Machines = MACHINES,
    wait: Wait = False,
) -> None:
    if best is not None:
        _write_best(account, best, out)
        return
    if space is None or photos is None:
        raise SettingsError("give SPACE and PHOTOS to search, or --best NAME to see what a search found")
    if strategy not in ("Bayesian", "Random"):
        raise SettingsError(f"--strategy {strategy}: must be Bayesian or Random")
    wanted = read_space(space)
    channels = make_channels(photos, validation, test)
    fixed = {key: value for key, value in wanted.settings.items() if value is not None}
    objectives = list(OBJECTIVES[find_task(fixed)])
    objective = objective or objectives[0]
    if objective not in objectives:
        raise SettingsError(f"--objective {objective}: must be one of {', '.join(objectives)}")
    hyperparameters, weight_channels = take_weights_from_s3(fixed)
    job = make_job_name("tune", name, MAX_TUNING_NAME)
    search = Search(
        ranges=wanted.search, objective=objective, strategy=strategy, max_jobs=max_jobs, parallel=parallel, seed=seed
    )
    start_tuning(account, tuning_request(account, job, machines, channels | weight_channels, hyperparameters, search))
    say_support(account, machines.find_image(account.region))
    machine = f"{machines.instances} x {machines.instance_type}"
    begun = f"up to {max_jobs} trainings, {parallel} at once, on {machine} each"
    report_start(account, job, "tuning", begun, estimate_jobs(account, machines, max_jobs, parallel), wait)


def _write_best(account: Account, name: str, out: Path) -> None:
    """Write the best trial's settings to ``out``; raises CloudError if no trial has a result yet."""
    describe(account, name, "tuning")  # raises one clear sentence if there is no such search
    sagemaker = account.client("sagemaker")
    search = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    winner = search.get("BestTrainingJob") or {}
    tuned = winner.get("TunedHyperParameters")
    if not tuned:
        raise CloudError(f"{name}: no trial has a result yet; catdog aws status {name} shows how far it is")
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
        f"catdog aws train {_read_channels(definition).get('train', 's3://...')} -- --config {out}",
        account.asked_region,
    )


def read_trial_settings(definition: dict[str, Any], tuned: dict[str, str]) -> Settings:
    """Return the settings of a trial from the search's definition and its tuned values, both text from SageMaker.

    Weights that came by a channel get their s3:// address again, which ``catdog aws train`` understands.
    """
    known = Settings.__dataclass_fields__.keys()
    texts = {**definition.get("StaticHyperParameters", {}), **tuned}
    values = {key: _decode(text) for key, text in texts.items() if key in known}
    if "weights" in values:
        channels = _read_channels(definition)
        paths = values["weights"].split(",")
        values["weights"] = ",".join(channels.get(PurePosixPath(path).parent.name, path) for path in paths)
    return parse([part for key, value in values.items() for part in (f"--{key}", value)], {})


def _read_channels(definition: dict[str, Any]) -> dict[str, str]:
    return {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in definition.get("InputDataConfig", [])
    }


def _decode(text: str) -> str:
    """Turn SageMaker's JSON in text (``"\\"layer2\\""``, ``"0.05"``) into what catdog train's parser takes."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text
