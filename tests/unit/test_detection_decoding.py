"""A detector's outputs to heads: which boxes stay, where they end up in the photo, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from catdog.boxes import Floats, measure_overlaps, suppress_overlaps
from catdog.contract import Contract
from catdog.detection.decoding import CANDIDATES, FLOOR, MAX_OBJECTS, DetectedObject, find_objects
from catdog.errors import ModelError, SettingsError

CONTRACT = Contract(class_names=("cat", "dog"), input_size=320, task="detect", resize="letterbox", threshold=0.3)
SQUARE = (320, 320)


def decode(
    *places: tuple[tuple[float, float, float, float], tuple[float, float]],
) -> list[tuple[str, float, list[float]]]:
    """What is found in a square photo of the model's size: label, confidence and corners."""
    boxes = np.array([box for box, _ in places], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in places], np.float32).reshape(-1, 2)
    return [(o.label, o.confidence, list(o.box.corners)) for o in find_objects(boxes, scores, SQUARE, CONTRACT)]


def test_nothing_there_is_an_empty_answer() -> None:
    assert decode() == []
    assert decode(((10, 10, 50, 50), (0.29, 0.0))) == []


def test_the_surest_comes_first_and_a_head_is_one_pet_whatever_class() -> None:
    found = decode(
        ((10, 10, 50, 50), (0.5, 0.1)),
        ((12, 10, 52, 50), (0.2, 0.75)),  # the same head, surer and another class: it alone stays, where it is
        ((200, 100, 260, 180), (0.3, 0.875)),
    )
    assert found == [("dog", 0.875, [200, 100, 260, 180]), ("dog", 0.75, [12, 10, 52, 50])]


def test_neighbours_of_the_same_class_vote_on_the_place_by_their_scores() -> None:
    """Also those under the threshold, so that a box is in the same place whatever the threshold is."""
    (found,) = decode(
        ((100, 100, 200, 200), (0.75, 0)), ((104, 100, 204, 200), (0.25, 0)), ((96, 96, 200, 200), (0, 0.5))
    )
    assert found == ("cat", 0.75, [101, 100, 201, 200])


def test_boxes_are_in_pixels_of_the_photo_and_inside_it() -> None:
    # 640x320 in 320x320: at half the size, 80 px from the top.
    boxes = np.array([[10, 90, 60, 130], [300, 60, 400, 180], [0, 0, 320, 70]], np.float32)
    scores = np.array([[0.9, 0], [0, 0.8], [0.7, 0]], np.float32)
    found = find_objects(boxes, scores, (640, 320), CONTRACT)
    assert [o.box.corners for o in found] == [(20, 20, 120, 100), (600, 0, 640, 200)]  # the third is in the border
    assert found[0].to_dict() == {"label": "cat", "confidence": 0.9, "box": [20, 20, 120, 100]}


def test_a_threshold_replaces_the_contracts_and_the_floor_holds() -> None:
    boxes = np.array([[10, 10, 60, 60], [100, 100, 160, 160], [200, 200, 250, 250]], np.float32)
    scores = np.array([[0.5, 0], [0.2, 0], [FLOOR / 2, 0]], np.float32)
    assert [len(find_objects(boxes, scores, SQUARE, CONTRACT, t)) for t in (None, 0.0, 0.2, 0.6)] == [1, 2, 2, 0]
    with pytest.raises(SettingsError, match="threshold"):
        find_objects(boxes, scores, SQUARE, CONTRACT, 1.5)


def test_no_photo_has_more_than_the_most_objects() -> None:
    corners = np.stack(np.meshgrid(np.arange(0, 320, 8), np.arange(0, 320, 8)), -1).reshape(-1, 2)
    boxes = np.hstack([corners, corners + 6]).astype(np.float32)
    scores = np.linspace(0.4, 0.9, 2 * len(boxes), dtype=np.float32).reshape(-1, 2)
    assert len(boxes) > CANDIDATES
    found = find_objects(boxes, scores, SQUARE, CONTRACT)
    assert len(found) == MAX_OBJECTS
    assert [o.confidence for o in found] == sorted((o.confidence for o in found), reverse=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["boxes", "scores"])
def test_numbers_that_are_none_are_refused(bad: float, where: str) -> None:
    outputs: dict[str, Floats] = {"boxes": np.ones((3, 4), np.float32), "scores": np.zeros((3, 2), np.float32)}
    outputs[where][1, 1] = bad
    with pytest.raises(ModelError, match="NaN or infinite"):
        find_objects(outputs["boxes"], outputs["scores"], SQUARE, CONTRACT)


def test_boxes_without_area_and_huge_ones_do_no_harm() -> None:
    found = decode(
        ((50, 50, 50, 90), (0.9, 0)),
        ((90, 90, 20, 20), (0.9, 0)),
        ((-1e38, -1e38, 1e38, 1e38), (0.5, 0)),
    )
    assert found == [("cat", 0.5, [0, 0, 320, 320])]


def test_decoding_is_what_a_plain_loop_does() -> None:
    """Against the definition, written out, on a crowd of random boxes."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 250, (300, 2))
    boxes = np.hstack([corner, corner + random.uniform(30, 70, (300, 2))])
    scores = random.uniform(0.05, 1, (300, 2)).round(6)
    expected: list[tuple[str, float, Floats]] = []
    left = sorted(range(300), key=lambda i: -scores[i].max())
    while left and len(expected) < MAX_OBJECTS:
        best = left[0]
        if scores[best].max() < CONTRACT.threshold:
            break
        label = int(scores[best].argmax())
        voters = [
            i
            for i in range(300)
            if scores[i].argmax() == label and measure_overlaps(boxes[[best]], boxes[[i]])[0, 0] >= 0.65
        ]
        place = np.average(boxes[voters], axis=0, weights=scores[voters].max(1))
        expected.append((CONTRACT.class_names[label], scores[best].max(), place))
        left = [i for i in left[1:] if measure_overlaps(boxes[[best]], boxes[[i]])[0, 0] <= 0.5]
    found = find_objects(boxes, scores, SQUARE, CONTRACT)
    assert [(o.label, o.confidence) for o in found] == [(label, confidence) for label, confidence, _ in expected]
    places = np.array([place for *_, place in expected], float)
    np.testing.assert_allclose([o.box.corners for o in found], places.clip(0, 320), atol=0.051)


def test_overlaps_by_hand() -> None:
    some = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5]], float)
    np.testing.assert_allclose(np.asarray(measure_overlaps(some, others), float), [[1.0, 1 / 3, 0.0, 0.0], [0.0] * 4])
    assert suppress_overlaps(others, np.array([0.1, 0.9, 0.5, 0.2]), 0.3) == [1, 2, 3]
    assert suppress_overlaps(others, np.array([0.1, 0.9, 0.5, 0.2]), 0.4, most=2) == [1, 2]


def test_an_object_has_the_label_of_its_box() -> None:
    (found,) = find_objects(np.array([[0, 0, 9, 9.0]]), np.array([[0, 1.0]]), SQUARE, CONTRACT)
    assert isinstance(found, DetectedObject)
    assert found.label == found.box.label == "dog"
