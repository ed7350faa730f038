"""The SageMaker Python SDK, version 2: the only module that knows it.

    start_training(account, "catdog-train-x", machines, ...)      the job exists when this returns, and isn't waited for
    start_tuning(account, "catdog-tune-x", machines, ...)         the same for a search
    find_inference_image("us-east-1", "ml.m5.large")              -> the container's address

The SDK takes seconds to import, so only the functions here import it. Version 3 has no PyTorch estimator; what moving
to its ModelTrainer would take is in docs/decisions.md. The SDK sends usage data to AWS, warns of its age and logs to
stdout unless it is told not to, as it is here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from catdog.aws.account import PROJECT, Account
from catdog.aws.failures import is_aws_error
from catdog.aws.instances import has_several_gpus
from catdog.aws.jobs.requests import FRAMEWORK, METRICS, OBJECTIVES, PYTHON, Machines
from catdog.aws.source_code import TRAIN_ENTRY, stage_training_code
from catdog.errors import SettingsError
from catdog.training.space import Choices, Range

_CONFIG_VERSION: Final = "1.0"  # of the SDK's configuration files


def start_training(
    account: Account,
    job: str,
    machines: Machines,
    channels: dict[str, str],
    hyperparameters: dict[str, Any],
    checkpoints: str,
) -> None:
    """Upload the code and create the job. Raises SettingsError if the SDK refuses, and what boto3 raises."""
    with _make_estimator(account, "train", machines, hyperparameters, checkpoint_s3_uri=checkpoints) as estimator:
        estimator.fit(channels, wait=False, job_name=job)


def start_tuning(
    account: Account,
    job: str,
    machines: Machines,
    channels: dict[str, str],
    hyperparameters: dict[str, Any],
    *,
    ranges: Mapping[str, Range | Choices],
    objective: str,
    **limits: Any,
) -> None:
    """Upload the code and create a search, whose trials differ in the settings of ``ranges``.

    ``limits`` are more arguments of HyperparameterTuner, such as ``max_jobs``. Raises as ``start_training`` does.
    """
    # No checkpoints: trials would share the place, and one would go on from another's.
    with _make_estimator(account, "tune", machines, hyperparameters) as estimator:
        from sagemaker.tuner import HyperparameterTuner

        tuner = HyperparameterTuner(
            estimator,
            objective_metric_name=objective,
            objective_type=OBJECTIVES[objective],
            hyperparameter_ranges={name: _make_parameter(choice) for name, choice in ranges.items()},
            metric_definitions=estimator.metric_definitions,
            early_stopping_type="Auto",  # as the median rule of catdog tune
            tags=estimator.tags,
            **limits,
        )
        tuner.fit(channels, job_name=job, wait=False)


def find_inference_image(region: str, instance_type: str) -> str:
    """Return the address of AWS's PyTorch inference container; raises SettingsError if there is none."""
    with _silence_sdk():
        from sagemaker import image_uris

        return str(
            image_uris.retrieve(
                "pytorch",
                region,
                version=FRAMEWORK,
                py_version=PYTHON,
                instance_type=instance_type,
                image_scope="inference",
            )
        )


@contextmanager
def _make_estimator(
    account: Account, command: str, machines: Machines, hyperparameters: dict[str, Any], **more: Any
) -> Iterator[Any]:
    """Give the SDK's form of a training with this checkout's code, which exists as long as the block lasts."""
    bucket, max_seconds = account.require_bucket(), round(machines.max_hours * 3600)
    jobs_uri = f"s3://{bucket}/{PROJECT}/jobs"  # where each job has a folder for its code and its model
    if machines.instances > 1 or has_several_gpus(machines.instance_type):
        more["distribution"] = {"torch_distributed": {"enabled": True}}  # a process for each GPU or machine
    if machines.spot:
        max_wait = round(machines.max_wait_hours * 3600) if machines.max_wait_hours else 2 * max_seconds
        more |= {"use_spot_instances": True, "max_wait": max_wait}
    if machines.keep_alive:
        more["keep_alive_period_in_seconds"] = machines.keep_alive * 60
    with stage_training_code() as code, _silence_sdk():
        from sagemaker.pytorch import PyTorch

        yield PyTorch(
            entry_point=TRAIN_ENTRY,
            source_dir=str(code),
            role=account.find_role_arn(),
            framework_version=machines.framework_version,
            py_version=PYTHON,
            instance_type=machines.instance_type,
            instance_count=machines.instances,
            volume_size=machines.volume,
            volume_kms_key=machines.volume_kms_key,
            output_kms_key=machines.kms_key,
            max_run=max_seconds,
            output_path=jobs_uri,
            code_location=jobs_uri,
            hyperparameters=hyperparameters,
            metric_definitions=[{"Name": name, "Regex": regex} for name, regex in METRICS.items()],
            disable_profiler=True,
            debugger_hook_config=False,
            tags=account.make_tags(Command=command),
            sagemaker_session=_make_session(account, bucket),
            **more,
        )


def _make_session(account: Account, bucket: str) -> Any:
    """Return the SDK's session, always with a bucket of ours: otherwise it would ask STS and make one."""
    from sagemaker.config import load_sagemaker_config
    from sagemaker.session import Session

    config = load_sagemaker_config()  # so that what a company sets for all (subnets, say) holds here too
    config.setdefault("SchemaVersion", _CONFIG_VERSION)
    config.setdefault("SageMaker", {}).setdefault("PythonSDK", {}).setdefault("Modules", {})["TelemetryOptOut"] = True
    return Session(boto_session=account.session, default_bucket=bucket, sagemaker_config=config)


def _make_parameter(choice: Range | Choices) -> Any:
    from sagemaker.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter

    if isinstance(choice, Choices):
        return CategoricalParameter(list(choice.values))
    kind = IntegerParameter if isinstance(choice.low, int) else ContinuousParameter
    return kind(choice.low, choice.high, scaling_type="Logarithmic" if choice.log else "Linear")


@contextmanager
def _silence_sdk() -> Iterator[None]:
    """Run the SDK without its warnings and logs, and turn its refusals into SettingsError."""
    os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    for name in ("sagemaker", "sagemaker.config"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydantic and others warn on import
            yield
    except ImportError as error:
        raise SettingsError(
            f"the SageMaker SDK is not installed ({error.name or error}); pip install '.[aws]'"
        ) from error
    except ValueError as error:  # how the SDK refuses
        if is_aws_error(error):
            raise
        raise SettingsError(" ".join(str(error).split())) from error
    finally:
        root.setLevel(level)  # the SDK makes every library of the process log to stderr
        root.handlers[:] = handlers
