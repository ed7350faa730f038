"""Sources to dataset folders: every layout and container, what is left out, and what happens to what was there."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.dataset import Manifest, build
from catdog.errors import DataError, SettingsError

Files = Mapping[str, bytes]


def picture(seed: int, size: tuple[int, int] = (64, 48), kind: str = "PNG", **options: Any) -> bytes:
    """A smooth random picture; the same seed gives the same picture at any size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(count: int = 4, prefix: str = "", seed: int = 0) -> dict[str, bytes]:
    return {
        f"{prefix}{folder}/{i}.png": picture(seed + 2 * i + offset)
        for i in range(count)
        for offset, folder in enumerate(("Cats", "Dogs"))
    }


def make(target: Path, files: Files) -> Path:
    """The files as a folder, a zip or a tar archive, by the target's ending."""
    if target.name.endswith(".zip"):
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif ".t" in target.name:
        with tarfile.open(target, "w:gz" if target.name.endswith("gz") else "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
    return target


def report(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "report.json").read_bytes())
    return loaded


def reasons(out: Path) -> dict[str, str]:
    return {entry["path"]: entry["reason"] for entry in report(out)["left_out"]}


@pytest.mark.parametrize("container", ["photos", "photos.zip", "photos.tar", "photos.tar.gz", "photos.tgz"])
def test_every_container_gives_the_same_dataset(tmp_path: Path, container: str) -> None:
    files = class_folders(prefix="PetImages/")
    out = tmp_path / "out"
    manifest = build([make(tmp_path / container, files)], out)
    assert Manifest.read(out) == manifest
    assert [photo.path for photo in manifest.photos] == sorted(f"photos/photos/{name}" for name in files)
    for photo in manifest.photos:
        assert (out / photo.path).read_bytes() == files[photo.path.removeprefix("photos/photos/")]
        assert (photo.width, photo.height) == (64, 48)
        assert photo.label == ("cat" if "Cats" in photo.path else "dog")
    assert manifest.fingerprint == build([make(tmp_path / "again", files)], tmp_path / "out2").fingerprint
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "photos", "report.json"]


def test_archives_are_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    zipped = make(tmp_path / "a.zip", class_folders()).rename(tmp_path / "a.tar.gz")
    tarred = make(tmp_path / "b.tgz", class_folders(seed=50)).rename(tmp_path / "b.zip")
    assert len(build([zipped, tarred], tmp_path / "out").photos) == 16


def test_given_splits_are_kept(tmp_path: Path) -> None:
    files = class_folders(prefix="train/") | class_folders(prefix="valid/", seed=50)
    files |= class_folders(prefix="test/", seed=100)
    for photo in build([make(tmp_path / "photos", files)], tmp_path / "out").photos:
        assert {"train": "train", "valid": "val", "test": "test"}[photo.path.split("/")[2]] == photo.split


def test_a_split_can_be_forced_on_a_source(tmp_path: Path) -> None:
    left, right = (make(tmp_path / name, class_folders(seed=seed)) for name, seed in (("a", 0), ("b", 50)))
    manifest = build([(left, "train"), (str(right), "test")], tmp_path / "out", split=(1, 0, 0))
    assert {(photo.source, photo.split) for photo in manifest.photos} == {("a", "train"), ("b", "test")}


@pytest.mark.parametrize("given", ["folder", "folder of archives", "images archive"])
def test_oxford(tmp_path: Path, given: str) -> None:
    images = {f"images/{name}.jpg": picture(i) for i, name in enumerate(("Abyssinian_1", "beagle_2", "Mau_3"))}
    notes = {"annotations/list.txt": b"# name class species breed\nAbyssinian_1 1 1 1\nbeagle_2 2 2 1\n"}
    notes["annotations/xmls/beagle_2.xml"] = b"<annotation/>"
    source = tmp_path / "pets"
    source.mkdir()
    if given == "folder":
        make(source, images | notes)
    else:
        make(source / "images.tar.gz", images)
        make(source / "annotations.tar.gz", notes)
        source = source / "images.tar.gz" if given == "images archive" else source
    manifest = build([source], tmp_path / "out")
    assert [p.label for p in manifest.photos] == ["cat", "cat", "dog"]
    assert report(tmp_path / "out")["sources"][0]["layout"] == "Oxford-IIIT Pet"
    assert reasons(tmp_path / "out") == {}


