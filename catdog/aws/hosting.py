"""What an endpoint is made of: settings in, the requests that make it out. Pure; nothing is sent from here.

    Hosting(instance_type="ml.m5.large") -> model_request, config_request, endpoint_request, scaling_requests

Limits and names are those of the SageMaker API (botocore's service model, 2017-07-24) and of the PyTorch inference
container. Network isolation is not offered: the container installs ``code/requirements.txt`` with pip when it starts,
and wheels in the package would tie it to one Python and one processor. A private package index in a VPC can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from catdog.aws.account import PROJECT
from catdog.errors import SettingsError

Mode = Literal["realtime", "serverless", "async"]
Tags = list[dict[str, str]]
Requests = list[tuple[str, dict[str, Any]]]
"""The operation's name in boto3 and its parameters."""

VARIANT: Final = "AllTraffic"  # the one of an endpoint that has one
CODE: Final = "/opt/ml/model/code"  # where the container unpacks code/ of model.tar.gz
NAME_LENGTH: Final = 63  # characters, of endpoints, configs and models
STAMP_LENGTH: Final = 19  # 20261121120000-1a2b
SERVERLESS_MB: Final = (1024, 2048, 3072, 4096, 5120, 6144)
STARTUP_S: Final = 600  # for pip and for loading the model, before SageMaker gives an instance up
DOWNLOAD_S: Final = 600
RESPONSE_S: Final = 60  # SageMaker itself gives up then
ASYNC_REQUEST_BYTES: Final = 256 * 2**20  # catdog.image.MAX_BYTES
TARGET_PER_MINUTE: Final = 600.0
"""Requests an instance: ten a second, less than two workers answer, so that the next one is there in time."""
TARGET_WAITING: Final = 5.0
SCALE_IN_S: Final = 300
SCALE_OUT_S: Final = 60

_NAME: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_INSTANCE: Final = re.compile(r"ml\.([a-z]+\d+[a-z-]*)\.(medium|large|xlarge|(\d+)xlarge)")
_GPU: Final = re.compile(r"[gp]\d")
_LOCAL_DISK: Final = re.compile(r"(g4dn|g5|g6|g6e|p3dn|p4d|p4de|p5|p5e)|[a-z]+\d+[a-z]*d[a-z]*")
_TTL: Final = re.compile(r"(\d+)([mhd])")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How a model is to be served. Raises SettingsError, naming the option, for what can't be."""

    mode: Mode = "realtime"
    instance_type: str = "ml.m5.large"
    instances: int = 1
    """At the start; autoscaling changes it."""
    memory_mb: int = 2048
    """Of a serverless endpoint; its share of processors grows with it."""
    concurrency: int = 5
    """Requests that a serverless endpoint takes at once, 1 to 200."""
    async_output: str | None = None
    """s3:// prefix for the answers of an asynchronous endpoint."""
    autoscale: tuple[int, int] | None = None
    """Least and most instances."""
    autoscale_target: float | None = None
    """What autoscaling aims at, an instance: requests a minute; asynchronous: requests that wait."""
    capture_percent: int | None = None
    """Share of requests and answers that are kept in S3, 0 to 100."""
    capture_to: str | None = None
    """s3:// prefix for them."""
    kms_key: str | None = None
    """For the instances' disks, the package and what is captured."""
    allowed_s3: tuple[str, ...] = ()
    """s3:// prefixes from which requests may name photos."""

    def __post_init__(self) -> None:
        if self.mode == "serverless":
            self._check_serverless()
        else:
            check_instance_type(self.instance_type)
            _check(self.instances >= 1, "--instances", self.instances, "must be 1 or more")
        if self.autoscale:
            low, high = self.autoscale
            _check(1 <= low <= high, "--autoscale", f"{low}..{high}", "needs 1 <= MIN <= MAX")
            given = self.autoscale_target
            _check(given is None or given > 0, "--autoscale-target", given, "must be above 0")
        if self.capture_percent is not None:
            _check(0 <= self.capture_percent <= 100, "--capture", self.capture_percent, "must be 0 to 100")
        family = _family(self.instance_type)
        if self.kms_key and self.mode != "serverless" and _LOCAL_DISK.fullmatch(family):
            raise SettingsError(f"--kms-key: SageMaker takes none for {self.instance_type}, whose disk encrypts itself")

    @property
    def workers(self) -> int:
        """Server processes an instance: one a processor, each with one thread; one where a GPU or AWS decides."""
        return 1 if self.mode == "serverless" or self.on_gpu else processors(self.instance_type)

    @property
    def on_gpu(self) -> bool:
        """Whether the instances have a GPU."""
        return self.mode != "serverless" and is_gpu(self.instance_type)

    def _check_serverless(self) -> None:
        for option, given in (("--capture", self.capture_percent), ("--autoscale", self.autoscale)):
            if given is not None:
                raise SettingsError(f"{option}: a serverless endpoint has none; leave it or --serverless out")
        allowed = ", ".join(map(str, SERVERLESS_MB))
        _check(self.memory_mb in SERVERLESS_MB, "--memory", self.memory_mb, f"must be one of {allowed}")
        _check(1 <= self.concurrency <= 200, "--concurrency", self.concurrency, "must be 1 to 200")


