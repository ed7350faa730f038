"""What all commands of ``catdog aws`` share: the options, the output, and how errors end a command.

    @command(help, "region", "owner", "dry_run")
    def deploy(account: Account, hosting: Hosting, ttl: Annotated[str | None, typer.Option(...)] = None) -> None:
        print_result({...}, "catdog aws delete NAME")

stdout gets one line of JSON; messages, progress and the suggested next command go to stderr.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer

from catdog.aws.account import Account, find_account
from catdog.aws.containers import tell_support
from catdog.aws.failures import CloudError, explain_error, is_aws_error
from catdog.edge import edge
from catdog.errors import CatdogError, SettingsError

MOST_ALIKE: Final = 3  # requests for one operation that a dry run prints
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 the job or the endpoint failed, 2 a bad argument, or AWS refuses or can't be reached, "
    "130 Ctrl-C."
)

_HELP: Final = """Train, tune, deploy, call and delete on Amazon SageMaker.

Credentials, profile and region are found as the aws command finds them. --role, --bucket and --owner default to the
variables CATDOG_ROLE, CATDOG_BUCKET and CATDOG_OWNER. Every command that changes something takes --dry-run, which
prints the exact requests and what they would cost, and sends nothing. docs/aws/README.md sets an account up.

\b
From photos to an answer, and to nothing left that costs:
  catdog aws upload data/
  catdog aws train s3://BUCKET/catdog/datasets/data --wait -- --epochs 8
  catdog aws deploy --from-job NAME --ttl 2h
  catdog aws invoke NAME photo.jpg
  catdog aws delete NAME

\b
""" + EXIT_CODES  # fmt: skip

app = typer.Typer(
    help=_HELP, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)

SHARED: Final[Mapping[str, Any]] = {
    "region": Annotated[
        str | None, typer.Option(metavar="NAME", help="AWS region; default: as the aws command has it.")
    ],
    "role": Annotated[
        str | None,
        typer.Option(
            metavar="NAME|ARN",
            help="The role that SageMaker works under; default: CATDOG_ROLE, inside SageMaker the notebook's own.",
        ),
    ],
    "bucket": Annotated[
        str | None, typer.Option(metavar="NAME", help="For data, code and models; default: CATDOG_BUCKET.")
    ],
    "owner": Annotated[
        str | None, typer.Option(metavar="NAME", help="For the Owner tag; default: CATDOG_OWNER, or your login.")
    ],
    "dry_run": Annotated[
        bool,
        typer.Option("--dry-run", help="Print the exact requests (three of many alike) and their cost; send nothing."),
    ],
}
"""The options that say which account a command works with; each command takes some of them."""

LONGEST: Final = timedelta(days=3650)

Function = TypeVar("Function", bound=Callable[..., None])


def command(help: str, *shared: str) -> Callable[[Function], Function]:
    """Register a function as the command of its name.

    The command has the options ``shared``, and its function gets the Account that they describe. For a parameter whose
    type is another dataclass, the command has an option for each field that typer.Option annotates; the parameter's
    default, if it has one, holds their defaults. Errors end the command as ``exit_on_error`` says.
    """

    def register(function: Function) -> Function:
        options: list[inspect.Parameter] = []
        groups: dict[str, tuple[Any, list[str]]] = {}

        def add(name: str, kind: Any, default: Any) -> None:
            options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))

        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            kind = parameter.annotation
            if kind is Account:
                continue
            if not is_dataclass(kind):
                add(parameter.name, kind, parameter.default)
                continue
            hints = get_type_hints(kind, include_extras=True)
            names = [field.name for field in fields(kind) if hasattr(hints[field.name], "__metadata__")]
            for name in names:
                add(name, hints[name], getattr(parameter.default, name, getattr(kind, name)))
            groups[parameter.name] = (kind, names)
        for name in shared:
            add(name, SHARED[name], False if name == "dry_run" else None)

        def run(**given: Any) -> None:
            with exit_on_error(function.__name__):
                account = find_account(**{name: given.pop(name) for name in shared})
                made = {
                    group: kind(**{name: given.pop(name) for name in names}) for group, (kind, names) in groups.items()
                }
                function(account, **made, **given)

        run.__name__ = function.__name__
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined] # which typer reads
        app.command(help=help)(run)
        return function

    return register


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Be the edge of a command, which explains AWS's errors as well; a bug keeps its traceback."""
    advice = "what was started on AWS goes on there: catdog aws status"
    with edge(f"catdog aws {command}", failed=CloudError, extra="aws", advice=advice):
        try:
            yield
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise CatdogError(explain_error(error)) from error


def parse_duration(flag: str, text: str) -> timedelta:
    """Parse ``90m``, ``2h`` or ``3d``, ten years at most; raises SettingsError that names ``flag``."""
    found = re.fullmatch(r"(\d{1,9})([mhd])", text.strip())
    if not found or not int(found[1]):
        raise SettingsError(f"{flag} {text}: give minutes, hours or days, like 90m, 2h or 3d")
    duration = int(found[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[found[2]]
    if duration > LONGEST:
        raise SettingsError(f"{flag} {text}: too long; give {LONGEST.days}d at most")
    return duration


def lengthen_pauses(longest_s: float) -> Iterator[float]:
    """Yield 1, 2, 4 ... seconds, and then ``longest_s`` for ever: what is over soon is seen soon, with few requests."""
    pause_s = 1.0
    while True:
        yield min(pause_s, longest_s)
        pause_s *= 2


def say(text: str) -> None:
    """Tell the user something, on stderr."""
    typer.echo(text, err=True)


def say_support(account: Account, image: str) -> None:
    """Tell until when AWS patches a container: in a dry run, and where that day is over."""
    line, is_over = tell_support(image, date.today())
    if line and (account.dry_run or is_over):
        say(line)


def print_result(result: Mapping[str, Any], next_command: str | None = None, region: str | None = None) -> None:
    """Print ``result`` as one line of JSON on stdout, and suggest ``next_command`` on stderr.

    ``region`` is what the user gave by --region: the next command
    needs it too.
    """
    typer.echo(json.dumps(result, default=str))
    if next_command:
        command, dashes, rest = next_command.partition(" -- ")
        say(f"next: {command}{f' --region {region}' if region else ''}{dashes}{rest}")


def print_dry_run(requests: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
    """Print all that a dry run prints: the requests in order, and the estimated cost.

    Of requests for the same operation only the first MOST_ALIKE are printed; how many are left out is printed, too.
    """
    counts: Counter[str] = Counter()
    shown = []
    for request in requests:
        operation = f"{request['service']} {request['operation']}"
        counts[operation] += 1
        if counts[operation] <= MOST_ALIKE:
            shown.append(request)
    left_out = {name: count - MOST_ALIKE for name, count in counts.items() if count > MOST_ALIKE}
    result = {"requests": shown, **({"not_shown": left_out} if left_out else {}), "cost": dict(cost)}
    typer.echo(json.dumps(result, indent=2, default=str))
