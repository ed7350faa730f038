"""Golden photos: a few photos that travel with a model, with the answers it gave where it was packed.

golden.json: {"version": 1, "photos": [{"name", "image" (base64), "probabilities" {class name: number}}, ...]}

A model that gives other answers where it is loaded (another file, a broken Pillow, a processor that computes int8
wrongly) must not serve.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from catdog.classifier import Classifier
from catdog.errors import ImageError, ModelError
from catdog.image import ORIENTATION_TAG, encode, read_file

VERSION: Final = 1
TOLERANCE: Final = 0.05
"""Of a probability, between processors that round int8 differently and releases of Pillow's JPEG decoder."""


def write_golden(classifier: Classifier, photos: Sequence[Path] = ()) -> str:
    """Return the text of golden.json: pictures drawn here and ``photos`` of the user's, with the classifier's answers.

    Raises ImageError for a photo that can't be read.
    """
    named = [*draw_golden(), *((path.name, read_file(path)) for path in photos)]
    found = []
    for name, data in named:
        answer = classifier.predict(data)
        if answer.probabilities is None:
            raise ImageError(f"golden photo {name}: {answer.error}", "unsupported")
        image = base64.b64encode(data).decode("ascii")
        found.append({"name": name, "image": image, "probabilities": answer.probabilities})
    return json.dumps({"version": VERSION, "photos": found}, indent=1) + "\n"


def check_golden(classifier: Classifier, text: str | bytes, tolerance: float = TOLERANCE) -> int:
    """Answer the golden photos, return how many there are; raises ModelError where one is off by over ``tolerance``."""
    try:
        golden = json.loads(text)
        if golden["version"] != VERSION:
            raise ValueError(golden["version"])
        photos = [
            (
                str(photo["name"]),
                base64.b64decode(photo["image"], validate=True),
                {name: float(value) for name, value in photo["probabilities"].items()},
            )
            for photo in golden["photos"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"golden.json can't be understood ({type(error).__name__}); pack the model again") from error
    if not photos:
        raise ModelError("golden.json holds no photo; pack the model again")
    for name, data, expected in photos:
        answer = classifier.predict(data)
        if answer.probabilities is None:
            raise ModelError(f"the golden photo {name} can't be read here ({answer.error})")
        if answer.probabilities.keys() != expected.keys():
            raise ModelError(f"golden.json is of a model with the classes {', '.join(expected)}")
        given = answer.probabilities
        if not all(abs(given[key] - expected[key]) <= tolerance for key in given):  # also refuses nan
            raise ModelError(
                f"the model doesn't give the answers it was packed with: {name} is {_format(given)} here, "
                f"{_format(expected)} in golden.json (tolerance {tolerance})"
            )
    return len(photos)


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


def _format(probabilities: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in probabilities.items())
