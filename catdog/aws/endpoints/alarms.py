"""CloudWatch alarms of an endpoint, and updates that go back by themselves when one of them goes off.

Each version has two alarms of its own, on its errors and on its time to answer. They see only the instances that run
this version: so a version that fails ends its own update, but neither the update that mends it nor a rollback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.failures import delete_if_present
from catdog.aws.hosting import VARIANT, Tags
from catdog.aws.inventory import make_version_name

ERRORS: Final = 0.05  # share of the requests that end with 5xx
LATENCY_S: Final = 20.0  # on average; SageMaker itself gives up after 60
CANARY_SHARE: Final = 10  # one instance in so many answers first
LEAST_UPDATE_S: Final = 600  # what SageMaker takes for MaximumExecutionTimeoutInSeconds
MOST_UPDATE_S: Final = 28_800
MOST_DELETED: Final = 100  # alarms that DeleteAlarms takes
_MINUTE_S: Final = 60
_WATCHED: Final = {
    "errors": ("Invocation5XXErrors", ERRORS),
    "latency": ("ModelLatency", LATENCY_S * 1e6),  # microseconds
}


def watch_version(account: Account, endpoint: str, version: str, tags: Tags) -> None:
    """Make the alarms of a version, or make them as they should be; an update to it must know their names."""
    for request in alarm_requests(endpoint, version, tags):
        account.client("cloudwatch").put_metric_alarm(**request)


def name_alarms(version: str) -> dict[str, str]:
    """Return the names of a version's alarms, each with what it watches."""
    return {f"{version}-{kind}": kind for kind in _WATCHED}


def alarm_requests(endpoint: str, version: str, tags: Tags) -> list[dict[str, Any]]:
    """Return the parameters of PutMetricAlarm for each alarm of a version: two bad minutes of three set it off."""
    dimensions = {"EndpointName": endpoint, "VariantName": VARIANT, "EndpointConfigName": version}
    return [
        {
            "AlarmName": name,
            "AlarmDescription": f"Made by catdog aws deploy; ends an update of {endpoint} to {version}",
            "Namespace": "AWS/SageMaker",
            "MetricName": _WATCHED[kind][0],
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Statistic": "Average",
            "Period": _MINUTE_S,
            "EvaluationPeriods": 3,
            "DatapointsToAlarm": 2,
            "Threshold": _WATCHED[kind][1],
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",  # nobody asks at night
            "Tags": tags,
        }
        for name, kind in name_alarms(version).items()
    ]


def deployment_config(version: str, instances: int, bake_min: float, timeout_min: float) -> dict[str, Any]:
    """Return the DeploymentConfig of an update to ``version``: its alarms take it back at any time of it.

    One instance in ten answers for ``bake_min`` minutes, then all do; for as long again those that served before are
    kept. ``instances`` below 2 can't be divided, so all requests move at once.
    """
    bake_s = round(bake_min * _MINUTE_S)
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": bake_s}
    if instances > 1 and bake_s:
        size = {"Type": "INSTANCE_COUNT", "Value": max(1, instances // CANARY_SHARE)}
        routing = {"Type": "CANARY", "CanarySize": size, "WaitIntervalInSeconds": bake_s}
    most_s = round(timeout_min * _MINUTE_S) + 2 * bake_s
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": bake_s,
            "MaximumExecutionTimeoutInSeconds": min(max(most_s, LEAST_UPDATE_S), MOST_UPDATE_S),
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in name_alarms(version)]},
    }


def list_alarms(account: Account, endpoint: str) -> list[str]:
    """Return the alarms that were made for an endpoint and exist, those of AWS's own autoscaling left out."""
    pages = account.client("cloudwatch").get_paginator("describe_alarms")
    wanted, prefix = {"Name": "EndpointName", "Value": endpoint}, make_version_name(endpoint, "").rstrip("-")
    return [
        alarm["AlarmName"]
        for page in pages.paginate(AlarmNamePrefix=prefix, AlarmTypes=["MetricAlarm"])
        for alarm in page.get("MetricAlarms", [])
        if wanted in alarm.get("Dimensions", [])
    ]


def delete_alarms(account: Account, names: Sequence[str]) -> None:
    """Delete alarms that exist."""
    delete = account.client("cloudwatch").delete_alarms
    for start in range(0, len(names), MOST_DELETED):
        delete_if_present(delete, AlarmNames=list(names[start : start + MOST_DELETED]))
