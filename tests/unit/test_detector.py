"""A loaded detector: heads come back where they were drawn, whatever the photo's form; what is refused."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catdog import Detection, Detector, load, load_detector
from catdog.contract import METADATA_KEY, Contract
from catdog.errors import CatdogError, ContractError, ImageError, ModelError, SettingsError
from tests.conftest import TINY_CONTRACT, build_tiny_model
from tests.detectors import CONTRACT, build_detector, draw_photo
from tests.properties import bounded

ONE_BOX = Detector(build_detector(), threads=1) if pytest.importorskip("onnx") else None
CAT = ("red", (100, 100, 220, 240))
DOG = ("blue", (400, 300, 500, 380))


@pytest.fixture(scope="module")
def detector() -> Detector:
    """It finds one cat and one dog, wherever they are."""
    return Detector(build_detector(), threads=1)


@pytest.fixture(scope="module")
def crowd_detector() -> Detector:
    """It finds a cat and a dog in each of 8x8 tiles."""
    return Detector(build_detector(grid=8), threads=1)


def corners(answer: Detection) -> list[tuple[str, tuple[float, ...]]]:
    assert answer.objects is not None
    return sorted((found.label, found.box.corners) for found in answer.objects)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_cat_and_a_dog_are_found_and_a_photo_without_pets_is_an_answer(detector: Detector) -> None:
    answer = detector.detect(draw_photo((640, 480), CAT, DOG))
    assert (answer.width, answer.height, answer.error) == (640, 480, None)
    assert corners(answer) == [("cat", CAT[1]), ("dog", DOG[1])]
    empty = detector.detect(draw_photo((641, 333)))
    assert empty.to_dict() == {"source": "<Image>", "width": 641, "height": 333, "objects": [], "error": None}


def test_thirty_pets_are_thirty_boxes(crowd_detector: Detector) -> None:
    colours, boxes = (
        ("red", "blue"),
        [(i % 8 * 80 + 20, i // 8 * 80 + 16, i % 8 * 80 + 50, i // 8 * 80 + 60) for i in range(30)],
    )
    answer = crowd_detector.detect(draw_photo((640, 640), *((colours[i % 2], box) for i, box in enumerate(boxes))))
    assert corners(answer) == sorted((("cat", "dog")[i % 2], box) for i, box in enumerate(boxes))


@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900))
    | st.sampled_from([(4000, 1), (1, 4000), (3999, 7), (17, 2500)]),
    shares=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
@bounded
def test_a_head_comes_back_where_it_was_drawn(size: tuple[int, int], shares: list[float]) -> None:
    """Within a pixel, of the photo or of the model's input, whichever is larger."""
    left, right = sorted(round(share * size[0]) for share in shares[:2])
    top, bottom = sorted(round(share * size[1]) for share in shares[2:])
    pixel = max(1.0, max(size) / CONTRACT.input_size)
    if min(right - left, bottom - top) < 3 * pixel:  # in a smaller one no pixel of the input shows only the head
        left, top, right, bottom = 0, 0, *size
    assert ONE_BOX is not None
    answer = ONE_BOX.detect(draw_photo(size, ("red", (left, top, right, bottom))))
    assert answer.objects is not None
    (found,) = answer.objects
    np.testing.assert_allclose(found.box.corners, [left, top, right, bottom], atol=pixel)
    assert found.confidence == 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_are_in_the_upright_photo(detector: Detector, turn: int) -> None:
    """Of a JPEG of every EXIF orientation, large enough to be decoded at a half scale, of an odd size."""
    stored = draw_photo((1501, 1103), ("red", (200, 120, 801, 521)))
    exif = Image.Exif()
    exif[0x0112] = turn
    answer = detector.detect(encode(stored, "JPEG", quality=95, subsampling=0, exif=exif))
    assert (answer.width, answer.height) == ((1501, 1103) if turn < 5 else (1103, 1501))
    x, y = {1: (200, 120), 2: (700, 120), 3: (700, 582), 4: (200, 582)}.get(turn, (0, 0))
    x, y = {5: (120, 200), 6: (582, 200), 7: (582, 700), 8: (120, 700)}.get(turn, (x, y))
    w, h = (601, 401) if turn < 5 else (401, 601)
    ((label, box),) = corners(answer)
    assert label == "cat"
    np.testing.assert_allclose(box, [x, y, x + w, y + h], atol=2)


