"""catdog aws status [NAME]: what AWS says of jobs and endpoints, their logs and what they cost.

describe(account, name)               -> {"name": ..., "kind": "training", "state": "Completed", "usd": 0.06, ...}
watch_job(account, name, kind, say)   -> the same, once the job has ended; meanwhile its log is shown
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import EXIT_CODES, command, lengthen_pauses, parse_duration, print_dry_run, print_result, say
from catdog.aws.failures import CloudError, find, is_aws_error
from catdog.aws.hosting import VARIANT
from catdog.aws.instances import PriceKind, estimate_cost, price_per_hour
from catdog.aws.inventory import read_endpoint
from catdog.aws.watch.cloudwatch import Log, LogLine, read_traffic
from catdog.errors import SettingsError
from catdog.text import printable

Kind = Literal["training", "tuning", "transform", "endpoint"]
ENDED: Final = frozenset({"Completed", "Failed", "Stopped"})
POLL_S: Final = 10.0
LATE_LOG_S: Final = 5.0
"""CloudWatch shows the last lines this long after a job's end."""

_HELP: Final = f"""Show jobs, or one job or endpoint: state, time, cost, why it failed.

The training, tuning and transform jobs of this project are those whose names begin with catdog-. The cost is that of
on-demand instances, from a dated table; a search's cost is added up only when you name it. Of an endpoint you also see
its requests, errors and times, as CloudWatch counted them; ps lists the endpoints.

\b
Examples:
  catdog aws status
  catdog aws status catdog-train-20261121-120000-1a2b --logs
  catdog aws status catdog-prod --since 7d

\b
{EXIT_CODES}"""


@command(_HELP, "region")
def status(
    account: Account,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A job or an endpoint; default: the latest jobs.")
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="With NAME: its log, on stderr.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="The most jobs of each kind to list.")] = 20,
    since: Annotated[str, typer.Option(metavar="TIME", help="Of an endpoint: how far back, like 12h or 7d.")] = "1d",
) -> None:
    if name is None:
        jobs = list_latest_jobs(account, limit)
        _print_table(jobs)
        print_result({"region": account.region, "jobs": jobs})
        return
    hours = math.ceil(parse_duration("--since", since).total_seconds() / 3600)
    job = describe(account, name)
    if job["kind"] == "endpoint":
        job["traffic"] = read_traffic(account.client("cloudwatch"), name, job["variants"], hours)
        say(_format_endpoint(job))
    if job["kind"] == "tuning":
        job["usd"] = sum_trial_costs(account, name)
    if logs:
        log = Log.of(account, job["kind"], name)
        for line in log.read_new_lines() if log else ():
            say(_format_line(line))
    if job["failure"]:
        say(f"{name}: {printable(job['failure'])}")
    print_result(job, _suggest_command(job), account.asked_region)


def list_latest_jobs(account: Account, limit: int) -> list[dict[str, Any]]:
    """Return the newest jobs of each kind, newest first, without the training jobs that belong to a search."""
    client = account.client("sagemaker")
    searches = _list_names(client, "list_hyper_parameter_tuning_jobs", "HyperParameterTuningJob", limit)
    trainings = _list_names(client, "list_training_jobs", "TrainingJob", limit, searches)
    transforms = _list_names(client, "list_transform_jobs", "TransformJob", limit)
    kinds: list[tuple[Kind, list[str]]] = [("tuning", searches), ("training", trainings), ("transform", transforms)]
    jobs = [describe(account, name, kind) for kind, names in kinds for name in names]
    return sorted(jobs, key=lambda job: job["created"] or "", reverse=True)


def describe(account: Account, name: str, kind: Kind | None = None) -> dict[str, Any]:
    """Describe what has this name; raises SettingsError if nothing has. Without ``kind``, all kinds are tried."""
    client = account.client("sagemaker")
    for ask in (_DESCRIBE[kind],) if kind else _DESCRIBE.values():
        job = find(partial(ask, client, account, name))
        if job is not None:
            return job
    raise SettingsError(
        f"{name}: there is no such job or endpoint in {account.region}; catdog aws status and catdog aws ps list them"
    )


def sum_trial_costs(account: Account, name: str) -> float | None:
    """Return what the trainings of a search have cost so far, or None if one of them has no price in the table."""
    pages = account.client("sagemaker").get_paginator("list_training_jobs").paginate(NameContains=f"{name}-")
    total = 0.0
    for page in pages:
        for summary in page["TrainingJobSummaries"]:
            usd = describe(account, summary["TrainingJobName"], "training")["usd"]
            if usd is None:
                return None
            total += usd
    return round(total, 4)


