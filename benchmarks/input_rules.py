"""Which input size and resize rule suit a checkpoint: accuracy on the validation split, and what each costs on a CPU.

    python benchmarks/input_rules.py runs/resnet18 --data data --sizes 160,192,224,256 --chart input_size.png

The network takes any size; the contract fixes one. Nothing here looks at the test split. ``originals`` are the photos
that are not square, on which the resize rules differ. Speeds are torch's in float32, batches of 16, sizes in turn,
medians, relative to the contract's size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from catdog.dataset import Manifest
from catdog.training.data import load_photos
from catdog.training.metrics import measure
from catdog.training.model import ImageModel, load_checkpoint
from catdog.training.run import compute_logits
from catdog.training.settings import Settings

ROUNDS = 9
BATCH = 16  # photos


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a run folder")
    parser.add_argument("--data", required=True, help="the dataset it was trained on")
    parser.add_argument("--sizes", default="160,192,224,256", help="px, separated by commas")
    parser.add_argument("--rules", default="stretch,short_side", help="resize rules, separated by commas")
    parser.add_argument("--chart", type=Path, help="a PNG file to draw accuracy against speed in, stretched photos")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint)
    contract = model.contract
    manifest = Manifest.read(arguments.data)
    validation, settings = manifest.of("val"), Settings(cache="none")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    speeds = _speeds(model, sizes, contract.input_size)
    uneven = torch.tensor([photo.width != photo.height for photo in validation])
    print(f"{len(validation)} photos, {int(uneven.sum())} of them not square")
    print(f"{'size':>5} {'rule':<12} {'accuracy':>9} {'log loss':>9} {'originals wrong':>16} {'speed':>6}")
    stretched = []
    for size in sizes:
        for rule in arguments.rules.split(","):
            changed = contract.with_(input_size=size, resize=rule)
            logits, labels = compute_logits(model, load_photos(manifest, "val", changed, settings), settings)
            probabilities = torch.softmax(logits / contract.temperature, 1)
            everything = measure(probabilities, labels, contract.class_names)
            originals = measure(probabilities[uneven], labels[uneven], contract.class_names)
            print(
                f"{size:>5} {rule:<12} {everything['accuracy']:>9.2%} {everything['log_loss']:>9.4f} "
                f"{originals['errors']:>16} {speeds[size]:>6.2f}",
                flush=True,
            )
            if rule == "stretch":
                stretched.append((size, everything["accuracy"], *everything["accuracy_95"]))
    if arguments.chart:
        _chart(stretched, speeds, contract.input_size, arguments.chart)


def _speeds(model: ImageModel, sizes: Sequence[int], reference: int) -> dict[int, float]:
    """Photos/s at each size, relative to those at ``reference``."""
    batches = {size: torch.zeros(BATCH, size, size, 3, dtype=torch.uint8) for size in {*sizes, reference}}
    seconds: dict[int, list[float]] = {size: [] for size in batches}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            for size, images in batches.items():
                start = time.perf_counter()
                model(images)
                seconds[size].append(time.perf_counter() - start)
    return {
        size: statistics.median(b / a for a, b in zip(times[1:], seconds[reference][1:], strict=True))
        for size, times in seconds.items()
    }


def _chart(rows: Sequence[tuple[int, float, float, float]], speeds: dict[int, float], own: int, path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for size, accuracy, low, high in rows:
        colour = "#d55e00" if size == own else "#0072b2"
        axes.errorbar(speeds[size], accuracy, [[accuracy - low], [high - accuracy]], fmt="o", color=colour, capsize=3)
        axes.annotate(f"{size} px", (speeds[size], accuracy), xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel=f"photos/s, {own} px = 1", ylabel="validation accuracy (95% interval)", title="Input size")
    axes.yaxis.set_major_formatter(PercentFormatter(1, 2))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
