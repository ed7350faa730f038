"""How a model is to be served: settings in, the requests that make it out. Pure; nothing is sent from here.

    Hosting(instance_type="ml.m5.large") -> model_request, config_request, endpoint_request, update_request

Limits and names are those of the SageMaker API (botocore's service model, 2017-07-24) and of the PyTorch inference
container. Network isolation is not offered: the container installs ``code/requirements.txt`` with pip when it starts,
and wheels in the package would tie it to one Python and one processor. A private package index in a VPC can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from catdog.aws.instances import check_instance_type, count_processors, has_gpu, has_own_disk
from catdog.errors import SettingsError
from catdog.serving.requests import ALLOWED_S3

Mode = Literal["realtime", "serverless", "async"]
Tags = list[dict[str, str]]

VARIANT: Final = "AllTraffic"  # the only one of our endpoints
SERVERLESS_MB: Final = (1024, 2048, 3072, 4096, 5120, 6144)
STARTUP_S: Final = 600  # for pip and for loading the model, before SageMaker gives up on an instance
DOWNLOAD_S: Final = 600
RESPONSE_S: Final = 60  # SageMaker itself gives up then
ASYNC_REQUEST_BYTES: Final = 256 * 2**20  # catdog.image.MAX_BYTES
_CODE_FOLDER: Final = "/opt/ml/model/code"  # where the container unpacks code/ of model.tar.gz


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How a model is to be served. Raises SettingsError, naming the option, for what SageMaker can't do."""

    mode: Mode = "realtime"
    instance_type: str = "ml.m5.large"
    instances: int = 1
    """How many at the start; autoscaling changes it."""
    memory_mb: int = 2048
    """Of a serverless endpoint; its share of processors grows with it."""
    concurrency: int = 5
    """Requests that a serverless endpoint takes at once, 1 to 200."""
    async_output: str | None = None
    """s3:// prefix for the answers of an asynchronous endpoint."""
    autoscale: tuple[int, int] | None = None
    """Least and most instances."""
    autoscale_target: float | None = None
    """The load of one instance to aim at: requests a minute, or for an asynchronous endpoint requests that wait."""
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
            target = self.autoscale_target
            _check(target is None or target > 0, "--autoscale-target", target, "must be above 0")
        if self.capture_percent is not None:
            _check(0 <= self.capture_percent <= 100, "--capture", self.capture_percent, "must be 0 to 100")
        if self.kms_key and self.mode != "serverless" and has_own_disk(self.instance_type):
            raise SettingsError(f"--kms-key: SageMaker takes none for {self.instance_type}, whose disk encrypts itself")

    @property
    def workers(self) -> int:
        """Server processes on an instance: one a processor, or one where a GPU or AWS decides."""
        return 1 if self.mode == "serverless" or self.on_gpu else count_processors(self.instance_type)

    @property
    def on_gpu(self) -> bool:
        """Whether the instances have a GPU."""
        return self.mode != "serverless" and has_gpu(self.instance_type)

    def _check_serverless(self) -> None:
        for option, given in (("--capture", self.capture_percent), ("--autoscale", self.autoscale)):
            if given is not None:
                raise SettingsError(f"{option}: a serverless endpoint has none; leave it or --serverless out")
        allowed = ", ".join(map(str, SERVERLESS_MB))
        _check(self.memory_mb in SERVERLESS_MB, "--memory", self.memory_mb, f"must be one of {allowed}")
        _check(1 <= self.concurrency <= 200, "--concurrency", self.concurrency, "must be 1 to 200")


def model_request(
    name: str, image: str, package_uri: str, role_arn: str, environment: dict[str, str], tags: Tags
) -> dict[str, Any]:
    """Return the parameters of CreateModel. ``environment`` is what ``container_environment`` gave."""
    return {
        "ModelName": name,
        "ExecutionRoleArn": role_arn,
        "PrimaryContainer": {"Image": image, "ModelDataUrl": package_uri, "Environment": environment},
        "Tags": tags,
    }


def container_environment(hosting: Hosting, region: str, payload_bytes: int | None = None) -> dict[str, str]:
    """Return the container's environment variables.

    ``payload_bytes`` is the size of the largest request, where it isn't the usual 6 MB.
    """
    variables = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": _CODE_FOLDER,
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": region,
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(hosting.workers),
        "TS_DEFAULT_RESPONSE_TIMEOUT": str(RESPONSE_S),  # SAGEMAKER_MODEL_SERVER_TIMEOUT has no effect (toolkit 2.0.25)
    }
    if hosting.mode != "serverless" and not hosting.on_gpu:
        variables["OMP_NUM_THREADS"] = "1"  # several workers with a pool of threads each are ten times slower
    if hosting.allowed_s3:
        variables[ALLOWED_S3] = " ".join(hosting.allowed_s3)
    limit = ASYNC_REQUEST_BYTES if hosting.mode == "async" else payload_bytes
    if limit:
        variables["TS_MAX_REQUEST_SIZE"] = str(limit)
    return variables


def config_request(name: str, model: str, hosting: Hosting, tags: Tags) -> dict[str, Any]:
    """Return the parameters of CreateEndpointConfig."""
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": model}
    if hosting.mode == "serverless":
        variant["ServerlessConfig"] = {"MemorySizeInMB": hosting.memory_mb, "MaxConcurrency": hosting.concurrency}
    else:
        low, high = hosting.autoscale or (1, hosting.instances)
        variant |= {
            "InstanceType": hosting.instance_type,
            "InitialInstanceCount": min(max(hosting.instances, low), high),
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
    """Return the parameters of CreateEndpoint."""
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": tags}


def update_request(name: str, config: str, keep_count: bool) -> dict[str, Any]:
    """Return the parameters of UpdateEndpoint, blue/green.

    ``keep_count`` keeps the number of instances that autoscaling has chosen.
    """
    request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config}
    if keep_count:
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DataCaptureConfig"}]
    return request


def _check(ok: bool, option: str, given: object, rule: str) -> None:
    if not ok:
        raise SettingsError(f"{option} {given}: {rule}")
