"""The manifest on disk: exact format, round trip, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catdog.dataset import Manifest, Photo, is_dataset
from catdog.errors import DataError

PHOTO = Photo("photos/a/cats/1.jpg", "cat", "train", 40, 30, "0" * 64, "0" * 16, "a")
OTHER = Photo("photos/a/dogs/ü.jpg", "dog", "val", 50, 60, "1" * 64, "1" * 16, "a")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    manifest = Manifest(tmp_path, ("cat", "dog"), (PHOTO, OTHER))
    manifest.write()
    return manifest


def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) == manifest
    assert is_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert manifest.of("val") == [OTHER]
    assert manifest.of("test") == []


def test_one_photo_a_line(manifest: Manifest, tmp_path: Path) -> None:
    lines = (tmp_path / "manifest.json").read_text("utf-8").splitlines()
    assert lines[0] == '{"version": 1, "class_names": ["cat", "dog"], "photos": ['
    assert json.loads(lines[1].rstrip(","))["path"] == PHOTO.path
    assert json.loads(lines[2])["path"] == OTHER.path
    assert lines[3:] == ["]}"]


def test_the_fingerprint_knows_content_label_and_split_and_nothing_else(manifest: Manifest) -> None:
    moved = replace(PHOTO, path="photos/b/1.jpg", source="b", cluster="2" * 16)
    assert replace(manifest, photos=(OTHER, moved)).fingerprint == manifest.fingerprint
    for change in (replace(PHOTO, label="dog"), replace(PHOTO, split="test"), replace(PHOTO, sha256="2" * 64)):
        assert replace(manifest, photos=(change, OTHER)).fingerprint != manifest.fingerprint


def damage(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["photos"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(version=2), "version 2"),
        (lambda data: data.pop("class_names"), "class_names"),
        (lambda data: data.update(class_names=["cat"]), "two different names"),
        (lambda data: data.update(photos=[7]), "exactly the fields"),
        (damage(extra=1), "exactly the fields"),
        (damage(label="bird"), "unknown label 'bird'"),
        (damage(split="holdout"), "unknown split"),
        (damage(width="40"), "bad width"),
        (damage(height=True), "bad height"),
        (damage(path="../secret.jpg"), "leaves the dataset's folder"),
        (damage(path="/etc/passwd"), "leaves the dataset's folder"),
        (damage(path="photos\\1.jpg"), "leaves the dataset's folder"),
        (damage(path="C:/1.jpg"), "leaves the dataset's folder"),
        (damage(path="photos/../../1.jpg"), "leaves the dataset's folder"),
    ],
)
def test_damaged_manifests_are_refused(
    manifest: Manifest, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = tmp_path / "manifest.json"
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError, match="build the dataset again") as caught:
        Manifest.read(tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest\.json: "):
        Manifest.read(tmp_path)


def test_a_folder_without_one_says_how_to_make_one(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(DataError, match=r"make one with catdog dataset"):
        Manifest.read(tmp_path)
