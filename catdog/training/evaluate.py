"""catdog evaluate MODEL SOURCE... [--out DIR]"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("evaluate")

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.contract import WEIGHTS_NAME
from catdog.edge import edge
from catdog.errors import DataError, ModelError, SettingsError
from catdog.files import check_output_folder
from catdog.onnx_model import EMBEDDED
from catdog.progress import show_progress
from catdog.sources.names import check_apart, is_object_uri
from catdog.text import printable

_HELP: Final = """Measure a model on photos whose class is known.

MODEL is a run folder or its model.safetensors (answered by torch), an .onnx file (answered by ONNX Runtime), or the
word "embedded". SOURCE is a dataset made by catdog dataset, or raw photos as that command reads them: folders
and archives with class folders, Kaggle's names or Oxford-IIIT Pet's layout.

Numbers come with their 95% intervals: Wilson's for proportions, else a bootstrap of 1,000 resamples in which copies of
a picture stay together. Tables go to stderr, the headline as a line of JSON to stdout. --out also writes
metrics.json, predictions.csv, charts (confusion, roc, pr, reliability, coverage) and contact sheets of the most
confident mistakes and the least sure answers; with --explain, these show what spoke for each answer. A detector is
measured by its boxes: average precision as COCO's program has it, missed heads and false boxes, and sheets of both.

\b
Examples:
  catdog evaluate embedded data
  catdog evaluate runs/first data --split val --out evaluation
  catdog evaluate embedded data --float
  catdog evaluate model.onnx my-photos.zip more-photos/ --out evaluation > headline.json

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
_CHECKOUT: Final = Path(__file__).parents[2]  # where this is one, and not an installed package


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog evaluate", extra="train", advice="nothing was measured")
def main(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run folder, a model file, or: embedded.")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="A dataset, or folders and archives.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files. Default: print, and write nothing.")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(help="The photos to use. Default: test of a dataset, all of raw photos.", show_default=False),
    ] = None,
    floats: Annotated[
        bool,
        typer.Option("--float", help="Measure float weights: a run folder's, or of a checkout those of embedded."),
    ] = False,
    task: Annotated[
        Literal["classify", "detect"] | None,
        typer.Option(help="Which of the embedded models. Default: the classifier.", show_default=False),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Answer as --fast of the other commands does: a smaller picture first.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show on the contact sheets where the model looked. Needs --out.")
    ] = False,
) -> None:
    _check_paths(model, sources)
    opened_from = str(find_float_weights(model)) if floats else model
    if explain and out is None:
        raise SettingsError("--explain draws on the contact sheets; give --out for them")
    # Imported after the checks, since torch takes seconds, which --help and a typo need not wait for.
    from catdog.training.evaluation import (
        PREDICTIONS_NAME,
        answer_chosen,
        check_evidence,
        choose_photos,
        evaluate,
        open_model,
        write_evaluation,
    )

    if out is not None:
        check_apart("--out", out, sources)
        check_output_folder("--out", out, [PREDICTIONS_NAME])
    opened: Any = open_model(opened_from, task, fast)  # a model of the task that its contract names
    name = model + " --float" * floats + " --fast" * fast
    if opened.contract.task == "detect":
        _measure_detector(name, opened, sources, split, out)
        return
    if explain:
        check_evidence(model, opened)
    with TemporaryDirectory(prefix="catdog-") as scratch:
        with show_progress("checked") as progress:
            chosen = choose_photos(sources, split, opened.contract, Path(scratch), progress)
        with show_progress("answered") as progress:
            probabilities = answer_chosen(name, opened, chosen, progress)
        with show_progress("drew", "resamples") as progress:
            metrics = evaluate(name, opened.contract, chosen, probabilities, progress=progress)
        if out is not None:
            looking = opened if explain else None
            write_evaluation(metrics, opened.contract, chosen, probabilities, out, looking)
    _print_tables(Console(stderr=True, highlight=False), metrics)
    typer.echo(json.dumps(_make_headline(metrics) | {"out": None if out is None else str(out)}))


def _measure_detector(name: str, opened: Any, sources: list[str], split: Any, out: Path | None) -> None:
    from catdog.training.detection_report import evaluate_detector, format_boxes, write_detection
    from catdog.training.evaluation import choose_photos

    with TemporaryDirectory(prefix="catdog-") as scratch:
        with show_progress("checked") as progress:
            chosen = choose_photos(sources, split, opened.contract, Path(scratch), progress)
        with show_progress("answered") as progress:
            metrics, found = evaluate_detector(name, opened, chosen, progress)
        if out is not None:
            write_detection(metrics, found, opened.contract, chosen, out)
    typer.echo(format_boxes(f"{name} on {chosen.part} of {chosen.name}", metrics), err=True)
    if metrics["trained_on_some"]:
        typer.echo("warning: the model was trained on some of these photos, so it looks better than it is", err=True)
    typer.echo(json.dumps(metrics | {"out": None if out is None else str(out)}))


