"""Autoscaling of an endpoint: begun, ended, and ended with a way back."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.hosting import Hosting, Tags, scalable, scaling_requests
from catdog.aws.undo import Undo, gone

SERVICE: Final = "application-autoscaling"
_KEPT: Final = (
    "PolicyName",
    "PolicyType",
    "TargetTrackingScalingPolicyConfiguration",
    "StepScalingPolicyConfiguration",
)


def begin(account: Account, name: str, hosting: Hosting, tags: Tags, undo: Undo) -> None:
    """As ``hosting`` asks; nothing where it doesn't."""
    requests = scaling_requests(name, hosting, tags)
    if not requests:
        return
    client = account.client(SERVICE)
    undo.add(f"autoscaling of {name}", lambda: end(account, name))
    for operation, parameters in requests:
        getattr(client, operation)(**parameters)


def end(account: Account, name: str) -> bool:
    """Deregister the endpoint, its policies with it; whether it was registered. A second time changes nothing."""
    targets, policies = state(account, name)
    client = account.client(SERVICE)
    for policy in policies:
        gone(partial(client.delete_scaling_policy, **scalable(name), PolicyName=policy["PolicyName"]))
    return bool(targets) and gone(partial(client.deregister_scalable_target, **scalable(name)))


def pause(account: Account, name: str, undo: Undo) -> None:
    """End it for an update: with a target, an update that changes the instance type is refused."""
    targets, policies = state(account, name)
    client = account.client(SERVICE)

    def again() -> None:
        for target in targets:
            bounds = {key: target[key] for key in ("MinCapacity", "MaxCapacity")}
            client.register_scalable_target(**scalable(name), **bounds)
        for policy in policies:
            client.put_scaling_policy(**scalable(name), **{key: policy[key] for key in _KEPT if key in policy})

    undo.add(f"autoscaling of {name}", again)
    end(account, name)


def is_on(account: Account, name: str) -> bool:
    """Whether autoscaling looks after the endpoint."""
    return bool(state(account, name)[0])


def state(account: Account, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The endpoint's scalable targets (one or none) and scaling policies."""
    client, target = account.client(SERVICE), scalable(name)
    space, resource = target["ServiceNamespace"], target["ResourceId"]
    targets = client.describe_scalable_targets(ServiceNamespace=space, ResourceIds=[resource])
    policies = client.describe_scaling_policies(ServiceNamespace=space, ResourceId=resource)
    return targets["ScalableTargets"], policies["ScalingPolicies"]
