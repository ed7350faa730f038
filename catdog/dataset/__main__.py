"""catdog dataset SOURCE... --out DIR"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("dataset")

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.dataset.building import DEFAULT_SPLIT, build
from catdog.dataset.checks import MIN_SIDE_PX
from catdog.dataset.manifest import SPLITS
from catdog.dataset.report import REPORT_NAME
from catdog.edge import EXIT_FAILED, edge, write_summary
from catdog.errors import NothingUsableError, SettingsError
from catdog.progress import show_progress
from catdog.text import printable

_HELP: Final = """Turn folders and archives of cat and dog photos into a checked dataset with a split.

A SOURCE is a folder, a zip or a tar archive, told apart by what it holds: class folders (cats/ and dogs/, also inside
train/, val/ and test/, which are then kept), Kaggle's names (cat.0.jpg), or Oxford-IIIT Pet (images and annotations).
Every photo is decoded; what can't be used is left out and listed in DIR/report.json. Copies of one picture, also
resized ones, never lie in two splits. A dataset already at DIR grows by new photos, and its photos keep their
splits unless --split is given; it loses none without --replace.

\b
Examples:
  catdog dataset dogs-vs-cats.zip --out data
  catdog dataset my-photos/ oxford-iiit-pet/ more.tar.gz --out data
  catdog dataset photos/ --out data --split 0.7,0.15,0.15 --min-side 64
  catdog dataset new-photos/ --out data --add

\b
Exit codes: 0 done (photos left out are no failure), 1 no photo could be used, or none of one class, so nothing can be
trained on them (the dataset is written, and --add goes on from it), 2 a bad argument or source."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog dataset", failed=NothingUsableError)
def main(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders, zip or tar archives; paths, s3://, gs:// or az://."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The dataset's folder: new, empty, or a dataset.")],
    split: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN,VAL,TEST",
            help="Shares of the photos whose source gives no split; divides a dataset that is there already anew.",
            show_default=",".join(map(str, DEFAULT_SPLIT)),
        ),
    ] = None,
    min_side: Annotated[
        int, typer.Option(metavar="PX", help="Leave out photos whose shorter side is under this.")
    ] = MIN_SIDE_PX,
    add: Annotated[bool, typer.Option("--add", help="Join the photos of the dataset at DIR and the new ones.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let photos of the dataset at DIR go that no SOURCE has.")
    ] = False,
) -> None:
    if add and replace:
        raise SettingsError("--add and --replace: give one of them")
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    with show_progress("checked") as progress:
        manifest = build(
            sources,
            out,
            split=None if split is None else _parse_shares(split),
            min_side=min_side,
            add=add,
            replace=replace,
            progress=progress,
        )
    report = json.loads((out / REPORT_NAME).read_bytes())
    _print_report(console, report, out)
    summary = {
        "out": str(out),
        "photos": len(manifest.photos),
        "left_out": len(report["left_out"]),
        "counts": report["counts"],
        "reasons": report["reasons"],
        "clusters_of_copies": report["copies"]["clusters"],
        "warnings": report["warnings"],
        "fingerprint": manifest.fingerprint,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_summary(summary)
    if {photo.label for photo in manifest.photos} != set(manifest.class_names):
        raise typer.Exit(EXIT_FAILED)


def _parse_shares(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = map(float, text.split(","))
    except ValueError as error:
        raise SettingsError(f"--split must be three numbers like 0.8,0.1,0.1, not {text!r}") from error
    return train, val, test


def _print_report(console: Console, report: dict[str, Any], out: Path) -> None:
    """The counts and warnings, for a person."""
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    labels = sorted({label for counts in report["counts"].values() for label in counts})
    for label in (*labels, "photos"):
        table.add_column(label, justify="right")
    for name in SPLITS:
        counts = report["counts"][name]
        table.add_row(name, *(str(counts.get(label, 0)) for label in labels), str(sum(counts.values())))
    console.print(table)
    copies = report["copies"]
    console.print(f"{copies['clusters']} pictures have copies ({copies['exact']} exact, {copies['near']} near)")
    reasons = ", ".join(f"{n} {reason}" for reason, n in report["reasons"].items()) or "none"
    console.print(escape(f"left out: {reasons}; details in {out / REPORT_NAME}"), soft_wrap=True)
    for warning in report["warnings"]:
        console.print(escape(f"warning: {printable(warning)}"), soft_wrap=True)
