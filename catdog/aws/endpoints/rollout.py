"""Put a model into service and test it, or leave everything as it was.

    roll_out(account, plan, patience)    package, model, config, alarms, endpoint (or its update), test, autoscaling

Either all of it happens or, after an error or Ctrl-C at any point, nothing of it stays: what was new is deleted, and
an endpoint that was updated serves its former config again. (A package stays in S3: it is named by its content.)

The test is needed because InService says only that the container answers /ping, which it does before its model is
loaded, and long after the model failed to load. So the endpoint is asked about photos whose answers are known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from typer import Option

from catdog.aws.account import Account
from catdog.aws.app import lengthen_pauses, say
from catdog.aws.calls.endpoint import (
    Answer,
    AnyEndpoint,
    AsyncEndpoint,
    Endpoint,
    is_transient,
    parse_answer,
    read_container_error,
)
from catdog.aws.endpoints.alarms import deployment_config, name_alarms, watch_version
from catdog.aws.endpoints.running import FORMER_TAG, Running
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
    running: Running | None = None
    """The endpoint that is updated; None for a new one."""
    environment: dict[str, str] = field(default_factory=dict)
    """The container's variables beside those of ``container_environment``."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint."""

    timeout: Annotated[float, Option(metavar="MINUTES", min=0, help="How long it may take to get into service.")] = 30.0
    test_timeout: Annotated[float, Option(metavar="SECONDS", min=0, help="How long tests accept server errors.")] = (
        180.0
    )
    bake: Annotated[
        float,
        Option(
            metavar="MINUTES",
            min=0,
            max=60,
            help="An update: how long the first tenth of the instances is watched, and then all of them.",
        ),
    ] = 5.0

    @property
    def update_timeout(self) -> float:
        """How long an update may take, in minutes: what it takes to get into service, and the watching."""
        return self.timeout + 2 * self.bake


def roll_out(account: Account, plan: Plan, patience: Patience | None) -> dict[str, Any]:
    """Carry out the whole plan and return what the test saw.

    Without ``patience`` this returns once SageMaker has begun: nothing is tested, and nothing is undone later. Raises
    CloudError (also for wrong answers), SettingsError and what boto3 raises.
    """
    sagemaker, version, running = account.client("sagemaker"), plan.version, plan.running
    cloudwatch = account.client("cloudwatch")
    tested: dict[str, Any] = {}
    with Undo(say) as undo:
        upload_package(account, plan.upload, plan.hosting.kms_key or None)
        undo.add_deletion(f"model {version}", sagemaker.delete_model, ModelName=version)
        environment = plan.environment | container_environment(plan.hosting, account.region, plan.image)
        network = running.user_network if running else {}
        model = model_request(version, plan.image, plan.upload.uri, plan.role_arn, environment, plan.tags, network)
        create_once(sagemaker.create_model, **model)
        undo.add_deletion(f"endpoint config {version}", sagemaker.delete_endpoint_config, EndpointConfigName=version)
        config = config_request(version, version, plan.hosting, plan.tags, running.config if running else None)
        create_once(sagemaker.create_endpoint_config, **config)
        if not plan.hosting.serverless:
            for alarm in name_alarms(version):
                undo.add_deletion(f"alarm {alarm}", cloudwatch.delete_alarms, AlarmNames=[alarm])
            watch_version(account, plan.name, version, plan.tags)
        start_scaling_again: Callable[[], None] | None = None
        if running is None:
            _create_endpoint(sagemaker, plan, undo, patience)
        else:
            start_scaling_again = _update_endpoint(account, plan, running, undo, patience or Patience())
        if patience and not account.dry_run:
            minutes = patience.timeout if running is None else patience.update_timeout
            wait_until_in_service(sagemaker, plan.name, version, minutes)
            tested = check_answers(account, plan, patience.test_timeout)
        if start_scaling_again:
            start_scaling_again()
        start_scaling(account, plan.name, plan.hosting, plan.tags, undo)
        if running is not None:
            former = {"Key": FORMER_TAG, "Value": running.config_name}
            sagemaker.add_tags(ResourceArn=running.arn, Tags=[*plan.tags, former])
    return tested


