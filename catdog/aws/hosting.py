"""How a model is to be served: settings in, the requests that make it out. Pure; nothing is sent from here.

    Hosting(instance_type="ml.m5.large") -> model_request, config_request

An update takes what isn't given from what runs (``catdog.aws.endpoints.running``).

Limits and names are those of the SageMaker API (botocore's service model, 2017-07-24) and of the two containers: AWS's
PyTorch with its serving toolkit, and catdog's own (deploy/docker/Dockerfile). Network isolation is not offered: AWS's
installs ``code/requirements.txt`` with pip when it starts, and wheels in the package would tie it to one Python and one
processor. A private package index in a VPC can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from typer import Option

from catdog.aws.containers import check_image, find_inference_image, has_serving_toolkit
from catdog.aws.instances import check_instance_type, count_gpus, count_processors, has_gpu, has_own_disk
from catdog.errors import SettingsError
from catdog.serving.requests import ALLOWED_S3, MAX_BODY
from catdog.sources.addresses import split_s3_uri

Mode = Literal["realtime", "serverless", "async"]
Tags = list[dict[str, str]]

INSTANCE: Final = "ml.m5.large"
MEMORY_MB: Final = 2048
CONCURRENCY: Final = 5
ASYNC_PREFIX: Final = "catdog/async"
VARIANT: Final = "AllTraffic"  # the only one of our endpoints
SERVERLESS_MB: Final = (1024, 2048, 3072, 4096, 5120, 6144)
STARTUP_S: Final = 600  # for pip and for loading the model, before SageMaker gives up on an instance
DOWNLOAD_S: Final = 600
RESPONSE_S: Final = 60  # SageMaker itself gives up then
ASYNC_REQUEST_BYTES: Final = 256 * 2**20  # catdog.image.MAX_BYTES
PAYLOAD_BYTES: Final = 6 * 2**20  # of one request; InvokeEndpoint's own limit (botocore: BodyBlob)
SERVERLESS_PAYLOAD_BYTES: Final = 4 * 2**20
ANSWERS: Final = "/answers"  # where an asynchronous endpoint's answers go, below its place in S3
FAILURES: Final = "/failures"
_MODEL_FOLDER: Final = "/opt/ml/model"  # where SageMaker unpacks model.tar.gz
_MODEL: Final = "CATDOG_MODEL"
_OF_THE_MACHINE: Final = (
    "AcceleratorType",
    "AcceleratorPartitionLayouts",
    "CapacityReservationConfig",
    "InferenceAmiVersion",
)
"""What a variant says that goes with its instance type, and is left out with another one."""
OUR_VARIABLES: Final = frozenset(
    {"SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY", "SAGEMAKER_CONTAINER_LOG_LEVEL", "SAGEMAKER_REGION"}
    | {"SAGEMAKER_MODEL_SERVER_WORKERS", "TS_DEFAULT_RESPONSE_TIMEOUT", "OMP_NUM_THREADS", "TS_MAX_REQUEST_SIZE"}
    | {ALLOWED_S3, _MODEL, MAX_BODY}
)
"""The variables of either container that deploy sets itself; any other is the user's."""


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How a model is to be served. Raises SettingsError, naming the option, for what SageMaker can't do.

    An option that isn't given is None: what it means then is up to the endpoint that is updated, or to the defaults.
    """

    instance_type: Annotated[
        str | None, Option(metavar="TYPE", help=f"Default: {INSTANCE}; one with a GPU runs torch.")
    ] = None
    instances: Annotated[int | None, Option(metavar="N", min=1, help="How many; default: 1.")] = None
    serverless: Annotated[bool, Option("--serverless", help="No instances; you pay for each answer.")] = False
    memory: Annotated[int | None, Option(metavar="MB", help=f"Serverless: 1024 to 6144; default: {MEMORY_MB}.")] = None
    concurrency: Annotated[
        int | None, Option(metavar="N", help=f"Serverless: requests at once; default: {CONCURRENCY}.")
    ] = None
    asynchronous: Annotated[bool, Option("--async", help="Photos and answers go through S3; up to 256 MB a photo.")] = (
        False
    )
    async_output: Annotated[
        str | None, Option(metavar="S3", help=f"Where answers go; default: s3://BUCKET/{ASYNC_PREFIX}/NAME.")
    ] = None
    autoscale: Annotated[
        str | None, Option(metavar="MIN..MAX", help="Number of instances, by the load; with --async, MIN may be 0.")
    ] = None
    autoscale_target: Annotated[
        float | None,
        Option(metavar="N", help="Load of an instance to aim at: 600 requests a minute; with --async, 5 that wait."),
    ] = None
    capture: Annotated[
        int | None, Option(metavar="PERCENT", help="Keep this share of requests and answers in S3; 0: none.")
    ] = None
    allow_s3: Annotated[
        list[str] | None, Option(metavar="S3", help="Requests may name photos under this prefix; '': no photos.")
    ] = None
    kms_key: Annotated[
        str | None, Option(metavar="KEY", help="For disks, package and captured data; '': no key of yours.")
    ] = None
    capture_to: str | None = None
    """s3:// prefix for what is captured."""

    def __post_init__(self) -> None:
        if self.serverless:
            self._check_serverless()
        else:
            check_instance_type(self.machine)
            _check(self.instances is None or self.instances >= 1, "--instances", self.instances, "must be 1 or more")
        for uri in (*filter(None, [self.async_output]), *self.allowed_s3):
            split_s3_uri(uri)
        if self.bounds:
            low, high = self.bounds
            _check(low <= high and high >= 1, "--autoscale", self.autoscale, "needs MIN <= MAX, and MAX of 1 or more")
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
    def count(self) -> int:
        """The number of instances to begin with: within the bounds of ``autoscale``, and never 0."""
        low, high = self.bounds or (1, None)
        wanted = max(1 if self.instances is None else self.instances, low)
        return wanted if high is None else max(min(wanted, high), 1)

    @property
    def memory_mb(self) -> int:
        """The memory of a serverless endpoint."""
        return MEMORY_MB if self.memory is None else self.memory

    @property
    def allowed_s3(self) -> list[str]:
        """The prefixes of ``allow_s3``, without the empty text that stands for none."""
        return [uri for uri in self.allow_s3 or () if uri]

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
        """Server processes on an instance: one a GPU, else one a processor; one where AWS decides."""
        if self.serverless:
            return 1
        return count_gpus(self.machine) if self.on_gpu else count_processors(self.machine)

    @property
    def on_gpu(self) -> bool:
        """Whether the instances have a GPU."""
        return not self.serverless and has_gpu(self.machine)

    def check_unused(self) -> None:
        """Raise SettingsError for an option that does nothing at an endpoint of this kind, as somebody expects it to.

        An update is complete only once it has its endpoint's kind.
        """
        for option, given, is_used, needs in (
            ("--memory", self.memory, self.serverless, "--serverless"),
            ("--concurrency", self.concurrency, self.serverless, "--serverless"),
            ("--instances", self.instances, not self.serverless, "instances; leave it or --serverless out"),
            ("--async-output", self.async_output, self.asynchronous, "--async"),
            ("--autoscale-target", self.autoscale_target, self.autoscale, "--autoscale"),
        ):
            _check(given is None or bool(is_used), option, given, f"needs {needs}")

    def _check_serverless(self) -> None:
        if self.asynchronous or self.instance_type:
            raise SettingsError("--serverless: has no instances, and no --async")
        for option, given in (("--capture", self.capture), ("--autoscale", self.autoscale)):
            if given:
                raise SettingsError(f"{option}: a serverless endpoint has none; leave it or --serverless out")
        allowed = ", ".join(map(str, SERVERLESS_MB))
        _check(self.memory_mb in SERVERLESS_MB, "--memory", self.memory, f"must be one of {allowed}")
        concurrency = self.concurrency
        _check(concurrency is None or 1 <= concurrency <= 200, "--concurrency", concurrency, "must be 1 to 200")


