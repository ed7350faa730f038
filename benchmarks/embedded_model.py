"""The embedded model on a dataset's test split: accuracy by source with 95% intervals, and coverage against error.

    python benchmarks/embedded_model.py --data data/ [--model FILE]

It asks ``catdog.load`` as any user would. The model card quotes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from catdog import Prediction, load
from catdog.dataset import Manifest, Photo
from catdog.training.metrics import wilson

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="a dataset made by catdog.dataset")
    parser.add_argument("--model", help="an ONNX file instead of the embedded one")
    arguments = parser.parse_args()
    manifest = Manifest.read(arguments.data)
    photos = manifest.of("test")
    answers = load(arguments.model).predict([manifest.root / photo.path for photo in photos], threshold=0)
    print(f"{'source':<36} {'photos':>6} {'wrong':>6} {'accuracy':>9}   95% interval")
    for source in [*sorted({photo.source for photo in photos}), "all"]:
        chosen = [i for i, photo in enumerate(photos) if source in (photo.source, "all")]
        _row(source, [photos[i] for i in chosen], [answers[i] for i in chosen])
    print(f"\n{'threshold':>9} {'answered':>9} {'wrong of answered':>18}")
    for threshold in THRESHOLDS:
        kept = [i for i, answer in enumerate(answers) if (answer.confidence or 0) >= threshold]
        wrong = sum(answers[i].label != photos[i].label for i in kept)
        print(f"{threshold:>9} {len(kept) / len(photos):>9.2%} {wrong:>6} ({wrong / max(1, len(kept)):.2%})")


def _row(name: str, photos: Sequence[Photo], answers: Sequence[Prediction]) -> None:
    right = sum(answer.label == photo.label for answer, photo in zip(answers, photos, strict=True))
    low, high = wilson(right, len(photos))
    accuracy = right / len(photos)
    print(f"{name:<36} {len(photos):>6} {len(photos) - right:>6} {accuracy:>9.2%}   {low:.2%} to {high:.2%}")


if __name__ == "__main__":
    main()