def watch_job(
    account: Account, name: str, kind: Kind, tell: Callable[[str], None] = say, poll_s: float = POLL_S
) -> dict[str, Any]:
    """Wait until a job ends, tell its steps and its log, and return its description.

    Raises CloudError with AWS's reason if the job failed or was stopped, and what boto3 raises: then the job goes on.
    """
    log, last_step, pauses = Log.of(account, kind, name), "", lengthen_pauses(poll_s)
    try:
        while True:
            job = describe(account, name, kind)
            if (step := job.get("step") or job["state"]) != last_step:
                tell(f"{datetime.now(timezone.utc):%H:%M:%S} {name}: {step}")
                last_step = step
            for line in log.read_new_lines() if log else ():
                tell(_format_line(line))
            if job["state"] in ENDED:
                break
            time.sleep(next(pauses))
        if log and log.has_lines:
            time.sleep(min(poll_s, LATE_LOG_S))
            for line in log.read_new_lines():
                tell(_format_line(line))
    except Exception as error:
        if is_aws_error(error):
            tell(f"{name}: goes on without being watched: catdog aws status {name} --logs")
        raise
    if job["state"] != "Completed":
        reason = job.get("failure") or f"catdog aws status {name} --logs shows its log"
        raise CloudError(f"{name}: {'was stopped' if job['state'] == 'Stopped' else 'failed'}: {reason}")
    return job


def report_start(
    account: Account, name: str, kind: Literal["training", "tuning"], begun: str, cost: dict[str, Any], wait: bool
) -> None:
    """Print what is to be said of a job that was just created (``begun``: on what), after its end if ``wait`` is set.

    In a dry run, print the requests instead.
    """
    if account.dry_run:
        print_dry_run(account.recorded, cost)
        return
    say(f"{name}: {begun}")
    if wait:
        job = watch_job(account, name, kind)
        next_command = _suggest_command(job)
    else:
        job = {"name": name, "state": "InProgress"}
        next_command = f"catdog aws status {name}{' --logs' if kind == 'training' else ''}"
    print_result(job | {"cost": cost}, next_command, account.asked_region)