def find_float_weights(model: str, checkout: Path = _CHECKOUT) -> Path:
    """Return where the float weights of a MODEL lie: a run folder, its model.safetensors, or "embedded".

    Raises ModelError where it has none, as the embedded model in a wheel, which holds the int8 file alone.
    """
    path = checkout / "models" / EMBEDDED if model == EMBEDDED else Path(model)
    if path.name.endswith(".safetensors") or (path / WEIGHTS_NAME).is_file():
        return path
    if model == EMBEDDED:
        raise ModelError(
            f"{EMBEDDED} --float: its float weights are not part of the installed package; name their folder, which is "
            f"models/{EMBEDDED} in a checkout of catdog"
        )
    raise ModelError(f"{model} --float: has no float weights; name a run folder with {WEIGHTS_NAME}, or that file")


def _check_paths(model: str, sources: Sequence[str]) -> None:
    if not model or (model != EMBEDDED and not is_object_uri(model) and not Path(model).exists()):
        raise ModelError(f"{model or repr(model)}: no such run folder, model.safetensors or .onnx file")
    for source in sources:
        if not is_object_uri(source) and not Path(source).exists():
            raise DataError(f"{source}: no such file or folder")


def _make_headline(metrics: dict[str, Any]) -> dict[str, Any]:
    about = ("model", "model_fingerprint", "data", "data_fingerprint", "split", "photos", "errors")
    numbers = {f"{k}{end}": v for k in _NAMES for end, v in (("", metrics[k]), ("_95", metrics["intervals"][k]))}
    return {k: metrics[k] for k in about} | numbers | {k: metrics[k] for k in ("at_threshold", "neither")}


def _print_tables(console: Console, metrics: dict[str, Any]) -> None:
    where = f"{metrics['photos']} photos ({metrics['split']}) of {metrics['data']}"
    console.print(escape(printable(f"{metrics['model']} on {where}: {metrics['errors']} wrong")), soft_wrap=True)
    if metrics["left_out"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in metrics["left_out"].items())
        console.print(escape(f"left out: {reasons}"), soft_wrap=True)
    if metrics["trained_on_some"]:
        console.print("warning: the model was trained on some of these photos, so it looks better than it is")
    bounds = metrics["intervals"]
    rows: list[tuple[str, ...]] = [(name, *_format_both(k, metrics[k], bounds[k])) for k, name in _NAMES.items()]
    _print_table(console, ("", "measured", "95% interval"), rows)
    rows = [
        (
            name,
            *_format_both("precision", values["precision"], bounds["per_class"][name]["precision"]),
            *_format_both("recall", values["recall"], bounds["per_class"][name]["recall"]),
            _format_value("f1", values["f1"]),
        )
        for name, values in metrics["per_class"].items()
    ]
    _print_table(console, ("class", "precision", "95% interval", "recall", "95% interval", "F1"), rows)
    rows = [
        (name, str(row["photos"]), str(row["errors"]), *_format_both("accuracy", row["accuracy"], row["accuracy_95"]))
        for name, row in metrics["by_source"].items()
    ]
    _print_table(console, ("source", "photos", "wrong", "accuracy", "95% interval"), rows)
    if metrics["neither"]:
        _print_refusal(console, metrics["neither"], metrics["neither_threshold"])
    if not metrics["at_threshold"]:
        return
    thresholds = [(row, "") for row in metrics["coverage"]] + [(metrics["at_threshold"], "the model's")]
    rows = [
        (
            f"{row['threshold']:g}",
            f"{row['coverage']:.2%}",
            str(row["errors"]),
            *_format_both("accuracy", row["error"], row["error_95"]),
            note,
        )
        for row, note in thresholds
    ]
    _print_table(console, ("threshold", "answered", "wrong of those", "", "95% interval", ""), rows)


def _print_refusal(console: Console, values: dict[str, Any], threshold: float) -> None:
    """Say what became of the photos that show none of the other classes, and what that costs the rest."""
    rows = [
        (name, str(row["photos"]), str(row["found"]), *_format_both("accuracy", row["share"], row["share_95"]))
        for name, row in (
            ("neither, and refused", values["others_refused"]),
            ("neither, and called a class", values["others_answered"]),
            ("of a class, and refused", values["refused"]),
        )
        if row["photos"]
    ]
    heading = f'"neither" from {threshold:g} on'
    _print_table(console, (heading, "photos", "of them", "share", "95% interval"), rows)
    if values["auroc"] is not None:
        console.print(f"its ROC-AUC {values['auroc']:.4f}; {values['fpr_95']:.2%} pass where 95% of the rest do")


def _print_table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print()
    console.print(table)


def _format_value(key: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.2%}" if key in _SHARES else f"{value:.4f}"


def _format_both(key: str, value: float | None, bounds: Sequence[float] | None) -> tuple[str, str]:
    """Return a number and its interval as two cells."""
    return _format_value(key, value), " to ".join(_format_value(key, bound) for bound in bounds or ())
