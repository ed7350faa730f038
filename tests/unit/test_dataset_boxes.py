"""Boxes in datasets: read from every layout, kept, handed over, shown, and written as SageMaker reads them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from catdog.boxes import Box
from catdog.dataset import Manifest, Photo, build
from catdog.dataset.__main__ import app
from catdog.dataset.sagemaker import write_sagemaker
from catdog.errors import DataError, SettingsError
from tests.unit.test_annotations import coco, voc
from tests.unit.test_dataset_build import class_folders, make, picture, reasons, report

Boxes = tuple[Box, ...] | None
CAT = Box("cat", 10, 20, 30, 40)
DOG = Box("dog", 16, 12, 48, 36)
YOLO_DOG = b"1 0.5 0.5 0.5 0.5\n"  # the same as DOG in 64x48
VOC_CAT = voc(("cat", 11, 21, 30, 40))


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def boxes_of(manifest: Manifest) -> dict[str, Boxes]:
    return {photo.path.split("/", 2)[2]: photo.boxes for photo in manifest.photos}


def labels_of(manifest: Manifest) -> dict[str, str]:
    return {photo.path.split("/", 2)[2]: photo.label for photo in manifest.photos}


def flaws(out: Path) -> dict[str, str]:
    return {entry["path"]: entry["reason"] for entry in report(out)["boxes"]["left_out"]}


def annotated(files: Mapping[str, bytes], tmp_path: Path, name: str = "mine") -> Manifest:
    return build([make(tmp_path / name, files)], tmp_path / "out")


def pictures(*names: str, start: int = 0) -> dict[str, bytes]:
    return {name: picture(seed) for seed, name in enumerate(names, start)}


OXFORD = {
    **pictures("images/Abyssinian_1.jpg", "images/beagle_2.jpg", "images/Bengal_3.jpg"),
    "annotations/list.txt": b"Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n",
    "annotations/xmls/Abyssinian_1.xml": VOC_CAT,
    "annotations/xmls/beagle_2.xml": voc(("dog", 17, 13, 48, 36)),
    "annotations/xmls/beagle_4.xml": VOC_CAT,
    "annotations/trimaps/Abyssinian_1.png": picture(9),
}


@pytest.mark.parametrize("given", ["folder", "images folder", "folder of archives", "images archive", "one archive"])
def test_oxford_has_boxes_and_its_masks_are_no_photos(tmp_path: Path, given: str) -> None:
    source = tmp_path / "pets"
    if "folder" in given and "archives" not in given:
        make(source, OXFORD)
        source = source / "images" if given == "images folder" else source
    elif given == "one archive":
        source = make(tmp_path / "pets.zip", OXFORD)
    else:
        source.mkdir()
        for part in ("images", "annotations"):
            make(source / f"{part}.tar.gz", {name: data for name, data in OXFORD.items() if name.startswith(part)})
        source = source / "images.tar.gz" if given == "images archive" else source
    manifest = build([source], tmp_path / "out")
    assert [photo.boxes for photo in manifest.photos] == [(CAT,), None, (DOG,)]
    assert [photo.label for photo in manifest.photos] == ["cat", "cat", "dog"]
    assert Manifest.read(tmp_path / "out") == manifest
    found = report(tmp_path / "out")
    assert [Path(entry["path"]).name for entry in found["boxes"].pop("left_out")] == ["beagle_4.xml"]
    assert found["boxes"] == {"photos": 2, "counts": {"cat": 1, "dog": 1}, "reasons": {"no_photo": 1}}
    assert (found["reasons"], found["sources"][0]["layout"]) == ({}, "Oxford-IIIT Pet")


@pytest.mark.parametrize("container", ["mine", "mine.zip", "mine.tar.gz"])
def test_yolo_as_ultralytics_has_it(tmp_path: Path, container: str) -> None:
    files = {
        **pictures("images/train/1.jpg", "images/train/2.jpg", "images/val/3.jpg", "images/val/4.jpg"),
        "data.yaml": b"path: .\nnames:\n  0: cat\n  1: dog\n  2: bird\n",
        "README.txt": b"mine",
        "labels/train/1.txt": YOLO_DOG + b"0 0.1 0.1 0.1 0.1\n2 0.5 0.5 0.5 0.5\n",
        "labels/train/2.txt": b"",
        "labels/val/3.txt": b"2 0.5 0.5 0.5 0.5\n",
        "labels/val/9.txt": YOLO_DOG,
    }
    manifest = annotated(files, tmp_path, container)
    boxes = boxes_of(manifest)
    first = boxes.pop("images/train/1.jpg")
    assert first is not None
    assert first[0] == DOG
    assert first[1].corners == pytest.approx((3.2, 2.4, 9.6, 7.2))
    assert boxes == {"images/train/2.jpg": (), "images/val/3.jpg": ()}
    assert [(p.label, p.split) for p in manifest.photos] == [("dog", "train"), ("neither", "train"), ("neither", "val")]
    assert reasons(tmp_path / "out") == {"images/val/4.jpg": "wrong_class"}  # nobody said what it shows
    assert flaws(tmp_path / "out") == {"labels/val/9.txt": "no_photo", "labels/train/1.txt": "unknown_class"}
    assert "2 boxes in this source are of 'bird'" in report(tmp_path / "out")["boxes"]["left_out"][1]["message"]


def test_yolo_as_roboflow_and_labelimg_have_it(tmp_path: Path) -> None:
    roboflow = {
        **pictures("train/images/1.jpg", "valid/images/2.jpg"),
        "train/labels/1.txt": YOLO_DOG,
        "valid/labels/2.txt": YOLO_DOG,
        "data.yaml": b"names: ['cat', 'dog']\n",
    }
    labelimg = {**pictures("a/1.jpg", start=9), "a/1.txt": b"0 0.5 0.5 0.5 0.5", "a/classes.txt": b"dog\ncat\n"}
    sources = [make(tmp_path / "roboflow", roboflow), make(tmp_path / "labelimg.zip", labelimg)]
    manifest = build(sources, tmp_path / "out")
    assert [(photo.label, photo.boxes) for photo in manifest.photos] == [("dog", (DOG,))] * 3


def test_coco(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48},
        {"id": 2, "file_name": "a/2.jpg", "width": 64, "height": 48},
        {"id": 3, "file_name": "../../3.jpg", "width": 640, "height": 480},
        {"id": 4, "file_name": "C:\\mine\\4.jpg"},
        {"id": 5, "file_name": "gone.jpg"},
        {"id": 6, "file_name": "2.jpg"},
        {"id": 7, "file_name": "1.jpg"},
    ]
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20]},
        {"image_id": 1, "category_id": 2, "bbox": [16, 12, 32, 24]},
        {"image_id": 2, "category_id": 2, "bbox": [16, 12, 32, 24]},
        {"image_id": 3, "category_id": 2, "bbox": [16, 12, 32, 24]},
    ]
    files = {
        **pictures("images/1.jpg", "images/a/2.jpg", "images/3.jpg", "images/4.jpg", "images/b/2.jpg"),
        "annotations/instances_default.json": coco(images, annotations),
        "annotations/person_keypoints.json": coco([{"id": 1, "file_name": "b/2.jpg"}], [], ("person",)),
        "annotations/captions.json": b'{"images": [{"id": 1, "file_name": "b/2.jpg"}], "annotations": []}',
    }
    manifest = annotated(files, tmp_path)
    assert boxes_of(manifest) == {
        "images/1.jpg": (CAT, DOG),
        "images/a/2.jpg": (DOG,),
        "images/3.jpg": None,
        "images/4.jpg": (),
    }
    assert labels_of(manifest) == {
        "images/1.jpg": "dog",
        "images/a/2.jpg": "dog",
        "images/3.jpg": "dog",
        "images/4.jpg": "neither",
    }
    assert reasons(tmp_path / "out") == {"images/b/2.jpg": "wrong_class"}
    found = report(tmp_path / "out")["boxes"]
    assert found["reasons"] == {"ambiguous": 1, "annotated_twice": 1, "damaged": 2, "no_photo": 1, "wrong_size": 1}


def test_an_accent_is_the_same_however_a_system_writes_it(tmp_path: Path) -> None:
    decomposed, composed = "Ka\u0308tzchen.jpg", "K\u00e4tzchen.jpg"  # as macOS has it in an archive, and as CVAT does
    notes = coco([{"id": 1, "file_name": composed}], [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20]}])
    manifest = annotated({**pictures(decomposed), "annotations/a.json": notes}, tmp_path, "mine.zip")
    assert list(boxes_of(manifest).values()) == [(CAT,)]


def test_voc_beside_photos_and_as_the_challenge_had_it(tmp_path: Path) -> None:
    files = {
        **pictures("a/1.jpg", "b/1.jpg", "JPEGImages/2.jpg", "JPEGImages/3.jpg"),
        "a/1.xml": VOC_CAT,
        "b/1.xml": voc(),
        "Annotations/2.xml": voc(("dog", 17, 13, 48, 36)),
        "Annotations/3.xml": b"<!DOCTYPE a>",
        "pom.xml": b"<project/>",
    }
    manifest = annotated(files, tmp_path)
    assert boxes_of(manifest) == {"a/1.jpg": (CAT,), "b/1.jpg": (), "JPEGImages/2.jpg": (DOG,)}
    assert reasons(tmp_path / "out") == {"JPEGImages/3.jpg": "wrong_class"}
    assert flaws(tmp_path / "out") == {"Annotations/3.xml": "damaged"}


def test_class_folders_win_over_boxes_and_annotations_are_no_damaged_photos(tmp_path: Path) -> None:
    files = class_folders(2) | {
        "Cats/0.txt": YOLO_DOG,
        "Dogs/0.txt": b"",
        "Cats/1.txt": b"two cats",
        "classes.txt": b"cat\ndog\n",
        "neither/a.png": picture(90),
        "neither/a.txt": YOLO_DOG,
    }
    manifest = annotated(files, tmp_path)
    assert boxes_of(manifest) == {
        "Cats/0.png": (DOG,),
        "Cats/1.png": None,
        "Dogs/0.png": (),
        "Dogs/1.png": None,
        "neither/a.png": None,
    }
    assert set(labels_of(manifest).values()) == {"cat", "dog", "neither"}
    assert reasons(tmp_path / "out") == {}
    assert flaws(tmp_path / "out") == {"Cats/1.txt": "damaged", "neither/a.txt": "contradiction"}


def test_captions_beside_photos_are_what_they_were(tmp_path: Path) -> None:
    build([make(tmp_path / "photos", class_folders() | {"Cats/0.txt": b"a cat on a mat"})], tmp_path / "out")
    assert reasons(tmp_path / "out") == {"Cats/0.txt": "unsupported"}
    assert flaws(tmp_path / "out") == {}


def test_labels_without_the_names_of_their_classes_are_listed(tmp_path: Path) -> None:
    files = {**pictures("images/cat.1.jpg", "images/dog.1.jpg"), "labels/cat.1.txt": YOLO_DOG}
    assert set(boxes_of(annotated(files, tmp_path)).values()) == {None}
    assert flaws(tmp_path / "out") == {"labels/cat.1.txt": "damaged"}
    assert "names a class cat or dog" in report(tmp_path / "out")["boxes"]["left_out"][0]["message"]


def test_an_annotation_of_any_size_is_not_read(tmp_path: Path) -> None:
    files = {**pictures("a/1.jpg", "a/2.jpg"), "a/1.xml": VOC_CAT + b" " * 2**20, "a/2.xml": VOC_CAT}
    assert boxes_of(annotated(files, tmp_path, "mine.tar.gz")) == {"a/2.jpg": (CAT,)}
    assert flaws(tmp_path / "out") == {"a/1.xml": "unreadable"}


@pytest.mark.parametrize(
    ("seen", "box"),
    [((40, 80), (0, 0, 10, 20)), ((80, 40), (20, 0, 40, 10)), (None, (0, 0, 10, 20)), ((41, 80), None)],
)
def test_boxes_turn_with_a_photo_that_its_annotator_saw_as_it_is_stored(
    tmp_path: Path, seen: tuple[int, int] | None, box: tuple[int, int, int, int] | None
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.32: turned by 90 degrees
    marked = ("cat", 1, 1, 10, 20)
    files = {"a/1.jpg": picture(0, (80, 40), "JPEG", exif=exif), "a/1.xml": voc(marked, size=seen)}
    (photo,) = annotated(files, tmp_path).photos
    expected = {(80, 40): (Box("cat", 20, 0, 40, 10),), (41, 80): None}.get(seen or (0, 0), (Box("cat", 0, 0, 10, 20),))
    assert (photo.width, photo.height, photo.boxes) == (40, 80, expected)
    assert box is None or photo.boxes == (Box("cat", *box),)


def test_a_joined_dataset_keeps_its_boxes_and_takes_those_of_its_photos(tmp_path: Path) -> None:
    out = tmp_path / "out"
    marked = {"1.png": picture(0), "1.xml": VOC_CAT, "2.png": picture(1), "2.xml": voc(("dog", 17, 13, 48, 36))}
    build([make(tmp_path / "marked", marked)], out)
    bare = {"cats/1.png": picture(0), "dogs/3.png": picture(2)}
    joined = build([make(tmp_path / "bare", bare)], out, add=True)
    assert [photo.boxes for photo in joined.photos] == [None, (CAT,), (DOG,)]
    later = {
        "3.png": picture(2),
        "3.xml": voc(("dog", 17, 13, 48, 36)),
        "1.png": picture(0),
        "1.xml": voc(("cat", 1, 1, 9, 9)),
    }
    again = build([make(tmp_path / "later", later)], out, add=True)
    assert [photo.boxes for photo in again.photos] == [(DOG,), (CAT,), (DOG,)]
    assert [photo.path for photo in again.photos] == [photo.path for photo in joined.photos]


@pytest.mark.parametrize(("size", "kept"), [((64, 48), (CAT,)), ((128, 96), None)])
def test_a_copy_that_leaks_leaves_its_boxes_to_the_one_that_stays(
    tmp_path: Path, size: tuple[int, int], kept: Boxes
) -> None:
    files = class_folders(prefix="train/") | class_folders(prefix="test/", seed=50)
    copy = {"train/Cats/copy.jpg": picture(50, (64, 48), "JPEG"), "train/Cats/copy.xml": VOC_CAT}
    files |= {**copy, "test/Cats/0.png": picture(50, size)}
    manifest = annotated(files, tmp_path)
    assert reasons(tmp_path / "out") == {"train/Cats/copy.jpg": "leak"}
    assert boxes_of(manifest)["test/Cats/0.png"] == kept


def test_boxes_follow_a_person_s_correction(tmp_path: Path) -> None:
    names = ("1", "2", "3")
    files = {f"{name}.png": picture(i) for i, name in enumerate(names)}
    files |= {"1.xml": VOC_CAT, "2.xml": VOC_CAT, "3.xml": voc()}
    digests = [hashlib.sha256(files[f"{name}.png"]).hexdigest() for name in names]
    right = dict(zip(digests, ("dog", "neither", "cat"), strict=True))
    manifest = build([make(tmp_path / "mine", files)], tmp_path / "out", exclusions=right)
    assert [(photo.label, photo.boxes) for photo in manifest.photos] == [
        *(("dog", (Box("dog", *CAT.corners),)), ("neither", ())),
        ("cat", None),  # who marked nothing overlooked it
    ]


def write_dataset(folder: Path, files: Mapping[str, tuple[bytes, str, str, Boxes]]) -> Manifest:
    """A dataset of photos with (bytes, label, split, boxes), without the way through a source."""
    photos = []
    for name, (data, label, split, boxes) in files.items():
        make(folder, {f"photos/mine/{name}": data})
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size if image.getexif().get(0x0112) is None else image.size[::-1]
        digest = hashlib.sha256(data).hexdigest()
        path = f"photos/mine/{name}"
        photos.append(Photo(path, label, split, width, height, digest, digest[:16], "mine", boxes))  # type: ignore[arg-type]
    manifest = Manifest(folder, ("cat", "dog", "neither"), tuple(photos))
    manifest.write()
    return manifest


def sagemaker_dataset(folder: Path) -> Manifest:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = picture(1, kind="JPEG", quality=90)
    odd = (Box("cat", 0.4, 0.6, 63.7, 47.9), Box("dog", 63.6, 10, 64, 10.2))
    return write_dataset(
        folder,
        {
            "a/1.jpg": (jpeg, "cat", "train", odd),
            "a/1.png": (picture(2), "dog", "train", (DOG,)),
            "turned.jpg": (picture(3, (80, 40), "JPEG", exif=exif), "cat", "train", (Box("cat", 0, 0, 10, 20),)),
            "b.webp": (picture(4, kind="WEBP"), "cat", "val", (CAT,)),
            "none.jpg": (picture(5), "neither", "train", ()),
            "nobody.jpg": (picture(6), "cat", "val", None),
            "test.jpg": (picture(7), "cat", "test", (CAT,)),
        },
    )


def read_sagemaker(out: Path) -> dict[str, list[tuple[str, tuple[int, int], list[Box]]]]:
    """What the algorithm would see: by channel, each image's name, size and boxes, the two forms being the same."""
    found: dict[str, list[Any]] = {}
    for channel in ("train", "validation"):
        lines = [json.loads(line) for line in (out / f"{channel}.manifest").read_text().splitlines()]
        by_name = {line["source-ref"].rpartition("/")[2]: line for line in lines}
        images = sorted(path.name for path in (out / channel).iterdir())
        assert sorted(by_name) == images
        assert [f"{Path(n).stem}.json" for n in images] == sorted(
            p.name for p in (out / f"{channel}_annotation").iterdir()
        )
        for name in images:
            entry = json.loads((out / f"{channel}_annotation" / f"{Path(name).stem}.json").read_bytes())
            line = by_name[name]
            assert line["bounding-box"] == {key: entry[key] for key in ("image_size", "annotations")}
            assert len(line["bounding-box-metadata"]["objects"]) == len(entry["annotations"])
            classes = {category["class_id"]: category["name"] for category in entry["categories"]}
            assert {str(key): name for key, name in classes.items()} == line["bounding-box-metadata"]["class-map"]
            with Image.open(out / channel / name) as image:
                assert image.format in ("JPEG", "PNG")
                assert image.getexif().get(0x0112) is None
                size = image.size
            assert entry["file"] == name
            assert entry["image_size"] == [{"width": size[0], "height": size[1], "depth": 3}]
            boxes = [
                Box(classes[b["class_id"]], b["left"], b["top"], b["left"] + b["width"], b["top"] + b["height"])
                for b in entry["annotations"]
            ]
            assert all(min(b.corners) >= 0 and b.xmax <= size[0] and b.ymax <= size[1] for b in boxes)
            found.setdefault(channel, []).append((name, size, boxes))
    return found


