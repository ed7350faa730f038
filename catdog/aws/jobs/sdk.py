"""The SageMaker Python SDK, version 2: the only module that knows it.

    start_training(account, TrainingRequest)              the job exists when this returns, and is not waited for
    start_tuning(account, TuningRequest)                  the same for a search
    find_inference_image("us-east-1", "ml.m5.large")      -> the container's address

The SDK takes seconds to import, so only the functions here import it. Version 3 has no PyTorch estimator; what moving
to its ModelTrainer would take is in docs/decisions.md. The SDK sends usage data to AWS, warns of its age and logs to
stdout unless it is told not to, as it is here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.failures import is_aws_error
from catdog.aws.jobs.requests import FRAMEWORK, METRICS, OBJECTIVES, PYTHON, TrainingRequest, TuningRequest
from catdog.aws.source_code import TRAIN_ENTRY
from catdog.errors import SettingsError
from catdog.training.space import Choices, Range

_CONFIG_VERSION: Final = "1.0"  # of the SDK's configuration files


def start_training(account: Account, request: TrainingRequest) -> None:
    """Upload the code and create the job. Raises SettingsError if the SDK refuses, and what boto3 raises."""
    with _silence_sdk():
        estimator = _make_estimator(account, request)
        estimator.fit(dict(request.channels), wait=False, job_name=request.name)


def start_tuning(account: Account, request: TuningRequest) -> None:
    """Upload the code and create the search. Raises as ``start_training`` does."""
    with _silence_sdk():
        from sagemaker.tuner import HyperparameterTuner

        tuner = HyperparameterTuner(
            _make_estimator(account, request.training),
            objective_metric_name=request.objective,
            objective_type=OBJECTIVES[request.objective],
            hyperparameter_ranges={name: _make_parameter(choice) for name, choice in request.ranges.items()},
            metric_definitions=_list_metrics(),
            strategy=request.strategy,
            max_jobs=request.max_jobs,
            max_parallel_jobs=request.parallel,
            early_stopping_type="Auto",  # as the median rule of catdog.training.tune
            random_seed=request.seed,
            tags=list(request.training.tags),
        )
        tuner.fit(dict(request.training.channels), job_name=request.name, wait=False)


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


def _make_estimator(account: Account, request: TrainingRequest) -> Any:
    from sagemaker.pytorch import PyTorch

    machines = request.machines
    more: dict[str, Any] = {}
    if machines.is_distributed:
        more["distribution"] = {"torch_distributed": {"enabled": True}}
    if machines.spot:
        more |= {"use_spot_instances": True, "max_wait": machines.max_wait_seconds}
    if machines.keep_alive_minutes:
        more["keep_alive_period_in_seconds"] = machines.keep_alive_minutes * 60
    if request.checkpoints:
        more["checkpoint_s3_uri"] = request.checkpoints
    return PyTorch(
        entry_point=TRAIN_ENTRY,
        source_dir=str(request.code),
        role=request.role,
        framework_version=machines.framework,
        py_version=PYTHON,
        instance_type=machines.instance_type,
        instance_count=machines.instances,
        volume_size=machines.volume_gb,
        volume_kms_key=machines.volume_kms_key,
        output_kms_key=machines.kms_key,
        max_run=machines.max_seconds,
        output_path=request.jobs_uri,
        code_location=request.jobs_uri,
        hyperparameters=dict(request.hyperparameters),
        metric_definitions=_list_metrics(),
        disable_profiler=True,
        debugger_hook_config=False,
        tags=list(request.tags),
        sagemaker_session=_make_session(account, request.bucket),
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


def _list_metrics() -> list[dict[str, str]]:
    return [{"Name": name, "Regex": regex} for name, regex in METRICS.items()]


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
