"""docs/aws: the IAM policies are JSON, allow what the commands ask for, and no more than they must."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from catdog.aws.calls.transform import PREFIX
from catdog.aws.hosting import ASYNC_PREFIX
from tests.iam import ACCOUNT, BUCKET, Need, allows, many, person_needs, read_policy, role_needs

FOLDER = Path(__file__).parents[2] / "docs" / "aws"
GOLDEN = Path(__file__).parents[1] / "golden" / "aws"
POLICIES = sorted(FOLDER.glob("*.json"))
NO_RESOURCE = {
    # AWS's service authorization reference has no resource for these.
    "ecr:GetAuthorizationToken": "a token is for the whole registry",
    "cloudwatch:GetMetricData": "metrics have no ARN, and reading knows no condition for a namespace",
    "cloudwatch:PutMetricData": "metrics have no ARN; the namespace is limited by a condition",
    "sagemaker:ListTrainingJobs": "lists",
    "sagemaker:ListHyperParameterTuningJobs": "lists",
    "sagemaker:ListTransformJobs": "lists",
    "sagemaker:ListEndpoints": "lists",
    "sagemaker:ListEndpointConfigs": "lists",
    "sagemaker:ListModels": "lists",
    "application-autoscaling:DescribeScalableTargets": "lists",
    "application-autoscaling:DescribeScalingPolicies": "lists",
    "cloudwatch:DescribeAlarms": "looks for alarms by the beginning of their name",
}
SERVICES = {
    "sagemaker": "sagemaker",
    "sagemaker-runtime": "sagemaker",
    "application-autoscaling": "application-autoscaling",
    "cloudwatch": "cloudwatch",
    "logs": "logs",
    "iam": "iam",
}
"""boto3's names and IAM's."""
S3_ACTIONS = {
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "upload_file": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "get_bucket_encryption": "s3:GetEncryptionConfiguration",
    "get_public_access_block": "s3:GetBucketPublicAccessBlock",
}
MAX_CHARACTERS = 6144  # of a managed policy, white space not counted


def statements(path: Path) -> list[dict[str, Any]]:
    policy = json.loads(path.read_text())
    assert policy["Version"] == "2012-10-17"
    return list(policy["Statement"])


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_is_as_narrow_as_aws_lets_it_be(path: Path) -> None:
    for statement in statements(path):
        assert re.fullmatch(r"[A-Za-z0-9]+", statement["Sid"])  # IAM takes nothing else
        if statement["Effect"] == "Deny":
            continue
        for action in many(statement["Action"]):
            assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action), action  # no wildcard
        if "*" in many(statement.get("Resource", [])):
            assert set(many(statement["Action"])) <= NO_RESOURCE.keys(), statement["Sid"]
        assert statement.get("Principal", {}) in ({}, {"Service": "sagemaker.amazonaws.com"})
    placeholders = set(re.findall(r"\$\{(\w+)\}", path.read_text()))
    assert placeholders <= {"BUCKET", "ACCOUNT", "REGION"}
    assert len("".join(path.read_text().split())) < MAX_CHARACTERS


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_has_no_account_but_the_reader_s_and_that_of_the_containers(path: Path) -> None:
    assert set(re.findall(r"\d{12}", path.read_text())) <= {"763104351884"}


def test_roles_are_passed_to_sagemaker_only() -> None:
    (passing,) = (s for s in statements(FOLDER / "person.json") if "iam:PassRole" in many(s["Action"]))
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert many(passing["Action"]) == ["iam:PassRole"]


def test_only_the_person_may_delete_and_nobody_may_make_roles_or_open_the_bucket() -> None:
    for path in POLICIES:
        allowed = {a for s in statements(path) if s["Effect"] == "Allow" for a in many(s["Action"])}
        if path.name != "person.json":
            assert not {a for a in allowed if ":Delete" in a}, path.name
        assert not allowed & {"iam:CreateRole", "iam:PutRolePolicy", "s3:PutBucketPolicy", "s3:PutObjectAcl"}


def test_the_readme_names_every_policy() -> None:
    text = (FOLDER / "README.md").read_text()
    assert all(f"({path.name})" in text for path in POLICIES)


def test_what_lies_in_the_bucket_in_passing_goes_away_by_itself() -> None:
    text = (FOLDER / "README.md").read_text()
    (configuration,) = re.findall(r"--lifecycle-configuration '(\{.*?\})'\n", text, re.DOTALL)
    expiring = {rule["Filter"].get("Prefix") for rule in json.loads(configuration)["Rules"] if "Expiration" in rule}
    folders = set(re.findall(r"^    (catdog/\w+/)", text, re.MULTILINE))  # where things are in the bucket
    kept = {"catdog/datasets/", "catdog/jobs/", "catdog/models/"}
    assert {f"{ASYNC_PREFIX}/", f"{PREFIX}/", "catdog/capture/"} <= folders
    assert expiring == folders - kept


def test_the_person_may_do_all_that_the_commands_ask_for() -> None:
    session = pytest.importorskip("botocore.session", reason="knows the names of AWS's operations").get_session()
    from botocore import xform_name

    allowed = {a for s in statements(FOLDER / "person.json") for a in many(s["Action"])}
    source = "\n".join(path.read_text() for path in (FOLDER.parents[1] / "catdog" / "aws").rglob("*.py"))
    called = set(re.findall(r"""[."']([a-z]+(?:_[a-z0-9]+)+)["'(,]""", source))
    wanted = {action for method, action in S3_ACTIONS.items() if method in called}
    for service, prefix in SERVICES.items():
        for operation in session.get_service_model(service).operation_names:
            if xform_name(operation) in called:
                wanted.add(f"{prefix}:{operation}")
    assert {
        "sagemaker:CreateTransformJob",
        "s3:PutObject",
        "logs:FilterLogEvents",
        "cloudwatch:GetMetricData",
    } <= wanted
    assert wanted <= allowed, sorted(wanted - allowed)


# --- what the golden requests need ------------------------------------------------------------------------------------

OUTSIDE = {
    # Photos beside catdog/datasets/, which whoever keeps them there must allow.
    "train-spot-distributed": {"catdog/val/some.object", "catdog/test.zip/some.object"},
}


def read_golden(path: Path) -> list[dict[str, Any]]:
    """The requests of a golden file, as if they were the tests' account's."""
    text = path.read_text().replace("catdog-golden", BUCKET).replace('"our-key"', '"alias/catdog"')
    found = json.loads(text)
    if "requests" in found:
        return list(found["requests"])
    operation = "CreateTrainingJob" if "TrainingJobName" in found else "CreateHyperParameterTuningJob"
    return [{"service": "sagemaker", "operation": operation, "parameters": found}]


@pytest.mark.parametrize(
    "path",
    [path for kind in ("deploy", "transform", "train", "tune") for path in sorted(GOLDEN.glob(f"{kind}*.json"))],
    ids=lambda path: path.stem,
)
def test_the_golden_requests_are_allowed_to_the_person_and_what_they_begin_to_the_role(path: Path) -> None:
    person, trains = read_policy("person"), path.stem.startswith(("train", "tune"))
    role, outside = read_policy("training-role" if trains else "endpoint-role"), set()
    for request in read_golden(path):
        needs = list(person_needs(request["service"], request["operation"], request["parameters"]))
        assert needs
        assert [need for need in needs if not allows(person, need)] == []
        if request["service"] == "sagemaker":
            denied = [
                need for need in role_needs(request["operation"], request["parameters"]) if not allows(role, need)
            ]
            outside |= {need.resource.partition(":::")[2].removeprefix(f"{BUCKET}/") for need in denied}
    assert outside == OUTSIDE.get(path.stem, set())


@pytest.mark.parametrize("name", ["person", "endpoint-role", "training-role"])
def test_a_policy_leaves_other_things_alone(name: str) -> None:
    policy = read_policy(name)
    key = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/0123"
    ours, granted = {"kms:ResourceAliases": "alias/catdog-x"}, {"kms:GrantIsForAWSResource": "true"}
    assert allows(policy, Need("kms:GenerateDataKey", key, ours))
    assert allows(policy, Need("kms:CreateGrant", key, ours | granted))
    for need in (
        Need("kms:GenerateDataKey", key, {"kms:ResourceAliases": "alias/payroll"}),
        Need("kms:CreateGrant", key, ours),
        Need("s3:GetObject", f"arn:aws:s3:::{BUCKET}/payroll.csv"),
        Need("s3:PutObject", "arn:aws:s3:::another/catdog/models/x"),
        Need("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/catdog-x", {"iam:PassedToService": "ec2.amazonaws.com"}),
        Need("sagemaker:DeleteEndpoint", f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/theirs"),
        Need("cloudwatch:DeleteAlarms", f"arn:aws:cloudwatch:us-east-1:{ACCOUNT}:alarm:theirs"),
    ):
        assert not allows(policy, need), need
