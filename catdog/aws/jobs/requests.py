"""Training and tuning jobs as plain data: what they run on, what they read, what they print. Sends nothing to AWS.

catdog train's arguments -> parse_job_settings -> hyperparameters and channels
-> training_request, tuning_request: the parameters of CreateTrainingJob, CreateHyperParameterTuningJob
-> jobs.sending
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from typer import Option

from catdog.aws.account import PROJECT, Account
from catdog.aws.containers import check_image, find_training_image
from catdog.aws.instances import check_instance_type, estimate_cost, has_own_disk, has_several_gpus
from catdog.aws.source_code import TRAIN_ENTRY
from catdog.contract import Task
from catdog.errors import SettingsError
from catdog.sources.addresses import split_s3_uri as split_uri
from catdog.sources.names import is_archive_name
from catdog.support import NEWEST, TRAINING
from catdog.training.settings import CHECKPOINTS, TASK_DEFAULTS, Settings, parse, resolve
from catdog.training.space import Choices, Range

JOBS_PREFIX: Final = f"{PROJECT}/jobs"
"""In the bucket: where each job has a folder for its code and its model."""
CHANNEL_ROOT: Final = PurePosixPath("/opt/ml/input/data")
_EPOCH: Final[Mapping[Task, tuple[str, ...]]] = {
    "classify": ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "photos_per_second"),
    "detect": ("train_loss", "train_overlap", "val_loss", "val_overlap", "lr", "photos_per_second"),
}
_END: Final[Mapping[Task, tuple[str, ...]]] = {
    "classify": ("accuracy", "precision", "recall", "f1"),
    "detect": ("ap", "ap50", "ap75"),
}
METRICS: Final[Mapping[Task, Mapping[str, str]]] = {
    task: {
        # Not "(?<!...)": SageMaker's documentation doesn't name its dialect, and this form is common to all.
        name: rf"(?:^|\s){name}=([-+.0-9e]+)"
        for name in dict.fromkeys(
            (*_EPOCH[task], *(f"{s}_{n}" for s in ("val", "test") for n in _END[task]), "exported")
        )
    }
    for task in _EPOCH
}
"""Names and regular expressions of what catdog train prints, a line an epoch and one at the end, by task."""
OBJECTIVES: Final[Mapping[Task, Mapping[str, Literal["Maximize", "Minimize"]]]] = {
    "classify": {"val_accuracy": "Maximize", "val_f1": "Maximize", "val_loss": "Minimize"},
    "detect": {"val_ap": "Maximize", "val_ap50": "Maximize", "val_ap75": "Maximize", "val_loss": "Minimize"},
}
"""What a search may optimise, by task, the usual one first; the test photos are left alone."""
_DECIDE_DEFAULTS: Final = ("arch", "task", "optimizer")  # settings on which others' defaults depend
DISTRIBUTED: Final = "sagemaker_torch_distributed_enabled"  # by which the training toolkit starts torchrun
MAX_TUNING_NAME: Final = 32  # characters; SageMaker appends a number and a hash for each training job


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines that a job runs on, and for how long at most. Raises SettingsError, naming the flag."""

    instance_type: Annotated[
        str, Option("--instance-type", "--instance", metavar="TYPE", help="SageMaker's instance type.")
    ] = "ml.g4dn.xlarge"
    instances: Annotated[int, Option(min=1, metavar="N", help="Machines; more than 1 train together.")] = 1
    spot: Annotated[
        bool, Option("--spot", help="Use spare capacity: cheaper; an interrupted job goes on by itself.")
    ] = False
    max_hours: Annotated[float, Option(metavar="H", help="End each training after this.")] = 6.0
    max_wait_hours: Annotated[
        float | None, Option(metavar="H", help="With --spot: waiting and training together; default: twice.")
    ] = None
    volume: Annotated[int, Option(min=1, metavar="GB", help="Disk of each machine.")] = 50
    kms_key: Annotated[
        str | None, Option(metavar="ID|ARN", help="Your key for volume and model; default: AWS's own.")
    ] = None
    framework_version: Annotated[
        str | None, Option(metavar="V", help=f"AWS's PyTorch container: {', '.join(TRAINING)}; default: {NEWEST}.")
    ] = None
    image: Annotated[
        str | None, Option(metavar="ADDRESS", help="Any container with SageMaker's training toolkit, instead.")
    ] = None
    keep_alive: int = 0
    """How many minutes the machines are kept for the next job; ``train`` has an option of its own for it."""

    def __post_init__(self) -> None:
        check_instance_type(self.instance_type)
        if self.image is not None:
            check_image(self.image)
            if self.framework_version is not None:
                raise SettingsError(
                    "--image and --framework-version: each names the container; leave out one of the two"
                )
        elif self.framework_version not in (None, *TRAINING):
            raise SettingsError(f"--framework-version {self.framework_version}: must be one of {', '.join(TRAINING)}")
        if not 0 < self.max_hours <= 28 * 24:
            raise SettingsError(f"--max-hours {self.max_hours:g}: must be above 0 and at most {28 * 24} (28 days)")
        if self.max_wait_hours is not None and not self.spot:
            raise SettingsError("--max-wait-hours is for --spot")
        if self.max_wait_hours is not None and self.max_wait_hours < self.max_hours:
            raise SettingsError(
                f"--max-wait-hours {self.max_wait_hours:g}: includes the training, so not less than "
                f"--max-hours {self.max_hours:g}"
            )
        if not 0 <= self.keep_alive <= 60:
            raise SettingsError(f"--keep-alive {self.keep_alive}: must be 0..60 minutes")
        if self.keep_alive and self.spot:
            raise SettingsError("--keep-alive: SageMaker keeps no spot instance warm; leave out one of the two")

    def find_image(self, region: str) -> str:
        """Return the address of the container."""
        return self.image or find_training_image(region, self.instance_type, self.framework_version or NEWEST)

    @property
    def volume_kms_key(self) -> str | None:
        """The key for the training volume, where SageMaker accepts one."""
        return None if has_own_disk(self.instance_type) else self.kms_key


