"""What of this project is on SageMaker: endpoints with their configs and models, told by the tag Project=catdog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any, Final

from catdog.aws import prices
from catdog.aws.account import PROJECT
from catdog.aws.hosting import version_stem
from catdog.aws.undo import describe_endpoint, gone

EXPIRY_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """One endpoint that is there."""

    name: str
    status: str
    created: datetime
    config: str
    tags: dict[str, str]
    instance_type: str | None
    """None: serverless, or its config is gone."""
    memory_mb: int | None
    instances: int

    @property
    def is_ours(self) -> bool:
        """Whether this project made it."""
        return self.tags.get("Project") == PROJECT

    @property
    def expires(self) -> datetime | None:
        """When it may be deleted; None where that wasn't said, or can't be read."""
        try:
            return datetime.strptime(self.tags.get("ExpiresAt", ""), EXPIRY_FORMAT).replace(tzinfo=timezone.utc)
        except ValueError:
            return None

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    def about(self, now: datetime, region: str) -> dict[str, Any]:
        """For people and programs; the cost so far takes the instances of now for those of always."""
        hours = max(0.0, (now - self.created).total_seconds() / 3600)
        found: dict[str, Any] = {
            "endpoint": self.name,
            "status": self.status,
            "owner": self.tags.get("Owner"),
            "instance_type": self.instance_type or (f"serverless {self.memory_mb} MB" if self.memory_mb else None),
            "instances": self.instances if self.instance_type else None,
            "created": f"{self.created:{EXPIRY_FORMAT}}",
            "age_hours": round(hours, 2),
            "expires_at": self.tags.get("ExpiresAt"),
            "expired": self.is_expired(now),
        }
        price = prices.hourly(self.instance_type, "hosting", region) if self.instance_type else None
        if self.memory_mb:
            price = 0.0
        found["usd_per_hour"] = None if price is None else round(price * self.instances, 4)
        found["usd_so_far"] = None if price is None or self.memory_mb else round(price * self.instances * hours, 2)
        return found


def endpoints(sagemaker: Any) -> Iterator[Deployed]:
    """Those of this project, oldest first."""
    pages = sagemaker.get_paginator("list_endpoints").paginate(SortBy="CreationTime", SortOrder="Ascending")
    for page in pages:
        for summary in page["Endpoints"]:
            tags = tags_of(sagemaker, summary["EndpointArn"])
            if tags.get("Project") == PROJECT and (found := deployed(sagemaker, summary["EndpointName"], tags)):
                yield found


def deployed(sagemaker: Any, name: str, tags: dict[str, str] | None = None) -> Deployed | None:
    """The endpoint of this name; None where there is none. ``tags``: where they are known already."""
    found = describe_endpoint(sagemaker, name)
    if found is None:
        return None
    config = found.get("EndpointConfigName", "")
    variants = _variants(sagemaker, config)
    first: dict[str, Any] = variants[0] if variants else {}
    running = [
        v.get("CurrentInstanceCount") or v.get("DesiredInstanceCount") for v in found.get("ProductionVariants", [])
    ]
    instances = sum(count for count in running if count) or first.get("InitialInstanceCount", 0)
    created: datetime = found["CreationTime"]
    return Deployed(
        name=name,
        status=found["EndpointStatus"],
        created=created.astimezone(timezone.utc),
        config=config,
        tags=tags_of(sagemaker, found["EndpointArn"]) if tags is None else tags,
        instance_type=first.get("InstanceType"),
        memory_mb=first.get("ServerlessConfig", {}).get("MemorySizeInMB"),
        instances=instances,
    )


def versions(sagemaker: Any, endpoint: str) -> tuple[list[str], list[str]]:
    """The configs and the models that were made for an endpoint and are still there, in use or left over."""
    stem = version_stem(endpoint)
    configs = sagemaker.get_paginator("list_endpoint_configs").paginate(NameContains=stem)
    models = sagemaker.get_paginator("list_models").paginate(NameContains=stem)
    named = (
        [
            (item["EndpointConfigName"], item["EndpointConfigArn"])
            for page in configs
            for item in page["EndpointConfigs"]
        ],
        [(item["ModelName"], item["ModelArn"]) for page in models for item in page["Models"]],
    )
    found = [
        [name for name, arn in entries if name.startswith(stem) and _is_of(tags_of(sagemaker, arn), endpoint)]
        for entries in named
    ]
    return found[0], found[1]


def models_of(sagemaker: Any, config: str) -> list[str]:
    """The models that a config of this project names and that are this project's, too."""
    names = [str(variant["ModelName"]) for variant in _variants(sagemaker, config)]
    return [name for name in names if _model_is_ours(sagemaker, name)]


def delete_version(sagemaker: Any, config: str, models: Sequence[str]) -> None:
    """A config and its models; those that are gone already are fine."""
    gone(lambda: sagemaker.delete_endpoint_config(EndpointConfigName=config))
    for model in models:
        gone(partial(sagemaker.delete_model, ModelName=model))


def tags_of(sagemaker: Any, arn: str) -> dict[str, str]:
    """The tags of a thing, by key."""
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def _variants(sagemaker: Any, config: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def read() -> None:
        found.extend(sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"])

    if config:
        gone(read)
    return found


def _model_is_ours(sagemaker: Any, name: str) -> bool:
    tags: dict[str, str] = {}

    def read() -> None:
        tags.update(tags_of(sagemaker, sagemaker.describe_model(ModelName=name)["ModelArn"]))

    gone(read)
    return tags.get("Project") == PROJECT


def _is_of(tags: dict[str, str], endpoint: str) -> bool:
    return tags.get("Project") == PROJECT and tags.get("Endpoint") == endpoint
