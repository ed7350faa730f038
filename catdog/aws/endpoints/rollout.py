"""Put a model into service and test it, or leave everything as it was.

    roll_out(account, plan, patience)    package, model, config, endpoint (or its update), test, autoscaling

Either all of it happens or, after an error or Ctrl-C at any point, nothing of it stays: what was new is deleted, and
an endpoint that was updated serves its former config again. (A package stays in S3: it is named by its content.)

The test is needed because InService says only that the container answers /ping, which it does before its model is
loaded, and long after the model failed to load. So the endpoint is asked about photos whose answers are known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Final

from typer import Option

from catdog.aws.account import Account
from catdog.aws.app import say
from catdog.aws.calls.endpoint import (
    Answer,
    AnyEndpoint,
    AsyncEndpoint,
    Endpoint,
    is_transient,
    parse_answer,
    read_container_error,
)
from catdog.aws.endpoints.scaling import pause_scaling, start_scaling
from catdog.aws.failures import (
    CloudError,
    Undo,
    already_exists,
    create_once,
    delete_if_present,
    explain_error,
    is_aws_error,
)
from catdog.aws.hosting import Hosting, Tags, config_request, container_environment, model_request
from catdog.aws.inventory import describe_endpoint
from catdog.aws.package import GoldenPhoto, PackageUpload, upload_package
from catdog.detection.answers import Detection
from catdog.errors import CatdogError, SettingsError
from catdog.serving.golden import TOLERANCE, compare_heads, format_heads, format_scores
from catdog.serving.loading import TORCH_TOLERANCE

POLL_S: Final = 10.0
STALE_S: Final = 60.0
TEST_PAUSE_S: Final = 5.0
SETTLED: Final = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
"""States that an endpoint leaves only when it is asked to."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be in service, and what is there now."""

    name: str
    """The endpoint's."""
    version: str
    """The name of the new model and of the new config, which no other deploy has."""
    hosting: Hosting
    image: str
    upload: PackageUpload
    role_arn: str
    tags: Tags
    current: dict[str, Any] | None = None
    """DescribeEndpoint of the endpoint that is updated; None for a new one."""
    is_scaled: bool = False
    """Whether autoscaling is on at present."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint."""

    timeout: Annotated[float, Option(metavar="MINUTES", min=0, help="How long it may take to get into service.")] = 30.0
    test_timeout: Annotated[float, Option(metavar="SECONDS", min=0, help="How long tests accept server errors.")] = (
        180.0
    )


def roll_out(account: Account, plan: Plan, patience: Patience | None) -> dict[str, Any]:
    """Carry out the whole plan and return what the test saw.

    Without ``patience`` this returns once SageMaker has begun: nothing is tested, and nothing is undone later. Raises
    CloudError (also for wrong answers), SettingsError and what boto3 raises.
    """
    sagemaker, version = account.client("sagemaker"), plan.version
    tested: dict[str, Any] = {}
    with Undo(say) as undo:
        upload_package(account, plan.upload, plan.hosting.kms_key)
        undo.add_deletion(f"model {version}", sagemaker.delete_model, ModelName=version)
        environment = container_environment(plan.hosting, account.region)
        model = model_request(version, plan.image, plan.upload.uri, plan.role_arn, environment, plan.tags)
        create_once(sagemaker.create_model, **model)
        undo.add_deletion(f"endpoint config {version}", sagemaker.delete_endpoint_config, EndpointConfigName=version)
        config = config_request(version, version, plan.hosting, plan.tags)
        create_once(sagemaker.create_endpoint_config, **config)
        if plan.current is None:
            _create_endpoint(sagemaker, plan, undo, patience)
        else:
            _update_endpoint(account, plan, plan.current, undo, patience)
        if patience and not account.dry_run:
            wait_until_in_service(sagemaker, plan.name, version, patience)
            tested = check_answers(account, plan, patience.test_timeout)
        start_scaling(account, plan.name, plan.hosting, plan.tags, undo)
        if plan.current is not None:
            sagemaker.add_tags(ResourceArn=plan.current["EndpointArn"], Tags=plan.tags)
    return tested


def wait_until_in_service(sagemaker: Any, name: str, config: str, patience: Patience) -> None:
    """Return once the endpoint serves ``config``; raises CloudError if it fails or takes too long."""
    description = wait_until_settled(sagemaker, name, patience, config)
    status = description["EndpointStatus"]
    if status not in SETTLED:
        raise CloudError(f"{name}: still {status} after {patience.timeout:.0f} minutes; --timeout gives it longer")
    if status != "InService" or description["EndpointConfigName"] != config:
        reason = description.get("FailureReason") or "SageMaker gives no reason"
        raise CloudError(
            f"{name}: SageMaker could not bring it into service ({status}: {reason}); its log in CloudWatch is "
            f"/aws/sagemaker/Endpoints/{name}"
        )


def wait_until_settled(sagemaker: Any, name: str, patience: Patience, config: str | None = None) -> dict[str, Any]:
    """Return DescribeEndpoint once nothing is under way any more, or patience has ended.

    ``config`` is the config that was just asked for. While another one is in service and no failure is reported,
    SageMaker may not have begun yet; that is believed only after STALE_S.
    """
    start, last_status = time.monotonic(), ""
    while True:
        description: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        status, waited = description["EndpointStatus"], time.monotonic() - start
        has_other_config = status == "InService" and config not in (None, description["EndpointConfigName"])
        is_current = not has_other_config or description.get("FailureReason") or waited > STALE_S
        if (status in SETTLED and is_current) or waited > patience.timeout * 60:
            return description
        if status != last_status:
            say(f"{name}: {status}; this takes some minutes")
            last_status = status
        time.sleep(POLL_S)


