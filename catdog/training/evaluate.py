"""python -m catdog.training.evaluate MODEL SOURCE... [--out DIR]"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.edge import start

    start("evaluate")

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.edge import edge
from catdog.errors import SettingsError
from catdog.progress import show_progress
from catdog.text import printable

_HELP: Final = """Measure a model on photos whose class is known.

MODEL is a run folder or its model.safetensors (answered by torch), an .onnx file (answered by ONNX Runtime), or the
word "embedded". SOURCE is a dataset made by python -m catdog.dataset, or raw photos as that command reads them: folders
and archives with class folders, Kaggle's names or Oxford-IIIT Pet's layout.

Numbers come with their 95% intervals: Wilson's for proportions, else a bootstrap of 1,000 resamples in which copies of
a picture stay together. Tables go to stderr, the headline as a line of JSON to stdout. --out also writes
metrics.json, predictions.csv, charts (confusion, roc, pr, reliability, coverage) and contact sheets of the most
confident mistakes and the least sure answers.

\b
Examples:
  python -m catdog.training.evaluate embedded data
  python -m catdog.training.evaluate runs/first data --split val --out evaluation
  python -m catdog.training.evaluate model.onnx my-photos.zip more-photos/ --out evaluation > headline.json

\b
Exit codes: 0 measured, 2 a bad argument, model or source, or a photo that can't be read."""

_NAMES: Final = {
    "accuracy": "accuracy",
    "precision": "precision, macro",
    "recall": "recall, macro",
    "f1": "F1, macro",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error",
}
"""The headline: keys in ``metrics.json`` and what the table calls them."""
_SHARES: Final = ("accuracy", "precision", "recall", "f1")  # shown in per cent


class Choice(str, Enum):
    """What ``--split`` takes."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog.training.evaluate", extra="train", advice="nothing was measured")
def main(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, a model file, or: embedded.")],
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="A dataset, or folders and archives.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files. Default: print, and write nothing.")
    ] = None,
    split: Annotated[
        Choice | None,
        typer.Option(help="The photos to use. Default: test of a dataset, all of raw photos.", show_default=False),
    ] = None,
) -> None:
    console = Console(stderr=True, highlight=False)
    # Imported after parsing, so that --help and a typo answer at once.
    from catdog.training.evaluation import answer, evaluate, open_data, open_model, write

    if out is not None:
        _make(out)
    asked = open_model(model)
    with TemporaryDirectory(prefix="catdog-") as scratch:
        with show_progress("checked") as progress:
            data = open_data(sources, split.value if split else None, asked.contract, Path(scratch), progress)
        with show_progress("answered") as progress:
            probabilities = answer(asked, data, progress)
        with show_progress("drew", "resamples") as progress:
            done = evaluate(asked, data, probabilities, progress=progress)
        if out is not None:
            write(done, out)
    _show(console, done.metrics)
    typer.echo(json.dumps(_headline(done.metrics) | {"out": None if out is None else str(out)}))


def _make(out: Path) -> None:
    """The folder, before the minutes that its contents take."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--out {out}: no folder can be made there ({error.strerror})") from error


def _headline(metrics: dict[str, Any]) -> dict[str, Any]:
    about = ("model", "model_fingerprint", "data", "data_fingerprint", "split", "photos", "errors")
    numbers = {f"{k}{end}": v for k in _NAMES for end, v in (("", metrics[k]), ("_95", metrics["intervals"][k]))}
    return {k: metrics[k] for k in about} | numbers | {"at_threshold": metrics["at_threshold"]}


def _show(console: Console, metrics: dict[str, Any]) -> None:
    """The tables for a person."""
    where = f"{metrics['photos']} photos ({metrics['split']}) of {metrics['data']}"
    console.print(escape(printable(f"{metrics['model']} on {where}: {metrics['errors']} wrong")), soft_wrap=True)
    if metrics["left_out"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in metrics["left_out"].items())
        console.print(escape(f"left out: {reasons}"), soft_wrap=True)
    if metrics["trained_on_some"]:
        console.print("warning: the model was trained on some of these photos, so it looks better than it is")
    bounds = metrics["intervals"]
    rows = [(name, _value(k, metrics[k]), _range(k, bounds[k])) for k, name in _NAMES.items()]
    _print(console, ("", "measured", "95% interval"), rows)
    classes = bounds["per_class"]
    _print(
        console,
        ("class", "precision", "95% interval", "recall", "95% interval", "F1"),
        [
            (
                name,
                *(cell for k in ("precision", "recall") for cell in (_value(k, v[k]), _range(k, classes[name][k]))),
                _value("f1", v["f1"]),
            )
            for name, v in metrics["per_class"].items()
        ],
    )
    _print(
        console,
        ("source", "photos", "wrong", "accuracy", "95% interval"),
        [
            (name, str(v["photos"]), str(v["errors"]), f"{v['accuracy']:.2%}", _range("accuracy", v["accuracy_95"]))
            for name, v in metrics["by_source"].items()
        ],
    )
    thresholds = [("", row) for row in metrics["coverage"]] + [("the model's", metrics["at_threshold"])]
    _print(
        console,
        ("threshold", "answered", "wrong of those", "", "95% interval", ""),
        [
            (
                f"{row['threshold']:g}",
                f"{row['coverage']:.2%}",
                str(row["errors"]),
                _value("accuracy", row["error"]),
                _range("accuracy", row["error_95"]),
                note,
            )
            for note, row in thresholds
        ],
    )


def _print(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print()
    console.print(table)


def _value(key: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.2%}" if key in _SHARES else f"{value:.4f}"


def _range(key: str, bounds: Sequence[float] | None) -> str:
    return " to ".join(_value(key, bound) for bound in bounds) if bounds else ""
