"""Contract, manifest, settings, annotations, requests: what is damaged is refused in a line, the rest read back."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.aws.calls.endpoint import parse_answer
from catdog.aws.failures import CloudError
from catdog.boxes import Box
from catdog.contract import UNSURE, Contract
from catdog.dataset.annotations import Annotation, fit_boxes
from catdog.dataset.coco import parse_coco
from catdog.dataset.manifest import SPLITS, Manifest, Photo
from catdog.dataset.voc import parse_voc
from catdog.dataset.yolo import parse_names, parse_yolo
from catdog.detection.answers import Detection
from catdog.detection.decoding import DetectedObject
from catdog.errors import ContractError, DataError, SettingsError
from catdog.prediction import Prediction
from catdog.serving.requests import IMAGE_TYPES, JSON_TYPE, NPY_TYPE, RequestError, parse_request
from catdog.training.settings import Settings, parse
from tests.properties import ANY_TEXT, NO_HIGH_HALF, ODD_VALUES, bounded, damaged, refused_with, spoil

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.isprintable)
POSITIVE = st.floats(1e-300, 1e300)
CONTRACTS = st.builds(
    Contract,
    class_names=st.lists(WORDS.filter(lambda w: w != UNSURE), min_size=2, max_size=4, unique=True).map(tuple),
    input_size=st.integers(8, 4096),
    resize=st.sampled_from(["stretch", "short_side"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    crop=st.floats(0.01, 1),
    mean=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    std=st.tuples(POSITIVE, POSITIVE, POSITIVE),
    temperature=POSITIVE,
    threshold=st.floats(0, 1),
    arch=NO_HIGH_HALF,
    model_fingerprint=NO_HIGH_HALF,
    quality=st.dictionaries(NO_HIGH_HALF, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
CONTRACT = Contract(class_names=("cat", "dog"), input_size=16, quality={"accuracy": 0.5})
PARTS = WORDS.filter(lambda part: not set(part) & set("/\\:") and part not in (".", ".."))
PHOTOS = st.builds(
    Photo,
    path=st.lists(PARTS, min_size=1, max_size=3).map("/".join),
    label=st.sampled_from(["cat", "dog"]),
    split=st.sampled_from(SPLITS),
    width=st.integers(1, 2**40),
    height=st.integers(1, 2**40),
    sha256=WORDS,
    cluster=WORDS,
    source=WORDS,
)
PHOTO = Photo("photos/a/1.jpg", "cat", "train", 4, 3, "a" * 64, "a", "a")
TEXT_SETTINGS = ("data", "validation", "output", "weights", "cache")
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXT_SETTINGS, NO_HIGH_HALF),
        "size": st.integers(32, 1024),
        "lr": st.floats(1e-9, 99),
        "seed": st.integers(0, 2**63 - 1),
        "amp": st.booleans(),
        "optimizer": st.sampled_from(["sgd", "adamw"]),
    },
).map(lambda values: Settings(**values))  # type: ignore[arg-type]
MEDIA_TYPES = st.sampled_from([*IMAGE_TYPES, JSON_TYPE, NPY_TYPE, "Application/JSON; charset=x", ""]) | ANY_TEXT
ALLOWED = [("bucket", "photos/")]


@bounded
@given(CONTRACTS)
def test_a_contract_is_read_back_equal(contract: Contract) -> None:
    assert Contract.from_json(contract.to_json()) == contract
    assert 8 <= contract.resized <= 4096 * 100


def test_a_contract_with_anything_in_any_place_works_or_is_refused() -> None:
    for data in spoil(json.loads(CONTRACT.to_json())):
        with refused_with(ContractError, "x.onnx: "):
            read = Contract.from_json(json.dumps(data), "x.onnx")
            assert Contract.from_json(read.to_json()) == read
            assert ",".join(read.class_names).isprintable()
            assert 8 <= read.resized <= 2**20


@bounded
@given(damaged(CONTRACT.to_json().encode()))
def test_a_damaged_contract_is_refused(data: bytes) -> None:
    with refused_with(ContractError, "x.onnx: "):
        Contract.from_json(data, "x.onnx")


@bounded
@given(photos=st.lists(PHOTOS, max_size=4))
def test_a_manifest_is_read_back_equal(tmp_path: Path, photos: list[Photo]) -> None:
    written = Manifest(tmp_path, ("cat", "dog"), tuple(photos))
    written.write()
    assert Manifest.read(tmp_path) == written


MANIFEST = {"version": 1, "class_names": ["cat", "dog"], "photos": [asdict(PHOTO)]}


def test_a_manifest_with_anything_in_any_place_works_or_is_refused(tmp_path: Path) -> None:
    for data in spoil(MANIFEST, [*ODD_VALUES, "/etc/passwd", "a/../../b", "a\\b", "c:/a"]):
        check_manifest(tmp_path, json.dumps(data).encode())


@bounded
@given(text=damaged(json.dumps(MANIFEST).encode()))
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    check_manifest(tmp_path, text)


def check_manifest(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with refused_with(DataError, str(folder)):
        read = Manifest.read(folder)
        assert len(read.fingerprint) == 64
        read.write()
        assert Manifest.read(folder) == read
        assert all((folder / photo.path).resolve().is_relative_to(folder.resolve()) for photo in read.photos)


VOC = b"""<?xml version="1.0" encoding="utf-8"?><annotation><size><width>64</width><height>48</height></size>
<object><name>cat</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"""
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}


@bounded
@given(data=damaged(VOC))
def test_damaged_voc_is_refused_or_gives_boxes_inside_the_photo(data: bytes) -> None:
    with refused_with(DataError, "notes: "):
        check_boxes([parse_voc(data, "notes")])


@bounded
@given(data=damaged(json.dumps(COCO).encode()))
def test_damaged_coco_is_refused_or_gives_boxes_inside_the_photo(data: bytes) -> None:
    with refused_with(DataError, "notes: "):
        check_boxes([annotation for _, annotation in parse_coco(data, "notes")[0]])


def test_coco_with_anything_in_any_place_works_or_is_refused() -> None:
    for data in spoil(COCO):
        with refused_with(DataError, "notes: "):
            check_boxes([annotation for _, annotation in parse_coco(json.dumps(data).encode(), "notes")[0]])


@bounded
@given(data=damaged(b"0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.5 0.25 0.75 0.75\n"))
def test_damaged_yolo_is_refused_or_gives_boxes_inside_the_photo(data: bytes) -> None:
    with refused_with(DataError, "notes"):
        check_boxes([parse_yolo(data, "notes", {0: "cat", 1: "dog"})])


@settings(bounded, max_examples=15)  # PyYAML takes a second for many an odd one
@given(data=damaged(b"path: .\nnames:\n  0: cat\n  1: dog\n"))
def test_damaged_names_of_classes_are_refused(data: bytes) -> None:
    with refused_with(DataError, "data.yaml: "):
        assert all(isinstance(name, str) for name in (parse_names(data, "data.yaml") or {}).values())


def check_boxes(annotations: list[Annotation]) -> None:
    for annotation in annotations:
        assert annotation.label in ("cat", "dog", "neither", None)
        boxes, flaws = fit_boxes(annotation, "1.jpg", "cat", (64, 48), lambda: None)
        assert (boxes is not None) or flaws
        assert all(flaw.message.startswith("notes: ") and flaw.message.isprintable() for flaw in flaws)
        for box in boxes or ():
            assert 0 <= box.xmin < box.xmax <= 64
            assert 0 <= box.ymin < box.ymax <= 48


@settings(bounded, max_examples=50)
@given(written=SETTINGS)
def test_settings_are_read_back_equal(tmp_path: Path, written: Settings) -> None:
    (tmp_path / "config.yaml").write_text(written.to_yaml(), encoding="utf-8")
    assert parse(["--config", str(tmp_path / "config.yaml")], {}) == written


def test_settings_with_anything_in_any_place_work_or_are_refused(tmp_path: Path) -> None:
    for field in fields(Settings):
        for value in ODD_VALUES:
            check_settings(tmp_path, json.dumps({field.name: value}).encode())
    for value in ODD_VALUES:
        check_settings(tmp_path, json.dumps(value).encode())


@settings(bounded, max_examples=50)  # PyYAML is slow
@given(text=damaged(Settings().to_yaml().encode()))
def test_damaged_settings_are_refused(tmp_path: Path, text: bytes) -> None:
    check_settings(tmp_path, text)


def check_settings(folder: Path, text: bytes) -> None:
    (folder / "config.yaml").write_bytes(text)
    with refused_with(SettingsError):
        assert parse(["--config", str(folder / "config.yaml")], {}).to_yaml()


@pytest.mark.parametrize(
    "text",
    [
        *("seed: 2001-99-99", "seed: !!timestamp x", "lr: !!float x", "lr: !!float ''", "amp: !!bool x"),
        *("? [1]\n: 2", "[" * 2000, "a: &a [*a]", "size: \x01"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_its_own_library_stumbles_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"config\.yaml: "):
        parse(["--config", str(tmp_path / "config.yaml")], {})


@bounded
@given(st.lists(st.sampled_from(["--lr", "--size", "--seed", "--amp", "--data", "--arch"]) | ANY_TEXT, max_size=4))
def test_a_command_line_of_anything_is_understood_or_refused(argv: list[str]) -> None:
    if not {"-h", "--help", "--config"} & {word.split("=")[0] for word in argv}:
        with suppress(SettingsError):
            parse(argv, {})


@bounded
@given(st.binary(max_size=200), MEDIA_TYPES)
def test_a_request_of_anything_is_understood_or_refused(body: bytes, media_type: str) -> None:
    check_request(body, media_type)


def test_a_json_request_with_anything_in_any_place_is_understood_or_refused() -> None:
    for body in ({"images": ["aGk=", "s3://bucket/photos/1.jpg"]}, {"image": "aGk="}):
        for data in spoil(body, [*ODD_VALUES, "s3://bucket/photos/\ud800", "s3://", "data:x"]):
            check_request(json.dumps(data).encode(), JSON_TYPE)


def test_an_endpoint_s_answer_with_anything_in_any_place_is_read_or_refused() -> None:
    good = [Prediction("x", "cat", 0.75, {"cat": 0.75, "dog": 0.25}).to_dict()]
    good.append(Detection("x", 40, 30, (DetectedObject(0.75, Box("cat", 1, 2, 3.5, 4)),)).to_dict())
    for data in (spoilt for answer in good for spoilt in spoil(answer)):
        with refused_with(CloudError, "endpoint: "):
            answer = parse_answer("a.jpg", json.dumps(data).encode(), "endpoint")
            found = [answer] if isinstance(answer, Prediction) else answer.objects or ()
            assert answer.error or all(0 <= (one.confidence or 0) <= 1 for one in found)
            assert json.loads(json.dumps(answer.to_dict(), allow_nan=False).encode())


NPY = (
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2, 3), }".ljust(127)
    + b"\n"
    + bytes(12)
)


@bounded
@given(damaged(NPY))
def test_a_damaged_array_is_refused(body: bytes) -> None:
    check_request(body, NPY_TYPE)


def check_request(body: bytes, media_type: str) -> None:
    with refused_with(RequestError):
        request = parse_request(body, media_type, ALLOWED)
        assert 1 <= len(request.photos) == len(request.names) <= 100
        for photo, name in zip(request.photos, request.names, strict=True):
            failed = Prediction.failed(name, photo)
            assert str(failed.error).isprintable()
