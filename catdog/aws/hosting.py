"""How a model is to be served: settings in, the requests that make it out. Pure; nothing is sent from here.

    Hosting(instance_type="ml.m5.large") -> model_request, config_request

Limits and names are those of the SageMaker API (botocore's service model, 2017-07-24) and of the two containers: AWS's
PyTorch with its serving toolkit, and catdog's own (deploy/docker/Dockerfile). Network isolation is not offered: AWS's
installs ``code/requirements.txt`` with pip when it starts, and wheels in the package would tie it to one Python and one
processor. A private package index in a VPC can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from typer import Option

from catdog.aws.containers import check_image, find_inference_image, has_serving_toolkit
from catdog.aws.instances import check_instance_type, count_processors, has_gpu, has_own_disk
from catdog.errors import SettingsError
from catdog.serving.requests import ALLOWED_S3, MAX_BODY
from catdog.sources.addresses import split_s3_uri

Mode = Literal["realtime", "serverless", "async"]
Tags = list[dict[str, str]]

INSTANCE: Final = "ml.m5.large"
ASYNC_PREFIX: Final = "catdog/async"
VARIANT: Final = "AllTraffic"  # the only one of our endpoints
SERVERLESS_MB: Final = (1024, 2048, 3072, 4096, 5120, 6144)
STARTUP_S: Final = 600  # for pip and for loading the model, before SageMaker gives up on an instance
DOWNLOAD_S: Final = 600
RESPONSE_S: Final = 60  # SageMaker itself gives up then
ASYNC_REQUEST_BYTES: Final = 256 * 2**20  # catdog.image.MAX_BYTES
_MODEL_FOLDER: Final = "/opt/ml/model"  # where SageMaker unpacks model.tar.gz


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How a model is to be served. Raises SettingsError, naming the option, for what SageMaker can't do."""

    instance_type: Annotated[
        str | None, Option(metavar="TYPE", help=f"Default: {INSTANCE}; one with a GPU runs torch.")
    ] = None
    instances: Annotated[int, Option(metavar="N", min=1, help="How many.")] = 1
    serverless: Annotated[bool, Option("--serverless", help="No instances; you pay for each answer.")] = False
    memory: Annotated[int, Option(metavar="MB", help="Serverless: 1024 to 6144.")] = 2048
    concurrency: Annotated[int, Option(metavar="N", help="Serverless: requests at once.")] = 5
    asynchronous: Annotated[bool, Option("--async", help="Photos and answers go through S3; up to 256 MB a photo.")] = (
        False
    )
    async_output: Annotated[
        str | None, Option(metavar="S3", help=f"Where answers go; default: s3://BUCKET/{ASYNC_PREFIX}/NAME.")
    ] = None
    autoscale: Annotated[str | None, Option(metavar="MIN..MAX", help="Number of instances, by the load.")] = None
    autoscale_target: Annotated[
        float | None,
        Option(metavar="N", help="Load of an instance to aim at: 600 requests a minute; with --async, 5 that wait."),
    ] = None
    capture: Annotated[int | None, Option(metavar="PERCENT", help="Keep this share of requests and answers in S3.")] = (
        None
    )
    allow_s3: Annotated[list[str] | None, Option(metavar="S3", help="Requests may name photos under this prefix.")] = (
        None
    )
    kms_key: Annotated[str | None, Option(metavar="KEY", help="For disks, package and captured data.")] = None
    capture_to: str | None = None
    """s3:// prefix for what is captured."""

    def __post_init__(self) -> None:
        if self.serverless:
            self._check_serverless()
        else:
            check_instance_type(self.machine)
            _check(self.instances >= 1, "--instances", self.instances, "must be 1 or more")
        for uri in (*filter(None, [self.async_output]), *(self.allow_s3 or ())):
            split_s3_uri(uri)
        if self.bounds:
            low, high = self.bounds
            _check(1 <= low <= high, "--autoscale", self.autoscale, "needs 1 <= MIN <= MAX")
            target = self.autoscale_target
            _check(target is None or target > 0, "--autoscale-target", target, "must be above 0")
        if self.capture is not None:
            _check(0 <= self.capture <= 100, "--capture", self.capture, "must be 0 to 100")
        if self.kms_key and not self.serverless and has_own_disk(self.machine):
            raise SettingsError(f"--kms-key: SageMaker takes none for {self.machine}, whose disk encrypts itself")

    @property
    def mode(self) -> Mode:
        """How SageMaker calls an endpoint of this kind."""
        return "serverless" if self.serverless else "async" if self.asynchronous else "realtime"

    @property
    def machine(self) -> str:
        """The type of the instances."""
        return self.instance_type or INSTANCE

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the most instances of ``autoscale``, such as 1..4; raises SettingsError."""
        if not self.autoscale:
            return None
        found = re.fullmatch(r"(\d+)\.\.(\d+)", self.autoscale.strip())
        if not found:
            raise SettingsError(f"--autoscale {self.autoscale}: give the least and the most instances, like 1..4")
        return int(found[1]), int(found[2])

    @property
    def workers(self) -> int:
        """Server processes on an instance: one a processor, or one where a GPU or AWS decides."""
        return 1 if self.serverless or self.on_gpu else count_processors(self.machine)

    @property
    def on_gpu(self) -> bool:
        """Whether the instances have a GPU."""
        return not self.serverless and has_gpu(self.machine)

    def _check_serverless(self) -> None:
        if self.asynchronous or self.instance_type:
            raise SettingsError("--serverless: has no instances, and no --async")
        for option, given in (("--capture", self.capture), ("--autoscale", self.autoscale)):
            if given is not None:
                raise SettingsError(f"{option}: a serverless endpoint has none; leave it or --serverless out")
        allowed = ", ".join(map(str, SERVERLESS_MB))
        _check(self.memory in SERVERLESS_MB, "--memory", self.memory, f"must be one of {allowed}")
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


def choose_image(image: str | None, region: str, hosting: Hosting) -> str:
    """Return the container's address: ``image``, or AWS's. Raises SettingsError if it can't be one, or not there."""
    if image is None:
        return find_inference_image(region, hosting.machine)
    check_image(image)
    if hosting.on_gpu and not has_serving_toolkit(image):
        raise SettingsError(f"--image {image}: computes on the CPU; take an --instance-type without a GPU")
    return image


