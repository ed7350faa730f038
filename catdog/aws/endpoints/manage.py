"""catdog aws ps and delete: what costs money at present, and how to end it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import PROJECT, Account
from catdog.aws.app import command, print_dry_run, print_result, say
from catdog.aws.endpoints.alarms import delete_alarms, list_alarms
from catdog.aws.endpoints.rollout import delete_endpoint
from catdog.aws.endpoints.scaling import end_scaling, read_scaling
from catdog.aws.failures import FORBIDDEN, error_code, explain_error
from catdog.aws.instances import read_prices
from catdog.aws.inventory import (
    ListedEndpoint,
    check_endpoint_name,
    delete_versions,
    list_models_of,
    list_own_endpoints,
    list_request,
    list_versions,
    read_endpoint,
)
from catdog.errors import SettingsError

DELETE_TIMEOUT: Final = 15.0  # minutes to wait while SageMaker still creates or updates it

_PS_HELP: Final = """List this project's endpoints: status, age, what they cost an hour and have cost, when they expire.

\b
Examples:
  catdog aws ps
  catdog aws ps --expired
  catdog aws ps --name prod

\b
Exit codes: 0 listed, 2 a bad argument, or AWS refuses."""

_DELETE_HELP: Final = """Delete endpoints, each with its autoscaling, alarms, configs and models.

The same command can be given twice: what is gone already is passed over. It asks before it deletes, unless you give
--yes. --all and --expired mean your own endpoints (--owner), with --everyone all of this project's. --dry-run asks AWS
what is there and deletes nothing.

\b
Examples:
  catdog aws delete catdog-prod
  catdog aws delete --expired --everyone --yes
  catdog aws delete --all

\b
Exit codes: 0 deleted, 1 you said no, 2 a bad argument, or AWS refuses."""


@command(_PS_HELP, "region", "dry_run")
def ps(
    account: Account,
    expired: Annotated[bool, typer.Option("--expired", help="Only those past their --ttl.")] = False,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with this in their name.")] = None,
) -> None:
    if account.dry_run:
        account.client("sagemaker").list_endpoints(**list_request(name))
        note = "asking is free; of each endpoint, ListTags, DescribeEndpoint and DescribeEndpointConfig follow"
        print_dry_run(account.recorded, {"usd_per_hour": 0.0, "note": note})
        return
    now, prices = datetime.now(timezone.utc), read_prices()
    endpoints = [
        endpoint.to_json(now, account.region)
        for endpoint in list_own_endpoints(account.client("sagemaker"), name)
        if not expired or endpoint.is_expired(now)
    ]
    _print_table(endpoints)
    known = [endpoint["usd_per_hour"] for endpoint in endpoints if endpoint["usd_per_hour"] is not None]
    print_result(
        {
            "endpoints": endpoints,
            "usd_per_hour": round(sum(known), 4),
            "unknown_prices": len(endpoints) - len(known),
            "prices": f"{prices['region']}, {prices['as_of']}, {prices['source']}",
            "region": account.region,
        },
        "catdog aws delete --expired" if any(endpoint["expired"] for endpoint in endpoints) else None,
    )


@command(_DELETE_HELP, "region", "owner")
def delete(
    account: Account,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every endpoint of yours.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Those past their --ttl.")] = False,
    everyone: Annotated[bool, typer.Option("--everyone", help="Other people's, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before deleting.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")] = False,
) -> None:
    if sum((bool(names), everything, expired)) != 1:
        raise SettingsError("name endpoints, or give --all or --expired, one of these")
    chosen = [check_endpoint_name(name) for name in dict.fromkeys(names or ())]
    recorder = replace(account, dry_run=True, recorded=[])
    if dry_run and account.session.get_credentials() is None:
        _print_without_asking(recorder, chosen)
        return
    sagemaker, now = account.client("sagemaker"), datetime.now(timezone.utc)
    targets = [(name, read_endpoint(sagemaker, name)) for name in chosen]
    if not names:
        targets = [
            (endpoint.name, endpoint)
            for endpoint in list_own_endpoints(sagemaker)
            if (everyone or endpoint.tags.get("Owner") == account.owner) and (everything or endpoint.is_expired(now))
        ]
    deletions = [_plan_deletion(account, name, endpoint) for name, endpoint in targets]
    if dry_run:
        for deletion in deletions:
            _delete(recorder, deletion)
        print_result({"requests": recorder.recorded})
        return
    summary = {
        "deleted": [
            {"endpoint": deletion["endpoint"], "was_there": deletion["about"] is not None, **deletion["deletes"]}
            for deletion in deletions
        ]
    }
    if not any(any(deletion["deletes"].values()) for deletion in deletions):
        print_result(summary)
        return
    if not yes and not _confirm(deletions):
        say("nothing was deleted")
        raise typer.Exit(1)
    for deletion in deletions:
        _delete(account, deletion)
        say(f"{deletion['endpoint']}: deleted")
    print_result(summary, "catdog aws ps")


def _print_without_asking(recorder: Account, names: list[str]) -> None:
    """Print the requests that are known without asking AWS what exists."""
    sagemaker = recorder.client("sagemaker")
    for name in names:
        sagemaker.delete_endpoint(EndpointName=name)
    if not names:
        sagemaker.list_endpoints(**list_request())
    note = "no AWS credentials were found, so AWS wasn't asked what else exists: autoscaling, configs and models"
    print_result({"requests": recorder.recorded, "note": note})


def _plan_deletion(account: Account, name: str, endpoint: ListedEndpoint | None) -> dict[str, Any]:
    """Return all that belongs to an endpoint, whether it exists or only left something behind.

    Raises SettingsError if the endpoint isn't this project's.
    """
    if endpoint is not None and endpoint.tags.get("Project") != PROJECT:
        raise SettingsError(f"{name}: isn't catdog's endpoint (it has no tag Project=catdog); nothing was deleted")
    sagemaker = account.client("sagemaker")
    configs, models = list_versions(sagemaker, name)
    if endpoint is not None and endpoint.config:
        models += [model for model in list_models_of(sagemaker, endpoint.config) if model not in models]
        configs += [endpoint.config] if endpoint.config not in configs else []
    targets, policies = read_scaling(account, name)
    return {
        "endpoint": name,
        "scaling": (targets, policies),
        "about": endpoint.to_json(datetime.now(timezone.utc), account.region) if endpoint else None,
        "deletes": {
            "autoscaling": [policy["PolicyName"] for policy in policies] + (["target"] if targets else []),
            "endpoints": [name] if endpoint else [],
            "alarms": _find_alarms(account, name),
            "configs": sorted(configs),
            "models": sorted(models),
        },
    }


def _find_alarms(account: Account, name: str) -> list[str]:
    """Return the endpoint's alarms; where nobody may look for them, none, since the endpoint costs far more."""
    try:
        return sorted(list_alarms(account, name))
    except Exception as error:
        if error_code(error) not in FORBIDDEN:
            raise
        say(f"{name}: its alarms stay, as {explain_error(error)}")
        return []


