"""Boxes in training: moved along with their photos, given to places, compared, and measured as COCO does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from catdog.boxes import Box
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.detection.decoding import DetectedObject
from catdog.errors import DataError
from catdog.training.boxes import assign_boxes, augment_boxes, compare_boxes, make_targets, scale_targets
from catdog.training.detection import (
    RECALLS,
    THRESHOLD_RANGE,
    AveragePrecision,
    count_at,
    fit_box_threshold,
    judge_class,
    match_boxes,
    measure_boxes,
)
from catdog.training.detector import Detector, make_places, place_boxes
from catdog.training.model import new_model
from catdog.training.settings import Settings, resolve
from catdog.training.tasks import Detect, find_task

NAMES: Final = ("cat", "dog")
CONTRACT: Final = Contract(
    class_names=NAMES, input_size=64, task="detect", resize="letterbox", threshold=0.5, arch="resnet18"
)
PHOTO: Final = Photo("a.jpg", "cat", "train", 200, 100, "0" * 64, "0" * 16, "made-up")
COLOURS: Final = {"cat": (255, 0, 0), "dog": (0, 0, 255)}


def settings(**changes: Any) -> Settings:
    return resolve({"task": "detect", "weights": "none", "size": 96, "color": 0.0, "degrade": 0.0} | changes)


def photo(*boxes: Box, number: int = 0, **changes: Any) -> Photo:
    return replace(PHOTO, path=f"{number}.jpg", cluster=f"{number:016}", boxes=boxes, **changes)


def found(confidence: float, label: str, *corners: float) -> DetectedObject:
    return DetectedObject(confidence, Box(label, *corners))


def test_targets_are_shares_of_the_letterboxed_input() -> None:
    photos = [photo(Box("dog", 100, 0, 200, 50), Box("cat", 0, 0, 200, 100)), photo(), replace(PHOTO, boxes=None)]
    targets = make_targets(photos, CONTRACT)
    # 200 x 100 px in a square: a quarter of it is empty above, and another below.
    assert targets[0] == pytest.approx(np.array([[1, 0.5, 0.25, 1, 0.5], [0, 0, 0.25, 1, 0.75]]))
    assert targets.shape == (3, 2, 5)
    assert (targets[1:] == -1).all()
    assert scale_targets(torch.from_numpy(targets), 64)[0, 0].tolist() == [1, 32, 16, 64, 32]
    assert make_targets([], CONTRACT).shape == (0, 1, 5)


@pytest.mark.parametrize("crop_scale", [0.2, 0.9])
@pytest.mark.parametrize("train_size", [0, 64])
def test_augmentation_keeps_each_box_on_its_object(crop_scale: float, train_size: int) -> None:
    """Two coloured squares a photo are found again by their colours, where the moved boxes say."""
    chosen = settings(crop_scale=crop_scale, train_size=train_size)
    side, dice = chosen.canvas_size, np.random.default_rng(0)
    images = np.full((40, side, side, 3), (124, 116, 104), np.uint8)
    targets = np.full((40, 3, 5), -1, np.float32)
    for image, row in zip(images, targets, strict=True):
        middle = side // 2
        for k, label in enumerate(dice.permutation(2)):  # left and right of the middle, so that none covers another
            width, height = dice.integers(12, middle - 4, 2)
            left, top = k * middle + dice.integers(0, middle - width), dice.integers(0, side - height)
            image[top : top + height, left : left + width] = COLOURS[NAMES[label]]
            row[k] = label, *(np.array([left, top, left + width, top + height]) / side)
    torch.manual_seed(0)
    pixels, moved = augment_boxes(torch.from_numpy(images), torch.from_numpy(targets), chosen)
    size = chosen.crop_size
    assert pixels.shape == (40, 3, size, size)
    assert moved.shape == targets.shape
    assert (moved[:, 2, 0] == -1).all()
    mirrored = 0
    for image, before, after in zip(pixels, targets, scale_targets(moved, size), strict=True):
        assert after[:2, 0].tolist() == before[:2, 0].tolist()
        mirrored += bool((after[0, 1] < after[1, 1]) != (before[0, 1] < before[1, 1]))
        for label, *corners in after[:2].tolist():
            strong, weak = (image[0], image[2]) if label == 0 else (image[2], image[0])
            y, x = ((strong > 180) & (weak < 60)).nonzero(as_tuple=True)
            seen = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
            assert corners == pytest.approx(seen, abs=1.5), "px: an edge's pixels are mixed"
            assert min(corners) >= -1e-3, "the whole box is in the picture"
            assert max(corners) <= size + 1e-3
    assert 5 < mirrored < 35


def test_photos_without_boxes_are_augmented_as_well() -> None:
    chosen = settings()
    side = chosen.canvas_size
    images = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8)
    pixels, moved = augment_boxes(images, torch.full((4, 1, 5), -1.0), chosen)
    assert pixels.isfinite().all()
    assert (moved[..., 0] == -1).all()
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 255


def test_a_place_learns_the_smallest_box_whose_middle_is_near() -> None:
    places, strides = make_places(64)
    assert len(places) == len(strides) == 8 * 8 + 4 * 4 + 2 * 2
    targets = torch.tensor([[[0.0, 0, 0, 64, 64], [1, 20, 20, 36, 36], [-1, -1, -1, -1, -1]], [[-1.0] * 5] * 3])
    index = assign_boxes(targets, places, strides)
    assert (index[1] == -1).all()
    for (x, y), stride, chosen in zip(places.tolist(), strides.tolist(), index[0].tolist(), strict=True):
        near_small = 20 < x < 36 and 20 < y < 36 and max(abs(x - 28), abs(y - 28)) < 1.5 * stride
        near_large = max(abs(x - 32), abs(y - 32)) < 1.5 * stride
        assert chosen == (1 if near_small else 0 if near_large else -1)
    assert {-1, 0, 1} == set(index[0].tolist())


def test_boxes_that_fit_cost_nothing_and_false_ones_do() -> None:
    places, strides = make_places(64)
    targets = torch.tensor([[[1.0, 0.25, 0.25, 0.75, 0.75]]])
    corners = torch.tensor([16.0, 16, 48, 48])
    outputs = torch.full((1, len(places), 6), -12.0)
    outputs[0, :, 2:] = torch.cat([places - corners[:2], corners[2:] - places], 1)
    assert place_boxes(outputs[..., 2:], places)[0].eq(corners).all()
    learning = assign_boxes(scale_targets(targets, 64), places, strides)[0] >= 0
    outputs[0, learning, 1] = 12
    perfect, overlaps, photos = compare_boxes(outputs, targets, 64)
    assert perfect == pytest.approx(0, abs=1e-4)
    assert overlaps.tolist() == pytest.approx([1.0] * int(learning.sum()))
    assert photos.tolist() == [0] * int(learning.sum())
    for place, class_index in ((learning, 0), (~learning, 1)):  # the other species; a box where nothing is
        worse = outputs.clone()
        worse[0, place, class_index] = 12
        assert compare_boxes(worse, targets, 64)[0] > 1
    moved = outputs.clone()
    moved[0, :, 2] += 8
    loss, overlaps, _ = compare_boxes(moved, targets, 64)
    assert loss > 0.2
    assert overlaps.tolist() == pytest.approx([32 / 40] * int(learning.sum()))


def test_zero_boxes_are_an_answer_everywhere() -> None:
    torch.manual_seed(0)
    model = new_model(CONTRACT).eval()
    assert isinstance(model.network, Detector)
    outputs = model.logits(torch.rand(2, 3, 64, 64) * 255)
    nothing = torch.full((2, 1, 5), -1.0)
    loss, overlaps, photos = compare_boxes(outputs, nothing, 64)
    loss.backward()  # type: ignore[no-untyped-call] # torch has no types here
    assert loss.isfinite()
    assert len(overlaps) == len(photos) == 0
    task = find_task(settings())
    _, total, count = task.compare(outputs, nothing, settings(size=64), validating=True)
    assert (float(total), float(count)) == (0, 0)
    scorer = AveragePrecision(CONTRACT)
    scorer.add(outputs.detach(), nothing)
    assert set(scorer.compute()) == {"ap", "ap50", "ap75"}
    assert fit_box_threshold([(), ()], [photo(), photo(number=1)]) == THRESHOLD_RANGE[0]
    assert count_at([()], [photo()], 0.5)["recall"] is None
    with pytest.raises(DataError, match="none of these photos has a box"):
        measure_boxes([()], [photo()], NAMES, 0.5)
    measured = measure_boxes([(), ()], [photo(Box("cat", 0, 0, 9, 9)), photo(number=1)], NAMES, 0.5, resamples=20)
    assert (measured["ap"], measured["at_threshold"]["found_heads"]) == (0, 0)
    judged = judge_class([()], [photo()], "cat")
    assert judged.average_precision() is None
    assert [curve.shape for curve in judged.curves()] == [(10, 0), (10, 0)]


def make_random_answers(seed: int, photos: int) -> tuple[list[tuple[DetectedObject, ...]], list[Photo]]:
    """True boxes, and found ones: some of them moved a little, some of the other species, some elsewhere."""
    dice = np.random.default_rng(seed)
    answers, truth = [], []

    def draw_box(label: str) -> Box:
        left, top = dice.uniform(0, 120), dice.uniform(0, 50)
        return Box(label, left, top, left + dice.uniform(15, 80), top + dice.uniform(15, 50))

    for number in range(photos):
        boxes = [draw_box(str(dice.choice(NAMES))) for _ in range(dice.integers(0, 4))]
        objects = []
        for box in boxes:
            for _ in range(dice.integers(0, 3)):
                corners = np.array(box.corners) + dice.normal(0, 3, 4)
                label = box.label if dice.random() < 0.8 else str(dice.choice(NAMES))
                objects.append(found(float(dice.uniform(0.05, 1)), label, *corners.tolist()))
        objects += [DetectedObject(float(dice.uniform(0.05, 0.7)), draw_box("dog")) for _ in range(dice.integers(0, 2))]
        answers.append(tuple(sorted(objects, key=lambda each: -each.confidence)))
        truth.append(photo(*boxes, number=number))
    return answers, truth


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_torchmetrics_also_of_photos_drawn_several_times(seed: int) -> None:
    answers, truth = make_random_answers(seed, 40)
    times = np.random.default_rng(seed).integers(0, 3, len(truth))
    for counts in (np.ones(len(truth), np.int64), times):
        # Its own recalls are float32, of which some are a little over the fractions that they stand for.
        metric = MeanAveragePrecision(rec_thresholds=(RECALLS - 1e-9).tolist())
        for objects, each, count in zip(answers, truth, counts, strict=True):
            for _ in range(count):
                boxes = [list(o.box.corners) for o in objects], [list(b.corners) for b in each.boxes or ()]
                labels = [NAMES.index(o.label) for o in objects], [NAMES.index(b.label) for b in each.boxes or ()]
                corners = [torch.tensor(side, dtype=torch.float64).reshape(-1, 4) for side in boxes]
                classes = [torch.tensor(side, dtype=torch.int64) for side in labels]
                scores = torch.tensor([o.confidence for o in objects], dtype=torch.float64)
                metric.update(
                    [{"boxes": corners[0], "labels": classes[0], "scores": scores}],
                    [{"boxes": corners[1], "labels": classes[1]}],
                )
        expected = metric.compute()
        rows = [judge_class(answers, truth, name).average_precision(counts) for name in NAMES]
        ours = np.mean([row for row in rows if row is not None], 0)
        assert ours.mean() == pytest.approx(float(expected["map"]), abs=1e-5)
        assert ours[0] == pytest.approx(float(expected["map_50"]), abs=1e-5)
        assert ours[5] == pytest.approx(float(expected["map_75"]), abs=1e-5)


def test_what_is_measured_of_photos_is_torchmetrics_with_intervals_around_it() -> None:
    answers, truth = make_random_answers(9, 40)
    measured = measure_boxes(answers, truth, NAMES, 0.5, resamples=200)
    rows = [judge_class(answers, truth, name).average_precision() for name in NAMES]
    known = [row for row in rows if row is not None]
    assert len(known) == len(NAMES)
    assert measured["ap"] == pytest.approx(np.mean(known), abs=1e-3)  # torchmetrics' are float32
    for name, (low, high) in measured["intervals"].items():
        assert low < measured[name] < high
    assert set(measured["ap_by_species"]) == set(NAMES)


def test_each_box_matches_one_head_and_the_surest_first() -> None:
    boxes = [Box("cat", 0, 0, 10, 10), Box("dog", 20, 0, 30, 10)]
    objects = [found(0.3, "cat", 0, 0, 10, 9), found(0.9, "cat", 0, 0, 10, 8), found(0.5, "cat", 20, 0, 30, 10)]
    assert match_boxes(objects, boxes) == {1: 0, 2: 1}, "species may differ"
    assert match_boxes(objects, []) == match_boxes([], boxes) == {}
    assert match_boxes([found(0.9, "cat", 0, 0, 10, 4.9)], boxes) == {}, "an overlap under a half"


def test_what_a_threshold_finds_and_gets_wrong_is_counted() -> None:
    truth = [
        photo(Box("cat", 0, 0, 10, 10), Box("dog", 20, 0, 30, 10), number=0),
        photo(number=1),
        photo(number=2, label="neither"),
    ]
    answers = [
        (
            found(0.9, "cat", 0, 0, 10, 10),
            found(0.8, "cat", 20, 0, 30, 10),  # the other species
            found(0.7, "cat", 0, 0, 10, 9),  # a second one of the same head
            found(0.4, "dog", 50, 0, 60, 10),
        ),
        (found(0.6, "dog", 0, 0, 5, 5),),
        (found(0.2, "dog", 0, 0, 5, 5),),
    ]
    at = count_at(answers, truth, 0.5)
    assert {key: at[key] for key in ("heads", "found_heads", "wrong_species", "false_boxes")} == {
        "heads": 2,
        "found_heads": 2,
        "wrong_species": 1,
        "false_boxes": 2,
    }
    assert (at["recall"], at["empty_photos"], at["empty_with_boxes"], at["alarm_share"]) == (1.0, 2, 1, 0.5)
    assert at["false_boxes_a_photo"] == pytest.approx(2 / 3)
    assert at["recall_95"][0] < 1.0 <= at["recall_95"][1] + 1e-9
    assert count_at(answers, truth, 0.85)["found_heads"] == 1
    assert count_at(answers, truth, 0.1)["false_boxes"] == 4


def test_the_threshold_is_the_smallest_that_leaves_false_boxes_to_one_photo_in_a_hundred() -> None:
    right, false = ("cat", 0, 0, 10, 10), ("cat", 50, 50, 60, 60)
    truth = [photo(Box(*right), number=number) for number in range(200)]
    answers: list[tuple[DetectedObject, ...]] = [(found(0.9, *right),)] * 200
    assert fit_box_threshold(answers, truth) == THRESHOLD_RANGE[0], "no false box at all"
    # Two of the 200 may have one; two boxes in one photo are no worse than one.
    answers[:2] = [(found(0.8, *false), found(0.7, *false)), (found(0.6, *false),)]
    assert fit_box_threshold(answers, truth) == THRESHOLD_RANGE[0]
    answers[2] = (found(0.5, "dog", *right[1:]),)  # the other species is false, too
    threshold = fit_box_threshold(answers, truth)
    assert threshold == 0.501
    assert count_at(answers, truth, threshold)["false_boxes"] == 2
    answers[:9] = [(found(0.99, *false),)] * 9
    assert fit_box_threshold(answers, truth) == THRESHOLD_RANGE[1]


def test_a_detector_learns_from_marked_photos_and_those_of_neither() -> None:
    cat, dog = Box("cat", 0, 0, 10, 10), Box("dog", 0, 0, 10, 10)
    photos = tuple(
        each
        for split in ("train", "val")
        for each in (
            replace(PHOTO, path=f"{split}-1", split=split, boxes=(cat, dog)),
            replace(PHOTO, path=f"{split}-2", split=split, boxes=()),
            replace(PHOTO, path=f"{split}-3", split=split, boxes=None),
            replace(PHOTO, path=f"{split}-4", split=split, boxes=None, label="neither"),
        )
    )
    manifest, task = Manifest(Path("data"), (*NAMES, "neither"), photos), Detect()
    chosen = task.choose_photos(manifest, "train")
    assert [each.path[-1] for each in chosen] == ["1", "2", "4"]
    assert task.class_names(manifest) == NAMES
    assert task.describe_photos(chosen, NAMES) == "boxes: 1 cat, 1 dog; 2 without one"
    task.check_photos(manifest, "data")
    without = replace(manifest, photos=tuple(replace(p, boxes=(cat,)) if p.boxes else p for p in photos))
    with pytest.raises(DataError, match="data: no box around a dog in the train split"):
        task.check_photos(without, "data")