def test_a_folder_of_archives_gives_each_and_reports_those_without_labels(tmp_path: Path) -> None:
    folder = tmp_path / "dogs-vs-cats"
    folder.mkdir()
    make(folder / "train.zip", {"train/cat.0.jpg": picture(0), "train/dog.0.jpg": picture(1)})
    make(folder / "test1.zip", {"test1/1.jpg": picture(2)})
    manifest = build([folder], tmp_path / "out")
    assert {photo.source for photo in manifest.photos} == {"dogs-vs-cats-train"}
    assert reasons(tmp_path / "out") == {"test1.zip": "unreadable"}


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good = picture(1, kind="JPEG", quality=90)
    files = class_folders() | {
        "Cats/empty.jpg": b"",
        "Cats/page.jpg": b"<html>not found</html>",
        "Cats/cut.jpg": good[: len(good) * 9 // 10],
        "Cats/small.png": picture(2, (31, 500)),
        "Cats/notes.txt": b"two cats",
        "birds/1.png": picture(3),
        "README.txt": b"ignored",
        "Cats/.DS_Store": b"junk",
        "Cats/Thumbs.db": b"junk",
        "__MACOSX/Cats/._1.jpg": b"junk",
    }
    manifest = build([make(tmp_path / "photos.zip", files)], tmp_path / "out")
    assert len(manifest.photos) == 8
    assert reasons(tmp_path / "out") == {
        "Cats/empty.jpg": "empty",
        "Cats/page.jpg": "unsupported",
        "Cats/cut.jpg": "corrupt",
        "Cats/small.png": "too_small",
        "Cats/notes.txt": "unsupported",
        "birds/1.png": "wrong_class",
    }
    assert all(entry["path"] in entry["message"] for entry in report(tmp_path / "out")["left_out"])
    assert not list((tmp_path / "out").rglob("cut.jpg"))


def test_sizes_are_of_the_upright_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.32: turned by 90 degrees
    files = {"cat.0.jpg": picture(0, (80, 40), "JPEG", exif=exif), "dog.0.jpg": picture(1)}
    photo = build([make(tmp_path / "photos", files)], tmp_path / "out").photos[0]
    assert (photo.width, photo.height) == (40, 80)


def test_copies_at_other_sizes_and_aspects_share_a_split(tmp_path: Path) -> None:
    originals = {f"cats/{i}.png": picture(i, (300, 200)) for i in range(20)} | {"dogs/0.png": picture(100)}
    squashed = {f"cat.{i}.jpg": picture(i, (90, 90), "JPEG") for i in range(20)}
    manifest = build([make(tmp_path / "a", originals), make(tmp_path / "b", squashed)], tmp_path / "out")
    groups: dict[str, set[str]] = {}
    for photo in manifest.photos:
        groups.setdefault(photo.cluster, set()).add(photo.split)
    assert len(groups) == 21
    assert all(len(splits) == 1 for splits in groups.values())
    copies = report(tmp_path / "out")["copies"]
    assert (copies["clusters"], copies["near"], copies["exact"], copies["across_sources"]) == (20, 20, 0, 20)


def test_copies_with_two_labels_are_left_out(tmp_path: Path) -> None:
    files = class_folders() | {"Cats/x.png": picture(99), "Dogs/y.png": picture(99, (40, 40))}
    build([make(tmp_path / "photos", files)], tmp_path / "out")
    assert reasons(tmp_path / "out") == {"Cats/x.png": "label_conflict", "Dogs/y.png": "label_conflict"}


def test_a_leak_in_a_given_split_is_closed_and_stays_closed(tmp_path: Path) -> None:
    files = class_folders(prefix="train/") | class_folders(prefix="test/", seed=50)
    files |= {"train/Cats/copy.png": files["test/Cats/0.png"], "train/Cats/near.png": picture(50, (99, 99))}
    source, out = make(tmp_path / "photos", files), tmp_path / "out"
    first = build([source], out)
    assert reasons(out) == {"train/Cats/copy.png": "leak", "train/Cats/near.png": "leak"}
    assert build([source], out).fingerprint == first.fingerprint


def test_building_again_with_more_photos_moves_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "a", class_folders(30))], out)
    near = {name: picture(i, (70, 70)) for i, name in enumerate(("Cats/n0.png", "Dogs/n1.png"))}
    second = build([tmp_path / "a", make(tmp_path / "b", class_folders(30, seed=500) | near)], out)
    splits = {photo.sha256: photo.split for photo in second.photos}
    assert all(splits[photo.sha256] == photo.split for photo in first.photos)
    clusters = {photo.cluster: photo.split for photo in second.photos}
    assert all(clusters[photo.cluster] == photo.split for photo in second.photos)
    assert len(second.photos) == 122


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    sources = [make(tmp_path / str(i) / "Photos", class_folders(seed=100 * i)) for i in range(3)]
    manifest = build(sources, tmp_path / "out")
    assert {photo.source for photo in manifest.photos} == {"Photos", "Photos~2", "Photos~3"}
    assert len({photo.path for photo in manifest.photos}) == 24


