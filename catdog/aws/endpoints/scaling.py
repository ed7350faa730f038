"""Autoscaling of an endpoint: start it, end it, or end it for the time of an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.endpoints.alarms import delete_alarms
from catdog.aws.failures import Undo, delete_if_present
from catdog.aws.hosting import VARIANT, Hosting, Tags

SERVICE: Final = "application-autoscaling"
REQUESTS_PER_MINUTE: Final = 600.0
"""Load to aim at: ten a second on an instance are fewer than two workers answer, so the next one is ready in time."""
WAITING_REQUESTS: Final = 5.0
SCALE_IN_S: Final = 300
SCALE_OUT_S: Final = 60
FROM_ZERO: Final = "StepScaling"
DRY_RUN_POLICY: Final = "THE-ARN-OF-THE-POLICY"
"""Stands in a dry run for what only AWS can say."""
_POLICY_FIELDS: Final = (
    "PolicyName",
    "PolicyType",
    "TargetTrackingScalingPolicyConfiguration",
    "StepScalingPolicyConfiguration",
)

Scaling = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Scalable targets (one or none) and scaling policies, as AWS describes them."""


def identify_target(name: str) -> dict[str, str]:
    """Return how Application Auto Scaling identifies an endpoint."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def scaling_requests(name: str, hosting: Hosting, tags: Tags) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameters of RegisterScalableTarget and PutScalingPolicy, each after its method's name in boto3.

    Without autoscaling there are none. With 0 instances there is no load of an instance to measure, so a second policy
    starts the first one when a request waits.
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
    start = {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Average",
        "Cooldown": SCALE_IN_S,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }
    from_zero = {"PolicyType": FROM_ZERO, "StepScalingPolicyConfiguration": start}
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
        *([] if low else [("put_scaling_policy", {**target, "PolicyName": f"{name}-from-zero", **from_zero})]),
    ]


def name_backlog_alarm(name: str) -> str:
    """Return the name of the alarm that goes off when a request waits and there is no instance."""
    return f"{name}-backlog"


def backlog_alarm_request(name: str, policy_arn: str, tags: Tags) -> dict[str, Any]:
    """Return the parameters of PutMetricAlarm that set the policy ``policy_arn`` in motion, as AWS documents it."""
    return {
        "AlarmName": name_backlog_alarm(name),
        "AlarmDescription": f"Made by catdog aws deploy; starts an instance of {name} when a request waits",
        "Namespace": "AWS/SageMaker",
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": [{"Name": "EndpointName", "Value": name}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [policy_arn],
        "Tags": tags,
    }


def start_scaling(account: Account, name: str, hosting: Hosting, tags: Tags, undo: Undo) -> None:
    """Start the autoscaling that ``hosting`` asks for, if any."""
    requests = scaling_requests(name, hosting, tags)
    if not requests:
        return
    undo.add(f"autoscaling of {name}", lambda: _end_with_alarm(account, name, *read_scaling(account, name)))
    for operation, parameters in requests:
        _send(account, name, operation, parameters, tags)


def _send(account: Account, name: str, operation: str, parameters: Mapping[str, Any], tags: Tags) -> None:
    """Send one of ``scaling_requests``; the policy that starts the first instance gets its alarm."""
    response = getattr(account.client(SERVICE), operation)(**parameters)
    if parameters.get("PolicyType") == FROM_ZERO:
        policy_arn = response.get("PolicyARN", DRY_RUN_POLICY)
        account.client("cloudwatch").put_metric_alarm(**backlog_alarm_request(name, policy_arn, tags))


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


def pause_scaling(account: Account, name: str, scaling: Scaling, tags: Tags, undo: Undo) -> Callable[[], None]:
    """End autoscaling before an update, and return a function that starts it again as it was.

    ``scaling`` is what ``read_scaling`` gave. SageMaker refuses to change the instance type while autoscaling is on.
    """
    targets, policies = scaling

    def resume() -> None:
        for target in targets:
            bounds = {key: target[key] for key in ("MinCapacity", "MaxCapacity")}
            _send(account, name, "register_scalable_target", {**identify_target(name), **bounds}, tags)
        for policy in policies:
            fields: dict[str, Any] = {key: policy[key] for key in _POLICY_FIELDS if key in policy}
            _send(account, name, "put_scaling_policy", {**identify_target(name), **fields}, tags)

    undo.add(f"autoscaling of {name}", resume)
    _end_with_alarm(account, name, targets, policies)
    return resume


def _end_with_alarm(
    account: Account, name: str, targets: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]
) -> None:
    end_scaling(account, name, targets, policies)
    if any(policy.get("PolicyType") == FROM_ZERO for policy in policies):
        delete_alarms(account, [name_backlog_alarm(name)])


def read_scaling(account: Account, name: str) -> Scaling:
    """Return the endpoint's scalable targets (one or none) and its scaling policies."""
    client, target = account.client(SERVICE), identify_target(name)
    namespace, resource = target["ServiceNamespace"], target["ResourceId"]
    targets = client.describe_scalable_targets(ServiceNamespace=namespace, ResourceIds=[resource])
    policies = client.describe_scaling_policies(ServiceNamespace=namespace, ResourceId=resource)
    return targets["ScalableTargets"], policies["ScalingPolicies"]
