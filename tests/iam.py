"""IAM as far as docs/aws needs it: what a request needs, and whether a policy allows it.

    policy = read_policy("person")
    all(allows(policy, need) for need in person_needs("sagemaker", "CreateModel", parameters))

Names of actions and resources are those of AWS's Service Authorization Reference. What this doesn't know fails, so that
a new request comes with a word on what it needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "docs" / "aws"
ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"
BUCKET: Final = "catdog-tests"
SAGEMAKER: Final = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
KINDS: Final = {
    "ModelName": "model",
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "TrainingJobName": "training-job",
    "HyperParameterTuningJobName": "hyper-parameter-tuning-job",
    "TransformJobName": "transform-job",
}
Policy = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Need:
    """An action on a resource, with the condition keys that AWS would fill in."""

    action: str
    resource: str = "*"
    context: Mapping[str, str] = field(default_factory=dict)


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@cache
def read_policy(name: str) -> Policy:
    """The statements of a policy in docs/aws, filled in for the tests' account and bucket."""
    text = (FOLDER / f"{name}.json").read_text()
    for placeholder, value in (("BUCKET", BUCKET), ("REGION", REGION), ("ACCOUNT", ACCOUNT)):
        text = text.replace(f"${{{placeholder}}}", value)
    statements: Policy = json.loads(text)["Statement"]
    return statements


def allows(policy: Policy, need: Need) -> bool:
    """Whether a statement allows it and none denies it."""
    effects = {statement["Effect"] for statement in policy if _applies(statement, need)}
    return effects == {"Allow"}


