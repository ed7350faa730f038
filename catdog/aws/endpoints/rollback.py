"""catdog aws rollback: an endpoint serves again what it served before its last update."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import Account
from catdog.aws.app import command, print_result, say
from catdog.aws.endpoints.alarms import deployment_config, watch_version
from catdog.aws.endpoints.deploy import estimate_hosting
from catdog.aws.endpoints.rollout import Patience, update_request, wait_until_in_service
from catdog.aws.endpoints.running import FORMER_TAG, Running, describe_version, list_changes, read_running
from catdog.aws.endpoints.scaling import pause_scaling
from catdog.aws.failures import CloudError, Undo
from catdog.aws.inventory import check_endpoint_name
from catdog.errors import SettingsError

_HELP: Final = """Make an endpoint serve what it served before its last update: model, instance type, capture and all.

The former instances are started, all requests move to them at once, and those of now are kept for --bake minutes more;
if over 5% of the requests then fail, or take over 20 seconds, SageMaker goes back by itself. Serverless endpoints AWS
moves unwatched. The number of instances stays what it is, unless their type changes.

Nothing is deleted: a second rollback goes forward again. The next deploy deletes what isn't in use by then. It
asks on a terminal, unless you give --yes. --dry-run asks AWS what was before, and changes nothing.

\b
Examples:
  catdog aws rollback catdog-prod
  catdog aws rollback catdog-prod --bake 0 --yes
  catdog aws rollback catdog-prod --dry-run

\b
Exit codes: 0 it serves what it served before, 1 it doesn't, or you said no, 2 a bad argument, nothing to go back to, or
AWS refuses, 130 Ctrl-C (the update goes on)."""


@command(_HELP, "region")
def rollback(
    account: Account,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The endpoint.")],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once the update has begun.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the requests; change nothing.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="How long it may take to get into service.")
    ] = Patience.timeout,
    bake: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, max=60, help="How long the instances of now are kept, watching.")
    ] = Patience.bake,
) -> None:
    patience = Patience(timeout=timeout, bake=bake)
    running = read_running(account, check_endpoint_name(name))
    if running is None:
        raise SettingsError(
            f"there is no endpoint {name} in {account.region}; catdog aws ps lists those that are there"
        )
    former = _find_former(account, running)
    keeps_count = running.count > 0 and running.hosting.instance_type == former.hosting.instance_type
    if keeps_count:
        former = replace(former, count=running.count)
    say(f"{name}: going back from {running.config_name} to {former.config_name} changes")
    more = {
        key: (running.container.get(field), former.container.get(field))
        for key, field in (("package", "ModelDataUrl"), ("container", "Image"))
    }
    for line in list_changes(running, former.hosting, more):
        say(f"  {line}")
    request = update_request(name, former.config_name, keep_count=keeps_count)
    if not former.hosting.serverless:
        request["DeploymentConfig"] = deployment_config(former.config_name, 1, patience.bake, patience.timeout)
    if no_wait and _must_pause(running, former):
        raise SettingsError("--no-wait: autoscaling can begin again only on the former instance type; leave it out")
    if dry_run:
        recorder = replace(account, dry_run=True, recorded=[])
        _go_back(recorder, running, former, request, None)
        print_result({"requests": recorder.recorded, "cost": estimate_hosting(former.hosting, account.region)})
        return
    if not yes and sys.stdin.isatty() and not typer.confirm("Go back?", err=True):
        say("nothing was changed")
        raise typer.Exit(1)
    _go_back(account, running, former, request, None if no_wait else patience)
    report = {
        "endpoint": name,
        "status": "Updating" if no_wait else "InService",
        "mode": former.hosting.mode,
        "version": former.config_name,
        "replaced": running.config_name,
        "package": former.container.get("ModelDataUrl"),
        "region": account.region,
        "cost": estimate_hosting(former.hosting, account.region),
    }
    say(f"{running.config_name} is kept: catdog aws rollback {name} goes forward to it again")
    print_result(report, f"catdog aws invoke {name} photo.jpg{' --async' if former.hosting.asynchronous else ''}")


def _find_former(account: Account, running: Running) -> Running:
    """Return the endpoint as it would run with the config that it served before; raises SettingsError."""
    config = running.tags.get(FORMER_TAG)
    if config is None or config == running.config_name:
        raise SettingsError(
            f"{running.name}: has served nothing but {running.config_name}; there is nothing to go back to"
        )
    former = describe_version(account, running.name, config, running.arn, running.tags)
    if former is None or not former.model:
        raise SettingsError(f"{running.name}: {config}, which it served before, is gone; deploy that model again")
    return former


def _must_pause(running: Running, former: Running) -> bool:
    """Return whether autoscaling must be off for the time of the update."""
    return running.is_scaled and running.hosting.instance_type != former.hosting.instance_type


def _go_back(
    account: Account, running: Running, former: Running, request: dict[str, Any], patience: Patience | None
) -> None:
    """Ask for the update, note what a next rollback goes to, and wait until it is done.

    Raises CloudError if SageMaker takes the update back.
    """
    sagemaker, name = account.client("sagemaker"), running.name
    tags = account.make_tags(Command="rollback", Endpoint=name)
    with Undo(say) as undo:
        if not former.hosting.serverless:
            watch_version(account, name, former.config_name, tags)
        resume = None
        if _must_pause(running, former):
            resume = pause_scaling(account, name, running.scaling, tags, undo)
        sagemaker.update_endpoint(**request)
        _note_former(account, running.arn, running.config_name)
        if patience:
            try:
                wait_until_in_service(sagemaker, name, former.config_name, patience.update_timeout)
            except KeyboardInterrupt:
                say(f"{name}: the update to {former.config_name} goes on")
                raise
            except CloudError:
                _note_former(account, running.arn, former.config_name)
                raise
        if resume:
            resume()


def _note_former(account: Account, arn: str, config: str) -> None:
    account.client("sagemaker").add_tags(ResourceArn=arn, Tags=[{"Key": FORMER_TAG, "Value": config}])
