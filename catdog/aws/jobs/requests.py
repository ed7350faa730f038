"""Training and tuning jobs as plain data: what they run on, what they read, what they print. Sends nothing to AWS.

catdog train's arguments -> parse_job_settings -> hyperparameters and channels -> jobs.sdk
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from typer import Option

from catdog.aws.account import Account
from catdog.aws.instances import check_instance_type, estimate_cost, has_own_disk
from catdog.errors import SettingsError
from catdog.sources.addresses import split_s3_uri as split_uri
from catdog.sources.names import is_archive_name
from catdog.training.settings import CHECKPOINTS, Settings, parse, resolve

FRAMEWORK: Final = "2.6.0"
"""The PyTorch version of AWS's containers that catdog trains and serves in, unless told otherwise."""
FRAMEWORKS: Final = (FRAMEWORK, "2.7.1", "2.8.0")
"""PyTorch training containers with Python 3.12; torch_distributed accepts no shorter form of a version."""
PYTHON: Final = "py312"
CHANNEL_ROOT: Final = PurePosixPath("/opt/ml/input/data")
_EPOCH: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "photos_per_second")
_END: Final = tuple(
    f"{split}_{name}" for split in ("val", "test") for name in ("accuracy", "precision", "recall", "f1")
)
METRICS: Final[Mapping[str, str]] = {
    # Not "(?<!...)": SageMaker's documentation doesn't name its dialect, and this form is common to all.
    name: rf"(?:^|\s){name}=([-+.0-9e]+)"
    for name in dict.fromkeys((*_EPOCH, *_END, "exported"))
}
"""Names and regular expressions of what catdog train prints, a line an epoch and one at the end."""
OBJECTIVES: Final[Mapping[str, Literal["Maximize", "Minimize"]]] = {
    "val_accuracy": "Maximize",
    "val_f1": "Maximize",
    "val_loss": "Minimize",
}
"""What a search may optimise; the test photos are left alone."""
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
    framework_version: Annotated[str, Option(metavar="V", help=f"PyTorch container: {', '.join(FRAMEWORKS)}.")] = (
        FRAMEWORK
    )
    keep_alive: int = 0
    """How many minutes the machines are kept for the next job; ``train`` has an option of its own for it."""

    def __post_init__(self) -> None:
        check_instance_type(self.instance_type)
        if self.framework_version not in FRAMEWORKS:
            raise SettingsError(f"--framework-version {self.framework_version}: must be one of {', '.join(FRAMEWORKS)}")
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
    default = resolve({"arch": settings.arch, "optimizer": settings.optimizer})
    elsewhere = {"data", "validation", "test", "output", "output_data", "checkpoint_dir"}
    changed = {
        f.name: getattr(settings, f.name)
        for f in fields(Settings)
        if f.name not in elsewhere and getattr(settings, f.name) != getattr(default, f.name)
    }
    changed |= {
        name: getattr(settings, name)
        for name in ("arch", "optimizer")
        if getattr(settings, name) != getattr(Settings(), name)
    }
    return take_weights_from_s3(changed)


def take_weights_from_s3(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace ``weights: s3://bucket/x.safetensors`` by its path in the container, and return the channel for it.

    Raises SettingsError for weights that lie on this machine.
    """
    hyperparameters, extra = dict(settings), {}
    if settings.get("weights", "none") not in ("imagenet", "none"):
        paths = []
        for number, uri in enumerate(str(settings["weights"]).split(",")):
            if not uri.startswith("s3://"):
                raise SettingsError(f"--weights {uri}: lies on this machine; upload it and give its s3:// address")
            channel = f"weights{number}"
            extra[channel] = uri
            paths.append(str(CHANNEL_ROOT / channel / PurePosixPath(split_uri(uri)[1]).name))
        hyperparameters["weights"] = ",".join(paths)
    return hyperparameters, extra


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
