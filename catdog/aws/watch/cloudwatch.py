"""What CloudWatch keeps of jobs and endpoints: the lines that they wrote, and what was counted at an endpoint.

log = Log.of(account, "endpoint", "catdog-prod")
log.read_new_lines() -> LogLine, LogLine, ...     each line once, those of all machines in the order of time

read_traffic(cloudwatch, "catdog-prod", ["AllTraffic"], hours=24) -> {"invocations": 5120, "latency_ms": 61.2, ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple

from catdog.aws.account import Account
from catdog.text import printable

OVERLAP: Final = timedelta(minutes=2)
"""Lines become visible some seconds after they were written, so this much is read again."""
GROUPS: Final = {
    "training": "/aws/sagemaker/TrainingJobs",
    "transform": "/aws/sagemaker/TransformJobs",
    "endpoint": "/aws/sagemaker/Endpoints",
}
"""Jobs of a kind share a group, in which a stream's name begins with the job's; an endpoint has its own."""
NAMESPACE: Final = "AWS/SageMaker"
PERIOD_S: Final = 3600
# (Our name, CloudWatch's metric, its statistic); times are in microseconds there.
_METRICS: Final = (
    ("invocations", "Invocations", "Sum"),
    ("errors_4xx", "Invocation4XXErrors", "Sum"),
    ("errors_5xx", "Invocation5XXErrors", "Sum"),
    ("model_us", "ModelLatency", "Sum"),
    ("model_count", "ModelLatency", "SampleCount"),
    ("model_p99_us", "ModelLatency", "p99"),
    ("overhead_us", "OverheadLatency", "Sum"),
    ("overhead_count", "OverheadLatency", "SampleCount"),
)


class LogLine(NamedTuple):
    """One line that a machine wrote."""

    time: datetime
    machine: str
    text: str


class Log:
    """A log in CloudWatch; gives each line once."""

    def __init__(self, client: Any, group: str, job: str = "", since: datetime | None = None) -> None:
        """``job``: whose lines to read of a group that several share. ``since``: None for all there is."""
        self._client, self._group, self._prefix = client, group, f"{job}/" if job else ""
        self._from_ms = 0 if since is None else _to_ms(since)
        self._seen: dict[str, int] = {}
        self.has_lines = False

    @classmethod
    def of(cls, account: Account, kind: str, name: str, since: datetime | None = None) -> Log | None:
        """Return the log of a job or endpoint, None for a kind without one: a search only has its trainings'."""
        group = GROUPS.get(kind)
        if group is None:
            return None
        client = account.client("logs")
        return cls(client, f"{group}/{name}", since=since) if kind == "endpoint" else cls(client, group, name, since)

    def read_new_lines(self) -> Iterator[LogLine]:
        """Yield the lines that came since the last call; none while there is no log yet."""
        prefix = {"logStreamNamePrefix": self._prefix} if self._prefix else {}
        begin = {"startTime": self._from_ms} if self._from_ms else {}
        pages = self._client.get_paginator("filter_log_events").paginate(logGroupName=self._group, **prefix, **begin)
        newest = self._from_ms
        try:
            for page in pages:
                self._forget(newest)  # a log of a day has millions of lines
                for event in page["events"]:
                    stream, written, key = event["logStreamName"], int(event["timestamp"]), str(event["eventId"])
                    if key in self._seen or not stream.startswith(self._prefix):
                        continue
                    self._seen[key] = written
                    self.has_lines = True
                    newest = max(newest, written)
                    machine = stream.removeprefix(self._prefix)
                    if self._prefix:
                        machine = machine.rpartition("-")[0] or machine  # of algo-1-1700000000
                    yield LogLine(
                        datetime.fromtimestamp(written / 1000, timezone.utc),
                        printable(machine),
                        printable(event["message"].rstrip()),
                    )
        except self._client.exceptions.ResourceNotFoundException:
            return
        self._from_ms = self._forget(newest)

    def _forget(self, newest_ms: int) -> int:
        """Forget the lines that aren't read again after one of this time, and return from when on they are."""
        from_ms = max(self._from_ms, newest_ms - round(OVERLAP.total_seconds() * 1000))
        self._seen = {key: written for key, written in self._seen.items() if written >= from_ms}
        return from_ms


def metric_queries(endpoint: str, variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return the MetricDataQueries that ``read_traffic`` sends, eight for each variant, by the hour."""
    return [
        {
            "Id": f"{name}_{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": NAMESPACE,
                    "MetricName": metric,
                    "Dimensions": [
                        {"Name": "EndpointName", "Value": endpoint},
                        {"Name": "VariantName", "Value": variant},
                    ],
                },
                "Period": PERIOD_S,
                "Stat": statistic,
            },
        }
        for number, variant in enumerate(variants)
        for name, metric, statistic in _METRICS
    ]


def read_traffic(cloudwatch: Any, endpoint: str, variants: Sequence[str], hours: int) -> dict[str, Any]:
    """Return what happened since the full hour ``hours`` ago; times are None where nothing was asked.

    ``latency_ms`` and ``overhead_ms`` are means over all requests, ``latency_p99_ms`` is that of the worst hour.
    """
    now = datetime.now(timezone.utc)
    begin = (now - timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
    values: dict[str, list[float]] = {name: [] for name, _, _ in _METRICS}
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=metric_queries(endpoint, variants), StartTime=begin, EndTime=now
    )
    for page in pages:
        for result in page["MetricDataResults"]:
            values[result["Id"].rpartition("_")[0]] += [value for value in result["Values"] if value is not None]

    def to_mean_ms(total: str, count: str) -> float | None:
        number = sum(values[count])
        return round(sum(values[total]) / number / 1000, 1) if number else None

    return {
        "since": f"{begin:%Y-%m-%dT%H:%M:%SZ}",
        **{name: round(sum(values[name])) for name in ("invocations", "errors_4xx", "errors_5xx")},
        "latency_ms": to_mean_ms("model_us", "model_count"),
        "latency_p99_ms": round(max(values["model_p99_us"]) / 1000, 1) if values["model_p99_us"] else None,
        "overhead_ms": to_mean_ms("overhead_us", "overhead_count"),
    }


def _to_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