def delete_endpoint(sagemaker: Any, name: str, patience: Patience) -> None:
    """Delete the endpoint if it exists; while SageMaker creates or updates it, that is refused, so wait."""
    deadline = time.monotonic() + patience.timeout * 60
    while True:
        try:
            delete_if_present(sagemaker.delete_endpoint, EndpointName=name)
            return
        except Exception as error:
            description = describe_endpoint(sagemaker, name) if is_aws_error(error) else None
            is_final = description is None or description["EndpointStatus"] in SETTLED
            if is_final or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def check_answers(account: Account, plan: Plan, patience_s: float) -> dict[str, Any]:
    """Ask the endpoint about the package's golden photos and return what was seen.

    Server errors are accepted for ``patience_s``. Raises CloudError if an answer is wrong or missing.
    """
    name, runtime, photos = plan.name, account.client("sagemaker-runtime"), plan.upload.read_golden_photos()
    endpoint: AnyEndpoint = Endpoint(runtime, name, pauses_s=())  # _ask_patiently tries again
    if plan.hosting.asynchronous:
        endpoint = AsyncEndpoint(runtime, account.client("s3"), name, str(plan.hosting.async_output))
    tolerance = TORCH_TOLERANCE if plan.hosting.on_gpu else TOLERANCE  # of each probability
    threshold = plan.upload.package.threshold if plan.upload.package else 0.0
    deadline, largest = time.monotonic() + patience_s, 0.0
    for photo in photos:
        answer = parse_answer(photo.name, _ask_patiently(endpoint, photo, deadline), name)
        if answer.error is not None:
            raise CloudError(f"{name}: refuses its test photo {photo.name}: {answer.error}")
        difference, given, expected = _compare(name, photo, answer, threshold)
        if not difference <= tolerance:
            raise CloudError(
                f"{name}: answers its test photo {photo.name} with {given} instead of {expected} (tolerance "
                f"{tolerance})"
            )
        largest = max(largest, difference)
    return {"photos": len(photos), "largest_difference": round(largest, 6), "tolerance": tolerance}


def _compare(name: str, photo: GoldenPhoto, answer: Answer, threshold: float) -> tuple[float, str, str]:
    """Return the largest difference between an answer and the golden one, and both in words; raises CloudError."""
    if isinstance(answer, Detection) != (photo.probabilities is None):
        raise CloudError(f"{name}: answers its test photo {photo.name} for another task than the model's")
    if isinstance(answer, Detection):
        found = answer.objects or ()
        return compare_heads(found, photo.heads, threshold), format_heads(found), format_heads(photo.heads)
    given, expected = answer.probabilities or {}, photo.probabilities or {}
    if given.keys() != expected.keys():
        raise CloudError(f"{name}: has the classes {', '.join(given)}, the model has {', '.join(expected)}")
    difference = max(abs(given[key] - expected[key]) for key in expected)
    return difference, format_scores(given), format_scores(expected)


def _ask_patiently(endpoint: AnyEndpoint, photo: GoldenPhoto, deadline: float) -> bytes:
    name = endpoint.name
    while True:
        try:
            return endpoint.ask(photo.data)
        except CatdogError:
            raise
        except Exception as error:
            if not is_aws_error(error):
                raise
            if not is_transient(error) or time.monotonic() > deadline:
                status, message = read_container_error(error)
                reason = f"{status} {message}" if status else explain_error(error)
                raise CloudError(
                    f"{name}: does not answer its test photo {photo.name} ({reason}); its log in CloudWatch is "
                    f"/aws/sagemaker/Endpoints/{name}"
                ) from error
        time.sleep(max(0.0, min(TEST_PAUSE_S, deadline - time.monotonic())))


def _create_endpoint(sagemaker: Any, plan: Plan, undo: Undo, patience: Patience | None) -> None:
    def is_ours() -> bool:
        description = describe_endpoint(sagemaker, plan.name)
        return description is not None and description.get("EndpointConfigName") == plan.version

    def delete() -> None:
        if is_ours():  # else somebody else took the name first
            delete_endpoint(sagemaker, plan.name, patience or Patience(10))

    undo.add(f"endpoint {plan.name}", delete)
    try:
        sagemaker.create_endpoint(EndpointName=plan.name, EndpointConfigName=plan.version, Tags=plan.tags)
    except Exception as error:
        if not already_exists(error):
            raise
        if not is_ours():
            raise SettingsError(f"--name {plan.name}: somebody has just made an endpoint of this name") from error


def _update_endpoint(
    account: Account, plan: Plan, current: dict[str, Any], undo: Undo, patience: Patience | None
) -> None:
    sagemaker, former, patience = account.client("sagemaker"), current["EndpointConfigName"], patience or Patience()
    if plan.is_scaled and plan.hosting.autoscale:
        pause_scaling(account, plan.name, undo)

    def update(config: str, keep_count: bool) -> None:
        """Ask for a blue/green update; ``keep_count`` keeps the number of instances that autoscaling has chosen."""
        kept: dict[str, Any] = {}
        if keep_count:
            kept["RetainAllVariantProperties"] = True
            kept["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DataCaptureConfig"}]
        sagemaker.update_endpoint(EndpointName=plan.name, EndpointConfigName=config, **kept)

    def restore() -> None:
        description = wait_until_settled(sagemaker, plan.name, patience)
        if description["EndpointConfigName"] != former:
            say(f"{plan.name}: back to {former}")
            update(former, keep_count=plan.is_scaled)
            wait_until_in_service(sagemaker, plan.name, former, patience)

    undo.add(f"endpoint {plan.name}, which served {former} before", restore)
    update(plan.version, keep_count=plan.is_scaled and not plan.hosting.autoscale)