def test_what_sagemaker_s_own_algorithm_reads(tmp_path: Path) -> None:
    manifest, out = sagemaker_dataset(tmp_path / "data"), tmp_path / "out"
    counts = write_sagemaker(manifest, out, "s3://bucket/heads/")
    assert counts == {"train": {"photos": 3, "boxes": 4}, "validation": {"photos": 1, "boxes": 1}}
    assert read_sagemaker(out) == {
        "train": [
            ("mine-a-1.jpg", (64, 48), [Box("cat", 0, 1, 64, 48), Box("dog", 63, 10, 64, 11)]),
            ("mine-a-1~2.png", (64, 48), [DOG]),
            ("mine-turned.jpg", (40, 80), [Box("cat", 0, 0, 10, 20)]),
        ],
        "validation": [("mine-b.jpg", (64, 48), [CAT])],
    }
    assert (out / "train" / "mine-a-1.jpg").read_bytes() == (tmp_path / "data/photos/mine/a/1.jpg").read_bytes()
    assert '"source-ref": "s3://bucket/heads/validation/mine-b.jpg"' in (out / "validation.manifest").read_text()
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_sagemaker(manifest, out, "s3://bucket/heads")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_sagemaker_s_layout_takes_no_other_folder_s_place(tmp_path: Path) -> None:
    manifest, out = sagemaker_dataset(tmp_path / "data"), tmp_path / "out"
    write_sagemaker(manifest, out)
    (out / "mine.txt").write_text("mine")
    for taken in (out, tmp_path / "data", tmp_path, out / "mine.txt"):
        with pytest.raises(SettingsError, match=r"--out .*: holds files of something else"):
            write_sagemaker(manifest, taken)
    with pytest.raises(SettingsError, match="lies inside the dataset"):
        write_sagemaker(manifest, tmp_path / "data" / "new")
    for prefix in ("bucket/heads", "s3://", "s3:///heads", "gs://bucket/heads"):
        with pytest.raises(SettingsError, match=f"--prefix {prefix}: not an S3 address"):
            write_sagemaker(manifest, tmp_path / "new", prefix)
    with pytest.raises(SettingsError, match="path on this machine"):
        write_sagemaker(manifest, Path("s3://bucket/heads"))
    (tmp_path / "data/photos/mine/b.webp").write_bytes(picture(99))
    with pytest.raises(DataError, match=r"b\.webp: was changed since"):
        write_sagemaker(manifest, tmp_path / "new")
    bare = write_dataset(tmp_path / "bare", {"1.jpg": (picture(1), "cat", "train", None)})
    with pytest.raises(DataError, match="no train photo has a box"):
        write_sagemaker(bare, tmp_path / "new")
    assert (out / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "data", "out"]


