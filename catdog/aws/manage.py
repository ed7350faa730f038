"""python -m catdog.aws ps and delete: what costs money, and its end."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any, Final

import typer

from catdog.aws import prices, scaling
from catdog.aws.account import Account, account
from catdog.aws.app import DryRun, Owner, Region, app, edge, say, show, show_dry_run
from catdog.aws.hosting import check_name, scalable
from catdog.aws.inventory import Deployed, deployed, endpoints, models_of, versions
from catdog.aws.rollout import Patience, delete_endpoint
from catdog.aws.undo import gone
from catdog.errors import SettingsError

DELETE_TIMEOUT_S: Final = 900.0  # while SageMaker still makes or updates it

_PS_HELP: Final = """List this project's endpoints: status, age, what they cost an hour and have cost, when they expire.

\b
Examples:
  python -m catdog.aws ps
  python -m catdog.aws ps --expired

\b
Exit codes: 0 listed, 2 a bad argument, or AWS refuses."""

_DELETE_HELP: Final = """Delete endpoints, each with its autoscaling, configs and models.

What is gone already is fine, so the same command can be given twice. It asks first, unless --yes. --all and --expired
mean your own (--owner), with --everyone all of this project's. --dry-run asks AWS what is there and deletes nothing.

\b
Examples:
  python -m catdog.aws delete catdog-prod
  python -m catdog.aws delete --expired --everyone --yes
  python -m catdog.aws delete --all