def container_environment(
    hosting: Hosting, region: str, image: str, payload_bytes: int | None = None
) -> dict[str, str]:
    """Return the container's environment variables.

    ``payload_bytes`` is the size of the largest request, where it isn't the usual 6 MB.
    """
    limit = ASYNC_REQUEST_BYTES if hosting.asynchronous else payload_bytes
    allowed = {ALLOWED_S3: " ".join(hosting.allow_s3)} if hosting.allow_s3 else {}
    if not has_serving_toolkit(image):
        return {"CATDOG_MODEL": _MODEL_FOLDER, **allowed, **({MAX_BODY: str(-(-limit // 2**20))} if limit else {})}
    variables = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": f"{_MODEL_FOLDER}/code",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": region,
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(hosting.workers),
        "TS_DEFAULT_RESPONSE_TIMEOUT": str(RESPONSE_S),  # SAGEMAKER_MODEL_SERVER_TIMEOUT has no effect (toolkit 2.0.25)
    }
    if not hosting.serverless and not hosting.on_gpu:
        variables["OMP_NUM_THREADS"] = "1"  # several workers with a pool of threads each are ten times slower
    variables |= allowed
    if limit:
        variables["TS_MAX_REQUEST_SIZE"] = str(limit)
    return variables


def config_request(name: str, model: str, hosting: Hosting, tags: Tags) -> dict[str, Any]:
    """Return the parameters of CreateEndpointConfig."""
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": model}
    if hosting.serverless:
        variant["ServerlessConfig"] = {"MemorySizeInMB": hosting.memory, "MaxConcurrency": hosting.concurrency}
    else:
        low, high = hosting.bounds or (1, hosting.instances)
        variant |= {
            "InstanceType": hosting.machine,
            "InitialInstanceCount": min(max(hosting.instances, low), high),
            "InitialVariantWeight": 1.0,
            "ModelDataDownloadTimeoutInSeconds": DOWNLOAD_S,
            "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
        }
    request: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": tags}
    key = {"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    if not hosting.serverless:
        request |= key
    if hosting.capture is not None:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": hosting.capture,
            "DestinationS3Uri": hosting.capture_to,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **key,
        }
    if hosting.asynchronous:
        output = str(hosting.async_output).rstrip("/")
        request["AsyncInferenceConfig"] = {
            "OutputConfig": {"S3OutputPath": f"{output}/answers", "S3FailurePath": f"{output}/failures", **key},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": hosting.workers},
        }
    return request


def _check(ok: bool, option: str, given: object, rule: str) -> None:
    if not ok:
        raise SettingsError(f"{option} {given}: {rule}")
