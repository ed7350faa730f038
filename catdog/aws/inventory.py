"""What this project has on SageMaker: how its things are named, and its endpoints with their configs and models.

Names begin with ``catdog-``, because the policies in docs/aws/ cover no others; what is really ours says the tag
Project=catdog.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from catdog.aws.account import PROJECT
from catdog.aws.app import say
from catdog.aws.failures import FORBIDDEN, delete_if_present, error_code, explain_error, find
from catdog.aws.hosting import PAYLOAD_BYTES, SERVERLESS_PAYLOAD_BYTES
from catdog.aws.instances import price_per_hour
from catdog.errors import SettingsError

NAME_LENGTH: Final = 63  # characters at most, of jobs, endpoints, configs and models
STAMP_LENGTH: Final = 19  # of a version's stamp, such as 20261121120000-1a2b
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
EXPIRY_TAG: Final = "ExpiresAt"
_NAME: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")


@dataclass(frozen=True, kw_only=True)
class ListedEndpoint:
    """An endpoint that exists."""

    name: str
    status: str
    created: datetime
    config: str
    tags: dict[str, str]
    instance_type: str | None
    """None if it is serverless, or its config is gone."""
    memory_mb: int | None
    instances: int

    def is_expired(self, now: datetime) -> bool:
        """Return whether its time to live is over; never, if none was given or it can't be read."""
        try:
            expiry = datetime.strptime(self.tags.get(EXPIRY_TAG, ""), TIME_FORMAT)
        except ValueError:
            return False
        return expiry.replace(tzinfo=timezone.utc) <= now

    def to_json(self, now: datetime, region: str) -> dict[str, Any]:
        """Return what ``ps`` shows of it.

        The cost so far assumes that it has had today's number of instances ever since it was made.
        """
        hours = max(0.0, (now - self.created).total_seconds() / 3600)
        price = price_per_hour(self.instance_type, "hosting", region) if self.instance_type else None
        hourly = 0.0 if self.memory_mb else None if price is None else price * self.instances
        return {
            "endpoint": self.name,
            "status": self.status,
            "owner": self.tags.get("Owner"),
            "instance_type": self.instance_type or (f"serverless {self.memory_mb} MB" if self.memory_mb else None),
            "instances": self.instances if self.instance_type else None,
            "created": f"{self.created:{TIME_FORMAT}}",
            "age_hours": round(hours, 2),
            "expires_at": self.tags.get(EXPIRY_TAG),
            "expired": self.is_expired(now),
            "usd_per_hour": None if hourly is None else round(hourly, 4),
            "usd_so_far": None if hourly is None or self.memory_mb else round(hourly * hours, 2),
        }


def make_job_name(kind: str, given: str | None = None, longest: int = NAME_LENGTH, flag: str = "--name") -> str:
    """Return the name that the user gave by ``flag``, or ``catdog-KIND-<UTC time>-<4 random digits>``.

    Raises SettingsError if the given name can't be used.
    """
    if given is None:
        return f"{PROJECT}-{kind}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if not re.fullmatch(rf"{PROJECT}-[a-zA-Z0-9](-?[a-zA-Z0-9])*", given) or len(given) > longest:
        raise SettingsError(
            f"{flag} {given}: must be {PROJECT}-... with letters, digits and single hyphens, {longest} characters at "
            f"most (the policies in docs/aws/ cover no other names)"
        )
    return given


def check_endpoint_name(name: str, must_be_ours: bool = False) -> str:
    """Return ``name`` if SageMaker takes it for an endpoint, with ``must_be_ours`` only one of this project's.

    Raises SettingsError.
    """
    if must_be_ours and not name.startswith(f"{PROJECT}-"):
        raise SettingsError(f"--name {name}: must be {PROJECT}-...; the policies in docs/aws/ cover no other names")
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name}: no endpoint's name; letters, digits and hyphens, {NAME_LENGTH} characters at most"
        )
    return name


def make_version_name(endpoint: str, stamp: str) -> str:
    """Return the name of one version's model and config. ``stamp`` has STAMP_LENGTH characters, or is empty.

    Without a stamp this is what the names of all versions begin with.
    """
    return endpoint[: NAME_LENGTH - STAMP_LENGTH - 1].rstrip("-") + "-" + stamp