def _delete(account: Account, deletion: dict[str, Any]) -> None:
    """Delete in an order in which a failure leaves nothing that costs, and a second run finds the rest."""
    sagemaker, name, deletes = account.client("sagemaker"), deletion["endpoint"], deletion["deletes"]
    if deletes["autoscaling"]:
        end_scaling(account, name, *deletion["scaling"])
    if deletes["endpoints"]:
        delete_endpoint(sagemaker, name, DELETE_TIMEOUT)
    delete_alarms(account, deletes["alarms"])
    delete_versions(sagemaker, deletes["configs"], deletes["models"])


def _confirm(deletions: list[dict[str, Any]]) -> bool:
    """Show what would be deleted and ask; raises SettingsError where nobody can be asked."""
    for deletion in deletions:
        about, deletes = deletion["about"], deletion["deletes"]
        state = f"{about['status']}, {about['instance_type']}, of {about['owner']}" if about else "left-overs"
        counts = f"{len(deletes['configs'])} config(s), {len(deletes['models'])} model(s)"
        say(f"{deletion['endpoint']}: {state}; {counts}")
    if not sys.stdin.isatty():
        raise SettingsError("--yes: is needed where nobody can be asked")
    return typer.confirm("Delete these?", err=True)


def _print_table(endpoints: list[dict[str, Any]]) -> None:
    """Print a table for people, on stderr."""
    if not endpoints:
        say("no endpoint")
    for endpoint in endpoints:
        price = "price unknown" if endpoint["usd_per_hour"] is None else f"${endpoint['usd_per_hour']}/h"
        until = (
            f", {'EXPIRED' if endpoint['expired'] else 'until'} {endpoint['expires_at']}"
            if endpoint["expires_at"]
            else ""
        )
        count = "" if endpoint["instances"] is None else f"{endpoint['instances']} x "
        say(
            f"{endpoint['endpoint']}  {endpoint['status']}  {count}{endpoint['instance_type']}  {price}"
            f"  {endpoint['age_hours']} h{until}  {endpoint['owner']}"
        )
