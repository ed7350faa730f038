"""What AWS says of jobs: one described in our words, its log, and waiting for its end.

describe(account, name) -> {"name": ..., "kind": "training", "state": "Completed", "seconds": 312, "usd": 0.06, ...}
watch(account, name, say) -> the same, once it has ended; its log meanwhile
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Final, Literal

from catdog.aws.account import Account, CloudError, code_of
from catdog.aws.prices import Kind as PriceKind
from catdog.aws.prices import hourly
from catdog.errors import SettingsError
from catdog.text import printable

Kind = Literal["training", "tuning", "transform"]
KINDS: Final[tuple[Kind, ...]] = ("training", "tuning", "transform")
ENDED: Final = frozenset({"Completed", "Failed", "Stopped"})
POLL_S: Final = 10.0
LATE_LOG_S: Final = 5.0
"""CloudWatch shows the last lines this long after a job's end."""

_LOG_GROUPS: Final = {"training": "/aws/sagemaker/TrainingJobs", "transform": "/aws/sagemaker/TransformJobs"}


def describe(account: Account, name: str, kind: Kind | None = None) -> dict[str, Any]:
    """A job by its name, of whatever kind unless that is said; raises SettingsError where there is none."""
    client = account.client("sagemaker")
    for each in (kind,) if kind else KINDS:
        try:
            return _DESCRIBE[each](client, account, name)
        except client.exceptions.ClientError as error:
            if not _is_missing(error):
                raise
    raise SettingsError(f"{name}: there is no such job in {account.region}; python -m catdog.aws status lists them")


def trials_usd(account: Account, name: str) -> float | None:
    """What the trainings of a search have cost so far; None where one of them has no price in the table."""
    pages = account.client("sagemaker").get_paginator("list_training_jobs").paginate(NameContains=f"{name}-")
    total = 0.0
    for page in pages:
        for summary in page["TrainingJobSummaries"]:
            usd = describe(account, summary["TrainingJobName"], "training")["usd"]
            if usd is None:
                return None
            total += usd
    return round(total, 4)


def watch(
    account: Account,
    name: str,
    kind: Kind,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
) -> dict[str, Any]:
    """Wait for a job's end, telling its steps and its log; gives its description.

    Raises CloudError with AWS's reason when it failed or was stopped.
    """
    log = Log(account, kind, name)
    told = ""
    while True:
        job = describe(account, name, kind)
        if (step := job.get("step") or job["state"]) != told:
            say(f"{datetime.now(timezone.utc):%H:%M:%S} {name}: {step}")
            told = step
        for line in log.new_lines():
            say(line)
        if job["state"] in ENDED:
            break
        time.sleep(poll_s)
    if log.seen:
        time.sleep(min(poll_s, LATE_LOG_S))
        for line in log.new_lines():
            say(line)
    if job["state"] != "Completed":
        reason = job.get("failure") or f"python -m catdog.aws status {name} --logs shows its log"
        raise CloudError(f"{name}: {'was stopped' if job['state'] == 'Stopped' else 'failed'}: {reason}")
    return job


class Log:
    """A job's log in CloudWatch, all of its machines; gives each line once."""

    def __init__(self, account: Account, kind: Kind, name: str) -> None:
        self._group = _LOG_GROUPS.get(kind)
        self._name = name
        self._client = account.client("logs") if self._group else None
        self._tokens: dict[str, str] = {}
        self.seen = False

    def new_lines(self) -> Iterator[str]:
        """Lines that were written since the last call; none while there is no log yet."""
        if self._client is None:
            return
        for stream in self._streams():
            yield from self._read(stream)

    def _streams(self) -> list[str]:
        assert self._client is not None
        try:
            pages = self._client.get_paginator("describe_log_streams").paginate(
                logGroupName=self._group, logStreamNamePrefix=f"{self._name}/"
            )
            return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except self._client.exceptions.ResourceNotFoundException:
            return []

    def _read(self, stream: str) -> Iterator[str]:
        assert self._client is not None
        machine = stream.removeprefix(f"{self._name}/").rpartition("-")[0]  # of algo-1-1700000000
        while True:
            more = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            answer = self._client.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **more
            )
            for event in answer["events"]:
                self.seen = True
                yield f"[{machine}] {printable(event['message'].rstrip())}"
            token = answer["nextForwardToken"]
            if token == self._tokens.get(stream):  # as CloudWatch says that there is no more for now
                return
            self._tokens[stream] = token


