"""Answers for each pet in a photo: a detector finds the heads, and a classifier answers what is around each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from PIL import Image

from catdog.ahead import map_in_order
from catdog.answers import stream_csv
from catdog.boxes import Box
from catdog.classifier import Classifier
from catdog.detection.answers import BOX_COLUMNS
from catdog.detection.detector import Detector
from catdog.errors import ImageError
from catdog.image import open_photo, out_of_memory
from catdog.machine import usable_cores
from catdog.prediction import Prediction
from catdog.sources import Input
from catdog.text import escape_name

HEAD_TO_CROP: Final = 1.25
"""How many times as wide as its head a pet's crop is: as tight as a box that is a little off allows, since a neighbour
is to stay outside. Between 1 and 4 times the classifier is as right as on whole photos (benchmarks/head_crops.py)."""


@dataclass(frozen=True, slots=True)
class AnsweredHead:
    """A pet in a photo, as the classifier answers it."""

    box: Box
    """Its head, px of the upright photo; the label is the detector's."""
    answer: Prediction
    """For the crop around the head."""

    def to_dict(self) -> dict[str, Any]:
        """Return label, confidence and probabilities of the crop, and the head's box, ready for JSON."""
        answer = self.answer.to_dict()
        kept = {name: answer[name] for name in ("label", "confidence", "probabilities")}
        return kept | {"box": list(self.box.corners)}


@dataclass(frozen=True)
class PredictionWithHeads(Prediction):
    """The answer for a photo, and one for each pet in it."""

    objects: tuple[AnsweredHead, ...] | None = None
    """The detector's surest first; empty where it found none, None where there is no answer."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in order, ready for JSON."""
        heads = None if self.objects is None else [head.to_dict() for head in self.objects]
        return Prediction.to_dict(replace(self, objects=None)) | {"objects": heads}


def answer_heads(
    classifier: Classifier, detector: Detector, photos: Iterable[Input], threshold: float | None = None
) -> Iterator[PredictionWithHeads]:
    """Yield the answer to each photo, as ``Classifier.stream`` does, with one for each head; ``threshold``: of both."""

    def answer(photo: Input) -> PredictionWithHeads:
        try:
            data = photo.content.read(photo.source)
            (found,) = detector.stream([data], names=[photo.source])
            if found.objects is None:
                return PredictionWithHeads.failed(photo.source, found.error)
            (whole,) = classifier.stream([data], names=[photo.source], threshold=threshold)
            if whole.error is not None:
                return PredictionWithHeads.failed(photo.source, whole.error)
            boxes = [head.box for head in found.objects]
            image = open_photo(data, photo.source) if boxes else None
            crops = [crop_around(image, box, HEAD_TO_CROP) for box in boxes if image]
            answers = classifier.stream(crops, names=[photo.source] * len(crops), threshold=threshold)
            heads = tuple(AnsweredHead(box, each) for box, each in zip(boxes, answers, strict=True))
            return PredictionWithHeads(**asdict(whole), objects=heads)
        except ImageError as error:
            return PredictionWithHeads.failed(photo.source, error)
        except MemoryError:
            return PredictionWithHeads.failed(photo.source, out_of_memory(photo.source))

    return map_in_order(answer, photos, min(usable_cores(), 8))


def crop_around(image: Image.Image, head: Box, factor: float) -> Image.Image:
    """Return a square around a head, ``factor`` times as wide as the head's longer side, where the photo has it."""
    half = factor * max(head.xmax - head.xmin, head.ymax - head.ymin) / 2
    x, y = (head.xmin + head.xmax) / 2, (head.ymin + head.ymax) / 2
    left, top = max(0, round(x - half)), max(0, round(y - half))
    right, bottom = min(image.width, round(x + half)), min(image.height, round(y + half))
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def as_csv(rows: Iterable[PredictionWithHeads], class_names: Sequence[str]) -> Iterator[str]:
    """A header, and records as ``catdog.answers.as_csv`` has them: the photo's, without a box, and one a head."""
    header = ["source", "label", "confidence", *class_names, *BOX_COLUMNS, "error"]

    def tell(row: PredictionWithHeads) -> Iterator[list[Any]]:
        heads: list[tuple[Prediction, Sequence[float | None]]] = [(row, [None] * len(BOX_COLUMNS))]
        heads += [(head.answer, [i, *head.box.corners]) for i, head in enumerate(row.objects or (), start=1)]
        for answer, place in heads:
            values = [(answer.probabilities or {}).get(name) for name in class_names]
            yield [escape_name(row.source), answer.label, answer.confidence, *values, *place, answer.error]

    return stream_csv(header, (list(tell(row)) for row in rows))


def list_answers(rows: Iterable[PredictionWithHeads]) -> Iterator[Prediction]:
    """Yield each photo's answer and then its heads', with where the head is before the photo's name."""
    for row in rows:
        yield row
        for head in row.objects or ():
            corners = " ".join(f"{edge:.0f}" for edge in head.box.corners)
            yield replace(head.answer, source=f"  {corners} in {row.source}")
