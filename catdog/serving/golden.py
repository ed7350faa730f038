"""Golden photos: a few photos that travel with a model, with the answers it gave where it was packed.

golden.json: {"version": 1, "photos": [{"name", "image" (base64), "probabilities" {class name: number}}, ...]}
of a detector, in place of probabilities: "scores" {class name: the highest of all places}, "objects" [as in an answer]

A model that gives other answers where it is loaded (another file, a broken Pillow, a processor that computes int8
wrongly) must not serve.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from catdog.boxes import Box, measure_overlaps
from catdog.detection.answers import Detection
from catdog.detection.decoding import SAME_HEAD, DetectedObject
from catdog.detection.detector import Detector
from catdog.detection.models import Model
from catdog.errors import ImageError, ModelError
from catdog.image import ORIENTATION_TAG, encode, load_pixels, read_file
from catdog.prediction import Prediction

VERSION: Final = 1
TOLERANCE: Final = 0.05
"""Of a probability, between processors that round int8 differently and releases of Pillow's JPEG decoder."""
ODDS: Final = 2.0
"""How many times as high the odds of a detector's highest scores may be here as there. Pictures that show no pet have
scores of 0.02, of which TOLERANCE would tell nothing; in the middle it is three times TOLERANCE."""
_LEAST: Final = 1e-4  # scores below are taken for it: their odds are mostly rounding


def write_golden(model: Model, photos: Sequence[Path] = ()) -> str:
    """Return the text of golden.json: pictures drawn here and ``photos`` of the user's, with the model's answers.

    Raises ImageError for a photo that can't be read.
    """
    named = [*draw_golden(), *((path.name, read_file(path)) for path in photos)]
    found = []
    for name, data in named:
        answers: Iterator[Detection | Prediction] = model.stream([data], names=[name])
        answer = next(answers)
        if answer.error is not None:
            raise ImageError(f"test photo {answer.error}", "unsupported")
        expected: dict[str, Any] = {"probabilities": answer.to_dict().get("probabilities")}
        if isinstance(model, Detector):
            expected = {"scores": _find_best_scores(model, data), "objects": answer.to_dict()["objects"]}
        found.append({"name": name, "image": base64.b64encode(data).decode("ascii"), **expected})
    return json.dumps({"version": VERSION, "photos": found}, indent=1) + "\n"