\b
Exit codes: 0 deleted, 1 you said no, 2 a bad argument, or AWS refuses."""


@app.command(help=_PS_HELP)
def ps(
    expired: Annotated[bool, typer.Option("--expired", help="Only those past their --ttl.")] = False,
    region: Region = None,
    dry_run: DryRun = False,
) -> None:
    with edge("ps"):
        me = account(region, dry_run=dry_run)
        if dry_run:
            me.client("sagemaker").list_endpoints(SortBy="CreationTime", SortOrder="Ascending")
            note = "asking is free; of each endpoint, ListTags, DescribeEndpoint and DescribeEndpointConfig follow"
            show_dry_run(me.recorded, {"usd_per_hour": 0.0, "note": note})
            return
        now = datetime.now(timezone.utc)
        found = [e.about(now, me.region) for e in endpoints(me.client("sagemaker")) if not expired or e.is_expired(now)]
        _print_table(found)
        known = [entry["usd_per_hour"] for entry in found if entry["usd_per_hour"] is not None]
        show(
            {
                "endpoints": found,
                "usd_per_hour": round(sum(known), 4),
                "unknown_prices": len(found) - len(known),
                "prices": f"{prices.table()['region']}, {prices.table()['as_of']}, {prices.table()['source']}",
                "region": me.region,
            },
            "catdog.aws delete --expired" if any(entry["expired"] for entry in found) else None,
        )


@app.command(help=_DELETE_HELP)
def delete(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every endpoint of yours.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Those past their --ttl.")] = False,
    everyone: Annotated[bool, typer.Option("--everyone", help="Not only yours.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    region: Region = None,
    owner: Owner = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")] = False,
) -> None:
    with edge("delete"):
        if sum((bool(names), everything, expired)) != 1:
            raise SettingsError("name endpoints, or give --all or --expired, one of these")
        me = account(region, owner=owner)
        targets = [_named(me, check_name(name)) for name in dict.fromkeys(names or ())]
        if not names:
            now = datetime.now(timezone.utc)
            found = [
                e
                for e in endpoints(me.client("sagemaker"))
                if (everyone or e.tags.get("Owner") == me.owner) and (everything or e.is_expired(now))
            ]
            targets = [_plan(me, e.name, e) for e in found]
        if dry_run:
            show({"requests": [request for target in targets for request in _requests(target)]})
            return
        if not any(any(target["deletes"].values()) for target in targets):
            show({"deleted": [_summary(target) for target in targets]})
            return
        if not yes and not _agreed(targets):
            say("nothing was deleted")
            raise typer.Exit(1)
        for target in targets:
            _delete(me, target)
            say(f"{target['endpoint']}: deleted")
        show({"deleted": [_summary(target) for target in targets]}, "catdog.aws ps")


def _named(me: Account, name: str) -> dict[str, Any]:
    found = deployed(me.client("sagemaker"), name)
    if found is not None and not found.is_ours:
        raise SettingsError(f"{name}: isn't catdog's endpoint (it has no tag Project=catdog); nothing was deleted")
    return _plan(me, name, found)


def _plan(me: Account, name: str, found: Deployed | None) -> dict[str, Any]:
    """All that belongs to an endpoint, there or not."""
    sagemaker = me.client("sagemaker")
    configs, models = versions(sagemaker, name)
    if found is not None and found.config:
        models += [model for model in models_of(sagemaker, found.config) if model not in models]
        configs += [found.config] if found.config not in configs else []
    targets, policies = scaling.state(me, name)
    return {
        "endpoint": name,
        "there": found is not None,
        "about": found.about(datetime.now(timezone.utc), me.region) if found else None,
        "deletes": {
            "autoscaling": [policy["PolicyName"] for policy in policies] + (["target"] if targets else []),
            "endpoints": [name] if found else [],
            "configs": sorted(configs),
            "models": sorted(models),
        },
    }


def _delete(me: Account, target: dict[str, Any]) -> None:
    """In an order in which a failure leaves nothing that costs, and a second run finds the rest."""
    sagemaker, name = me.client("sagemaker"), target["endpoint"]
    if target["deletes"]["autoscaling"]:
        scaling.end(me, name)
    if target["deletes"]["endpoints"]:
        delete_endpoint(sagemaker, name, Patience(DELETE_TIMEOUT_S))
    for config in target["deletes"]["configs"]:
        gone(partial(sagemaker.delete_endpoint_config, EndpointConfigName=config))
    for model in target["deletes"]["models"]:
        gone(partial(sagemaker.delete_model, ModelName=model))


def _requests(target: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = (
        ("endpoints", "DeleteEndpoint", "EndpointName"),
        ("configs", "DeleteEndpointConfig", "EndpointConfigName"),
        ("models", "DeleteModel", "ModelName"),
    )
    found = []
    if target["deletes"]["autoscaling"]:
        found.append(_request(scaling.SERVICE, "DeregisterScalableTarget", scalable(target["endpoint"])))
    for kind, operation, parameter in kinds:
        found += [_request("sagemaker", operation, {parameter: name}) for name in target["deletes"][kind]]
    return found


def _request(service: str, operation: str, parameters: dict[str, str]) -> dict[str, Any]:
    return {"service": service, "operation": operation, "parameters": parameters}


def _summary(target: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint": target["endpoint"], "was_there": target["there"], **target["deletes"]}


def _agreed(targets: list[dict[str, Any]]) -> bool:
    for target in targets:
        about, deletes = target["about"], target["deletes"]
        state = f"{about['status']}, {about['instance_type']}, of {about['owner']}" if about else "left-overs"
        say(f"{target['endpoint']}: {state}; {len(deletes['configs'])} config(s), {len(deletes['models'])} model(s)")
    if not sys.stdin.isatty():
        raise SettingsError("--yes: is needed where nobody can be asked")
    return typer.confirm("Delete these?", err=True)


def _print_table(found: list[dict[str, Any]]) -> None:
    """For people, on stderr."""
    if not found:
        say("no endpoint")
    for entry in found:
        price = "price unknown" if entry["usd_per_hour"] is None else f"${entry['usd_per_hour']}/h"
        until = f", {'EXPIRED' if entry['expired'] else 'until'} {entry['expires_at']}" if entry["expires_at"] else ""
        count = f"{entry['instances']} x " if entry["instances"] else ""
        say(
            f"{entry['endpoint']}  {entry['status']}  {count}{entry['instance_type']}  {price}"
            f"  {entry['age_hours']} h{until}  {entry['owner']}"
        )