def test_a_large_jpeg_is_mapped_as_its_full_size_says(detector: Detector) -> None:
    """At a half it has 641x327, of which a letterbox would be 82 px high; of 1282x653 it is 81 px."""
    for box in ((0, 0, 1282, 653), (400, 500, 800, 653)):
        (found,) = corners(detector.detect(encode(draw_photo((1282, 653), ("blue", box)), "JPEG", quality=95)))
        np.testing.assert_allclose(found[1], box, atol=1)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_no_photo_gets_its_neighbours_heads(detector: Detector, batch_size: int) -> None:
    """The place says which photo it is; every third is broken, and every fourth shows nothing."""

    def make(i: int) -> bytes:
        return b"broken" if i % 3 == 2 else encode(draw_photo((90, 60 + i), *[("red", (i, 3, i + 30, 40))][: i % 4]))

    answers = list(detector.stream(map(make, range(40)), names=map(str, range(40)), batch_size=batch_size))
    for i, answer in enumerate(answers):
        assert answer.source == str(i)
        if i % 3 == 2:
            assert answer == Detection.failed(str(i), answer.error)
            assert answer.error == f"{i}: not an image that can be read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
        else:
            assert (answer.width, answer.height) == (90, 60 + i)
            assert corners(answer) == ([("cat", (i, 3, i + 30, 40))] if i % 4 else [])


def test_a_photo_that_cannot_be_read_never_raises(detector: Detector) -> None:
    def refused() -> bytes:
        raise ImageError("b: no", "unreadable")

    photos = [refused, ImageError("c: no", "missing"), 42, "no-such-file.jpg", np.full((4, 4), np.nan)]
    answers = detector.detect(photos)
    assert all(answer.objects is None and answer.error for answer in answers)
    assert detector.detect([]) == []
    several = cast("list[Detection]", detector.detect(np.zeros((3, 20, 30, 3), np.uint8)))
    assert [(answer.width, answer.objects) for answer in several] == [(30, ())] * 3


def test_the_threshold_is_the_contracts_or_what_was_asked_for() -> None:
    photo = draw_photo((160, 160), ("#990000", (10, 10, 90, 90)))  # cat with 0.6
    file = build_detector()
    assert len(Detector(file).detect(photo).objects or ()) == 1
    assert Detector(file, threshold=0.7).detect(photo).objects == ()
    assert len(Detector(file, threshold=0.7).detect(photo, threshold=0.6).objects or ()) == 1
    assert Detector(build_detector(CONTRACT.with_(threshold=0.7))).detect(photo).objects == ()
    with pytest.raises(SettingsError, match="threshold"):
        Detector(file, threshold=2)


def test_threads_share_a_detector_and_a_copy_answers_the_same(detector: Detector) -> None:
    photos = [draw_photo((200, 100), ("red", (i, 10, i + 60, 70))) for i in range(30)]
    expected = detector.detect(photos)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(detector.detect, photos)) == expected
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert other.detect(photos[0]) == expected[0]
        assert other.sha256 == detector.sha256


def test_an_answer_can_be_sent_to_another_process(detector: Detector) -> None:
    answer = detector.detect(draw_photo((640, 480), CAT))
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_propose_gives_what_the_file_gives(crowd_detector: Detector) -> None:
    boxes, scores = crowd_detector.propose(np.zeros((3, 160, 160, 3), np.uint8))
    assert (boxes.shape, scores.shape) == ((3, 128, 4), (3, 128, 2))
    assert {boxes.dtype, scores.dtype} == {np.dtype(np.float32)}
    boxes, scores = crowd_detector.propose(np.empty((0, 160, 160, 3), np.uint8))
    assert (boxes.shape, scores.shape) == ((0, 128, 4), (0, 128, 2))
    with pytest.raises(ModelError, match=r"images must be uint8 \(N, 160, 160, 3\)"):
        crowd_detector.propose(np.empty((1, 80, 80, 3), np.uint8))