def test_a_sheet_shows_photos_with_their_boxes(tmp_path: Path) -> None:
    white = {size: io.BytesIO() for size in ((512, 256), (256, 512))}
    for size, buffer in white.items():
        Image.new("RGB", size, "white").save(buffer, "PNG")
    box = Box("dog", 128, 64, 384, 192)
    data = tmp_path / "data"
    write_dataset(
        data,
        {
            "1.png": (white[512, 256].getvalue(), "dog", "train", (box,)),
            "2.png": (white[256, 512].getvalue(), "cat", "train", None),
        },
    )
    done = run(data, "--show", "1")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"sheet": str(data / "sheet.png"), "photos": 2, "with_boxes": 1}
    with Image.open(data / "sheet.png") as sheet:
        blue = np.argwhere((np.asarray(sheet)[:, :, :3] == (0x00, 0x72, 0xB2)).all(2))
    tile_left, tile_top = 20, blue[:, 0].min()  # the caption stands on the box
    assert blue[:, 1].min() == tile_left + 64
    assert ((blue[:, 1] == tile_left + 191).sum(), tile_top > 0) == (64, True)
    assert Manifest.read(data)
    assert run(data, "--show", "24").exit_code == 0  # in the place of its own
    (data / "sheet.png").write_bytes(b"my own")
    refused = run(data, "--show", "1")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert (data / "sheet.png").read_bytes() == b"my own"


