"""Training and tuning jobs as plain data: what they run on, what they read, what they print. Asks nothing of AWS.

train.py's arguments -> ``job_settings`` -> hyperparameters and channels -> TrainingRequest -> catdog.aws.sdk
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from catdog.aws.account import PROJECT, Account
from catdog.errors import SettingsError
from catdog.sources.names import is_archive_name
from catdog.sources.objects import split_s3_uri as split_uri
from catdog.training.settings import CHECKPOINTS, Settings, parse, resolve
from catdog.training.space import Choices, Range

FRAMEWORK: Final = "2.6.0"
FRAMEWORKS: Final = ("2.6.0", "2.7.1", "2.8.0")
"""PyTorch training containers with Python 3.12; torch_distributed accepts no shorter form of a version."""
PYTHON: Final = "py312"
INSTANCE: Final = "ml.g4dn.xlarge"
CHANNEL_ROOT: Final = PurePosixPath("/opt/ml/input/data")
_EPOCH: Final = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "photos_per_second")
_END: Final = tuple(
    f"{split}_{name}" for split in ("val", "test") for name in ("accuracy", "precision", "recall", "f1")
)
METRICS: Final[Mapping[str, str]] = {
    # Not "(?<!...)": nobody says which dialect SageMaker reads, and this is common to all.
    name: rf"(?:^|\s){name}=([-+.0-9e]+)"
    for name in dict.fromkeys(_EPOCH + _END)
}
"""Names and regular expressions of what train.py prints, a line an epoch and one at the end."""
OBJECTIVES: Final[Mapping[str, Literal["Maximize", "Minimize"]]] = {
    "val_accuracy": "Maximize",
    "val_f1": "Maximize",
    "val_loss": "Minimize",
}
"""What a search may look at; the test photos are left alone."""
MAX_NAME: Final = 63
MAX_TUNING_NAME: Final = 32  # SageMaker appends a number and a hash for each training job

_GPUS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("g4dn.12xlarge", "g5.12xlarge", "g5.24xlarge", "g6.12xlarge", "g6.24xlarge"), 4),
    **dict.fromkeys(("g6e.12xlarge", "g6e.24xlarge", "p3.8xlarge"), 4),
    **dict.fromkeys(("g5.48xlarge", "g6.48xlarge", "g6e.48xlarge", "p3.16xlarge", "p3dn.24xlarge"), 8),
    **dict.fromkeys(("p4d.24xlarge", "p4de.24xlarge", "p5.48xlarge", "p5e.48xlarge", "p5en.48xlarge"), 8),
}
_OWN_DISK: Final = re.compile(r"ml\.(g4dn|g5|g6e?|p3dn|p4de?|p5\w*|[a-z]\d+[a-z]*d)\.")
"""Instance types with disks of their own, encrypted by their hardware; SageMaker takes no volume key for these."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What a job runs on, and for how long at most. Raises SettingsError, naming the flag."""

    instance_type: str = INSTANCE
    instances: int = 1
    volume_gb: int = 50
    max_hours: float = 6.0
    spot: bool = False
    max_wait_hours: float | None = None
    """With ``spot``: the longest that waiting for instances and training may take together."""
    keep_alive_minutes: int = 0
    kms_key: str | None = None
    framework: str = FRAMEWORK

    def __post_init__(self) -> None:
        if not re.fullmatch(r"ml\.[a-z0-9-]+\.[a-z0-9]+", self.instance_type):
            raise SettingsError(f"--instance {self.instance_type}: not a SageMaker type, such as {INSTANCE}")
        if self.framework not in FRAMEWORKS:
            raise SettingsError(f"--framework-version {self.framework}: must be one of {', '.join(FRAMEWORKS)}")
        if not 0 < self.max_hours <= 28 * 24:
            raise SettingsError(f"--max-hours {self.max_hours:g}: must be above 0 and at most {28 * 24} (28 days)")
        if self.max_wait_hours is not None and not self.spot:
            raise SettingsError("--max-wait-hours is for --spot")
        if self.max_wait_hours is not None and self.max_wait_hours < self.max_hours:
            raise SettingsError(
                f"--max-wait-hours {self.max_wait_hours:g}: includes the training, so not less than "
                f"--max-hours {self.max_hours:g}"
            )
        if not 0 <= self.keep_alive_minutes <= 60:
            raise SettingsError(f"--keep-alive {self.keep_alive_minutes}: must be 0..60 minutes")
        if self.keep_alive_minutes and self.spot:
            raise SettingsError("--keep-alive: SageMaker keeps no spot instance warm; leave out one of the two")

    @property
    def max_seconds(self) -> int:
        """The longest that training may take."""
        return round(self.max_hours * 3600)

    @property
    def max_wait_seconds(self) -> int | None:
        """Twice the training's time if nothing else was said; None without spot."""
        if not self.spot:
            return None
        return round(self.max_wait_hours * 3600) if self.max_wait_hours is not None else 2 * self.max_seconds

    @property
    def distributed(self) -> bool:
        """Whether one process is not enough."""
        return self.instances > 1 or _GPUS.get(self.instance_type.removeprefix("ml."), 1) > 1

    @property
    def volume_kms_key(self) -> str | None:
        """The key for the training volume, where SageMaker accepts one."""
        return None if _OWN_DISK.match(self.instance_type) else self.kms_key


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """A training job, in terms that any SDK can be told."""

    name: str
    code: Path
    """The staged folder; train.py is its entry point."""
    role: str
    bucket: str
    machines: Machines
    channels: Mapping[str, str]
    hyperparameters: Mapping[str, Any]
    checkpoints: str | None
    tags: Sequence[Mapping[str, str]]

    @property
    def jobs_uri(self) -> str:
        """Where code goes to and models come to: below it, a folder for each job."""
        return f"s3://{self.bucket}/{PROJECT}/jobs"


