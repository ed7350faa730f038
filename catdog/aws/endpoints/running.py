"""What an endpoint runs at present, so that an update changes what it names and nothing else.

running = read_running(account, "catdog-prod")      None if there is no such endpoint
hosting = inherit(hosting, running)                 what wasn't given is as it runs
list_changes(before, after) -> ["instances: 1 -> 4", ...]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from catdog.aws.account import PROJECT, Account
from catdog.aws.containers import is_aws_inference
from catdog.aws.endpoints.scaling import Scaling, read_scaling
from catdog.aws.failures import find
from catdog.aws.hosting import ANSWERS, OUR_VARIABLES, VARIANT, Hosting
from catdog.aws.instances import has_own_disk
from catdog.aws.inventory import describe_endpoint, read_tags
from catdog.errors import SettingsError
from catdog.serving.requests import ALLOWED_S3

FORMER_TAG: Final = "FormerConfig"
"""Of an endpoint: the config that it served before, and that catdog aws rollback goes back to."""
_DESCRIPTION_ONLY: Final = frozenset({"EndpointConfigName", "EndpointConfigArn", "CreationTime", "ResponseMetadata"})
_OF_AUTOSCALING: Final = ("autoscale", "autoscale_target")  # not the config's; autoscaling goes on by itself


@dataclass(frozen=True, kw_only=True)
class Running:
    """An endpoint of this project that is in service, with its config and its model."""

    name: str
    arn: str
    config_name: str
    config: Mapping[str, Any]
    """What CreateEndpointConfig would take to make this config again, names and tags left out."""
    model: Mapping[str, Any]
    """DescribeModel; empty if the model is gone."""
    tags: Mapping[str, str]
    count: int
    """The number of instances at present, which autoscaling may have chosen; 0 if it is serverless."""
    scaling: Scaling
    """Its autoscaling."""

    @property
    def is_scaled(self) -> bool:
        """Whether autoscaling is on."""
        return bool(self.scaling[0])

    @property
    def variant(self) -> dict[str, Any]:
        """The config's only variant."""
        variant: dict[str, Any] = self.config["ProductionVariants"][0]
        return variant

    @property
    def container(self) -> Mapping[str, Any]:
        """Image, package and environment of the model."""
        container: Mapping[str, Any] = self.model.get("PrimaryContainer", {})
        return container

    @property
    def role_arn(self) -> str | None:
        """The role that it runs under."""
        return self.model.get("ExecutionRoleArn")

    @property
    def user_image(self) -> str | None:
        """The container, if it is one of the user's and not AWS's, which follows catdog's version."""
        image = str(self.container.get("Image", ""))
        return image if image and not is_aws_inference(image) else None

    @property
    def user_environment(self) -> dict[str, str]:
        """The container's variables that deploy never sets."""
        found = self.container.get("Environment", {})
        return {name: value for name, value in found.items() if name not in OUR_VARIABLES}

    @property
    def user_network(self) -> dict[str, Any]:
        """The model's VPC and network isolation, which deploy never sets."""
        return {key: self.model[key] for key in ("VpcConfig", "EnableNetworkIsolation") if self.model.get(key)}

    @property
    def hosting(self) -> Hosting:
        """The options that would make it, all of them given."""
        serverless, queue = self.variant.get("ServerlessConfig"), self.config.get("AsyncInferenceConfig")
        captured = self.config.get("DataCaptureConfig", {})
        output = str(queue["OutputConfig"].get("S3OutputPath", "")) if queue else ""
        return Hosting(
            instance_type=None if serverless else self.variant["InstanceType"],
            instances=None if serverless else max(self.count, 1),
            serverless=bool(serverless),
            memory=serverless["MemorySizeInMB"] if serverless else None,
            concurrency=serverless["MaxConcurrency"] if serverless else None,
            asynchronous=bool(queue),
            async_output=output.removesuffix(ANSWERS) or None,
            capture=captured.get("InitialSamplingPercentage") if captured.get("EnableCapture") else None,
            capture_to=captured.get("DestinationS3Uri"),
            allow_s3=self.container.get("Environment", {}).get(ALLOWED_S3, "").split() or None,
            kms_key=self.config.get("KmsKeyId"),
        )