def wait_until_in_service(sagemaker: Any, name: str, config: str, minutes: float) -> None:
    """Return once the endpoint serves ``config``; raises CloudError if it fails or takes too long."""
    description = wait_until_settled(sagemaker, name, minutes, config)
    status = description["EndpointStatus"]
    if status not in SETTLED:
        raise CloudError(f"{name}: still {status} after {minutes:.0f} minutes; --timeout gives it longer")
    if status != "InService" or description["EndpointConfigName"] != config:
        reason = description.get("FailureReason") or "SageMaker gives no reason"
        raise CloudError(
            f"{name}: SageMaker could not bring it into service ({status}: {reason}); its log in CloudWatch is "
            f"/aws/sagemaker/Endpoints/{name}"
        )


def wait_until_settled(sagemaker: Any, name: str, minutes: float, config: str | None = None) -> dict[str, Any]:
    """Return DescribeEndpoint once nothing is under way any more, or the minutes are over.

    ``config`` is the config that was just asked for. While another one is in service and no failure is reported,
    SageMaker may not have begun yet; that is believed only after STALE_S.
    """
    start, last_status, pauses = time.monotonic(), "", lengthen_pauses(POLL_S)
    while True:
        description: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        status, waited = description["EndpointStatus"], time.monotonic() - start
        has_other_config = status == "InService" and config not in (None, description["EndpointConfigName"])
        is_current = not has_other_config or description.get("FailureReason") or waited > STALE_S
        if (status in SETTLED and is_current) or waited > minutes * 60:
            return description
        if status != last_status:
            say(f"{name}: {status}; this takes some minutes")
            last_status = status
        time.sleep(next(pauses))


def delete_endpoint(sagemaker: Any, name: str, minutes: float) -> None:
    """Delete the endpoint if it exists; while SageMaker creates or updates it, that is refused, so wait."""
    deadline, pauses = time.monotonic() + minutes * 60, lengthen_pauses(POLL_S)
    while True:
        try:
            delete_if_present(sagemaker.delete_endpoint, EndpointName=name)
            return
        except Exception as error:
            description = describe_endpoint(sagemaker, name) if is_aws_error(error) else None
            is_final = description is None or description["EndpointStatus"] in SETTLED
            if is_final or time.monotonic() > deadline:
                raise
        time.sleep(next(pauses))


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
            delete_endpoint(sagemaker, plan.name, patience.timeout if patience else 10)

    undo.add(f"endpoint {plan.name}", delete)
    try:
        sagemaker.create_endpoint(EndpointName=plan.name, EndpointConfigName=plan.version, Tags=plan.tags)
    except Exception as error:
        if not already_exists(error):
            raise
        if not is_ours():
            raise SettingsError(f"--name {plan.name}: somebody has just made an endpoint of this name") from error


def _update_endpoint(
    account: Account, plan: Plan, running: Running, undo: Undo, patience: Patience
) -> Callable[[], None] | None:
    """Ask for the update; where autoscaling was ended for its time, return a function that starts it again."""
    sagemaker, former, hosting = account.client("sagemaker"), running.config_name, plan.hosting
    has_other_machine = running.hosting.instance_type != hosting.instance_type
    resume = None
    if running.is_scaled and (hosting.autoscale or has_other_machine):
        resume = pause_scaling(account, plan.name, running.scaling, plan.tags, undo)

    def restore() -> None:
        description = wait_until_settled(sagemaker, plan.name, patience.update_timeout)
        if description["EndpointConfigName"] != former:
            say(f"{plan.name}: back to {former}")
            sagemaker.update_endpoint(**update_request(plan.name, former, keep_count=running.is_scaled))
            wait_until_in_service(sagemaker, plan.name, former, patience.timeout)

    undo.add(f"endpoint {plan.name}, which served {former} before", restore)
    request = update_request(plan.name, plan.version, keep_count=running.is_scaled and running.count == hosting.count)
    if not hosting.serverless:
        timeout = patience.timeout
        request["DeploymentConfig"] = deployment_config(plan.version, hosting.count, patience.bake, timeout)
    sagemaker.update_endpoint(**request)
    return None if hosting.autoscale else resume


def update_request(name: str, config: str, keep_count: bool) -> dict[str, Any]:
    """Return the parameters of UpdateEndpoint; ``keep_count`` keeps the number of instances that there are then."""
    request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config}
    if keep_count:
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DataCaptureConfig"}]
    return request