def _applies(statement: Mapping[str, Any], need: Need) -> bool:
    return (
        need.action in many(statement["Action"])
        and any(_is_like(need.resource, pattern) for pattern in many(statement["Resource"]))
        and all(
            _holds(operator, need.context.get(key), many(wanted))
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if operator in ("StringEquals", "Bool"):
        return value in wanted
    if operator in ("StringLike", "ForAnyValue:StringLike"):
        return value is not None and any(_is_like(value, pattern) for pattern in wanted)
    raise AssertionError(f"tests/iam.py doesn't know the condition {operator}")


def _is_like(text: str, pattern: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL))


# --- what the person needs --------------------------------------------------------------------------------------------


def person_needs(service: str, operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    """What somebody who sends this request needs; services and operations have botocore's names."""
    if service == "sagemaker":
        yield from _sagemaker_needs(operation, parameters)
    elif service == "sagemaker-runtime":
        yield Need(f"sagemaker:{operation}", f"{SAGEMAKER}:endpoint/{parameters['EndpointName']}")
    elif service == "application-autoscaling":
        yield from _scaling_needs(operation, parameters)
    elif service == "cloudwatch":
        yield from _alarm_needs(operation, parameters)
    elif service == "s3":
        yield from _s3_needs(operation, parameters)
    elif service == "logs":
        group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{parameters['logGroupName']}"
        yield Need(f"logs:{operation}", group)
    elif service == "iam":
        role = parameters.get("PolicySourceArn") or f"arn:aws:iam::{ACCOUNT}:role/{parameters['RoleName']}"
        yield Need(f"iam:{operation}", role)
    else:
        assert (service, operation) == ("sts", "GetCallerIdentity"), f"tests/iam.py doesn't know {service} {operation}"


def _sagemaker_needs(operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    named = {kind: f"{SAGEMAKER}:{kind}/{parameters[key]}" for key, kind in KINDS.items() if key in parameters}
    if "ResourceArn" in parameters:
        resources = [parameters["ResourceArn"]]
    elif operation.startswith("List") and not named:
        resources = ["*"]
    elif operation in ("CreateEndpoint", "UpdateEndpoint"):
        resources = list(named.values())  # the endpoint and its config
    else:
        (own,) = [kind for kind in named if kind.replace("-", "") in operation.lower()][-1:]
        resources = [named[own]]
    for resource in resources:
        yield Need(f"sagemaker:{operation}", resource)
    if operation.startswith("Create"):
        yield from (Need("sagemaker:AddTags", resource) for resource in resources if parameters.get("Tags"))
    for role in _find(parameters, "RoleArn", "ExecutionRoleArn"):
        yield Need("iam:PassRole", role, {"iam:PassedToService": "sagemaker.amazonaws.com"})
    for key in _find(parameters, "KmsKeyId", "VolumeKmsKeyId"):
        yield from _key_needs(key, "DescribeKey", "CreateGrant")
    for alarm in _find(parameters, "AlarmName"):
        yield Need("cloudwatch:DescribeAlarms", _alarm(alarm))


def _scaling_needs(operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    if operation.startswith("Describe"):
        yield Need(f"application-autoscaling:{operation}")
        return
    target = f"arn:aws:application-autoscaling:{REGION}:{ACCOUNT}:scalable-target/0123"
    yield Need(
        f"application-autoscaling:{operation}",
        target,
        {"application-autoscaling:service-namespace": parameters["ServiceNamespace"]},
    )
    endpoint = parameters["ResourceId"].split("/")[1]
    if operation == "RegisterScalableTarget":
        name = "sagemaker.application-autoscaling.amazonaws.com"
        role = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
        path = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{name}/{role}"
        yield Need("iam:CreateServiceLinkedRole", path, {"iam:AWSServiceName": name})
        for action in ("DescribeEndpoint", "UpdateEndpointWeightsAndCapacities"):
            yield Need(f"sagemaker:{action}", f"{SAGEMAKER}:endpoint/{endpoint}")
        if parameters.get("Tags"):
            yield Need("application-autoscaling:TagResource", target)
    else:  # target tracking has alarms of its own
        for action in ("PutMetricAlarm", "DeleteAlarms", "DescribeAlarms"):
            yield Need(f"cloudwatch:{action}", _alarm(f"TargetTracking-{parameters['ResourceId']}-AlarmHigh-0123"))


def _alarm_needs(operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    names = [*parameters.get("AlarmNames", []), *filter(None, [parameters.get("AlarmName")])]
    resources = [_alarm(name) for name in names] or ["*"]  # by prefix, it looks at all of them
    for resource in resources:
        yield Need(f"cloudwatch:{operation}", resource)
        if parameters.get("Tags"):
            yield Need("cloudwatch:TagResource", resource)


_S3_ACTIONS: Final = {
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    **dict.fromkeys(("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"), "PutObject"),
}


def _s3_needs(operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    keys = [item["Key"] for item in parameters.get("Delete", {}).get("Objects", [])]
    keys += filter(None, [parameters.get("Key")])
    for resource in [f"{bucket}/{key}" for key in keys] or [bucket]:
        yield Need(f"s3:{_S3_ACTIONS.get(operation, operation)}", resource, {"s3:prefix": parameters.get("Prefix", "")})
    if key := parameters.get("SSEKMSKeyId"):
        yield from _key_needs(key, "GenerateDataKey", "Decrypt")  # S3 joins encrypted parts


def _key_needs(key: str, *actions: str) -> Iterator[Need]:
    """Use of a KMS key with this alias, by AWS on somebody's behalf."""
    context = {"kms:ResourceAliases": key, "kms:GrantIsForAWSResource": "true"}
    for action in actions:
        yield Need(f"kms:{action}", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0123", context)


def _alarm(name: str) -> str:
    return f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{name}"


def _find(value: Any, *names: str) -> list[str]:
    """All texts under these names, at any depth."""
    if isinstance(value, list):
        return [text for item in value for text in _find(item, *names)]
    if not isinstance(value, Mapping):
        return []
    here = [item for name, item in value.items() if name in names and isinstance(item, str)]
    return list(dict.fromkeys(here + [text for item in value.values() for text in _find(item, *names)]))


# --- what the role needs ----------------------------------------------------------------------------------------------

_WRITTEN: Final = ("DestinationS3Uri", "S3OutputPath", "S3FailurePath", "LocalPath")
_PUBLIC: Final = "public.ecr.aws/"
_IMAGE: Final = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:]+):.+")


def role_needs(operation: str, parameters: Mapping[str, Any]) -> Iterator[Need]:
    """What the job or the endpoint that this SageMaker request makes does under its role.

    Of objects only those in the tests' bucket count: whoever names another one allows it.
    """
    for image in _find(parameters, "Image", "TrainingImage"):
        if image.startswith(_PUBLIC):
            continue  # anybody may pull from there
        found = _IMAGE.fullmatch(image)
        assert found, image
        yield Need("ecr:GetAuthorizationToken")
        for action in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer"):
            yield Need(f"ecr:{action}", f"arn:aws:ecr:{found[2]}:{found[1]}:repository/{found[3]}")
    for uri in _find(parameters, "ModelDataUrl", "sagemaker_submit_directory"):
        yield from _object_needs(uri.strip('"'), "GetObject")
    for channel in _find(parameters.get("InputDataConfig", parameters.get("TransformInput", {})), "S3Uri"):
        yield from _prefix_needs(channel, "GetObject")
    for uri in _find(parameters, *_WRITTEN):
        yield from _prefix_needs(uri, "PutObject", "AbortMultipartUpload")
    for uri in _find(parameters.get("CheckpointConfig", {}), "S3Uri"):
        yield from _prefix_needs(uri, "GetObject", "PutObject", "AbortMultipartUpload")
    if "AsyncInferenceConfig" in parameters:
        answers = parameters["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"]
        yield from _prefix_needs(answers.rpartition("/")[0] + "/inputs", "GetObject")
    for key in _find(parameters, "KmsKeyId", "VolumeKmsKeyId"):
        yield from _key_needs(key, "DescribeKey", "CreateGrant", "Decrypt", "Encrypt", "GenerateDataKey")
    for alarm in _find(parameters, "AlarmName"):
        yield Need("cloudwatch:DescribeAlarms", _alarm(alarm))
    places = {
        "CreateEndpoint": f"Endpoints/{parameters.get('EndpointName')}",
        "CreateTransformJob": "TransformJobs",
        "CreateTrainingJob": "TrainingJobs",
        "CreateHyperParameterTuningJob": "TrainingJobs",
    }
    if place := places.get(operation):
        for action in ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents"):
            yield Need(f"logs:{action}", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/{place}")
        yield Need("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"})


def _prefix_needs(uri: str, *actions: str) -> Iterator[Need]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if bucket == BUCKET:
        yield Need("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": f"{prefix.rstrip('/')}/"})
    yield from _object_needs(f"{uri.rstrip('/')}/some.object", *actions)


def _object_needs(uri: str, *actions: str) -> Iterator[Need]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if uri.startswith("s3://") and bucket == BUCKET:
        yield from (Need(f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}") for action in actions)