def read_running(account: Account, name: str) -> Running | None:
    """Return the endpoint of this name, or None if there is none.

    Raises SettingsError if it isn't one that catdog made and may update now.
    """
    sagemaker = account.client("sagemaker")
    described = describe_endpoint(sagemaker, name)
    if described is None:
        return None
    tags = read_tags(sagemaker, described["EndpointArn"])
    if tags.get("Project") != PROJECT:
        raise SettingsError(f"{name}: that endpoint isn't catdog's (it has no tag Project={PROJECT})")
    if described["EndpointStatus"] != "InService":
        raise SettingsError(f"{name}: is {described['EndpointStatus']}; wait until it is in service, or delete it")
    running = describe_version(account, name, described["EndpointConfigName"], described["EndpointArn"], tags)
    if running is None:
        raise SettingsError(f"{name}: its config {described['EndpointConfigName']} is gone; delete it and deploy anew")
    if [variant["VariantName"] for variant in running.config["ProductionVariants"]] != [VARIANT]:
        raise SettingsError(f"{name}: wasn't made by catdog aws deploy (it has other variants)")
    if "ServerlessConfig" in running.variant:
        return running
    now: dict[str, Any] = next(iter(described.get("ProductionVariants", ())), {})
    count = now.get("DesiredInstanceCount", now.get("CurrentInstanceCount"))
    return replace(
        running,
        count=running.count if count is None else count,
        scaling=read_scaling(account, name),
    )


def describe_version(
    account: Account, name: str, config_name: str, arn: str, tags: Mapping[str, str]
) -> Running | None:
    """Return the endpoint as it would run with this config of its own, or None if the config is gone."""
    sagemaker = account.client("sagemaker")
    config = find(sagemaker.describe_endpoint_config, EndpointConfigName=config_name)
    if config is None:
        return None
    variant = config["ProductionVariants"][0]
    model = find(sagemaker.describe_model, ModelName=variant["ModelName"]) or {}
    return Running(
        name=name,
        arn=arn,
        config_name=config_name,
        config={key: value for key, value in config.items() if value and key not in _DESCRIPTION_ONLY},
        model=model,
        tags=tags,
        count=variant.get("InitialInstanceCount", 0),
        scaling=([], []),
    )


def inherit(given: Hosting, running: Running) -> Hosting:
    """Return ``given`` with what it leaves open taken from what runs.

    Raises SettingsError for what can't be changed: an endpoint stays serverless, asynchronous or neither.
    """
    before = running.hosting
    if given.mode not in ("realtime", before.mode):
        raise SettingsError(
            f"--{given.mode}: {running.name} is {before.mode}, and SageMaker doesn't turn that into {given.mode}; "
            "take another name"
        )
    if before.serverless:
        for option, value in (("--instance-type", given.instance_type), ("--instances", given.instances)):
            if value is not None:
                raise SettingsError(f"{option}: {running.name} is serverless, and has no instances")
    open_fields = {
        field.name: getattr(before, field.name)
        for field in fields(Hosting)
        if _is_open(getattr(given, field.name)) and field.name not in _OF_AUTOSCALING
    }
    machine = given.instance_type or before.instance_type
    if machine and has_own_disk(machine) and given.kms_key is None:
        open_fields["kms_key"] = None  # SageMaker refuses one for such disks, which encrypt themselves
    if given.capture == 0:
        open_fields["capture_to"] = None
    return replace(given, **open_fields)


def _is_open(value: object) -> bool:
    """Return whether an option has this value if it isn't given; 0 and an empty text are given."""
    return value is None or value is False or value == []


def list_changes(running: Running, after: Hosting, more: Mapping[str, tuple[object, object]]) -> list[str]:
    """Return a line for each thing that an update changes; ``more`` are what was and what is to be, by name."""
    before, planned = _list_settings(running.hosting), _list_settings(after)
    pairs = {name: (before[name], planned[name]) for name in planned} | dict(more)
    return [f"{name}: {old or 'none'} -> {new or 'none'}" for name, (old, new) in pairs.items() if old != new]


def _list_settings(hosting: Hosting) -> dict[str, object]:
    """Return what a person would say of an endpoint, by name; None where there is none."""
    has_instances, captures = not hosting.serverless, bool(hosting.capture)
    return {
        "instance type": hosting.machine if has_instances else None,
        "instances": hosting.count if has_instances else None,
        "memory in MB": None if has_instances else hosting.memory_mb,
        "requests at once": None if has_instances else hosting.concurrency,
        "percent captured": hosting.capture or None,
        "captured to": hosting.capture_to if captures else None,
        "answers go to": hosting.async_output if hosting.asynchronous else None,
        "photos may be under": " ".join(hosting.allowed_s3) or None,
        "KMS key": hosting.kms_key or None,
    }
