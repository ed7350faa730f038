"""The command line of ``catdog train``; its arguments are the settings, which ``catdog.training.settings`` reads."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer

from catdog.edge import edge
from catdog.errors import TrainingError
from catdog.training.settings import JOB_VARIABLE, parse

_ADVICE = "the same command goes on from the last checkpoint, if there is one"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Fine-tune a network on a dataset.",
)
def _train(context: typer.Context) -> None:
    raise typer.Exit(main(context.args))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 training failed, 2 unusable settings or data, 130 Ctrl-C, 143 SIGTERM."""
    # SageMaker's toolkit takes a failure's reason from where stderr first names one of Python's own exceptions.
    prefix = "Exception" if JOB_VARIABLE in os.environ else None
    try:
        with edge("catdog train", failed=TrainingError, extra="train", advice=_ADVICE, prefix=prefix):
            settings = parse(sys.argv[1:] if argv is None else argv)
            settings.check_paths()
            # Imported after the checks, since torch takes seconds, which --help and a typo need not wait for.
            from catdog.training.run import run_training

            logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
            run_training(settings)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
