"""What annotators write, as bytes: the three formats, what is wrong with them, and boxes that fit their photo."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.boxes import Box
from catdog.dataset.annotations import Annotation, Fitted, Mark, fit_boxes
from catdog.dataset.coco import parse_coco
from catdog.dataset.voc import parse_voc
from catdog.dataset.yolo import parse_names, parse_yolo
from catdog.errors import DataError
from catdog.image import turn_point

CAT_AND_DOG = {0: "cat", 1: "dog"}


def voc(*boxes: tuple[str, float, float, float, float], size: tuple[object, object] | None = (64, 48)) -> bytes:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>"
        for name, x1, y1, x2, y2 in boxes
    )
    says = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{says}{objects}</annotation>".encode()


def coco(images: list[Any], annotations: list[Any], names: tuple[str, ...] = ("cat", "dog")) -> bytes:
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


def fit(*marks: Mark, size: tuple[int, int] | None = None, label: str = "cat", in_shares: bool = False) -> Fitted:
    annotation = Annotation("notes", marks, size, in_shares)
    return fit_boxes(annotation, "1.jpg", label, (64, 48), lambda: None)


def test_voc_counts_pixels_from_1_and_the_last_one_is_inside() -> None:
    found = parse_voc(voc(("dog", 1, 1, 64, 48), ("Cat", 11, 21, 30, 40)), "a.xml")
    assert found.marks == (Mark("dog", (0, 0, 64, 48)), Mark("cat", (10, 20, 30, 40)))
    assert (found.size, found.label, found.others) == ((64, 48), "dog", ())
    assert fit(*found.marks).boxes == (Box("dog", 0, 0, 64, 48), Box("cat", 10, 20, 30, 40))


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_voc_without_a_size_is_of_the_upright_photo(size: tuple[int, int] | None) -> None:
    assert parse_voc(voc(("dog", 1, 1, 9, 9), size=size), "a.xml").size is None


def test_voc_that_marks_nothing_says_neither() -> None:
    found = parse_voc(voc(), "a.xml")
    assert (found.marks, found.label, fit(label="neither")) == ((), "neither", Fitted((), ()))


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">
<!ENTITY a "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (BOMB.encode(), "document type"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "document type"),
        (b'<!DOCTYPE a SYSTEM "http://localhost/evil.dtd"><annotation/>', "document type"),
        (BOMB.encode("utf-16"), "document type"),
        (b"<annotation>&x;</annotation>", "is no XML"),
        (b"<annotation><object></annotation>", "is no XML"),
        (b"", "is no XML"),
        (b"\xff\xd8\xff\xe0 a photo", "is no XML"),
        (b'<?xml version="1.0" encoding="ebcdic-cp-us"?><annotation/>', "is no XML"),
        (b'<?xml version="1.0" encoding="shift_jis"?><annotation/>', "is no XML"),
        (b"<a>" * 300_000, "elements inside each other"),
        (b"<svg/>", "no PASCAL VOC annotation but <svg>"),
        (voc(("cat", 1, 1, "x", 9)), r"bndbox/xmax has to be a number of pixels, not 'x'"),  # type: ignore[arg-type]
        (b"<annotation><object><name>cat</name></object></annotation>", "bndbox/xmin"),
        (voc(size=("nan", 9)), "size/width"),
        (voc(size=("9" * 5000, 9)), "size/width"),
    ],
    ids=range(16),
)
def test_voc_that_is_hostile_or_damaged_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        parse_voc(data, "a.xml")
    assert str(caught.value).startswith("a.xml: ")
    assert len(str(caught.value)) < 300


def test_coco_boxes_are_corner_and_sides() -> None:
    images = [{"id": 7, "file_name": "1.jpg", "width": 64, "height": 48}, {"id": "b", "file_name": "2.jpg"}]
    annotations = [
        {"image_id": 7, "category_id": 2, "bbox": [10, 20.5, 30, 10]},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ]
    (first, second), flaws = parse_coco(coco(images, annotations, ("cats", "Dog", "bird")), "c.json")
    assert (first[0], first[1].size, first[1].label, first[1].others) == ("1.jpg", (64, 48), "dog", ("bird",))
    fitted = fit(*first[1].marks)
    assert fitted.boxes == (Box("dog", 10, 20.5, 40, 30.5),)
    assert [flaw.kind for flaw in fitted.flaws] == ["crowd"]
    assert (second[0], second[1].size, second[1].label) == ("2.jpg", None, "neither")
    assert [flaw.message for flaw in flaws] == ["c.json: 1 boxes are in images that it doesn't list"]


@pytest.mark.parametrize(
    "bbox", [None, [1, 2, 3], [1, 2, 3, "4"], [float("nan"), 0, 5, 5], [0, 0, float("inf"), 5], [0, 0, 10**400, 5], {}]
)
def test_a_coco_box_of_no_numbers_is_left_out_alone(bbox: Any) -> None:
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box} for box in (bbox, [1, 2, 3, 4])]
    ((_, found),), _ = parse_coco(coco([{"id": 1, "file_name": "1.jpg"}], annotations), "c.json")
    fitted = fit(*found.marks)
    assert (fitted.boxes, [flaw.kind for flaw in fitted.flaws]) == ((Box("cat", 1, 2, 4, 6),), ["damaged"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"images": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b"[]", "no COCO file"),
        (b'{"images": [], "annotations": []}', "no COCO file"),  # of captions
        (b'{"images": [1], "annotations": [], "categories": []}', "no COCO file"),
        (coco([], [], ("person",)), "none of its 1 categories is called cat or dog"),
        (coco([{"id": [], "file_name": "1.jpg"}], []), "id has to be a number"),
        (coco([{"id": 1, "file_name": 5}], []), "no file_name"),
        (coco([], [{"image_id": 1, "category_id": {}}]), "category_id"),
    ],
    ids=range(11),
)
def test_coco_that_is_hostile_or_damaged_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        parse_coco(data, "c.json")
    assert str(caught.value).startswith("c.json: ")


@pytest.mark.parametrize("item", [b"[]", b'"ab"', b'{"a":1}', b"257"])
def test_a_coco_file_that_may_take_all_memory_is_not_parsed(item: bytes) -> None:
    """Of few bytes as text, and so of next to none in a zip file, but of many as Python's objects."""
    data = b"[" + b",".join([item] * 100_000) + b"]"
    tracemalloc.start()
    try:
        json.loads(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with pytest.raises(DataError, match=r"c\.json: may take .* GB of memory, of which .* are free; divide it"):
        parse_coco(data, "c.json", free_bytes=peak)
    with pytest.raises(DataError, match="no COCO file"):
        parse_coco(data, "c.json", free_bytes=10 * peak)


def test_yolo_boxes_are_middle_and_sides_as_shares() -> None:
    found = parse_yolo(b"1 0.5 0.5 0.25 0.5\r\n\n0 0.25 0.25 0.5 0.5\n7 .1 .1 .1 .1\n", "1.txt", CAT_AND_DOG)
    assert found.others == ("class 7",)
    assert fit(*found.marks, in_shares=True).boxes == (Box("dog", 24, 12, 40, 36), Box("cat", 0, 0, 32, 24))
    outline = parse_yolo(b"0 0.25 0.5 0.5 0.25 0.75 0.75", "1.txt", CAT_AND_DOG)
    assert fit(*outline.marks, in_shares=True).boxes == (Box("cat", 16, 12, 48, 36),)
    assert parse_yolo(b"", "1.txt", CAT_AND_DOG).label == "neither"


@pytest.mark.parametrize(
    "data",
    [
        *(b"cat 0 0 1 1", b"0 0.5 0.5 0.5", b"0 1 2 3 4 5", b"nan 0 0 1 1", b"inf 0 0 1 1", b"\xff\xfe", b"a photo"),
        b"0.3 0.5 0.2 0.2 0.9",  # without a class, but with a score
    ],
)
def test_yolo_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^1\.txt"):
        parse_yolo(data, "1.txt", CAT_AND_DOG)


@pytest.mark.parametrize(
    ("path", "data", "names"),
    [
        ("classes.txt", b"cat\ndog\n", CAT_AND_DOG),
        ("obj.names", b"\xef\xbb\xbfcat\r\ndog", CAT_AND_DOG),
        ("data.yaml", b"nc: 2\nnames: ['cat', 'dog']  # two\n", CAT_AND_DOG),
        ("data.yml", b"names:\n- cat\n- dog\n", CAT_AND_DOG),
        ("coco.yaml", b"path: .\nnames:\n  0: cat\n  1: dog\n", CAT_AND_DOG),
        ("ci.yaml", b"on: push\n", None),
        ("x.yaml", b"names: {a: b}\n", None),
        ("x.yaml", b"names: 5\n", None),
    ],
)
def test_the_names_of_yolo_s_classes(path: str, data: bytes, names: dict[int, str] | None) -> None:
    assert parse_names(data, path) == names


@pytest.mark.parametrize("data", [b"names: [", b"\xff", b"[" * 2000, b"names: 2001-99-99", b"!!python/object:os.x {}"])
def test_yaml_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^data\.yaml: is no YAML"):
        parse_names(data, "data.yaml")


def test_a_yaml_bomb_costs_nothing() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert parse_names("\n".join([*lines, "names: *a11"]).encode(), "data.yaml") is None  # and not 10^12 strings


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((-1.1, 0, 10, 10), "outside"),
        ((0, 0, 65.5, 48), "outside"),
        ((70, 50, 80, 60), "outside"),
        ((10, 10, 10, 20), "empty"),
        ((20, 10, 10, 20), "empty"),
        ((64, 10, 65, 20), "empty"),  # what is left of it once it is cut off
        ((float("nan"), 0, 10, 10), "damaged"),
        ((0, 0, float("inf"), 10), "damaged"),
    ],
)
def test_a_box_that_cannot_be_is_left_out_and_listed(corners: tuple[float, float, float, float], kind: str) -> None:
    good = Mark("dog", (1, 2, 3, 4))
    fitted = fit(Mark("cat", corners), good)
    assert (fitted.boxes, [flaw.kind for flaw in fitted.flaws]) == ((Box("dog", 1, 2, 3, 4),), [kind])
    assert fitted.flaws[0].message.startswith("notes: the box (")
    assert fit(Mark("cat", corners)).boxes is None  # and not (), which would say that the photo shows no pet


