"""python -m catdog.aws status [NAME]"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.aws.account import PROJECT, Account, account
from catdog.aws.app import EXIT_CODES, Region, app, edge, say, show
from catdog.aws.watch import ENDED, Kind, Log, describe, trials_usd
from catdog.text import printable

_HELP: Final = f"""Show jobs: state, time, cost, why they failed.

Training, tuning and transform jobs of this project are known by their names, which begin with catdog-. The cost is
that of on-demand instances, from a dated table; a search's is added up when it is asked for by NAME. ps shows the
endpoints.

\b
Examples:
  python -m catdog.aws status
  python -m catdog.aws status catdog-train-20261121-120000-1a2b --logs

\b
{EXIT_CODES}"""


@app.command(help=_HELP)
def status(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A job; default: the latest of all kinds.")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="With NAME: its log, on stderr.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="The most jobs of each kind to list.")] = 20,
    region: Region = None,
) -> None:
    with edge("status"):
        me = account(region)
        if name is None:
            found = latest(me, limit)
            _table(found)
            show({"region": me.region, "jobs": found})
            return
        job = describe(me, name)
        if job["kind"] == "tuning":
            job["usd"] = trials_usd(me, name)
        if logs:
            for line in Log(me, job["kind"], name).new_lines():
                say(line)
        if job["failure"]:
            say(f"{name}: {printable(job['failure'])}")
        show(job, _next(job), region)


def latest(me: Account, limit: int) -> list[dict[str, Any]]:
    """The newest jobs of each kind, newest first; training jobs of a search are left to that search."""
    client = me.client("sagemaker")
    asked = {"NameContains": f"{PROJECT}-", "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100}
    searches = _names(client.list_hyper_parameter_tuning_jobs, asked, "HyperParameterTuningJob", limit, ())
    trainings = _names(client.list_training_jobs, asked, "TrainingJob", limit, searches)
    transforms = _names(client.list_transform_jobs, asked, "TransformJob", limit, ())
    kinds: list[tuple[Kind, list[str]]] = [("tuning", searches), ("training", trainings), ("transform", transforms)]
    jobs = [describe(me, name, kind) for kind, names in kinds for name in names]
    return sorted(jobs, key=lambda job: job["created"] or "", reverse=True)


def _names(ask: Any, asked: dict[str, Any], what: str, limit: int, parents: Any) -> list[str]:
    """Names of up to ``limit`` jobs, less those that belong to ``parents``."""
    names: list[str] = []
    request = dict(asked)
    while True:
        page = ask(**request)
        for summary in page.get(f"{what}Summaries", []):
            name = summary[f"{what}Name"]
            if name.startswith(f"{PROJECT}-") and not any(name.startswith(f"{parent}-") for parent in parents):
                names.append(name)
        if len(names) >= limit or not page.get("NextToken"):
            return names[:limit]
        request["NextToken"] = page["NextToken"]


def _table(jobs: list[dict[str, Any]]) -> None:
    """For a person."""
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
        say("no jobs; python -m catdog.aws train starts one")


def _next(job: dict[str, Any]) -> str:
    name, done = job["name"], job["state"] == "Completed"
    if job["kind"] == "training" and done:
        return f"catdog.aws deploy --from-job {name} --ttl 2h"
    if job["kind"] == "tuning" and done:
        return f"catdog.aws tune --best {name} --out config.yaml"
    return f"catdog.aws status {name}" if job["state"] not in ENDED else "catdog.aws status"
