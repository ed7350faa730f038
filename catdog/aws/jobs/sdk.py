"""The SageMaker Python SDK, version 2: the only module that knows it.

    start_training(account, request)    the job exists when this returns, and isn't waited for
    start_tuning(account, request)      the same for a search

It turns a request of ``requests`` into an estimator that makes the same one. The SDK takes seconds to import, so only
the functions here import it. Version 3 has no PyTorch estimator, and version 2 ends on 2027-07-06; ``sending`` does
without it. The SDK sends usage data to AWS, warns of its age and logs to stdout unless it is told not to, as here.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.failures import is_aws_error
from catdog.aws.jobs.requests import DISTRIBUTED
from catdog.errors import SettingsError

_CONFIG_VERSION: Final = "1.0"  # of the SDK's configuration files
_OWN: Final = "sagemaker_"  # how the names of hyperparameters begin that the estimator adds by itself


def start_training(account: Account, request: Mapping[str, Any]) -> None:
    """Create the job, whose code is in S3. Raises SettingsError if the SDK refuses, and what boto3 raises."""
    resources = request["ResourceConfig"]
    more: dict[str, Any] = {"checkpoint_s3_uri": request["CheckpointConfig"]["S3Uri"]}
    if "KeepAlivePeriodInSeconds" in resources:
        more["keep_alive_period_in_seconds"] = resources["KeepAlivePeriodInSeconds"]
    with _silence_sdk():
        estimator = _make_estimator(account, request, request["HyperParameters"], resources, request["Tags"], **more)
        estimator.fit(_read_channels(request), wait=False, job_name=request["TrainingJobName"])


def start_tuning(account: Account, request: Mapping[str, Any]) -> None:
    """Create the search, whose trials' code is in S3. Raises as ``start_training`` does."""
    config, trial, tags = request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"], request["Tags"]
    limits, objective = config["ResourceLimits"], config["HyperParameterTuningJobObjective"]
    with _silence_sdk():
        from sagemaker.tuner import HyperparameterTuner

        resources = trial["HyperParameterTuningResourceConfig"]
        estimator = _make_estimator(account, trial, trial["StaticHyperParameters"], resources, tags)
        tuner = HyperparameterTuner(
            estimator,
            objective_metric_name=objective["MetricName"],
            objective_type=objective["Type"],
            hyperparameter_ranges=_read_ranges(config["ParameterRanges"]),
            metric_definitions=estimator.metric_definitions,
            strategy=config["Strategy"],
            max_jobs=limits["MaxNumberOfTrainingJobs"],
            max_parallel_jobs=limits["MaxParallelTrainingJobs"],
            early_stopping_type=config["TrainingJobEarlyStoppingType"],
            random_seed=config["RandomSeed"],
            tags=tags,
        )
        tuner.fit(_read_channels(trial), job_name=request["HyperParameterTuningJobName"], wait=False)


def _make_estimator(
    account: Account,
    training: Mapping[str, Any],
    hyperparameters: Mapping[str, str],
    resources: Mapping[str, Any],
    tags: list[dict[str, str]],
    **more: Any,
) -> Any:
    """Return the SDK's form of a training."""
    from sagemaker.pytorch import PyTorch

    container, output = training["AlgorithmSpecification"], training["OutputDataConfig"]
    values = {name: json.loads(text) for name, text in hyperparameters.items()}
    stopping = training["StoppingCondition"]
    if values.get(DISTRIBUTED):
        more["distribution"] = {"torch_distributed": {"enabled": True}}
    if training.get("EnableManagedSpotTraining"):
        more |= {"use_spot_instances": True, "max_wait": stopping["MaxWaitTimeInSeconds"]}
    return PyTorch(
        entry_point=values["sagemaker_program"],
        source_dir=values["sagemaker_submit_directory"],  # an s3:// address, so the SDK uploads nothing
        role=training["RoleArn"],
        image_uri=container["TrainingImage"],
        instance_type=resources["InstanceType"],
        instance_count=resources["InstanceCount"],
        volume_size=resources["VolumeSizeInGB"],
        volume_kms_key=resources.get("VolumeKmsKeyId"),
        output_kms_key=output.get("KmsKeyId"),
        max_run=stopping["MaxRuntimeInSeconds"],
        output_path=output["S3OutputPath"],
        code_location=output["S3OutputPath"],
        hyperparameters={name: value for name, value in values.items() if not name.startswith(_OWN)},
        metric_definitions=container["MetricDefinitions"],
        enable_sagemaker_metrics=container.get("EnableSageMakerMetricsTimeSeries"),
        disable_profiler=True,
        debugger_hook_config=False,
        tags=tags,
        sagemaker_session=_make_session(account),
        **more,
    )


def _make_session(account: Account) -> Any:
    """Return the SDK's session, always with a bucket of ours: otherwise it would ask STS and make one."""
    from sagemaker.config import load_sagemaker_config
    from sagemaker.session import Session

    config = load_sagemaker_config()  # so that what a company sets for all (subnets, say) holds here too
    config.setdefault("SchemaVersion", _CONFIG_VERSION)
    config.setdefault("SageMaker", {}).setdefault("PythonSDK", {}).setdefault("Modules", {})["TelemetryOptOut"] = True
    return Session(boto_session=account.session, default_bucket=account.require_bucket(), sagemaker_config=config)


def _read_channels(training: Mapping[str, Any]) -> dict[str, str]:
    return {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in training["InputDataConfig"]}


def _read_ranges(ranges: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the SDK's parameters for a request's ranges."""
    from sagemaker.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter

    found: dict[str, Any] = {}
    for one in ranges["CategoricalParameterRanges"]:
        found[one["Name"]] = CategoricalParameter([json.loads(text) for text in one["Values"]])
    for kind, number, parameter in (
        ("Continuous", float, ContinuousParameter),
        ("Integer", int, IntegerParameter),
    ):
        for one in ranges[f"{kind}ParameterRanges"]:
            ends = number(one["MinValue"]), number(one["MaxValue"])
            found[one["Name"]] = parameter(*ends, scaling_type=one["ScalingType"])
    return found


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
            f"the SageMaker SDK can't be used ({error.name or error}); uninstall it, and boto3 sends the same request, "
            "or pip install '.[sagemaker]'"
        ) from error
    except ValueError as error:  # how the SDK refuses
        if is_aws_error(error):
            raise
        raise SettingsError(" ".join(str(error).split())) from error
    finally:
        root.setLevel(level)  # the SDK makes every library of the process log to stderr
        root.handlers[:] = handlers
