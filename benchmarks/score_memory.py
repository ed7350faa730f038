"""Peak memory of catdog.score by the number of photos: it should not grow.

    python benchmarks/score_memory.py PHOTOS [--counts 5000,100000] [--model FILE]

Each run is given a folder of so many links to the same real photos, and is measured as ``score.py`` does: PSS
of all its processes together, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from score_processes import run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="PHOTOS", help="a folder of JPEGs, at any depth")
    parser.add_argument("--counts", default="5000,100000")
    parser.add_argument("--model", default="", metavar="FILE", help="an ONNX model; a small one is quicker")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    photos = sorted(arguments.folder.resolve().rglob("*.jpg"))
    print("| photos | seconds | peak MiB | to the first |")
    print("| --- | --- | --- | --- |")
    first = 0
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as folder:
        scratch = Path(folder)
        for count in counts:
            tree = scratch / f"tree-{count}"
            for number in range(count):
                place = tree / f"{number // 1000:06}"
                if number % 1000 == 0:
                    place.mkdir(parents=True)
                (place / f"{number:09}.jpg").symlink_to(photos[number % len(photos)])
            model = ["--model", arguments.model] if arguments.model else []
            out = str(scratch / f"{count}.parquet")
            seconds, peak = run([sys.executable, "-m", "catdog.score", str(tree), "--out", out, *model], scratch)
            first = first or peak
            print(f"| {count:,} | {seconds:.0f} | {peak / 2**20:.0f} | {peak / first:.3f} |", flush=True)


if __name__ == "__main__":
    main()
