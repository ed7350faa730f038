"""Autoscaling of an endpoint: start it, end it, or end it for the time of an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.failures import Undo, delete_if_present
from catdog.aws.hosting import VARIANT, Hosting, Tags

SERVICE: Final = "application-autoscaling"
REQUESTS_PER_MINUTE: Final = 600.0
"""Load to aim at: ten a second on an instance are fewer than two workers answer, so the next one is ready in time."""
WAITING_REQUESTS: Final = 5.0
SCALE_IN_S: Final = 300
SCALE_OUT_S: Final = 60
_POLICY_FIELDS: Final = (
    "PolicyName",
    "PolicyType",
    "TargetTrackingScalingPolicyConfiguration",
    "StepScalingPolicyConfiguration",
)


def identify_target(name: str) -> dict[str, str]:
    """Return how Application Auto Scaling identifies an endpoint."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def scaling_requests(name: str, hosting: Hosting, tags: Tags) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameters of RegisterScalableTarget and PutScalingPolicy, each after its method's name in boto3.

    Without autoscaling there are none.
    """
    if not hosting.bounds:
        return []
    low, high = hosting.bounds
    metric: dict[str, Any] = {
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    }
    if hosting.asynchronous:
        metric = {
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": name}],
                "Statistic": "Average",
            }
        }
    default_load = WAITING_REQUESTS if hosting.asynchronous else REQUESTS_PER_MINUTE
    policy = {
        "TargetValue": hosting.autoscale_target or default_load,
        **metric,
        "ScaleInCooldown": SCALE_IN_S,
        "ScaleOutCooldown": SCALE_OUT_S,
    }
    target, target_tags = identify_target(name), {tag["Key"]: tag["Value"] for tag in tags}
    return [
        ("register_scalable_target", {**target, "MinCapacity": low, "MaxCapacity": high, "Tags": target_tags}),
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


def start_scaling(account: Account, name: str, hosting: Hosting, tags: Tags, undo: Undo) -> None:
    """Start the autoscaling that ``hosting`` asks for, if any."""
    requests = scaling_requests(name, hosting, tags)
    if not requests:
        return
    client = account.client(SERVICE)
    undo.add(f"autoscaling of {name}", lambda: end_scaling(account, name, *read_scaling(account, name)))
    for operation, parameters in requests:
        getattr(client, operation)(**parameters)


def end_scaling(
    account: Account, name: str, targets: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]
) -> None:
    """Delete the endpoint's scaling policies and deregister it: both as ``read_scaling`` gave them."""
    client = account.client(SERVICE)
    for policy in policies:
        request = {**identify_target(name), "PolicyName": policy["PolicyName"]}
        delete_if_present(client.delete_scaling_policy, **request)
    if targets:
        delete_if_present(client.deregister_scalable_target, **identify_target(name))


def pause_scaling(account: Account, name: str, undo: Undo) -> None:
    """End autoscaling before an update: SageMaker refuses to change the instance type while it is on."""
    targets, policies = read_scaling(account, name)
    client = account.client(SERVICE)

    def restore() -> None:
        for target in targets:
            bounds = {key: target[key] for key in ("MinCapacity", "MaxCapacity")}
            client.register_scalable_target(**identify_target(name), **bounds)
        for policy in policies:
            fields = {key: policy[key] for key in _POLICY_FIELDS if key in policy}
            client.put_scaling_policy(**identify_target(name), **fields)

    undo.add(f"autoscaling of {name}", restore)
    end_scaling(account, name, targets, policies)


def read_scaling(account: Account, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the endpoint's scalable targets (one or none) and its scaling policies."""
    client, target = account.client(SERVICE), identify_target(name)
    namespace, resource = target["ServiceNamespace"], target["ResourceId"]
    targets = client.describe_scalable_targets(ServiceNamespace=namespace, ResourceIds=[resource])
    policies = client.describe_scaling_policies(ServiceNamespace=namespace, ResourceId=resource)
    return targets["ScalableTargets"], policies["ScalingPolicies"]