def model_request(
    name: str, image: str, package_uri: str, role_arn: str, hosting: Hosting, region: str, tags: Tags
) -> dict[str, Any]:
    """CreateModel: the container, its package and its environment."""
    return {
        "ModelName": name,
        "ExecutionRoleArn": role_arn,
        "PrimaryContainer": {
            "Image": image,
            "ModelDataUrl": package_uri,
            "Environment": environment(hosting, region),
        },
        "Tags": tags,
    }


def environment(hosting: Hosting, region: str, payload_bytes: int | None = None) -> dict[str, str]:
    """The container's variables. ``payload_bytes``: the largest request, where it isn't the usual 6 MB."""
    values = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": CODE,
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": region,
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(hosting.workers),
        "TS_DEFAULT_RESPONSE_TIMEOUT": str(RESPONSE_S),  # SAGEMAKER_MODEL_SERVER_TIMEOUT has no effect (toolkit 2.0.25)
    }
    if hosting.mode != "serverless" and not hosting.on_gpu:
        values["OMP_NUM_THREADS"] = "1"  # several workers with a pool of threads each are ten times slower
    if hosting.allowed_s3:
        values["CATDOG_ALLOWED_S3"] = " ".join(hosting.allowed_s3)
    limit = ASYNC_REQUEST_BYTES if hosting.mode == "async" else payload_bytes
    if limit:
        values["TS_MAX_REQUEST_SIZE"] = str(limit)
    return values


def config_request(name: str, model: str, hosting: Hosting, tags: Tags) -> dict[str, Any]:
    """CreateEndpointConfig."""
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": model}
    if hosting.mode == "serverless":
        variant["ServerlessConfig"] = {"MemorySizeInMB": hosting.memory_mb, "MaxConcurrency": hosting.concurrency}
    else:
        variant |= {
            "InstanceType": hosting.instance_type,
            "InitialInstanceCount": _first_count(hosting),
            "InitialVariantWeight": 1.0,
            "ModelDataDownloadTimeoutInSeconds": DOWNLOAD_S,
            "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
        }
    request: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": tags}
    key = {"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    if hosting.mode != "serverless":
        request |= key
    if hosting.capture_percent is not None:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": hosting.capture_percent,
            "DestinationS3Uri": hosting.capture_to,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **key,
        }
    if hosting.mode == "async":
        output = str(hosting.async_output).rstrip("/")
        request["AsyncInferenceConfig"] = {
            "OutputConfig": {"S3OutputPath": f"{output}/answers", "S3FailurePath": f"{output}/failures", **key},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": hosting.workers},
        }
    return request


def endpoint_request(name: str, config: str, tags: Tags) -> dict[str, Any]:
    """CreateEndpoint."""
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": tags}


def update_request(name: str, config: str, keep_count: bool) -> dict[str, Any]:
    """UpdateEndpoint, blue/green. ``keep_count``: autoscaling has chosen a number of instances; that stays."""
    request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config}
    if keep_count:
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DataCaptureConfig"}]
    return request


