"""What people have -> a checked manifest with a split (catdog dataset SOURCE... --out DIR).

manifest.py    Manifest and Photo: the one file that training and evaluation read
building.py    build(): the way from sources to a dataset folder
inputs.py      the sources given -> trees of files with labels
layouts.py     what the names in a source mean
annotated.py   which files of a source annotate which of its photos
annotations.py what annotators wrote -> boxes that fit their photo; voc.py, coco.py, yolo.py: the files
checks.py      one file's bytes -> a checked photo
duplicates.py  which photos are the same picture
splits.py      who goes into which split
report.py      what was left out and why
suspects.py    labels that a model holds for wrong (catdog dataset DATA --suspects MODEL)
exclusions.py  what a person said of them
showing.py     photos with their boxes on a sheet (catdog dataset DATA --show N)
sagemaker.py   a dataset as SageMaker's own object detection reads it (catdog dataset DATA --to sagemaker)
staging.py     folders that appear whole
"""

from catdog.dataset.building import build
from catdog.dataset.exclusions import read_exclusions
from catdog.dataset.manifest import Manifest, Photo, Split, is_dataset

__all__ = ["Manifest", "Photo", "Split", "build", "is_dataset", "read_exclusions"]