def test_a_pixel_too_far_is_rounding() -> None:
    assert fit(Mark("cat", (-1, -0.5, 65, 48.9))) == Fitted((Box("cat", 0, 0, 64, 48),), ())


def test_a_box_that_is_there_twice_stays_once() -> None:
    fitted = fit(Mark("cat", (1, 2, 3, 4)), Mark("cat", (1, 2, 3, 4)), Mark("dog", (1, 2, 3, 4)))
    assert fitted.boxes == (Box("cat", 1, 2, 3, 4), Box("dog", 1, 2, 3, 4))
    assert [flaw.kind for flaw in fitted.flaws] == ["duplicate"]


def test_the_largest_box_says_what_a_photo_shows() -> None:
    small, large = Mark("cat", (0, 0, 9, 9)), Mark("dog", (0, 0, 10, 10))
    assert Annotation("a", (small, large)).label == "dog"
    assert Annotation("a", (large, small, Mark("cat", (0, 0, float("nan"), 9)))).label == "dog"
    assert Annotation("a", (Mark("cat", (9, 9, 0, 0)),)).label is None
    assert Annotation("a", (Mark("cat", (0, 0, 9, 9), is_crowd=True),)).label is None


def test_an_annotation_of_another_photo_gives_no_boxes() -> None:
    for size in ((65, 48), (48, 64)):  # not turned by EXIF, either
        fitted = fit(Mark("cat", (0, 0, 9, 9)), size=size)
        assert (fitted.boxes, [flaw.kind for flaw in fitted.flaws]) == (None, ["wrong_size"])


