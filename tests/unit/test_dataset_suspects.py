"""Likely wrong labels: found by a model, reviewed by a person, honoured by the next build."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catdog.classifier import Classifier, load
from catdog.contract import Contract
from catdog.dataset import Manifest, build, read_exclusions
from catdog.dataset.suspects import (
    COLUMNS,
    check_suspects_folder,
    find_suspects,
    find_thresholds,
    rank_suspects,
    write_suspects,
)
from catdog.errors import CatdogError, DataError, SettingsError
from tests.conftest import TINY_CONTRACT, build_tiny_model
from tests.properties import bounded
from tests.unit.test_dataset_build import class_folders, make, picture, reasons, report
from tests.unit.test_dataset_cli import run

SWAPPED = ("cat.3.jpg", "cat.4.jpg", "dog.9.jpg")


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def excluding(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("sha256,corrected", *lines)) + "\n")
    return path


def test_real_photos_under_swapped_labels_are_found_reviewed_and_gone(
    tmp_path: Path, real_photos: Callable[[int], list[tuple[str, bytes]]]
) -> None:
    files = {}
    for path, photo in real_photos(20):
        name = Path(path).name
        is_cat = name.startswith("cat") != (name in SWAPPED)
        files[f"{'cats' if is_cat else 'dogs'}/{name}"] = photo
    source, data, out = make(tmp_path / "photos", files), tmp_path / "data", tmp_path / "suspects"
    build([source], data)
    done = run(data, "--suspects", "embedded", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "whether it was trained on some of these photos isn't known" in done.stderr
    rows = read_rows(out / "suspects.csv")
    assert {Path(row["path"]).name for row in rows[: len(SWAPPED)]} == set(SWAPPED), "the likeliest come first"
    assert len(rows) <= len(SWAPPED) + 2
    assert [float(row["margin"]) for row in rows] == sorted(float(row["margin"]) for row in rows)
    assert {row["was_trained_on"] for row in rows} == {"unknown"}
    assert {Path(row["path"]).name: row["suggested"] for row in rows}["cat.3.jpg"] == "cat"
    summary = json.loads(done.stdout)
    assert (summary["photos"], summary["suspects"], summary["trained_on"]) == (40, len(rows), None)
    with Image.open(out / "suspects-01.png") as sheet:
        assert sheet.width > 700

    again = run(data, "--suspects", "embedded", "--out", out)
    assert again.returncode == 2
    assert "which somebody may have reviewed" in again.stderr

    reviewed = [row for row in rows if Path(row["path"]).name in SWAPPED]
    for row in reviewed:
        row["corrected"] = "dog" if row["path"].endswith("dog.9.jpg") else ""
    kept = run(source, "--out", data, "--exclude", write_rows(tmp_path / "reviewed.csv", reviewed, ";"))
    assert kept.returncode == 0, kept.stderr
    assert "left out: 2 excluded" in kept.stderr
    assert "relabelled: 1" in kept.stderr
    manifest = Manifest.read(data)
    labels = {Path(photo.path).name: photo.label for photo in manifest.photos}
    assert len(labels) == 38
    assert all(name.startswith(label) for name, label in labels.items())


def test_a_list_is_there_only_with_all_its_sheets(
    tmp_path: Path, photo: Callable[..., bytes], tiny: Classifier
) -> None:
    """The list came first: a disk that was full after it left suspects without a sheet, and looked finished."""
    files = {"test/cats/1.png": photo("blue"), "test/cats/2.png": photo("red"), "test/dogs/1.png": photo("blue")}
    manifest, out = write_dataset(tmp_path / "data", files), tmp_path / "out"
    found = find_suspects(manifest, tiny)
    (out / "suspects-01.png").mkdir(parents=True)
    with pytest.raises(SettingsError, match="can't be written"):
        write_suspects(found, manifest, out)
    assert [path.name for path in out.iterdir()] == ["suspects-01.png"]
    (out / "suspects-01.png").rmdir()
    for name in ("suspects-01.png", "suspects-02.png"):  # of a run that was killed
        (out / name).touch()
    check_suspects_folder(out, manifest.root)
    written = write_suspects(found, manifest, out)
    assert sorted(written) == sorted(out.iterdir())
    assert len(read_rows(out / "suspects.csv")) == 1
    done = run(tmp_path / "data", "--out", tmp_path / "again", "--suspects", save(tiny, tmp_path / "tiny.onnx"))
    assert "1 suspect among 3 photos (1 cat that looks like dog)" in done.stderr


def save(model: Classifier, path: Path) -> Path:
    path.write_bytes(model.data)
    return path


def test_a_model_of_this_dataset_says_which_labels_it_has_learnt(
    tmp_path: Path, photo: Callable[..., bytes], tiny: Classifier
) -> None:
    reds, blues = (
        [photo(colour(i), size=(40, 40)) for i in range(8)]
        for colour in (lambda i: (200 + i, 0, 0), lambda i: (0, 0, 200 + i))
    )
    files = {f"train/cats/{i}.png": data for i, data in enumerate(reds[:4] + blues[:1])}
    files |= {f"train/dogs/{i}.png": data for i, data in enumerate(blues[1:4])}
    files |= {f"test/cats/{i}.png": data for i, data in enumerate(reds[4:])}
    files |= {f"test/dogs/{i}.png": data for i, data in enumerate([*blues[4:], photo((220, 0, 0), size=(40, 40))])}
    manifest = write_dataset(tmp_path / "data", files)
    contract = TINY_CONTRACT.with_(data_fingerprint=manifest.fingerprint)
    model = Classifier(build_tiny_model(contract.to_json()), threads=1)
    found = find_suspects(manifest, model)
    by_split = {entry.photo.split: entry for entry in found.suspects}
    assert {split: entry.was_trained_on for split, entry in by_split.items()} == {"train": True, "test": False}
    assert found.trained_on == 8
    assert found.thresholds["cat"] == pytest.approx(1, abs=1e-3), "of the four that were not learnt"
    assert find_suspects(manifest, tiny).trained_on is None


def write_dataset(root: Path, files: dict[str, bytes]) -> Manifest:
    """A dataset as build writes it, without its search for copies."""
    from catdog.dataset import Photo

    make(root, {f"photos/{name}": data for name, data in files.items()})
    photos = tuple(
        Photo(
            path=f"photos/{name}",
            label=name.split("/")[1].removesuffix("s"),
            split=name.split("/")[0],  # type: ignore[arg-type]
            width=40,
            height=40,
            sha256=digest(data),
            cluster=digest(data)[:16],
            source="photos",
        )
        for name, data in sorted(files.items())
    )
    manifest = Manifest(
        root, ("cat", "dog", *(["neither"] if any(p.label == "neither" for p in photos) else [])), photos
    )
    manifest.write()
    return manifest


def test_photos_of_a_class_that_the_model_lacks_are_passed_over(
    tmp_path: Path, photo: Callable[..., bytes], tiny: Classifier
) -> None:
    files = {"test/cats/1.png": photo("red"), "test/dogs/1.png": photo("blue"), "test/neither/1.png": photo("green")}
    found = find_suspects(write_dataset(tmp_path / "data", files), tiny)
    assert (found.answered, found.passed_over, list(found.suspects)) == (2, 1, [])
    with pytest.raises(DataError, match="no photo of a class that the model knows"):
        find_suspects(write_dataset(tmp_path / "others", {"test/neither/1.png": photo("green")}), tiny)


def test_a_photo_that_is_gone_is_a_changed_dataset(tmp_path: Path, photo: Callable[..., bytes]) -> None:
    manifest = write_dataset(tmp_path / "data", {"test/cats/1.png": photo("red"), "test/dogs/1.png": photo("blue")})
    (tmp_path / "data/photos/test/cats/1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png.*the dataset was changed since it was made"):
        find_suspects(manifest, load())


def test_thresholds_and_margins() -> None:
    """The paper's rule on numbers that a person can follow."""
    probabilities = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0.05, 0.95, 0], [0.3, 0.7, 0], [0.1, 0.2, 0.7]])
    labels = np.array([0, 0, 0, 1, 1])
    none = np.zeros(5, np.bool_)
    contract = Contract(class_names=("cat", "dog", "neither"), input_size=16, neither_threshold=0.6)
    thresholds = find_thresholds(probabilities, labels, none, contract)
    assert thresholds == pytest.approx([0.55, 0.45, 0.6]), "a class without photos has the contract's"
    ranked = rank_suspects(probabilities, labels, thresholds)
    assert [(photo, other, round(margin, 6)) for photo, other, margin in ranked] == [(2, 1, -0.9), (4, 2, -0.5)]
    learnt = np.array([True, False, True, False, False])
    assert find_thresholds(probabilities, labels, learnt, contract)[0] == pytest.approx(0.7), "of the one not learnt"
    assert find_thresholds(probabilities, labels, ~none, contract) == pytest.approx(thresholds)
    assert rank_suspects(probabilities[:2], labels[:2], thresholds) == []
    assert rank_suspects(np.array([[0.6, 0.4, 0.0]]), np.array([0]), thresholds * 0) == [], "likelier than its own"