def hide_places(said: int | str) -> bytes:
    """A file whose boxes are all of them, or none where the photo is black; it says that there are ``said``."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    model = onnx.load_from_string(build_detector())
    (writer,) = (node for node in model.graph.node if "boxes" in node.output)
    writer.output[0] = "all_boxes"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["strength"], ["any"], axes=[0, 1, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["any", "last"], ["list"]),
            helper.make_node("Cast", ["list"], ["chosen"], to=onnx.TensorProto.BOOL),
            helper.make_node("Compress", ["all_boxes", "chosen"], ["boxes"], axis=1),
        ]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, ["N", said, 4]))
    return bytes(model.SerializeToString())


THREE = CONTRACT.with_(class_names=("cat", "dog", "neither"))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "other names": lambda: build_detector(names=("scores", "boxes")),
    "three corners": lambda: build_detector(corners=3),
    "any number of places": lambda: hide_places("K"),
    "three classes": lambda: build_detector(THREE),
    "other size": lambda: rewrite_contract(CONTRACT.with_(input_size=80)),
    "a classifier's": lambda: build_tiny_model(CONTRACT.with_(input_size=16).to_json()),
}


def rewrite_contract(contract: Contract) -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(build_detector())
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_with_other_outputs_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.onnx"
    path.write_bytes(HOSTILE[kind]())
    with pytest.raises(ModelError, match="inputs and outputs don't fit its contract") as caught:
        load_detector(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_numbers_that_are_none_are_the_models_error(weight: float) -> None:
    detector = Detector(build_detector(weight=weight), threads=1)
    with pytest.raises(ModelError, match="NaN or infinite"):
        detector.detect(draw_photo((64, 64), ("red", (0, 0, 64, 64))))


def test_a_file_that_says_one_thing_and_does_another_is_an_error_when_it_answers() -> None:
    detector = Detector(hide_places(2), threads=1)
    with pytest.raises(ModelError, match=r"outputs have the shapes \(1, 0, 4\) and \(1, 2, 2\)"):
        detector.detect(draw_photo((64, 64)))


def test_a_file_that_fails_when_it_runs_is_one_sentence() -> None:
    """Its Reshape works for one photo only."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(build_detector())
    shape = next(tensor for tensor in model.graph.initializer if tensor.name == "as_boxes")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2, 4]), "as_boxes"))
    detector = Detector(model.SerializeToString(), threads=1)
    photo = draw_photo((64, 64), ("red", (0, 0, 64, 64)))
    assert detector.detect(photo).objects
    with pytest.raises(ModelError, match="the model fails on photos") as caught:
        detector.detect([photo, photo])
    assert "\n" not in str(caught.value)


def test_each_kind_of_model_is_refused_by_the_other_kinds_door(tmp_path: Path) -> None:
    heads, whole = tmp_path / "heads.onnx", tmp_path / "whole.onnx"
    heads.write_bytes(build_detector())
    whole.write_bytes(build_tiny_model(TINY_CONTRACT.to_json()))
    with pytest.raises(ModelError, match=r"heads.onnx: finds heads .*; use catdog detect$"):
        load(heads)
    with pytest.raises(ModelError, match=r"whole.onnx: answers whole photos .*; use catdog predict$"):
        load_detector(whole)


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    bad: list[tuple[Any, type[CatdogError]]] = [
        (b"", ModelError),
        (tmp_path / "no.onnx", ModelError),
        (build_tiny_model(None), ContractError),
    ]
    for model, error in bad:
        with pytest.raises(error):
            load_detector(model)