@dataclass(frozen=True, kw_only=True)
class TuningRequest:
    """A search over training jobs that differ in ``ranges`` only."""

    name: str
    training: TrainingRequest
    ranges: Mapping[str, Range | Choices]
    objective: str
    max_jobs: int
    parallel: int
    strategy: Literal["Bayesian", "Random"] = "Bayesian"
    seed: int = 0


def job_name(kind: str, given: str | None, longest: int = MAX_NAME, flag: str = "--name") -> str:
    """``given`` by ``flag``, checked, or ``catdog-KIND-<UTC time>-<4 random digits>``; raises SettingsError."""
    if given is None:
        return f"{PROJECT}-{kind}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if not re.fullmatch(rf"{PROJECT}-[a-zA-Z0-9](-?[a-zA-Z0-9])*", given) or len(given) > longest:
        raise SettingsError(
            f"{flag} {given}: must be {PROJECT}-... with letters, digits and single hyphens, {longest} characters at "
            f"most (the policies in docs/aws/ cover no other names)"
        )
    return given


def checkpoints_uri(bucket: str, name: str) -> str:
    """Where SageMaker keeps the checkpoints of a job, and of those that go on from it."""
    return f"s3://{bucket}/{PROJECT}/checkpoints/{name}/"


def folder_uri(uri: str, flag: str = "") -> str:
    """An S3 address as a channel needs it: that of an archive as it is, that of a folder with a slash at its end.

    SageMaker takes a channel for a prefix: without the slash ``photos`` would bring ``photos-old/`` along.
    """
    try:
        _, key = split_uri(uri)
    except SettingsError as error:
        raise SettingsError(f"{flag} {error}; python -m catdog.aws upload gives one".strip()) from error
    return uri if is_archive_name(key) else uri.rstrip("/") + "/"


def channels(train: str, validation: str | None, test: str | None) -> dict[str, str]:
    """The channels of photos; raises SettingsError."""
    given = {"train": (train, ""), "validation": (validation, "--validation"), "test": (test, "--test")}
    return {name: folder_uri(uri, flag) for name, (uri, flag) in given.items() if uri}


def job_settings(arguments: Sequence[str], photos: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """train.py's arguments, parsed by train.py's own parser -> hyperparameters, and channels for weights on S3.

    Raises SettingsError for what train.py would refuse, and for paths of this machine: no job could see them.
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
    default = resolve({"arch": settings.arch})
    elsewhere = {"data", "validation", "test", "output", "output_data", "checkpoint_dir"}
    changed = {
        f.name: getattr(settings, f.name)
        for f in fields(Settings)
        if f.name not in elsewhere and getattr(settings, f.name) != getattr(default, f.name)
    }
    if settings.arch != Settings().arch:
        changed["arch"] = settings.arch
    return weights_from_s3(changed)


def weights_from_s3(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """``weights: s3://bucket/x.safetensors`` -> its path in the container, and the channel that brings it there."""
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


def estimate(account: Account, machines: Machines, jobs: int = 1, parallel: int = 1) -> dict[str, Any]:
    """What it costs an hour and at most, from the price table."""
    from catdog.aws.prices import cost

    found = cost("training", machines.instance_type, account.region, machines.instances * parallel)
    hourly = found["usd_per_hour"]
    most = None if hourly is None else round(hourly / parallel * machines.max_hours * jobs, 2)
    note = found["note"]
    if machines.spot:
        note += "; spot, which has no fixed price, costs less: AWS says up to 90%"
    if machines.keep_alive_minutes:
        note += f"; warm instances cost the same for up to {machines.keep_alive_minutes} minutes more"
    return {**found, "max_hours": machines.max_hours, "jobs": jobs, "usd_at_most": most, "note": note}


assert CHECKPOINTS == "/opt/ml/checkpoints"  # SageMaker's default, which a request need not name