def make_channels(train: str, validation: str | None, test: str | None) -> dict[str, str]:
    """Return the s3:// address of each channel of photos, by its name; raises SettingsError.

    A folder's gets a slash at its end: SageMaker reads all keys that begin with the address, and without the slash
    ``photos`` would bring ``photos-old/`` along.
    """
    channels = {}
    for name, uri, flag in (
        ("train", train, ""),
        ("validation", validation, "--validation "),
        ("test", test, "--test "),
    ):
        if uri:
            try:
                _, key = split_uri(uri)
            except SettingsError as error:
                raise SettingsError(f"{flag}{error}; catdog aws upload gives one") from error
            channels[name] = uri if is_archive_name(key) else uri.rstrip("/") + "/"
    return channels


def parse_job_settings(arguments: Sequence[str], photos: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Parse catdog train's arguments, with its own parser, into hyperparameters and channels for weights on S3.

    ``photos`` are the channels of photos. Raises SettingsError for what catdog train would refuse, and for paths of
    this machine, which no job could see.
    """
    container = {"TRAINING_JOB_NAME": "here", "SM_MODEL_DIR": "/opt/ml/model", "SM_OUTPUT_DATA_DIR": "/opt/ml/output"}
    container |= {f"SM_CHANNEL_{name.upper()}": str(CHANNEL_ROOT / name) for name in photos}
    settings, unchanged = parse(arguments, container), parse((), container)
    for name in ("data", "output", "output_data", "checkpoint_dir"):
        if getattr(settings, name) != getattr(unchanged, name):
            raise SettingsError(f"--{name.replace('_', '-')}: SageMaker sets it; leave it out")
    for name in ("validation", "test"):
        if getattr(settings, name) != getattr(unchanged, name):
            raise SettingsError(f"--{name} {getattr(settings, name)}: give --{name} s3://..., before the --")
    default = resolve({name: getattr(settings, name) for name in _DECIDE_DEFAULTS})
    elsewhere = {"data", "validation", "test", "output", "output_data", "checkpoint_dir"}
    changed = {
        f.name: getattr(settings, f.name)
        for f in fields(Settings)
        if f.name not in elsewhere and getattr(settings, f.name) != getattr(default, f.name)
    }
    changed |= {
        name: getattr(settings, name)
        for name in _DECIDE_DEFAULTS
        if getattr(settings, name) != getattr(Settings(), name)
    }
    return take_weights_from_s3(changed)


def take_weights_from_s3(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace ``weights: s3://bucket/x.safetensors`` by its path in the container, and return the channel for it.

    Raises SettingsError for weights that lie on this machine.
    """
    from catdog.onnx_model import EMBEDDED  # whose ONNX Runtime --help need not wait for

    hyperparameters, extra = dict(settings), {}
    if settings.get("weights", "none") not in ("imagenet", "none", EMBEDDED):
        paths = []
        for number, uri in enumerate(str(settings["weights"]).split(",")):
            if not uri.startswith("s3://"):
                raise SettingsError(f"--weights {uri}: lies on this machine; upload it and give its s3:// address")
            channel = f"weights{number}"
            extra[channel] = uri
            paths.append(str(CHANNEL_ROOT / channel / PurePosixPath(split_uri(uri)[1]).name))
        hyperparameters["weights"] = ",".join(paths)
    return hyperparameters, extra


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a tuning job tries."""

    ranges: Mapping[str, Range | Choices]
    """By setting."""
    objective: str
    """One of the task's OBJECTIVES."""
    strategy: str
    max_jobs: int
    parallel: int
    seed: int


def training_request(
    account: Account,
    job: str,
    machines: Machines,
    channels: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
    checkpoints: str,
) -> dict[str, Any]:
    """Return the parameters of CreateTrainingJob, with the keys and values that the SDK's estimator gives them."""
    resources = _describe_machines(machines)
    if machines.keep_alive:
        resources["KeepAlivePeriodInSeconds"] = machines.keep_alive * 60
    training = _describe_training(account, machines, channels, find_task(hyperparameters))
    training["AlgorithmSpecification"]["EnableSageMakerMetricsTimeSeries"] = True
    return {
        "TrainingJobName": job,
        **training,
        "HyperParameters": _encode(hyperparameters) | _bookkeep(account, job, machines),
        "ResourceConfig": resources,
        "CheckpointConfig": {"S3Uri": checkpoints},
        "ProfilerConfig": {"DisableProfiler": True},
        "Tags": account.make_tags(Command="train"),
    }


def tuning_request(
    account: Account,
    job: str,
    machines: Machines,
    channels: Mapping[str, str],
    hyperparameters: Mapping[str, Any],
    search: Search,
) -> dict[str, Any]:
    """Return the parameters of CreateHyperParameterTuningJob, whose trials differ in the settings of ``search``."""
    task = find_task(hyperparameters)
    # What the SDK's own reader of a search (HyperparameterTuner.attach) looks for.
    class_names = {
        "sagemaker_estimator_class_name": "PyTorch",
        "sagemaker_estimator_module": "sagemaker.pytorch.estimator",
    }
    return {
        "HyperParameterTuningJobName": job,
        "HyperParameterTuningJobConfig": {
            "Strategy": search.strategy,
            "HyperParameterTuningJobObjective": {
                "Type": OBJECTIVES[task][search.objective],
                "MetricName": search.objective,
            },
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": search.max_jobs,
                "MaxParallelTrainingJobs": search.parallel,
            },
            "ParameterRanges": _describe_ranges(search.ranges),
            "TrainingJobEarlyStoppingType": "Auto",  # as the median rule of catdog tune
            "RandomSeed": search.seed,
        },
        # No checkpoints: trials would share the place, and one would go on from another's.
        "TrainingJobDefinition": {
            **_describe_training(account, machines, channels, task),
            "StaticHyperParameters": _encode({**hyperparameters, **class_names}) | _bookkeep(account, job, machines),
            "HyperParameterTuningResourceConfig": _describe_machines(machines),
        },
        "Tags": account.make_tags(Command="tune"),
    }


