"""Where the model looked: its evidence for the answer, laid over the photo.

A class activation map is exact for a network that ends in pooling and a linear layer (Zhou et al. 2016): its mean over
all places is the logit. So nothing is estimated here, and one run of the model gives the answer and the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog.classifier import Classifier
from catdog.colours import ORANGE
from catdog.contract import UNSURE, Contract
from catdog.errors import ImageError
from catdog.image import JPEG_MARGIN, Pixels, describe, find_kept_box, open_sized_photo, resize
from catdog.picture_folder import PictureFolder
from catdog.prediction import Prediction, decide
from catdog.sources import Input

MAX_SIDE: Final = 1024  # px, of the longer side of the picture
_TINT: Final = 0.3  # of the colour where the evidence is strongest
_DIMMED: Final = 0.4  # of the brightness where there is none


Heat = npt.NDArray[np.float32]
"""(h, w), [0, 1]: how much each place of the model's input speaks for the answer; 1 at the strongest one."""


@dataclass(frozen=True)
class Explanation:
    """An answer and what spoke for it. Both other fields are None where the photo can't be read."""

    prediction: Prediction
    heat: Heat | None
    picture: Image.Image | None
    """The photo as it was decoded, at most MAX_SIDE px, bright and coloured where the heat is."""


def explain(
    classifier: Classifier, photo: object, name: str | None = None, threshold: float | None = None
) -> Explanation:
    """Answer a photo, as ``Classifier.predict`` does, and show where the model looked.

    ``photo``: as ``catdog.image.open_photo`` takes it. Raises ModelError where the model has no evidence to show.
    """
    source = describe(photo) if name is None else name
    contract = classifier.contract
    try:
        # At the scale at which predict decodes a JPEG: another one would give other pixels, and another answer.
        image, size = open_sized_photo(photo, source, JPEG_MARGIN * contract.resized)
    except ImageError as error:
        return Explanation(Prediction.failed(source, error), None, None)
    prediction, heat = look(classifier, resize(image, contract, size), source, threshold)
    return Explanation(prediction, heat, draw_heat(image, heat, contract))


def look(classifier: Classifier, pixels: Pixels, name: str, threshold: float | None = None) -> tuple[Prediction, Heat]:
    """Answer one photo's pixels, and return with it where the model looked; of "unsure", for the likeliest class.

    Raises ModelError where the model has no evidence to show.
    """
    limit = classifier.threshold if threshold is None else threshold
    probabilities, evidence = classifier.evidence(pixels[np.newaxis])
    (prediction,) = decide([name], probabilities, classifier.contract, limit)
    names = classifier.contract.class_names
    shown = (
        int(probabilities[0].argmax()) if prediction.label in (None, UNSURE) else names.index(prediction.label or "")
    )
    return prediction, find_heat(evidence[0], shown)


def find_heat(evidence: npt.NDArray[np.float32], shown: int) -> Heat:
    """Return how much each place speaks for class ``shown`` rather than the others, (h, w) in [0, 1].

    ``evidence``: float (C, h, w). A place that speaks against the class counts as 0, the strongest one as 1.
    """
    others = np.delete(evidence, shown, axis=0).mean(0)
    heat = np.maximum(evidence[shown] - others, 0)
    largest = heat.max()
    return np.asarray(heat / largest if largest > 0 else heat, np.float32)


def draw_heat(image: Image.Image, heat: Heat, contract: Contract) -> Image.Image:
    """Return the photo with the heat over the part of it that the model saw, the rest as dim as where there is none."""
    picture = image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    left, top, right, bottom = (round(edge) for edge in find_kept_box(picture.size, contract))
    small = Image.fromarray(np.rint(heat * 255).astype(np.uint8))
    seen = small.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
    mask = Image.new("L", picture.size)
    mask.paste(seen, (left, top))
    dimmed = picture.point(lambda level: round(level * _DIMMED))
    tinted = Image.blend(picture, Image.new("RGB", picture.size, ORANGE), _TINT)
    return Image.composite(tinted, dimmed, mask)


def write_pictures(
    classifier: Classifier, photos: Iterable[Input], folder: Path, threshold: float | None = None
) -> Iterator[Prediction]:
    """Yield the answer to each photo, and write what ``explain`` shows of it to ``folder`` as NAME.png.

    Raises ModelError where the model can't explain, and SettingsError where the folder holds pictures that aren't from
    here, both before anything is answered; SettingsError also where a picture can't be written.
    """
    classifier.check_evidence()
    return _write_each(
        classifier, photos, PictureFolder("--explain", folder, "catdog's explanation", ".png"), threshold
    )


def _write_each(
    classifier: Classifier, photos: Iterable[Input], pictures: PictureFolder, threshold: float | None
) -> Iterator[Prediction]:
    for photo in photos:
        try:
            data: object = photo.content.read(photo.source)
        except ImageError as error:
            yield Prediction.failed(photo.source, error)
            continue
        explanation = explain(classifier, data, photo.source, threshold)
        if explanation.picture is not None:
            pictures.save(explanation.picture, pictures.choose_name(photo.source))
        yield explanation.prediction