def read_tags(sagemaker: Any, arn: str) -> dict[str, str]:
    """Return the tags of anything on SageMaker, by key."""
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def describe_endpoint(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """Return the response to DescribeEndpoint, or None if there is no such endpoint."""
    return find(sagemaker.describe_endpoint, EndpointName=name)


def list_own_endpoints(sagemaker: Any, part: str | None = None) -> Iterator[ListedEndpoint]:
    """Yield the endpoints of this project, oldest first; ``part`` is a part of their names.

    In an account that others share, one that AWS doesn't let this person look at is passed over.
    """
    for page in sagemaker.get_paginator("list_endpoints").paginate(**list_request(part)):
        for summary in page["Endpoints"]:
            name = summary["EndpointName"]
            if not name.startswith(f"{PROJECT}-"):
                continue
            try:
                tags = read_tags(sagemaker, summary["EndpointArn"])
                found = read_endpoint(sagemaker, name, tags) if tags.get("Project") == PROJECT else None
            except Exception as error:
                if error_code(error) not in FORBIDDEN:
                    raise
                say(f"{name}: passed over, as {explain_error(error)}")
                continue
            if found:
                yield found


def list_request(part: str | None = None) -> dict[str, str]:
    """Return the parameters of ListEndpoints that find this project's, which no others' names slow down."""
    return {"NameContains": part or f"{PROJECT}-", "SortBy": "CreationTime", "SortOrder": "Ascending"}


def find_payload_limit(sagemaker: Any, name: str) -> int:
    """Return how large a request to an endpoint may be, in bytes; where AWS doesn't say, the usual size."""
    try:
        described = describe_endpoint(sagemaker, name) or {}
    except Exception as error:
        if error_code(error) not in FORBIDDEN:
            raise
        return PAYLOAD_BYTES
    variants = described.get("ProductionVariants", [])
    serverless = any(variant.get("CurrentServerlessConfig") for variant in variants)
    return SERVERLESS_PAYLOAD_BYTES if serverless else PAYLOAD_BYTES


def read_endpoint(sagemaker: Any, name: str, tags: dict[str, str] | None = None) -> ListedEndpoint | None:
    """Return the endpoint of this name, or None if there is none. ``tags`` are asked for unless they are given."""
    description = describe_endpoint(sagemaker, name)
    if description is None:
        return None
    config = description.get("EndpointConfigName", "")
    variants = _read_variants(sagemaker, config)
    first: dict[str, Any] = variants[0] if variants else {}
    counts = [
        variant.get("CurrentInstanceCount") or variant["DesiredInstanceCount"]  # of one that is made, the latter
        for variant in description.get("ProductionVariants", [])
        if "DesiredInstanceCount" in variant
    ]
    created: datetime = description["CreationTime"]
    return ListedEndpoint(
        name=name,
        status=description["EndpointStatus"],
        created=created.astimezone(timezone.utc),
        config=config,
        tags=read_tags(sagemaker, description["EndpointArn"]) if tags is None else tags,
        instance_type=first.get("InstanceType"),
        memory_mb=first.get("ServerlessConfig", {}).get("MemorySizeInMB"),
        instances=sum(counts) if counts else first.get("InitialInstanceCount", 0),
    )


def list_versions(sagemaker: Any, endpoint: str) -> tuple[list[str], list[str]]:
    """Return the configs and the models that were made for an endpoint and still exist, in use or left over."""
    prefix = make_version_name(endpoint, "")
    configs = sagemaker.get_paginator("list_endpoint_configs").paginate(NameContains=prefix)
    models = sagemaker.get_paginator("list_models").paginate(NameContains=prefix)

    def select(pages: Any, items: str, kind: str) -> list[str]:
        found = [(item[f"{kind}Name"], item[f"{kind}Arn"]) for page in pages for item in page[items]]
        wanted = {"Project": PROJECT, "Endpoint": endpoint}.items()
        return [name for name, arn in found if name.startswith(prefix) and wanted <= read_tags(sagemaker, arn).items()]

    return select(configs, "EndpointConfigs", "EndpointConfig"), select(models, "Models", "Model")


def list_models_of(sagemaker: Any, config: str) -> list[str]:
    """Return the models that a config names, those of this project only."""
    names = [str(variant["ModelName"]) for variant in _read_variants(sagemaker, config)]
    found = [(name, find(sagemaker.describe_model, ModelName=name)) for name in names]
    own = [(name, read_tags(sagemaker, model["ModelArn"])) for name, model in found if model]
    return [name for name, tags in own if tags.get("Project") == PROJECT]


def delete_versions(sagemaker: Any, configs: Sequence[str], models: Sequence[str]) -> None:
    """Delete configs and models; those that are gone already are passed over."""
    for config in configs:
        delete_if_present(sagemaker.delete_endpoint_config, EndpointConfigName=config)
    for model in models:
        delete_if_present(sagemaker.delete_model, ModelName=model)


def _read_variants(sagemaker: Any, config: str) -> list[dict[str, Any]]:
    if not config:
        return []
    found = find(sagemaker.describe_endpoint_config, EndpointConfigName=config)
    return list(found["ProductionVariants"]) if found else []