def find_task(hyperparameters: Mapping[str, Any]) -> Task:
    """Return the task of a training with these settings."""
    task: Task = hyperparameters.get("task", Settings().task)
    return task


def needs_embedded(request: Mapping[str, Any]) -> bool:
    """Return whether what a request asks for learns from the model that is inside catdog.

    ``request``: a training job's, or the part of a search that its trials have in common.
    """
    from catdog.onnx_model import EMBEDDED

    texts = request.get("HyperParameters") or request["StaticHyperParameters"]
    given = {name: json.loads(text) for name, text in texts.items()}
    settings = {**TASK_DEFAULTS.get(find_task(given), {}), **given}
    return EMBEDDED in [part for name in ("weights", "teacher") for part in settings.get(name, "").split(",")]


def _describe_training(account: Account, machines: Machines, channels: Mapping[str, str], task: Task) -> dict[str, Any]:
    """Return what a training and a search's trials have in common."""
    max_seconds = round(machines.max_hours * 3600)
    stopping = {"MaxRuntimeInSeconds": max_seconds}
    if machines.spot:
        waiting = machines.max_wait_hours
        stopping["MaxWaitTimeInSeconds"] = 2 * max_seconds if waiting is None else round(waiting * 3600)
    key = {"KmsKeyId": machines.kms_key} if machines.kms_key else {}
    return {
        "AlgorithmSpecification": {
            "TrainingImage": machines.find_image(account.region),
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS[task].items()],
        },
        "RoleArn": account.find_role_arn(),
        "InputDataConfig": [
            {
                "ChannelName": name,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": uri,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for name, uri in channels.items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{account.require_bucket()}/{JOBS_PREFIX}", **key},
        "StoppingCondition": stopping,
        **({"EnableManagedSpotTraining": True} if machines.spot else {}),
    }