def _describe_training(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_training_job(TrainingJobName=name)
    transitions = found.get("SecondaryStatusTransitions", [])
    seconds = found.get("TrainingTimeInSeconds")
    if seconds is None:
        seconds = _count_seconds(found.get("TrainingStartTime"), found.get("TrainingEndTime"))
    billable = found.get("BillableTimeInSeconds", seconds)
    job = {
        **_describe_common(name, "training", found.get("TrainingJobStatus"), found),
        "step": _format_step(transitions[-1]) if transitions else found.get("SecondaryStatus"),
        "seconds": seconds,
        "billable_seconds": billable,
        **_describe_machines("training", found.get("ResourceConfig", {}), account.region, billable),
        "spot": bool(found.get("EnableManagedSpotTraining")),
        "metrics": {m["MetricName"]: m["Value"] for m in found.get("FinalMetricDataList", [])},
    }
    if job["state"] == "Completed":
        job["model"] = found.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    return job


def _describe_tuning(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    counters = found.get("TrainingJobStatusCounters", {})
    begun, completed = sum(counters.values()), counters.get("Completed", 0)
    best = found.get("BestTrainingJob") or {}
    objective = best.get("FinalHyperParameterTuningJobObjectiveMetric", {})
    resources = found.get("TrainingJobDefinition", {}).get("HyperParameterTuningResourceConfig", {})
    return {
        **_describe_common(name, "tuning", found.get("HyperParameterTuningJobStatus"), found),
        "step": f"{begun} training jobs begun, {completed} completed" if counters else None,
        "seconds": (found.get("ConsumedResources") or {}).get("RuntimeInSeconds"),
        "usd": None,  # ``sum_trial_costs`` asks for each of its trainings
        "instance_type": resources.get("InstanceType"),
        "jobs": counters,
        "best": best.get("TrainingJobName"),
        "objective": {objective["MetricName"]: objective.get("Value")} if "MetricName" in objective else {},
    }


def _describe_transform(client: Any, account: Account, name: str) -> dict[str, Any]:
    found = client.describe_transform_job(TransformJobName=name)
    seconds = _count_seconds(found.get("TransformStartTime"), found.get("TransformEndTime"))
    return {
        **_describe_common(name, "transform", found.get("TransformJobStatus"), found),
        "seconds": seconds,
        **_describe_machines("transform", found.get("TransformResources", {}), account.region, seconds),
        "output": found.get("TransformOutput", {}).get("S3OutputPath"),
    }


def _describe_endpoint(client: Any, account: Account, name: str) -> dict[str, Any] | None:
    """Describe an endpoint; its cost is an estimate, since nobody notes how many instances it had when."""
    found, listed = client.describe_endpoint(EndpointName=name), read_endpoint(client, name)
    if listed is None:  # deleted in between
        return None
    known = listed.to_json(datetime.now(timezone.utc), account.region)
    note = "a serverless endpoint is paid by the second of its answers"
    if listed.instance_type:
        price = estimate_cost("hosting", listed.instance_type, account.region, listed.instances)
        assumed = f"{known['age_hours']} hours x {listed.instances} instances as of now x the price of one"
        note = f"an estimate: {assumed} ({price['note']})"
    return {
        **_describe_common(name, "endpoint", found.get("EndpointStatus"), found),
        "usd": known["usd_so_far"],
        "usd_note": note,
        **{key: known[key] for key in ("usd_per_hour", "instance_type", "instances", "age_hours", "expires_at")},
        "variants": [variant["VariantName"] for variant in found.get("ProductionVariants", ())] or [VARIANT],
    }


_DESCRIBE: Final[Mapping[Kind, Callable[[Any, Account, str], dict[str, Any] | None]]] = {
    "training": _describe_training,
    "tuning": _describe_tuning,
    "transform": _describe_transform,
    "endpoint": _describe_endpoint,
}


def _describe_common(name: str, kind: Kind, state: str | None, found: Mapping[str, Any]) -> dict[str, Any]:
    created = found.get("CreationTime")
    return {
        "name": name,
        "kind": kind,
        "state": state or "Unknown",
        "created": created.astimezone(timezone.utc).isoformat(timespec="seconds") if created else None,
        "failure": " ".join(found.get("FailureReason", "").split()) or None,  # SageMaker's has several lines
    }


def _format_endpoint(endpoint: Mapping[str, Any]) -> str:
    traffic = endpoint["traffic"]
    usd = "cost unknown" if endpoint["usd"] is None else f"about ${endpoint['usd']:.2f} so far"
    errors = f"{traffic['errors_4xx']:,} refused (4xx), {traffic['errors_5xx']:,} failed (5xx)"
    took = "" if traffic["latency_ms"] is None else f", {traffic['latency_ms']:g} ms on average"
    return (
        f"{endpoint['name']}: {endpoint['state']}, {usd}; since {traffic['since']} {traffic['invocations']:,} "
        f"requests, {errors}{took}"
    )


def _format_line(line: LogLine) -> str:
    return f"[{line.machine}] {line.text}"


def _format_step(transition: Mapping[str, Any]) -> str:
    return " ".join(f"{transition['Status']}: {transition.get('StatusMessage', '')}".rstrip(": ").split())


def _count_seconds(start: datetime | None, end: datetime | None) -> int:
    """Return the whole seconds from ``start`` to ``end``, or to now; 0 before the start."""
    return round(((end or datetime.now(timezone.utc)) - start).total_seconds()) if start else 0


def _describe_machines(kind: PriceKind, resources: Mapping[str, Any], region: str, seconds: float) -> dict[str, Any]:
    """Return what a job runs on and its cost at the on-demand price, None if the table has no price."""
    instance_type, count = resources.get("InstanceType"), resources.get("InstanceCount")
    price = price_per_hour(str(instance_type), kind, region)
    usd = None if price is None else round(price * int(count or 1) * seconds / 3600, 4)
    return {"usd": usd, "instance_type": instance_type, "instances": count}


def _list_names(client: Any, operation: str, kind: str, limit: int, searches: Sequence[str] = ()) -> list[str]:
    """Return the names of the ``limit`` newest jobs, without those that belong to one of ``searches``."""
    order: dict[str, Any] = {"SortBy": "CreationTime", "SortOrder": "Descending", "PaginationConfig": {"PageSize": 100}}
    pages = client.get_paginator(operation).paginate(NameContains=f"{PROJECT}-", **order)
    names = (str(summary[f"{kind}Name"]) for page in pages for summary in page[f"{kind}Summaries"])
    trials = tuple(f"{search}-" for search in searches)
    return list(islice((n for n in names if n.startswith(f"{PROJECT}-") and not n.startswith(trials)), limit))


def _print_table(jobs: list[dict[str, Any]]) -> None:
    """Print a table for people, on stderr."""
    console = Console(stderr=True, highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("name", "kind", "state", "seconds", "USD", "why"):
        table.add_column(title, justify="right" if title in ("seconds", "USD") else "left")
    for job in jobs:
        usd = "?" if job["usd"] is None else f"{job['usd']:.2f}"
        cells = (job["name"], job["kind"], job["state"], str(job["seconds"] or 0), usd, job["failure"] or "")
        table.add_row(*(escape(printable(cell)) for cell in cells))
    if jobs:
        console.print(table)
    else:
        say("no jobs; catdog aws train starts one")


def _suggest_command(job: dict[str, Any]) -> str:
    name, is_done = job["name"], job["state"] == "Completed"
    if job["kind"] == "training" and is_done and job["metrics"].get("exported") == 0:
        say(f"{name}: its model has no ONNX file, which deploy needs; the job's log says why: export it here")
        from catdog.aws.package import explain_export  # whose ONNX Runtime no other state needs

        return explain_export(str(job["model"]))
    if job["kind"] == "training" and is_done:
        return f"catdog aws deploy --from-job {name} --ttl 2h"
    if job["kind"] == "tuning" and is_done:
        return f"catdog aws tune --best {name} --out config.yaml"
    if job["kind"] == "endpoint":
        return f"catdog aws logs {name}"
    return f"catdog aws status {name}" if job["state"] not in ENDED else "catdog aws status"