def test_a_split_that_lacks_a_class_is_warned_of(tmp_path: Path) -> None:
    build([make(tmp_path / "photos", class_folders(1))], tmp_path / "out")
    assert [w for w in report(tmp_path / "out")["warnings"] if w.startswith("test holds no")]


def test_progress_counts_every_file_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    files = class_folders() | {"Cats/bad.jpg": b"", "birds/1.png": picture(9)}
    build([make(tmp_path / "photos.zip", files)], tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == [(i, 10) for i in range(1, 11)]


def test_other_peoples_folders_are_never_replaced(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", class_folders())
    mine = make(tmp_path / "mine", {"diary.txt": b"dear diary"})
    with pytest.raises(DataError, match="not empty and holds no dataset"):
        build([source], mine)
    with pytest.raises(DataError, match="is a file"):
        build([source], mine / "diary.txt")
    build([source], tmp_path / "out")
    shutil.copy(mine / "diary.txt", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds 'diary\.txt', which would be lost"):
        build([source], tmp_path / "out")
    with pytest.raises(SettingsError, match=r"out: lies in .*photos, so the next run would take for photos"):
        build([source], source / "out")
    with pytest.raises(DataError, match="not empty"):
        build([source], tmp_path)
    assert (mine / "diary.txt").read_bytes() == b"dear diary"


def test_no_photo_of_a_dataset_is_lost_without_a_word(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "a", class_folders(count=4))], out)
    other = make(tmp_path / "b", class_folders(count=2, seed=50))
    with pytest.raises(DataError, match=r"8 of the 8 photos in this dataset would be gone; give --add .* --replace"):
        build([other], out)
    assert Manifest.read(out).fingerprint == first.fingerprint
    assert len(build([other], out, replace=True).photos) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_photos_join_a_dataset_and_the_former_ones_keep_paths_and_splits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "a", class_folders(count=4))], out)
    more = make(tmp_path / "b", class_folders(count=2, seed=50) | {"Cats/again.png": picture(0)})
    joined = build([more], out, add=True)
    assert [photo for photo in joined.photos if photo.source == "a"] == list(first.photos)
    assert sum(photo.source == "b" for photo in joined.photos) == 4  # and not the one that was there already
    assert all((out / photo.path).is_file() for photo in joined.photos)
    assert {s["name"]: s["layout"] for s in report(out)["sources"]} == {"a": "joined", "b": "class folders"}
    assert build([more], out, add=True).fingerprint == joined.fingerprint


def test_a_copy_with_another_label_does_not_push_a_photo_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "a", class_folders())], out)
    with pytest.raises(DataError, match=r"1 of the 8 photos .* a copy of 'photos/a/Cats/0.png' under another label"):
        build([make(tmp_path / "b", {"Dogs/0.png": picture(0), "Cats/9.png": picture(90)})], out, add=True)
    assert Manifest.read(out).fingerprint == first.fingerprint


def test_a_photo_that_was_changed_in_the_dataset_does_not_join(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "a", class_folders())], out)
    (out / first.photos[0].path).write_bytes(picture(99))
    with pytest.raises(DataError, match="was changed since the dataset was made"):
        build([make(tmp_path / "b", class_folders(seed=50))], out, add=True)


