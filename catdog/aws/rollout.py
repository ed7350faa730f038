"""A model into service, or all back to how it was.

    roll_out(account, plan, upload, smoke, ...)  package, model, config, endpoint (or its update), test, autoscaling

Either all of it happens or, after an error or Ctrl-C at any point, nothing of it stays: what was new is deleted, and
an endpoint that was there serves its former config again. (A package stays in S3: it is named by its content.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from catdog.aws import scaling
from catdog.aws.account import Account, CloudError, is_aws_error
from catdog.aws.app import say
from catdog.aws.hosting import (
    Hosting,
    Tags,
    config_request,
    endpoint_request,
    model_request,
    update_request,
    version_name,
)
from catdog.aws.undo import Undo, describe_endpoint, exists_already, gone, made
from catdog.errors import SettingsError

POLL_S: Final = 10.0
GRACE_S: Final = 60.0
SETTLED: Final = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
"""States of an endpoint that nothing but a request changes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be in service, and what is there now."""

    name: str
    """The endpoint's."""
    stamp: str
    """Of this deploy and no other; part of the names of the model and the config."""
    hosting: Hosting
    image: str
    package_uri: str
    role_arn: str
    tags: Tags
    now: dict[str, Any] | None = None
    """DescribeEndpoint of the endpoint that is updated; None for a new one."""
    now_scaled: bool = False
    """Whether autoscaling looks after it now."""

    @property
    def version(self) -> str:
        """The name of the new model and of the new config."""
        return version_name(self.name, self.stamp)


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint, and how often to ask; seconds."""

    timeout_s: float
    poll_s: float = POLL_S


def roll_out(
    account: Account,
    plan: Plan,
    upload: Callable[[], object],
    smoke: Callable[[], object],
    patience: Patience | None,
) -> None:
    """Do it all. ``smoke`` raises CloudError when the endpoint's answers are wrong.

    Without ``patience`` it ends once SageMaker has begun: nothing is tested, and nothing taken back later. Raises
    CloudError, SettingsError and what boto3 raises.
    """
    sagemaker, version = account.client("sagemaker"), plan.version
    with Undo() as undo:
        upload()
        undo.add(f"model {version}", lambda: gone(lambda: sagemaker.delete_model(ModelName=version)))
        model = model_request(
            version, plan.image, plan.package_uri, plan.role_arn, plan.hosting, account.region, plan.tags
        )
        made(lambda: sagemaker.create_model(**model))
        undo.add(
            f"endpoint config {version}",
            lambda: gone(lambda: sagemaker.delete_endpoint_config(EndpointConfigName=version)),
        )
        config = config_request(version, version, plan.hosting, plan.tags)
        made(lambda: sagemaker.create_endpoint_config(**config))
        if plan.now is None:
            _create(sagemaker, plan, undo, patience)
        else:
            _update(account, plan, plan.now, undo, patience)
        if patience and not account.dry_run:
            wait_for(sagemaker, plan.name, version, patience)
            smoke()
        scaling.begin(account, plan.name, plan.hosting, plan.tags, undo)
        if plan.now is not None:
            sagemaker.add_tags(ResourceArn=plan.now["EndpointArn"], Tags=plan.tags)


def wait_for(sagemaker: Any, name: str, config: str, patience: Patience) -> None:
    """Return once the endpoint is in service with ``config``; raises CloudError when it won't be."""
    found = settled(sagemaker, name, patience, config)
    status = found["EndpointStatus"]
    if status not in SETTLED:
        minutes = patience.timeout_s / 60
        raise CloudError(f"{name}: still {status} after {minutes:.0f} minutes; --timeout gives it longer")
    if status != "InService" or found["EndpointConfigName"] != config:
        reason = found.get("FailureReason") or "SageMaker gives no reason"
        raise CloudError(
            f"{name}: SageMaker could not bring it into service ({status}: {reason}); its log in CloudWatch is "
            f"/aws/sagemaker/Endpoints/{name}"
        )


def settled(sagemaker: Any, name: str, patience: Patience, config: str | None = None) -> dict[str, Any]:
    """DescribeEndpoint, once nothing is under way any more, or patience has ended.

    ``config``: was just asked for; another one in service, without a word on why, is then old news for GRACE_S.
    """
    begin, told = time.monotonic(), ""
    while True:
        found: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        status, waited = found["EndpointStatus"], time.monotonic() - begin
        unmoved = status == "InService" and config not in (None, found["EndpointConfigName"])
        is_news = not unmoved or found.get("FailureReason") or waited > GRACE_S
        if (status in SETTLED and is_news) or waited > patience.timeout_s:
            return found
        if status != told:
            say(f"{name}: {status}; this takes some minutes")
            told = status
        time.sleep(patience.poll_s)


def delete_endpoint(sagemaker: Any, name: str, patience: Patience) -> bool:
    """Delete the endpoint once SageMaker allows it, which isn't while one is made or updated; whether it was there."""
    deadline = time.monotonic() + patience.timeout_s
    while True:
        try:
            return gone(lambda: sagemaker.delete_endpoint(EndpointName=name))
        except Exception as error:
            found = describe_endpoint(sagemaker, name) if is_aws_error(error) else None
            if found is None or found["EndpointStatus"] in SETTLED or time.monotonic() > deadline:
                raise
        time.sleep(patience.poll_s)


def _create(sagemaker: Any, plan: Plan, undo: Undo, patience: Patience | None) -> None:
    def is_ours() -> bool:
        found = describe_endpoint(sagemaker, plan.name)
        return found is not None and found.get("EndpointConfigName") == plan.version

    def take_back() -> None:
        if is_ours():  # else somebody else was faster with this name
            delete_endpoint(sagemaker, plan.name, patience or Patience(600))

    undo.add(f"endpoint {plan.name}", take_back)
    try:
        sagemaker.create_endpoint(**endpoint_request(plan.name, plan.version, plan.tags))
    except Exception as error:
        if not exists_already(error):
            raise
        if not is_ours():
            raise SettingsError(f"--name {plan.name}: somebody has just made an endpoint of this name") from error


def _update(account: Account, plan: Plan, now: dict[str, Any], undo: Undo, patience: Patience | None) -> None:
    sagemaker, former, patience = account.client("sagemaker"), now["EndpointConfigName"], patience or Patience(1800)
    if plan.now_scaled and plan.hosting.autoscale:
        scaling.pause(account, plan.name, undo)

    def take_back() -> None:
        found = settled(sagemaker, plan.name, patience)
        if found["EndpointConfigName"] != former:
            say(f"{plan.name}: back to {former}")
            sagemaker.update_endpoint(**update_request(plan.name, former, keep_count=plan.now_scaled))
            wait_for(sagemaker, plan.name, former, patience)

    undo.add(f"endpoint {plan.name}, which served {former} before", take_back)
    keep_count = plan.now_scaled and not plan.hosting.autoscale
    sagemaker.update_endpoint(**update_request(plan.name, plan.version, keep_count))
