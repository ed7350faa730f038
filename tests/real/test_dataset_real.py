"""The shared archives through catdog dataset's build: copies found across them, and none that is false."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from catdog.dataset import Manifest, build

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SOURCES = (
    "dogs-vs-cats.zip",
    "dogs-vs-cats-originals.zip",
    "cats-and-dogs-image-classification.zip",
    "oxford-iiit-pet",
)
BREEDS = "oxford-iiit-pet-34-breeds"
KNOWN_CONFLICT = {"train/cat.8456.jpg", "train/dog.8736.jpg"}  # one red "Adopted" on white, labelled both ways


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, dict[str, Any]]:
    """All four archives as one dataset, and its report: some 30 s of one core."""
    if missing := [name for name in SOURCES if not (DATA / name).exists()]:
        pytest.skip(f"real photos are not on this machine ({DATA / missing[0]})")
    out = tmp_path_factory.mktemp("real") / "out"
    manifest = build([DATA / name for name in SOURCES], out)
    return manifest, json.loads((out / "report.json").read_bytes())


def test_layouts_and_counts(dataset: tuple[Manifest, dict[str, Any]]) -> None:
    manifest, report = dataset
    assert [(source["layout"], source["photos"]) for source in report["sources"]] == [
        ("Kaggle names", {"cat": 9499, "dog": 9499}),
        ("class folders", {"cat": 500, "dog": 500}),
        ("class folders", {"cat": 279, "dog": 278}),
        ("Oxford-IIIT Pet", {"cat": 165, "dog": 82}),
    ]
    assert {entry["path"] for entry in report["left_out"]} == KNOWN_CONFLICT
    shares = {split: n / len(manifest.photos) for split, n in Counter(p.split for p in manifest.photos).items()}
    # Hashing draws each cluster: one standard deviation is 0.002 of 20,000 photos; five are allowed.
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.014)


def test_every_pet_of_oxford_s_has_its_box(tmp_path: Path, dataset: tuple[Manifest, dict[str, Any]]) -> None:
    found = dataset[1]["boxes"]
    assert found == {"photos": 247, "counts": {"cat": 166, "dog": 82}, "reasons": {}, "left_out": []}
    (two,) = (photo for photo in dataset[0].photos if len(photo.boxes or ()) > 1)
    assert [(box.label, box.corners) for box in two.boxes or ()] == [
        ("cat", (48, 124, 111, 168)),
        ("cat", (396, 102, 451, 132)),
    ]
    if (DATA / BREEDS).exists():
        others = build([DATA / BREEDS], tmp_path / "out")
        assert Counter(len(photo.boxes or ()) for photo in others.photos) == {1: 238}
        assert all(photo.label == box.label for photo in others.photos for box in photo.boxes or ())


def test_every_original_is_clustered_with_its_squashed_copy(dataset: tuple[Manifest, dict[str, Any]]) -> None:
    by_path = {photo.path: photo for photo in dataset[0].photos}
    originals = [photo for photo in dataset[0].photos if photo.source == "dogs-vs-cats-originals"]
    assert len(originals) == 1000
    for original in originals:
        squashed = by_path[f"photos/dogs-vs-cats/train/{Path(original.path).name}"]
        assert (squashed.cluster, squashed.split) == (original.cluster, original.split)


def test_no_more_is_merged_than_was_seen_to_be_true(dataset: tuple[Manifest, dict[str, Any]]) -> None:
    """All other clusters were looked at: true copies, each of them. More of them would be false merges."""
    groups = defaultdict(list)
    for photo in dataset[0].photos:
        groups[photo.cluster].append(photo)
    assert Counter(map(len, groups.values())) == {1: 18_722, 2: 1_035, 3: 2, 4: 1}
    assert all(len({photo.split for photo in group}) == 1 for group in groups.values())