def test_exclusions_reach_photos_by_their_content_under_any_name(tmp_path: Path) -> None:
    files = class_folders() | {"Dogs/again.png": picture(0)}
    file = excluding(tmp_path / "x.csv", digest(picture(0)), f"{digest(picture(2))},dog", f"{'0' * 64},", "")
    manifest = build([make(tmp_path / "photos", files)], tmp_path / "out", exclusions=read_exclusions([file]))
    assert reasons(tmp_path / "out") == {"Cats/0.png": "excluded", "Dogs/again.png": "excluded"}
    labels = {photo.path: photo.label for photo in manifest.photos}
    assert labels["photos/photos/Cats/1.png"] == "dog"
    assert len(labels) == 7
    written = report(tmp_path / "out")
    assert written["relabelled"] == [{"source": "photos", "path": "Cats/1.png", "was": "cat", "label": "dog"}]
    assert "1 of the 3 excluded photos are not among the usable ones here" in written["warnings"]
    assert not (tmp_path / "out/photos/photos/Cats/0.png").exists()


def test_exclusions_change_a_dataset_that_is_there(tmp_path: Path) -> None:
    source, out = make(tmp_path / "photos", class_folders()), tmp_path / "out"
    before = {photo.sha256: photo.split for photo in build([source], out, split=(0.5, 0.5, 0)).photos}
    exclusions = {digest(picture(0)): None, digest(picture(2)): "dog"}
    more = make(tmp_path / "more", class_folders(seed=50))
    added = build([source, more], out, add=True, exclusions=exclusions)
    after = {photo.sha256: photo.split for photo in added.photos}
    assert len(added.photos) == len(after) == 15, "no photo twice, though the source still has the former label"
    assert all(after[sha] == split for sha, split in before.items() if sha in after)
    assert not any(photo.sha256 == digest(picture(0)) for photo in added.photos)
    for photo in added.photos:  # under capitals a source's photo took the place of the dataset's, and both went
        assert digest((out / photo.path).read_bytes()) == photo.sha256
    assert not any("moved" in warning for warning in report(out)["warnings"])
    with pytest.raises(DataError, match="would be gone"):
        build([more], out, exclusions=exclusions)
    build(
        [source], out, add=True, exclusions={digest(picture(2)): None}
    )  # which is a dog there, and a cat in the source
    assert report(out)["reasons"] == {"excluded": 1}, "one photo, and was counted twice"