def test_a_given_split_divides_a_dataset_anew_and_says_so(tmp_path: Path) -> None:
    source, out = make(tmp_path / "a", class_folders(count=10)), tmp_path / "out"
    build([source], out, split=(1, 0, 0))
    assert {photo.split for photo in build([source], out).photos} == {"train"}
    assert {photo.split for photo in build([source], out, split=(0, 0, 1)).photos} == {"test"}
    assert "20 of 20 photos changed their split" in report(out)["warnings"][0]


def test_what_a_killed_build_left_is_put_back_or_deleted(tmp_path: Path) -> None:
    source, out = make(tmp_path / "a", class_folders()), tmp_path / "out"
    first = build([source], out)
    make(tmp_path / ".out.catdog" / "new", {"photos/half.png": b"half"})
    out.rename(tmp_path / ".out.catdog" / "old")  # where folders can't be exchanged, it may have been killed here
    with pytest.raises(DataError, match="would be gone"):
        build([make(tmp_path / "b", class_folders(seed=50))], out)
    assert Manifest.read(out).fingerprint == first.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_an_empty_folder_in_its_place_costs_no_dataset(tmp_path: Path) -> None:
    source, out = make(tmp_path / "a", class_folders()), tmp_path / "out"
    first = build([source], out)
    (tmp_path / ".out.catdog").mkdir()
    out.rename(tmp_path / ".out.catdog" / "old")
    out.mkdir()
    with pytest.raises(DataError, match="would be gone"):
        build([make(tmp_path / "b", class_folders(seed=50))], out)
    assert Manifest.read(out).fingerprint == first.fingerprint


def test_who_joins_photos_cannot_divide_them_anew(tmp_path: Path) -> None:
    source, out = make(tmp_path / "a", class_folders()), tmp_path / "out"
    build([source], out)
    with pytest.raises(SettingsError, match="leave --split out"):
        build([source], out, split=(0.5, 0.5, 0), add=True)


def test_a_dataset_of_one_class_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([make(tmp_path / "a", {f"Cats/{i}.png": picture(i) for i in range(4)})], out)
    assert report(out)["warnings"] == [
        "there is no photo of a dog, so nothing can be trained on it; --add some, in a folder dogs/"
    ]


def test_a_failure_leaves_the_old_dataset_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build([make(tmp_path / "photos", class_folders())], out)
    damaged = make(tmp_path / "damaged.zip", class_folders(seed=50))
    damaged.write_bytes(damaged.read_bytes()[:-100])  # without the end of its directory
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"damaged\.zip: the archive can't be read to its end"):
        build([damaged], out)
    assert sorted(tmp_path.iterdir()) == before
    assert Manifest.read(out).photos == first.photos


def test_an_empty_folder_is_a_fine_target(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert build([make(tmp_path / "photos", class_folders())], tmp_path / "out").photos


def test_the_folder_that_one_is_in_is_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "photos", class_folders())
    build([source], tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out" / "photos")
    with pytest.raises(SettingsError, match=r"--out .*out: is replaced as a whole; start this from a folder outside"):
        build([source], "..", replace=True)
    assert Path("photos").is_dir(), "it would be gone"


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", {"cats/1.jpg": b"", "dogs/2.jpg": b"", "dogs/3.jpg": b"text"})
    with pytest.raises(DataError, match=r"no photo can be used: 2 empty, 1 unsupported; the first one: photos: cats/1"):
        build([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (float("nan"), 0.5, 0.5)])
def test_impossible_shares_are_refused(tmp_path: Path, split: tuple[float, float, float]) -> None:
    with pytest.raises(SettingsError, match="sum to 1"):
        build([tmp_path], tmp_path / "out", split=split)


def test_other_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--min-side"):
        build([tmp_path], tmp_path / "out", min_side=0)
    with pytest.raises(SettingsError, match="unknown split 'holdout'"):
        build([(tmp_path, "holdout")], tmp_path / "out")  # type: ignore[list-item]
    with pytest.raises(DataError, match="no source"):
        build([], tmp_path / "out")
