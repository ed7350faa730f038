"""catdog export CHECKPOINT --out model.onnx [--int8]"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("export")

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catdog.contract import METADATA_KEY
from catdog.edge import edge
from catdog.errors import ExportError
from catdog.files import check_output_file

if TYPE_CHECKING:
    from catdog.export.detection import BoxProof
    from catdog.export.proof import Proof

_HELP: Final = """Write a trained model as one ONNX file that is proven to answer as the model does.

CHECKPOINT is a run folder, or its model.safetensors with contract.json beside. The file takes image uint8 (N, H, W, 3)
and gives probabilities float32 (N, C); normalisation, temperature and softmax are inside, and so is the contract.

Before the file appears, torch and ONNX Runtime answer the same photos, from the encoded bytes on: photos of the
validation and test splits, and awkward ones made from them (tiny, huge, grey, palette, CMYK, 16-bit, alpha, every EXIF
orientation). Float: probabilities within 1e-4 and no label flipped. --int8: also at most 0.1 points of accuracy lost,
on at least 1,500 photos; the file also gets what --fast of other commands needs, where these photos allow it. A
detector's file gives boxes and scores: within 0.1 px and 1e-3, and as int8 at most 0.005 of average precision lost, on
at least 50 boxes. The table goes to stderr, the same as a line of JSON to stdout.

\b
Examples:
  catdog export runs/first --out model.onnx
  catdog export runs/first --out model-int8.onnx --int8
  catdog export model.safetensors --out model.onnx --data photos.zip > proof.json

\b
Exit codes: 0 written, 1 a gate failed and no file was written, 2 a bad argument, checkpoint or dataset."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
@edge("catdog export", failed=ExportError, extra="export", advice="no file was written")
def main(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder or its model.safetensors.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize: a quarter of the size, two to three times as fast.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Dataset folder, or raw photos. Default: what the run was trained on."),
    ] = None,
    min_photos: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=False,
            help="Fewest photos to prove an int8 model on; default 1500, fewer for experiments only. Under 256, it is "
            "also the fewest training photos to calibrate on.",
        ),
    ] = None,
) -> None:
    # Imported after parsing, so that --help and a typo answer at once.
    from catdog.export.detection import BoxProofError
    from catdog.export.exporting import MIN_PHOTOS, export
    from catdog.export.photos import find_dataset
    from catdog.export.proof import ProofError

    check_output_file("--out", out, METADATA_KEY.encode())
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="catdog-") as scratch:
        photos = find_dataset(checkpoint, data, Path(scratch))
        fewest = MIN_PHOTOS if min_photos is None else min_photos
        with console.status("") as status:
            say = status.update if console.is_terminal else partial(typer.echo, err=True)
            try:
                proof = export(checkpoint, out, photos, int8=int8, min_photos=fewest, say=say)
            except (ProofError, BoxProofError) as error:
                _print_proof(console, error.proof)
                raise
    _print_proof(console, proof)
    typer.echo(json.dumps({"out": str(out)} | proof.to_dict()))


def _print_proof(console: Console, proof: Proof | BoxProof) -> None:
    from catdog.export.proof import Proof

    if isinstance(proof, Proof):
        _print_class_proof(console, proof)
    else:
        _print_box_proof(console, proof)
    for note in proof.notes:
        console.print(escape(f"note: {note}"), soft_wrap=True)


def _print_box_proof(console: Console, proof: BoxProof) -> None:
    table = Table(box=None, pad_edge=False)
    splits = list(proof.rows[0].ap)
    for heading in ("", "MB", "largest |Δ score|", "|Δ side| px", *(f"AP {split}" for split in splits)):
        table.add_column(heading, justify="right" if heading else "left")
    for row in proof.rows:
        compared = ["" if v is None else f"{v:.2g}" for v in (row.score_difference, row.box_difference)]
        table.add_row(row.kind, f"{row.size_mb:.2f}", *compared, *(f"{row.ap[split]['ap']:.3f}" for split in splits))
    console.print(table)
    counts = ", ".join(f"{proof.boxes[split]} boxes in {proof.photos[split]} {split}" for split in splits)
    console.print(f"on {counts} photos and {proof.awkward} awkward ones; compared with torch")


def _print_class_proof(console: Console, proof: Proof) -> None:
    table = Table(box=None, pad_edge=False)
    splits = list(proof.photos)
    for heading in ("", "MB", "photos/s", "largest |Δp|", "flips", "verdicts", *(f"{s} %" for s in splits)):
        table.add_column(heading, justify="right" if heading else "left")
    for row in proof.rows:
        compared = [f"{row.difference:.2g}", str(row.flips), str(row.verdicts)] if row.kind != "torch" else [""] * 3
        shares = [f"{row.accuracy[split]:.2f}" for split in splits]
        table.add_row(row.kind, f"{row.size_mb:.2f}", f"{row.photos_per_s:.0f}", *compared, *shares)
    console.print(table)
    counts = ", ".join(f"{count} {split}" for split, count in proof.photos.items() if split != "all")
    console.print(f"on {proof.photos['all']} photos ({counts}) and {proof.awkward} awkward ones; compared with torch")