def _training(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_training_job(TrainingJobName=name)
    resources = found.get("ResourceConfig", {})
    transitions = found.get("SecondaryStatusTransitions", [])
    started = found.get("TrainingStartTime")
    seconds = found.get("TrainingTimeInSeconds")
    if seconds is None:
        seconds = _elapsed(started, found.get("TrainingEndTime"))
    billable = found.get("BillableTimeInSeconds", seconds)
    job = {
        **_common(name, "training", found.get("TrainingJobStatus"), found),
        "step": _step(transitions[-1]) if transitions else found.get("SecondaryStatus"),
        "seconds": seconds,
        "billable_seconds": billable,
        "usd": _usd("training", resources, account.region, billable),
        "instance_type": resources.get("InstanceType"),
        "instances": resources.get("InstanceCount"),
        "spot": bool(found.get("EnableManagedSpotTraining")),
        "metrics": {m["MetricName"]: m["Value"] for m in found.get("FinalMetricDataList", [])},
    }
    if job["state"] == "Completed":
        job["model"] = found.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    return job


def _tuning(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    counters = found.get("TrainingJobStatusCounters", {})
    best = found.get("BestTrainingJob") or {}
    objective = best.get("FinalHyperParameterTuningJobObjectiveMetric", {})
    resources = found.get("TrainingJobDefinition", {}).get("HyperParameterTuningResourceConfig", {})
    return {
        **_common(name, "tuning", found.get("HyperParameterTuningJobStatus"), found),
        "step": f"{sum(counters.values())} training jobs begun, {counters.get('Completed', 0)} completed"
        if counters
        else None,
        "seconds": (found.get("ConsumedResources") or {}).get("RuntimeInSeconds"),
        "usd": None,  # what its trainings cost: ``trials_usd`` asks for each of them
        "instance_type": resources.get("InstanceType"),
        "jobs": counters,
        "best": best.get("TrainingJobName"),
        "objective": {objective["MetricName"]: objective.get("Value")} if "MetricName" in objective else {},
    }


def _transform(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_transform_job(TransformJobName=name)
    resources = found.get("TransformResources", {})
    seconds = _elapsed(found.get("TransformStartTime"), found.get("TransformEndTime"))
    return {
        **_common(name, "transform", found.get("TransformJobStatus"), found),
        "seconds": seconds,
        "usd": _usd("transform", resources, account.region, seconds),
        "instance_type": resources.get("InstanceType"),
        "instances": resources.get("InstanceCount"),
        "output": found.get("TransformOutput", {}).get("S3OutputPath"),
    }


_DESCRIBE: Final[Mapping[Kind, Callable[[Any, Account, str], dict[str, Any]]]] = {
    "training": _training,
    "tuning": _tuning,
    "transform": _transform,
}


def _common(name: str, kind: Kind, state: str | None, found: Mapping[str, Any]) -> dict[str, Any]:
    created = found.get("CreationTime")
    return {
        "name": name,
        "kind": kind,
        "state": state or "Unknown",
        "created": created.astimezone(timezone.utc).isoformat(timespec="seconds") if created else None,
        "failure": found.get("FailureReason") or None,
    }


def _step(transition: Mapping[str, Any]) -> str:
    return " ".join(f"{transition['Status']}: {transition.get('StatusMessage', '')}".rstrip(": ").split())


def _elapsed(start: datetime | None, end: datetime | None) -> int:
    """Whole seconds; 0 before the start."""
    return round(((end or datetime.now(timezone.utc)) - start).total_seconds()) if start else 0


def _usd(kind: PriceKind, resources: Mapping[str, Any], region: str, seconds: float) -> float | None:
    """At the on-demand price; None where the table has none."""
    price = hourly(str(resources.get("InstanceType")), kind, region)
    return None if price is None else round(price * int(resources.get("InstanceCount") or 1) * seconds / 3600, 4)


def _is_missing(error: Exception) -> bool:
    """Whether SageMaker says that there is no job of this name: an error of its own, or a validation error."""
    text = str(error)
    return code_of(error) in ("ResourceNotFound", "ResourceNotFoundException") or (
        code_of(error) == "ValidationException" and any(w in text for w in ("not found", "not exist", "Could not find"))
    )
