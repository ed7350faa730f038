"""What people have -> a checked manifest with a split (catdog dataset SOURCE... --out DIR).

manifest.py    Manifest and Photo: the one file that training and evaluation read
building.py    build(): the way from sources to a dataset folder
inputs.py      the sources given -> trees of files with labels
layouts.py     what the names in a source mean
checks.py      one file's bytes -> a checked photo
duplicates.py  which photos are the same picture
splits.py      who goes into which split
report.py      what was left out and why
"""

from catdog.dataset.building import build
from catdog.dataset.manifest import Manifest, Photo, Split, is_dataset

__all__ = ["Manifest", "Photo", "Split", "build", "is_dataset"]
