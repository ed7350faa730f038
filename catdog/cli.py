"""The command ``catdog``: each subcommand is a room of its own, which is imported when it is called.

catdog predict photo.jpg            the same as python -m catdog.predict photo.jpg
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand

from catdog import __version__
from catdog.edge import edge, watch_ctrl_c
from catdog.errors import SettingsError


class Room(NamedTuple):
    """Where a subcommand lives."""

    module: str
    """Holds its typer application, ``app``."""
    help: str


ROOMS: Final = {
    "predict": Room("catdog.predict", "Tell cats from dogs in photos."),
    "detect": Room("catdog.detection.__main__", "Find the heads of cats and dogs in photos."),
    "score": Room("catdog.score.cli", "Score every photo of a large collection, once."),
    "drift": Room("catdog.drift.__main__", "Say whether answers differ from earlier ones."),
    "dataset": Room("catdog.dataset.__main__", "Turn photos into a checked dataset."),
    "train": Room("catdog.training.cli", "Train a model on a dataset."),
    "tune": Room("catdog.training.tune", "Search for good training settings."),
    "evaluate": Room("catdog.training.evaluate", "Measure a model on photos."),
    "export": Room("catdog.export.__main__", "Write a trained model as one proven ONNX file."),
    "serve": Room("catdog.serving.__main__", "Answer photos over HTTP, with a page."),
    "page": Room("catdog.serving.site", "Write the page as a static site, without a server."),
    "aws": Room("catdog.aws.__main__", "Train, deploy and call on Amazon SageMaker."),
    "lambda": Room("catdog.serving.lambda_package", "Serve on AWS Lambda."),
    "doctor": Room("catdog.doctor", "Say what is installed here, and what is missing."),
}

_HELP: Final = """Tell cats from dogs in photos; train, measure, export and serve the model that does.

\b
Examples:
  catdog predict cat.jpg holiday/                         the embedded model answers
  catdog detect cats.jpg --draw drawn                     a box around each head
  catdog score photos.zip --out results.parquet           a row for every photo of a collection
  catdog drift results.parquet --reference evaluation     whether the answers are as they were when it was measured
  catdog dataset photos.zip --out data                    a dataset of your own photos, to train from
  catdog train --data data --output runs/first
  catdog export runs/first --out model.onnx
  catdog serve                                            a page to drop photos on, and an HTTP interface
  catdog page --out site                                  the same page without a server, for any host of files
  catdog doctor                                           what is installed here, and what is missing

catdog COMMAND --help says more. catdog --install-completion teaches your shell to complete all of it."""

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


_OWN_SETTINGS: Final = ("train", "aws")
"""Commands that say themselves what an empty value means: SageMaker passes settings that are off as one."""


class _LazyCommand(TyperCommand):
    """A subcommand that is imported when it is called or completed, not when the list of all is shown."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.name is not None
        with edge(f"catdog {self.name}", extra=self.name):
            _refuse_empty_values(self.name, args)
            command = load(self.name)
        watch_ctrl_c()
        return command.make_context(info_name, args, parent, **extra)


def load(name: str) -> Any:
    """Import a subcommand and return it as typer made it."""
    command = typer.main.get_command(import_module(ROOMS[name].module).app)
    command.name = name
    return command


def run(name: str | None = None) -> None:
    """Run ``catdog``, or one subcommand under its old name; ends in SystemExit."""
    if name is None:
        app(prog_name="catdog")
    else:
        _refuse_empty_values(name, sys.argv[1:])
        command = load(name)
        watch_ctrl_c()
        command.main(prog_name=f"catdog {name}")


def _refuse_empty_values(name: str, arguments: Sequence[str]) -> None:
    """Raise SettingsError for an option with an empty value, such as an unset variable leaves: it would name ``.``."""
    if name in _OWN_SETTINGS:
        return
    for option, following in zip(arguments, [*arguments, None][1:], strict=True):
        flag, joined, value = option.partition("=")
        if flag.startswith("--") and (value if joined else following) == "":
            raise SettingsError(f"{flag} '': is empty; give it a value, or leave it out")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"catdog {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _stand_in() -> None:
    """Stand for a subcommand until ``_LazyCommand`` puts the real one in its place."""


for _name, _room in ROOMS.items():
    app.command(_name, cls=_LazyCommand, help=_room.help)(_stand_in)