def test_the_commands(tmp_path: Path) -> None:
    source = make(tmp_path / "pets", OXFORD | {"annotations/xmls/Bengal_3.xml": b"broken"})
    out = tmp_path / "out"
    built = run(source, "--out", out, "--show", "3", "--split", "0.5,0.5,0")
    assert built.exit_code == 0, built.stderr
    summary = json.loads(built.stdout)
    reasons = {"damaged": 1, "no_photo": 1}
    assert summary["boxes"] == {"photos": 2, "counts": {"cat": 1, "dog": 1}, "reasons": reasons}
    assert summary["sheet"] == str(out / "sheet.png")
    assert "boxes: 1 cat, 1 dog in 2 photos; wrong with annotations: 1 damaged, 1 no_photo" in built.stderr
    assert run(source, "--out", out).exit_code == 0  # a sheet keeps nobody from building again
    sagemaker_dataset(tmp_path / "data")
    done = run(tmp_path / "data", "--to", "sagemaker", "--out", tmp_path / "layout")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["validation"] == {"photos": 1, "boxes": 1}
    assert "num_training_samples=3" in done.stderr
    assert '"source-ref": "validation/mine-b.jpg"' in (tmp_path / "layout/validation.manifest").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data"], "--out DIR is missing"),
        (["data", "--show", "0"], "1 to 24"),
        (["data", "--show", "25", "--out", "new"], "1 to 24"),
        (["data", "other", "--show", "3"], "--show looks at one dataset"),
        (["data", "--show", "3", "--add"], "--show changes no dataset; give it a dataset alone"),
        (["data", "--to", "sagemaker"], "--out DIR is missing"),
        (["data", "--to", "sagemaker", "--show", "3", "--out", "new"], "--to changes no dataset"),
        (["data", "--to", "sagemaker", "--replace", "--out", "new"], "--to changes no dataset"),
        (["data", "--prefix", "s3://bucket", "--out", "new"], "--prefix is for --to"),
        (["data", "--to", "sagemaker", "--out", "new"], "manifest.json"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = run(*(tmp_path / word if word in ("data", "other", "new") else word for word in arguments))
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208
