"""The command line that all commands of ``python -m catdog.aws`` hang on: common options, output and the edge.

    @app.command(help=...)
    def ps(region: Region = None, owner: Owner = None, dry_run: DryRun = False) -> None:
        with edge("ps"):
            show({...}, "catdog.aws delete NAME")

stdout holds one line of JSON; talk, progress and the next command go to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from catdog.aws.account import CloudError, explain, is_aws_error
from catdog.edge import edge as shared_edge
from catdog.errors import CatdogError

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 the job or the endpoint failed, 2 a bad argument, or AWS refuses or can't be reached, "
    "130 Ctrl-C."
)

_HELP: Final = """Train, tune, deploy, call and delete on Amazon SageMaker.

Credentials, profile and region are found as the aws command finds them. --role, --bucket and --owner can stand in
CATDOG_ROLE, CATDOG_BUCKET and CATDOG_OWNER. Every command that changes something takes --dry-run, which prints the
exact requests and what they would cost, and sends nothing. docs/aws/README.md sets an account up.

\b
From photos to an answer, and to nothing left that costs:
  python -m catdog.aws upload data/
  python -m catdog.aws train s3://BUCKET/catdog/datasets/data --wait -- --epochs 8
  python -m catdog.aws deploy --from-job NAME --ttl 2h
  python -m catdog.aws invoke NAME photo.jpg
  python -m catdog.aws delete NAME

\b
""" + EXIT_CODES  # fmt: skip

app = typer.Typer(
    help=_HELP, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)

Region = Annotated[
    str | None, typer.Option("--region", metavar="NAME", help="AWS region; default: as the aws command has it.")
]
Role = Annotated[
    str | None,
    typer.Option(
        "--role",
        metavar="NAME|ARN",
        help="What SageMaker may do; default: CATDOG_ROLE, inside SageMaker the notebook's own.",
    ),
]
Bucket = Annotated[
    str | None, typer.Option("--bucket", metavar="NAME", help="For data, code and models; default: CATDOG_BUCKET.")
]
Owner = Annotated[
    str | None, typer.Option("--owner", metavar="NAME", help="For the Owner tag; default: CATDOG_OWNER, or your login.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the exact requests and an estimate of the cost; send nothing.")
]


@contextmanager
def edge(command: str) -> Iterator[None]:
    """The edge of all commands, which explains errors of AWS as well."""
    advice = "what was started on AWS goes on there: python -m catdog.aws status"
    with shared_edge(f"catdog.aws {command}", failed=CloudError, extra="aws", advice=advice):
        try:
            yield
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise CatdogError(explain(error)) from error


def say(text: str) -> None:
    """Talk, on stderr."""
    typer.echo(text, err=True)


def show(result: Mapping[str, Any], next_command: str | None = None, region: str | None = None) -> None:
    """``result`` as a line of JSON on stdout; ``next_command``, without ``python -m``, as advice on stderr.

    ``region``: what was given by --region, which the next command then needs, too.
    """
    typer.echo(json.dumps(result, default=str))
    if next_command:
        command, dashes, rest = f"python -m {next_command}".partition(" -- ")
        say(f"next: {command}{f' --region {region}' if region else ''}{dashes}{rest}")


def show_dry_run(requests: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
    """A dry run's whole output: the requests in order, and the estimate."""
    typer.echo(json.dumps({"requests": list(requests), "cost": dict(cost)}, indent=2, default=str))