def scalable(name: str) -> dict[str, str]:
    """What Application Auto Scaling calls an endpoint."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def scaling_requests(name: str, hosting: Hosting, tags: Tags) -> Requests:
    """RegisterScalableTarget and PutScalingPolicy; none without autoscaling."""
    if not hosting.autoscale:
        return []
    low, high = hosting.autoscale
    metric: dict[str, Any] = {
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    }
    if hosting.mode == "async":
        metric = {
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": name}],
                "Statistic": "Average",
            }
        }
    target_value = hosting.autoscale_target or (TARGET_WAITING if hosting.mode == "async" else TARGET_PER_MINUTE)
    policy = {"TargetValue": target_value, **metric}
    policy |= {"ScaleInCooldown": SCALE_IN_S, "ScaleOutCooldown": SCALE_OUT_S}
    target = scalable(name)
    return [
        (
            "register_scalable_target",
            {**target, "MinCapacity": low, "MaxCapacity": high, "Tags": {tag["Key"]: tag["Value"] for tag in tags}},
        ),
        (
            "put_scaling_policy",
            {
                **target,
                "PolicyName": f"{name}-requests",
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": policy,
            },
        ),
    ]


def check_name(name: str) -> str:
    """``name``, if SageMaker takes it for an endpoint; raises SettingsError."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name}: no endpoint's name; letters, digits and hyphens, {NAME_LENGTH} characters at most"
        )
    return name


def check_new_name(name: str) -> str:
    """``name``, if it is one of ours; raises SettingsError."""
    if not name.startswith(f"{PROJECT}-"):
        raise SettingsError(f"--name {name}: must be {PROJECT}-...; the policies in docs/aws/ cover no other names")
    return check_name(name)


def version_name(endpoint: str, stamp: str) -> str:
    """The name of one version's model and config. ``stamp``: STAMP_LENGTH characters."""
    return version_stem(endpoint) + stamp


def version_stem(endpoint: str) -> str:
    """What the names of all versions of an endpoint begin with: its own name, shortened."""
    return endpoint[: NAME_LENGTH - STAMP_LENGTH - 1].rstrip("-") + "-"


def parse_ttl(text: str) -> timedelta:
    """``90m``, ``2h`` or ``3d``; raises SettingsError."""
    found = _TTL.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise SettingsError(f"--ttl {text}: give minutes, hours or days, like 90m, 2h or 3d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[found[2]]
    try:
        return timedelta(**{unit: int(found[1])})
    except OverflowError as error:
        raise SettingsError(f"--ttl {text}: too long") from error


def parse_range(text: str) -> tuple[int, int]:
    """``1..4`` -> (1, 4); raises SettingsError."""
    found = _RANGE.fullmatch(text.strip())
    if not found:
        raise SettingsError(f"--autoscale {text}: give the least and the most instances, like 1..4")
    return int(found[1]), int(found[2])


def check_instance_type(instance_type: str) -> None:
    """Raises SettingsError for what is no name of an instance type."""
    if not _INSTANCE.fullmatch(instance_type):
        raise SettingsError(f"--instance-type {instance_type}: not an instance type, such as ml.m5.large")


def is_gpu(instance_type: str) -> bool:
    """Whether it has an NVIDIA GPU (the g and p families)."""
    return bool(_GPU.match(_family(instance_type)))


def processors(instance_type: str) -> int:
    """Its vCPUs, from its size: 2 for medium and large, 4 for xlarge, 4 n for n xlarge (EC2's rule)."""
    found = _INSTANCE.fullmatch(instance_type)
    size = found[2] if found else ""
    if size in ("medium", "large"):
        return 2
    return 4 if size == "xlarge" else 4 * int(found[3]) if found else 1


def _family(instance_type: str) -> str:
    parts: Sequence[str] = instance_type.split(".")
    return parts[1] if len(parts) == 3 else ""


def _first_count(hosting: Hosting) -> int:
    low, high = hosting.autoscale or (1, hosting.instances)
    return min(max(hosting.instances, low), high)


def _check(ok: bool, option: str, given: object, rule: str) -> None:
    if not ok:
        raise SettingsError(f"{option} {given}: {rule}")