def test_a_spreadsheet_may_have_saved_it_and_two_reviews_may_agree(tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_bytes(
        "\ufeffpath\tsha256\tcorrected\r\n".encode() + b"caf\xe9.jpg\t" + b"A" * 64 + b"\t Neither \r\n\r\n"
    )
    assert read_exclusions([one]) == {"a" * 64: "neither"}
    assert read_exclusions([one, excluding(tmp_path / "two.csv", "a" * 64 + ",neither", "b" * 64)]) == {
        "a" * 64: "neither",
        "b" * 64: None,
    }
    three = excluding(tmp_path / "three.csv", "", "a" * 64 + ",cat")
    with pytest.raises(
        DataError, match=r"three\.csv, line 3: corrects this photo to cat, and an earlier line to neither"
    ):
        read_exclusions([one, three])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: names no column sha256"),
        (b"path,label\na,b\n", "line 1: names no column sha256"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: names no column sha256"),
        ("sha256\n".encode("utf-16"), "line 1: is text in UTF-16; save the file as CSV in UTF-8"),
        ("path,sha256\n".encode("utf-16-le"), "line 1: is text in UTF-16"),
        (b"sha256\n" + b"a" * 64 + b"\n" + b"a" * 63 + b"\n", "line 3: 'a"),
        (b"path,sha256\nx\n", "line 2: '' is no SHA-256"),
        (b"path,sha256,corrected\n\n", "line 1: names no photo, only columns; leave the file out"),
        (b"sha256,corrected\n" + b"a" * 64 + b",wolf\n", "line 2: corrected is 'wolf'; write cat, dog, neither"),
        (b"path,sha256\n\n" + b'"x,' + b"a" * 64 + b"\n", "line 3: is no CSV"),
        (b"path,sha256\n" + b"x" * 200_000 + b",\n", "line 2: is no CSV"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_exclusions([file])
    assert f"{file}, {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


@bounded
@given(st.binary(max_size=200))
def test_any_damage_is_an_error_for_the_user(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"sha256,corrected\n" + b"a" * 64 + b",cat\n" + damage)
    with suppress(CatdogError):
        read_exclusions([file])


def test_arguments_that_contradict_each_other(tmp_path: Path) -> None:
    build([make(tmp_path / "photos", class_folders())], tmp_path / "data")
    data, out = tmp_path / "data", tmp_path / "out"
    refused: tuple[tuple[list[str | Path], str], ...] = (
        ([data, "--out", out, "--add"], "changes no dataset"),
        ([data, data, "--out", out], "looks at one dataset"),
        ([tmp_path / "photos", "--out", out], "make one with catdog dataset SOURCE... --out DIR"),
        ([data, "--out", data / "suspects"], "lies inside the dataset"),
        ([data, "--out", data / "manifest.json" / "suspects"], "can't be written (Not a directory)"),
    )
    for arguments, says in refused:
        done = run(*arguments, "--suspects", "embedded")
        assert done.returncode == 2
        assert says in done.stderr
        assert done.stderr.count("\n") == 1, "not even a line of progress: no photo was answered"
    for empty in ("--exclude", "--suspects"):
        refused_empty = run(data, "--out", out, empty, "")
        assert (refused_empty.returncode, refused_empty.stdout) == (2, "")
        assert (
            refused_empty.stderr == f"catdog dataset: error: {empty} '': is empty; give it a value, or leave it out\n"
        )
    missing = run(tmp_path / "photos", "--out", out, "--exclude", tmp_path / "none.csv")
    assert missing.returncode == 2
    assert "none.csv: the exclusions can't be read (No such file" in missing.stderr
    assert not out.exists()