def model_request(
    name: str,
    image: str,
    package_uri: str,
    role_arn: str,
    environment: dict[str, str],
    tags: Tags,
    kept: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the parameters of CreateModel. ``environment`` is what ``container_environment`` gave.

    ``kept`` are further parameters that stay as they are, such as a VPC.
    """
    return {
        "ModelName": name,
        "ExecutionRoleArn": role_arn,
        "PrimaryContainer": {"Image": image, "ModelDataUrl": package_uri, "Environment": environment},
        "Tags": tags,
        **(kept or {}),
    }


def choose_image(image: str | None, region: str, hosting: Hosting) -> str:
    """Return the container's address: ``image``, or AWS's for None and an empty text.

    Raises SettingsError for what can't be a container's address, and where that container can't use the instances' GPU.
    """
    if not image:
        return find_inference_image(region, hosting.machine)
    check_image(image)
    if hosting.on_gpu and not has_serving_toolkit(image):
        raise SettingsError(
            f"--image {image}: computes on the CPU; take an --instance-type without a GPU, or --image ''"
        )
    return image


def container_environment(
    hosting: Hosting, region: str, image: str, payload_bytes: int | None = None
) -> dict[str, str]:
    """Return the container's environment variables.

    ``payload_bytes`` is the size of the largest request, where it isn't the usual 6 MB.
    """
    limit = ASYNC_REQUEST_BYTES if hosting.asynchronous else payload_bytes
    allowed = {ALLOWED_S3: " ".join(hosting.allowed_s3)} if hosting.allowed_s3 else {}
    if not has_serving_toolkit(image):
        return {_MODEL: _MODEL_FOLDER, **allowed, **({MAX_BODY: str(-(-limit // 2**20))} if limit else {})}
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


def config_request(
    name: str, model: str, hosting: Hosting, tags: Tags, kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the parameters of CreateEndpointConfig.

    ``kept`` is the config that an updated endpoint has. Of it stays what ``hosting`` says nothing about, such as the
    timeouts, the content types to capture, or who is told of asynchronous answers.
    """
    request = dict(kept or {})
    old: dict[str, Any] = dict(next(iter(request.pop("ProductionVariants", ())), {}))
    machine = old.get("InstanceType", hosting.machine)
    if machine != hosting.machine:
        old = {key: value for key, value in old.items() if key not in _OF_THE_MACHINE}
    if not hosting.serverless and has_own_disk(hosting.machine):
        old.pop("VolumeSizeInGB", None)
    variant: dict[str, Any] = {**old, "VariantName": VARIANT, "ModelName": model}
    if hosting.serverless:
        capacity = {"MemorySizeInMB": hosting.memory_mb, "MaxConcurrency": hosting.concurrency or CONCURRENCY}
        variant["ServerlessConfig"] = {**old.get("ServerlessConfig", {}), **capacity}
    else:
        variant = {
            "InitialVariantWeight": 1.0,
            "ModelDataDownloadTimeoutInSeconds": DOWNLOAD_S,
            "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
            **variant,
            "InstanceType": hosting.machine,
            "InitialInstanceCount": hosting.count,
        }
    request |= {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": tags}
    key = {"KmsKeyId": hosting.kms_key} if hosting.kms_key else {}
    request.pop("KmsKeyId", None)
    if not hosting.serverless:
        request |= key
    captured = request.pop("DataCaptureConfig", {})
    if hosting.capture:
        request["DataCaptureConfig"] = {
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **_without_key(captured, hosting),
            "EnableCapture": True,
            "InitialSamplingPercentage": hosting.capture,
            "DestinationS3Uri": hosting.capture_to,
            **key,
        }
    queue = request.pop("AsyncInferenceConfig", {})
    if hosting.asynchronous:
        place = str(hosting.async_output).rstrip("/")
        client = {"MaxConcurrentInvocationsPerInstance": hosting.workers}
        request["AsyncInferenceConfig"] = {
            "OutputConfig": {
                **_without_key(queue.get("OutputConfig", {}), hosting),
                "S3OutputPath": f"{place}{ANSWERS}",
                "S3FailurePath": f"{place}{FAILURES}",
                **key,
            },
            "ClientConfig": queue.get("ClientConfig", client) if machine == hosting.machine else client,
        }
    return request


def _without_key(kept: Mapping[str, Any], hosting: Hosting) -> dict[str, Any]:
    """Return what is kept, without its key where the user gave an empty one; a disk of its own leaves the key alone."""
    return {name: value for name, value in kept.items() if name != "KmsKeyId" or hosting.kms_key != ""}


def _check(ok: bool, option: str, given: object, rule: str) -> None:
    if not ok:
        raise SettingsError(f"{option} {given}: {rule}")