def _describe_machines(machines: Machines) -> dict[str, Any]:
    key = {"VolumeKmsKeyId": machines.volume_kms_key} if machines.volume_kms_key else {}
    return {
        "InstanceType": machines.instance_type,
        "InstanceCount": machines.instances,
        "VolumeSizeInGB": machines.volume,
        **key,
    }


def _describe_ranges(ranges: Mapping[str, Range | Choices]) -> dict[str, Any]:
    kinds: dict[str, list[dict[str, Any]]] = {"Continuous": [], "Categorical": [], "Integer": []}
    for name, choice in ranges.items():
        if isinstance(choice, Choices):
            kinds["Categorical"].append({"Name": name, "Values": [json.dumps(str(value)) for value in choice.values]})
            continue
        ends = {"MinValue": str(choice.low), "MaxValue": str(choice.high)}
        scale = "Logarithmic" if choice.log else "Linear"
        kinds["Integer" if isinstance(choice.low, int) else "Continuous"].append(
            {"Name": name, **ends, "ScalingType": scale}
        )
    return {f"{kind}ParameterRanges": found for kind, found in kinds.items()}


def _bookkeep(account: Account, job: str, machines: Machines) -> dict[str, str]:
    """Return the hyperparameters by which the container's training toolkit knows what to run."""
    values: dict[str, Any] = {
        "sagemaker_submit_directory": f"s3://{account.require_bucket()}/{make_code_key(job)}",
        "sagemaker_program": TRAIN_ENTRY,
        "sagemaker_container_log_level": 20,
        "sagemaker_job_name": job,
        "sagemaker_region": account.region,
    }
    if machines.instances > 1 or has_several_gpus(machines.instance_type):  # a process for each GPU or machine
        values |= {DISTRIBUTED: True, "sagemaker_instance_type": machines.instance_type}
    return _encode(values)


def make_code_key(job: str) -> str:
    """Return the key under which a job's code lies in the bucket."""
    return f"{JOBS_PREFIX}/{job}/source/sourcedir.tar.gz"


def _encode(values: Mapping[str, Any]) -> dict[str, str]:
    """Return hyperparameters as the training toolkit reads them: JSON in text."""
    return {name: json.dumps(value) for name, value in values.items()}


def estimate_jobs(account: Account, machines: Machines, jobs: int = 1, parallel: int = 1) -> dict[str, Any]:
    """Return what the jobs cost an hour and at most, from the price table."""
    cost = estimate_cost("training", machines.instance_type, account.region, machines.instances * parallel)
    hourly, note = cost["usd_per_hour"], cost["note"]
    most = None if hourly is None else round(hourly / parallel * machines.max_hours * jobs, 2)
    if machines.spot:
        note += "; spot, which has no fixed price, costs less: AWS says up to 90%"
    if machines.keep_alive:
        note += f"; warm instances cost the same for up to {machines.keep_alive} minutes more"
    return {**cost, "max_hours": machines.max_hours, "jobs": jobs, "usd_at_most": most, "note": note}


assert CHECKPOINTS == "/opt/ml/checkpoints"  # SageMaker's default, which a request need not name