def test_a_pet_where_there_is_to_be_none_is_a_contradiction() -> None:
    fitted = fit(Mark("cat", (0, 0, 9, 9)), label="neither")
    assert (fitted.boxes, [flaw.kind for flaw in fitted.flaws]) == (None, ["contradiction"])


@pytest.mark.parametrize("turn", Image.Transpose)
def test_points_turn_as_the_photo_does(turn: Image.Transpose) -> None:
    stored = np.zeros((48, 64), np.uint8)
    stored[10:20, 5:30] = 255
    upright = np.asarray(Image.fromarray(stored).transpose(turn))
    rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
    corners = np.array([turn_point(point, (64, 48), turn) for point in ((5, 10), (30, 20))])
    assert corners.min(0).tolist() == [columns[0], rows[0]]
    assert corners.max(0).tolist() == [columns[-1] + 1, rows[-1] + 1]


def test_sideways_annotations_turn_with_their_photo() -> None:
    annotation = Annotation("a", (Mark("cat", (0, 0, 10, 20)),), (48, 64))
    fitted = fit_boxes(annotation, "1.jpg", "cat", (64, 48), lambda: Image.Transpose.ROTATE_270)
    assert fitted.boxes == (Box("cat", 44, 0, 64, 10),)
    upside_down = fit_boxes(annotation, "1.jpg", "cat", (64, 48), lambda: Image.Transpose.ROTATE_180)
    assert [flaw.kind for flaw in upside_down.flaws] == ["wrong_size"]
