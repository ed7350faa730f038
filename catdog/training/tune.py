"""catdog tune SPACE.yaml --data DIR --output DIR [--trials N]"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("tune")

import json
import logging
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.edge import edge
from catdog.errors import TrainingError, TrainingStopped
from catdog.training.space import read_space

_HELP: Final = """Search for good settings: many trainings, each judged by its best epoch on the validation photos.

SPACE says what to search and what to keep, in YAML; docs/space.yaml is one to start from. A trial is a training without
its files. Optuna's TPE chooses where to try next; a trial that is below the median of the others after an epoch is
ended (pruned). The test photos are left alone.

OUTPUT holds the study, config.yaml (the best trial's settings, for catdog train --config), trials.csv, and the charts
history.png, importance.png and parameters.png, all written anew after each trial. The same command goes on where it was
stopped or killed: what ran then is tried again first. A larger --trials goes on as well. A line for each trial goes to
stderr, the best one as a line of JSON to stdout.

\b
Examples:
  catdog tune docs/space.yaml --data data --output runs/search --trials 40
  catdog tune my-space.yaml --data photos.zip --output runs/search --timeout 120
  catdog train --config runs/search/config.yaml --output runs/best

\b
Exit codes: 0 done, 1 no trial finished, 2 a bad argument, space, study or dataset, 130 Ctrl-C, 143 SIGTERM."""

_ADVICE: Final = "the same command goes on"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog tune", failed=TrainingError, extra="tune", advice=_ADVICE)
def main(
    space: Annotated[Path, typer.Argument(metavar="SPACE", help="A YAML file: what to search, what to keep.")],
    data: Annotated[str, typer.Option(metavar="DIR", help="A dataset made by catdog dataset, or raw photos.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the study.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 40,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", min=0, show_default=False, help="Start no trial after this. Default: none."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of points; a trial's seed is a setting.")] = 0,
) -> None:
    asked = read_space(space)
    # Imported after parsing, so that --help and a typo answer at once.
    from catdog.training.study import search

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    try:
        study = search(asked, data, output, trials, timeout, seed)
    except TrainingStopped as stopped:
        raise TrainingStopped(f"{stopped}; {_ADVICE}", stopped.signal) from stopped
    best = study.best
    if best is None:
        raise TrainingError(f"no trial finished ({study.ended} failed or were pruned)")
    about = {"score": best.score, study.measure: best.measure, "trial": best.number, "params": dict(best.params)}
    typer.echo(json.dumps(about | study.counts() | {"config": str(output / "config.yaml")}))
