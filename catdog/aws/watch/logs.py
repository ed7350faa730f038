"""catdog aws logs NAME: what a job or an endpoint wrote, from CloudWatch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Annotated, Final

import typer

from catdog.aws.account import Account
from catdog.aws.app import EXIT_CODES, command, parse_duration, say
from catdog.aws.jobs.status import ENDED, describe
from catdog.aws.watch.cloudwatch import Log, LogLine

POLL_S: Final = 5.0
_HELP: Final = f"""Show the log of a job or an endpoint, on stdout.

The newest lines, each with its time and its machine; --follow goes on with new ones until Ctrl-C or until the job has
ended. A log begins when the container does, some minutes after the command that started it.

\b
Examples:
  catdog aws logs catdog-prod --since 1h --follow
  catdog aws logs catdog-train-20261121-120000-1a2b --tail 100000 > train.log

\b
{EXIT_CODES}"""


@command(_HELP, "region")
def logs(
    account: Account,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A job, or an endpoint.")],
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="How far back: 90m, 12h, 7d; default: all, of an endpoint 1h.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    tail: Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="The newest lines, at most.")] = 1000,
) -> None:
    found = describe(account, name)
    kind = found["kind"]
    if since is None and kind == "endpoint":
        since = "1h"
    begin = datetime.now(timezone.utc) - parse_duration("--since", since) if since else None
    log = Log.of(account, kind, name, begin)
    if log is None:
        say(f"{name}: a search has no log of its own; catdog aws status lists its trainings, whose logs can be read")
        return
    newest = deque(log.read_new_lines(), tail)
    _print_lines(newest)
    if not newest:
        period = f" since {begin:%Y-%m-%d %H:%M} UTC" if begin else ""
        say(f"{name}: no log yet{period}; it is {found['state']}, and its container writes when it starts")
    while follow and found["state"] not in ENDED:
        time.sleep(POLL_S)
        found = describe(account, name, kind)
        _print_lines(log.read_new_lines())


def _print_lines(lines: Iterable[LogLine]) -> None:
    for line in lines:
        typer.echo(f"{line.time:%Y-%m-%dT%H:%M:%SZ} [{line.machine}] {line.text}")
