"""A job's code and request, sent: by the SageMaker SDK's estimator where it is installed, by boto3 where it isn't.

    start_training(account, request)     the job exists when this returns, and isn't waited for
    start_tuning(account, request)       the same for a search

Both ways send what ``requests`` has built; tests compare both with the same golden files.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from catdog.aws.account import Account
from catdog.aws.archive import make_archive
from catdog.aws.jobs.requests import make_code_key, needs_embedded
from catdog.aws.source_code import read_training_code


def start_training(account: Account, request: dict[str, Any]) -> None:
    """Upload the code and create the job. Raises SettingsError if the SDK refuses, and what boto3 raises."""
    _upload_code(account, request["TrainingJobName"], request)
    if has_sdk():
        from catdog.aws.jobs import sdk

        sdk.start_training(account, request)
    else:
        account.client("sagemaker").create_training_job(**request)


def start_tuning(account: Account, request: dict[str, Any]) -> None:
    """Upload the code and create the search. Raises as ``start_training`` does."""
    _upload_code(account, request["HyperParameterTuningJobName"], request["TrainingJobDefinition"])
    if has_sdk():
        from catdog.aws.jobs import sdk

        sdk.start_tuning(account, request)
    else:
        account.client("sagemaker").create_hyper_parameter_tuning_job(**request)


def has_sdk() -> bool:
    """Return whether the SageMaker SDK is installed."""
    return find_spec("sagemaker") is not None


def _upload_code(account: Account, job: str, training: dict[str, Any]) -> None:
    key = training["OutputDataConfig"].get("KmsKeyId")  # without one, the bucket's default encryption holds
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
    body, place = (
        make_archive(read_training_code(embedded=needs_embedded(training))),
        {"Bucket": account.require_bucket(), "Key": make_code_key(job)},
    )
    account.client("s3").put_object(**place, Body=body, ContentType="application/gzip", **encryption)
