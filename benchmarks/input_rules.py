"""Which input size and resize rule suit a checkpoint: accuracy and log loss on the validation split for each.

    python benchmarks/input_rules.py runs/resnet18 --data data --sizes 160,192,224,256

The network takes any size; the contract fixes one. Nothing here looks at the test split. ``originals`` are the photos
that are not square, on which the resize rules differ.
"""

from __future__ import annotations

import argparse
from itertools import product

import torch

from catdog.dataset import Manifest
from catdog.training.data import photos
from catdog.training.metrics import measure
from catdog.training.model import load_checkpoint
from catdog.training.run import answer
from catdog.training.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a run folder")
    parser.add_argument("--data", required=True, help="the dataset it was trained on")
    parser.add_argument("--sizes", default="160,192,224,256", help="px, separated by commas")
    arguments = parser.parse_args()
    model, contract = load_checkpoint(arguments.checkpoint)
    manifest = Manifest.read(arguments.data)
    validation, settings = manifest.of("val"), Settings(cache="none")
    rules: tuple[tuple[str, float], ...] = (("stretch", 1.0), ("short_side", 1.0), ("short_side", 0.875))
    print(f"{'size':>5} {'rule':<16} {'accuracy':>9} {'log loss':>9} {'originals':>10}   ({len(validation)} photos)")
    for size, (rule, crop) in product(map(int, arguments.sizes.split(",")), rules):
        changed = contract.with_(input_size=size, resize=rule, crop=crop)
        logits, labels = answer(model, photos(manifest, "val", changed, settings), settings)
        probabilities = torch.softmax(logits / contract.temperature, 1)
        everything = measure(probabilities, labels, contract.class_names)
        uneven = torch.tensor([photo.width != photo.height for photo in validation])
        originals = measure(probabilities[uneven], labels[uneven], contract.class_names)
        print(
            f"{size:>5} {rule + (f' {crop:g}' if crop < 1 else ''):<16} {everything['accuracy']:>9.2%} "
            f"{everything['log_loss']:>9.4f} {originals['errors']:>4} of {originals['photos']} wrong",
            flush=True,
        )


if __name__ == "__main__":
    main()
