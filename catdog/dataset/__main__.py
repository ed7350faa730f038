"""catdog dataset SOURCE... --out DIR, and what can be asked of a dataset: DATA --suspects, --show and --to"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("dataset")

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.dataset.building import DEFAULT_SPLIT, build
from catdog.dataset.checks import MIN_SIDE_PX
from catdog.dataset.exclusions import read_exclusions
from catdog.dataset.manifest import SPLITS, Manifest
from catdog.dataset.report import REPORT_NAME
from catdog.dataset.showing import check_count
from catdog.dataset.showing import show as show_boxes
from catdog.edge import EXIT_FAILED, edge, write_summary
from catdog.errors import NothingUsableError, SettingsError
from catdog.progress import show_progress
from catdog.text import printable

if TYPE_CHECKING:
    from catdog.dataset.suspects import Suspicion

_HELP: Final = """Turn folders and archives of cat and dog photos into a checked dataset with a split.

A SOURCE is a folder, a zip or a tar archive, told apart by what it holds: class folders (cats/ and dogs/, also inside
train/, val/ and test/, which are then kept), Kaggle's names (cat.0.jpg), or Oxford-IIIT Pet (images and annotations).
Boxes are read along, of Oxford-IIIT Pet and of your own photos: COCO (annotations/*.json), PASCAL VOC (an .xml a photo)
or YOLO (labels/*.txt with data.yaml or classes.txt). Without class folders, a photo's largest box says what it shows.
Every photo is decoded; what can't be used is left out and listed in DIR/report.json. Copies of one picture, also
resized ones, never lie in two splits. A dataset already at DIR grows by new photos, and its photos keep their
splits unless --split is given; it loses none without --replace.

With --suspects, the one SOURCE is a dataset, and DIR, a new folder, gets suspects.csv and contact sheets of the photos
whose label MODEL doubts (confident learning, Northcutt et al. 2021), the likeliest first. Keep the lines that are
really wrong, write the right label (cat, dog, neither) into "corrected" where the photo is worth keeping, and give the
file to the next build as --exclude.

With --show and without --out, the one SOURCE is a dataset, too, and gets sheet.png: N of its photos with their boxes.
With --to sagemaker, DIR, a new folder, gets its photos with boxes as SageMaker's built-in object detection reads them.

\b
Examples:
  catdog dataset dogs-vs-cats.zip --out data
  catdog dataset my-photos/ oxford-iiit-pet/ more.tar.gz --out data
  catdog dataset photos/ --out data --split 0.7,0.15,0.15 --min-side 64
  catdog dataset new-photos/ --out data --add
  catdog dataset data --suspects embedded --out suspects
  catdog dataset dogs-vs-cats.zip --out data --exclude suspects/suspects.csv
  catdog dataset oxford-iiit-pet/ --out heads --show 24
  catdog dataset heads --show 12
  catdog dataset heads --to sagemaker --prefix s3://bucket/heads --out for-sagemaker

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
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The dataset's folder: new, empty, or a dataset.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN,VAL,TEST",
            help="Shares of the photos whose source gives no split; divides a dataset that is there already anew. "
            f"Default: {','.join(map(str, DEFAULT_SPLIT))}.",
        ),
    ] = None,
    min_side: Annotated[
        int, typer.Option(metavar="PX", help="Leave out photos whose shorter side is under this.")
    ] = MIN_SIDE_PX,
    add: Annotated[bool, typer.Option("--add", help="Join the photos of the dataset at DIR and the new ones.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let photos of the dataset at DIR go that no SOURCE has.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Leave out or relabel the photos in a reviewed suspects.csv. Repeatable."),
    ] = None,
    suspects: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="List likely wrong labels of a dataset: an ONNX file, a run folder, embedded."
        ),
    ] = None,
    show: Annotated[
        int | None, typer.Option(metavar="N", help="Draw N photos with their boxes on the dataset's sheet.png.")
    ] = None,
    to: Annotated[
        Literal["sagemaker"] | None,
        typer.Option(metavar="FORM", help="Write a dataset's boxes in another form; FORM is sagemaker."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="URI", help="Where --to's folder will be in S3, for its manifests.")
    ] = "",
) -> None:
    if show is not None:
        check_count(show)
    if prefix and not to:
        raise SettingsError("--prefix is for --to; give both")
    asked = [flag for flag, value in (("--suspects", suspects), ("--to", to), ("--show", show)) if value is not None]
    if asked and (asked != ["--show"] or out is None):
        if len(asked) > 1 or split or add or replace or exclude or min_side != MIN_SIDE_PX:
            what = "alone" if asked == ["--show"] else "and --out alone"
            raise SettingsError(f"{asked[0]} changes no dataset; give it a dataset {what}")
        if len(sources) != 1:
            raise SettingsError(f"{asked[0]} looks at one dataset; give its folder alone")
    if show is not None and out is None:
        _show(sources[0], show)
        return
    if out is None:
        raise SettingsError("--out DIR is missing: the folder to write to")
    if suspects is not None:
        _list_suspects(sources[0], suspects, out)
        return
    if to is not None:
        _convert(sources[0], prefix, out)
        return
    if add and replace:
        raise SettingsError("--add and --replace: give one of them")
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    exclusions = read_exclusions(exclude or ())
    with show_progress("checked") as progress:
        manifest = build(
            sources,
            out,
            split=None if split is None else _parse_shares(split),
            min_side=min_side,
            add=add,
            replace=replace,
            exclusions=exclusions,
            progress=progress,
        )
    report = json.loads((out / REPORT_NAME).read_bytes())
    _print_report(console, report, out)
    sheet = None if show is None else show_boxes(manifest, show)
    if sheet is not None:
        _print_sheet(sheet)
    summary = {
        "out": str(out),
        "photos": len(manifest.photos),
        "left_out": len(report["left_out"]),
        "counts": report["counts"],
        "reasons": report["reasons"],
        "relabelled": len(report["relabelled"]),
        "clusters_of_copies": report["copies"]["clusters"],
        "boxes": {key: value for key, value in report["boxes"].items() if key != "left_out"},
        "warnings": report["warnings"],
        **({} if sheet is None else {"sheet": str(sheet)}),
        "fingerprint": manifest.fingerprint,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_summary(summary)
    if {photo.label for photo in manifest.photos} != set(manifest.class_names):
        raise typer.Exit(EXIT_FAILED)


def _show(source: str, count: int) -> None:
    manifest = Manifest.read(source)
    sheet = show_boxes(manifest, count)
    _print_sheet(sheet)
    marked = sum(photo.boxes is not None for photo in manifest.photos)
    write_summary({"sheet": str(sheet), "photos": len(manifest.photos), "with_boxes": marked})


def _print_sheet(sheet: Path) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(f"look at {printable(str(sheet))}"))


def _convert(source: str, prefix: str, out: Path) -> None:
    from catdog.dataset.sagemaker import write_sagemaker

    started = time.monotonic()
    manifest = Manifest.read(source)
    with show_progress("written") as progress:
        channels = write_sagemaker(manifest, out, prefix, progress)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for channel, counts in channels.items():
        console.print(escape(f"{channel}: {counts['photos']} photos with {counts['boxes']} boxes"))
    console.print(escape(f"set the hyperparameters num_classes=2, num_training_samples={channels['train']['photos']}"))
    left = len(manifest.photos) - sum(counts["photos"] for counts in channels.values())
    summary = {"out": str(out), **channels, "left_out": left, "fingerprint": manifest.fingerprint}
    write_summary(summary | {"seconds": round(time.monotonic() - started, 1)})


def _list_suspects(source: str, name: str, out: Path) -> None:
    # Imported here, since ONNX Runtime takes longer to import than many a dataset to be checked.
    from catdog.classifier import load
    from catdog.dataset.suspects import check_suspects_folder, find_suspects, write_suspects

    started = time.monotonic()
    manifest = Manifest.read(source)
    check_suspects_folder(out, manifest.root)
    model = load(name)
    with show_progress("answered") as progress:
        found = find_suspects(manifest, model, progress)
    files = write_suspects(found, manifest, out)
    summary = {
        "out": str(out),
        "photos": found.answered,
        "passed_over": found.passed_over,
        "suspects": len(found.suspects),
        "trained_on": found.trained_on,
        "thresholds": {name: round(value, 6) for name, value in found.thresholds.items()},
        "sheets": len(files) - 1,
        "fingerprint": manifest.fingerprint,
        "seconds": round(time.monotonic() - started, 1),
    }
    _print_suspects(found, files[0])
    write_summary(summary)


def _print_suspects(found: Suspicion, path: Path) -> None:
    """Say how many labels are doubted, and how far that can be trusted."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    kinds = Counter((entry.photo.label, entry.suggested) for entry in found.suspects)
    which = ", ".join(
        f"{n} {label} that look{'s' if n == 1 else ''} like {other}" for (label, other), n in sorted(kinds.items())
    )
    count = "1 suspect" if len(found.suspects) == 1 else f"{len(found.suspects)} suspects"
    console.print(escape(printable(f"{count} among {found.answered} photos ({which or 'none'})")))
    if found.passed_over:
        console.print(f"passed over: {found.passed_over} photos of classes that the model doesn't know")
    if found.trained_on is None:
        console.print(
            "note: the model's contract names other data than this, so whether it was trained on some of these photos "
            "isn't known; labels that it has learnt it doubts less"
        )
    elif found.trained_on:
        doubted = sum(bool(entry.was_trained_on) for entry in found.suspects)
        console.print(
            f"warning: the model was trained on {found.trained_on} of these photos and has learnt their labels, wrong "
            f"ones too; it doubts {doubted} of them. docs/training.md says how to ask models that haven't seen them"
        )
    if found.suspects:
        console.print(escape(f"review {printable(str(path))}, and give it to the next build as --exclude"))


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
    boxes = report["boxes"]
    if boxes["photos"] or boxes["reasons"]:
        found = ", ".join(f"{n} {label}" for label, n in boxes["counts"].items()) or "none"
        wrong = ", ".join(f"{n} {reason}" for reason, n in boxes["reasons"].items()) or "nothing"
        console.print(f"boxes: {found} in {boxes['photos']} photos; wrong with annotations: {wrong}", soft_wrap=True)
    if report["relabelled"]:
        console.print(f"relabelled: {len(report['relabelled'])}")
    for warning in report["warnings"]:
        console.print(escape(f"warning: {printable(warning)}"), soft_wrap=True)