def check_golden(model: Model, text: str | bytes, tolerance: float = TOLERANCE) -> int:
    """Answer the golden photos, return how many there are; raises ModelError where one is off by over ``tolerance``."""
    key = "scores" if isinstance(model, Detector) else "probabilities"
    try:
        golden = json.loads(text)
        if golden["version"] != VERSION:
            raise ValueError(golden["version"])
        photos = [
            (
                str(photo["name"]),
                base64.b64decode(photo["image"], validate=True),
                {name: float(value) for name, value in photo[key].items()},
                read_heads(photo["objects"]) if isinstance(model, Detector) else (),
            )
            for photo in golden["photos"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"golden.json can't be understood ({type(error).__name__}); pack the model again") from error
    if not photos:
        raise ModelError("golden.json holds no photo; pack the model again")
    for name, data, expected, heads in photos:
        answer = model.detect(data) if isinstance(model, Detector) else model.predict(data)
        if answer.error is not None:
            raise ModelError(f"the golden photo {name} can't be read here ({answer.error})")
        if set(model.contract.class_names) != expected.keys():
            raise ModelError(f"golden.json is of a model with the classes {', '.join(expected)}")
        if isinstance(model, Detector):
            given = _find_best_scores(model, data)
            off = max(abs(_find_log_odds(given[key]) - _find_log_odds(expected[key])) for key in given)
            if not off <= math.log(ODDS):
                raise ModelError(_tell(name, format_scores(given), format_scores(expected), f"{ODDS} times the odds"))
            found = model.detect(data).objects or ()
            if not compare_heads(found, heads, model.contract.threshold) <= tolerance:
                raise ModelError(_tell(name, format_heads(found), format_heads(heads), f"tolerance {tolerance}"))
            continue
        given = answer.to_dict()["probabilities"]
        if not all(abs(given[key] - expected[key]) <= tolerance for key in given):  # also refuses nan
            raise ModelError(_tell(name, format_scores(given), format_scores(expected), f"tolerance {tolerance}"))
    return len(photos)


def compare_heads(found: Sequence[DetectedObject], expected: Sequence[DetectedObject], threshold: float) -> float:
    """Return the largest difference in confidence between two answers about one photo, [0, 1].

    Heads are the same where label and place are. One that the other answer lacks counts there as just under the
    ``threshold`` from which on heads are given.
    """
    largest, left = 0.0, list(found)
    for head in expected:
        same = next((other for other in left if _are_same(head, other)), None)
        if same is not None:
            left.remove(same)
        largest = max(largest, abs(head.confidence - (threshold if same is None else same.confidence)))
    return max([largest, *(head.confidence - threshold for head in left)])


def read_heads(objects: Any) -> tuple[DetectedObject, ...]:
    """Return the heads of an answer in JSON; raises ValueError, KeyError, TypeError or AttributeError for others."""
    heads = []
    for one in objects:
        confidence = float(one["confidence"])
        one["label"].encode()  # JSON's text may hold half of a surrogate pair
        if not 0 <= confidence <= 1:  # also true of NaN
            raise ValueError("not a confidence")
        heads.append(DetectedObject(confidence, Box.from_dict({"label": one["label"], "box": one["box"]})))
    return tuple(heads)


def format_scores(scores: Mapping[str, float]) -> str:
    """Return ``cat 0.900, dog 0.100``."""
    return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


def format_heads(heads: Sequence[DetectedObject]) -> str:
    """Return each head's label, confidence and box, px."""
    told = [f"{head.label} {head.confidence:.3f} at {' '.join(map(str, head.box.corners))}" for head in heads]
    return ", ".join(told) or "without a head"


def _are_same(one: DetectedObject, other: DetectedObject) -> bool:
    boxes = np.array([one.box.corners, other.box.corners], np.float64)
    return one.label == other.label and bool(measure_overlaps(boxes[:1], boxes[1:])[0, 0] > SAME_HEAD)


def _find_best_scores(detector: Detector, data: bytes) -> dict[str, float]:
    _, (scores,) = detector.propose(load_pixels(data, detector.contract)[np.newaxis])
    return {name: float(score) for name, score in zip(detector.contract.class_names, scores.max(0), strict=True)}


def _find_log_odds(score: float) -> float:
    share = min(max(score, _LEAST), 1 - _LEAST)
    return math.log(share / (1 - share))


def _tell(photo: str, given: str, expected: str, tolerance: str) -> str:
    return (
        f"the model doesn't give the answers it was packed with: {photo} is {given} here, {expected} in golden.json "
        f"({tolerance})"
    )


def draw_golden() -> list[tuple[str, bytes]]:
    """Draw pictures, as (name, encoded bytes), that between them need each step from bytes to pixels.

    A JPEG large enough to be decoded at reduced scale, one with an EXIF orientation, a PNG with alpha.
    """
    turned = Image.Exif()
    turned[ORIENTATION_TAG] = 6  # turn by 90 degrees
    veiled = _draw_clouds(96, 128, 7)
    veiled.putalpha(Image.linear_gradient("L").resize(veiled.size))
    return [
        ("large.jpg", encode(_draw_clouds(1400, 1050, 3), "JPEG", quality=40)),
        ("turned.jpg", encode(_draw_clouds(320, 240, 5), "JPEG", quality=80, exif=turned)),
        ("alpha.png", encode(veiled, "PNG")),
    ]


def _draw_clouds(width: int, height: int, seed: int) -> Image.Image:
    """Draw soft colours, twelve by nine random ones enlarged; the same for the same seed."""
    few = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
