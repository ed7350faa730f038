"""Boxes for photos that nobody marked, from a detector that learnt from those that somebody did (self-training).

    python benchmarks/pseudo_boxes.py runs/heads data/heads photos.zip more.zip --out data/heads-and-more

A photo joins the training split of a copy of the dataset where the detector finds exactly one head in it, is sure of
it, and names the species that the photo's folder or name says (Xie et al. 2020, "Self-training with Noisy Student").
Validation and test photos stay those that people marked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from catdog import Detector, load_detector
from catdog.dataset import Manifest, build
from catdog.progress import show_progress

SURE = 0.6  # the least score of a box that is learnt from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a detector's run folder or ONNX file")
    parser.add_argument("dataset", type=Path, help="the dataset that it learnt from")
    parser.add_argument("photos", nargs="+", help="folders or archives of cats and dogs")
    parser.add_argument("--out", type=Path, required=True, help="the dataset to write")
    arguments = parser.parse_args()
    detector = load_detector(arguments.model)
    with TemporaryDirectory() as scratch:
        unmarked = build(arguments.photos, Path(scratch) / "photos", split=(1, 0, 0))
        kept = write_marked(unmarked, detector, Path(scratch) / "marked")
        shutil.copytree(arguments.dataset, arguments.out)
        manifest = build([(str(Path(scratch) / "marked"), "train")], arguments.out, add=True)
    print(f"{kept} of {len(unmarked.photos)} photos marked; {len(manifest.photos)} in {arguments.out}", file=sys.stderr)


def write_marked(unmarked: Manifest, detector: Detector, folder: Path) -> int:
    """Write the photos with one sure head of the right species, and a COCO file of their boxes; return how many."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    photos = [photo for photo in unmarked.photos if photo.label in ("cat", "dog")]
    images, boxes = [], []
    answers = detector.stream([unmarked.root / photo.path for photo in photos], threshold=0.1)
    with show_progress("marked") as progress:
        for number, (photo, answer) in enumerate(zip(photos, answers, strict=True), 1):
            progress(number, len(photos))
            found = answer.objects or ()
            if len(found) != 1 or found[0].confidence < SURE or found[0].label != photo.label:
                continue
            name = f"{number:06}{Path(photo.path).suffix}"
            shutil.copyfile(unmarked.root / photo.path, folder / "images" / name)
            xmin, ymin, xmax, ymax = found[0].box.corners
            images.append({"id": number, "file_name": name, "width": photo.width, "height": photo.height})
            box = [xmin, ymin, xmax - xmin, ymax - ymin]
            category = ("cat", "dog").index(photo.label) + 1
            boxes.append({"id": number, "image_id": number, "category_id": category, "bbox": box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    data = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations" / "instances.json").write_text(json.dumps(data))
    return len(images)


if __name__ == "__main__":
    main()
