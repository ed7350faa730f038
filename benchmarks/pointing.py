"""The pointing game: how often the place that speaks most for the answer lies in the pet's head.

    python benchmarks/pointing.py IMAGES.tar.gz ANNOTATIONS.tar.gz [MODEL]

The two archives are Oxford-IIIT Pet's, with one head box a photo (PASCAL VOC). Beside it a guess: the photo's centre.
Grad-CAM has no row of its own: on a network that ends in pooling and a linear layer it is the same map (Selvaraju et
al. 2017, section 3.1). One place of the map is a 49th of a photo.
"""

from __future__ import annotations

import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import PurePosixPath

import numpy as np

from catdog import load
from catdog.errors import ImageError
from catdog.explain import find_heat
from catdog.image import find_kept_box, open_photo, resize

Box = tuple[int, int, int, int]


def read_boxes(file: str) -> dict[str, Box]:
    """Return the head's box, left, top, right and bottom, px, by the photo's name without its ending."""
    boxes = {}
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".xml") and "/._" not in member.name else None
            box = ElementTree.fromstring(content.read()).find("object/bndbox") if content else None
            if box is not None:
                left, top, right, bottom = (int(float(box.findtext(k) or 0)) for k in ("xmin", "ymin", "xmax", "ymax"))
                boxes[PurePosixPath(member.name).stem] = (left, top, right, bottom)
    return boxes


def is_inside(x: float, y: float, box: Box) -> bool:
    """Return whether a point lies in a box."""
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def main() -> None:
    """Play it on every photo that has a box and is answered as a pet."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    classifier, boxes = load(*sys.argv[3:]), read_boxes(sys.argv[2])
    names, hits, centres, covered = classifier.contract.class_names, [], [], []
    with tarfile.open(sys.argv[1]) as archive:
        for member in archive:
            box = boxes.get(PurePosixPath(member.name).stem)
            content = archive.extractfile(member) if box and member.isfile() else None
            if box is None or content is None:
                continue
            try:
                photo = open_photo(content.read(), member.name)
            except ImageError:
                continue
            probabilities, evidence = classifier.evidence(resize(photo, classifier.contract)[None])
            shown = int(probabilities[0, :2].argmax())
            heat = find_heat(evidence[0], shown)
            row, column = np.unravel_index(int(heat.argmax()), heat.shape)
            left, top, right, bottom = find_kept_box(photo.size, classifier.contract)
            x = left + (right - left) * (column + 0.5) / heat.shape[1]
            y = top + (bottom - top) * (row + 0.5) / heat.shape[0]
            hits.append(is_inside(x, y, box))
            centres.append(is_inside(photo.width / 2, photo.height / 2, box))
            covered.append((box[2] - box[0]) * (box[3] - box[1]) / (photo.width * photo.height))
    print(
        f"{len(hits)} photos, answers of {' and '.join(names[:2])}; a head covers {np.mean(covered):.1%} of its photo"
    )
    print(f"peak in the head   {np.mean(hits):.1%}")
    print(f"centre in the head {np.mean(centres):.1%}")


if __name__ == "__main__":
    main()
