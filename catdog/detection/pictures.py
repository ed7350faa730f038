"""Answers as pictures: the photos with their boxes drawn in, and the heads cut out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from catdog.ahead import map_in_order
from catdog.boxes import Box
from catdog.detection.answers import Detection
from catdog.detection.decoding import DetectedObject
from catdog.drawing import draw_boxes
from catdog.errors import ImageError, SettingsError
from catdog.image import Size, open_sized_photo, out_of_memory
from catdog.picture_folder import PictureFolder
from catdog.sources import Input

MAX_SIDE: Final = 2048  # px, of the longer side of a photo that is drawn on; heads are cut out at full scale


def write_pictures(
    detect: Callable[[str, bytes], Detection],
    photos: Iterable[Input],
    drawn: Path | None,
    cropped: Path | None,
    threads: int,
) -> Iterator[Detection]:
    """Yield the answer to each photo, and write the photo with its boxes to ``drawn`` and its heads to ``cropped``.

    They are NAME.jpg, and NAME-1.jpg, NAME-2.jpg ... with the surest first. ``detect`` answers a photo, given by its
    source and its bytes, on one of ``threads`` threads. Raises SettingsError where a folder holds JPEG files that
    aren't from here, before anything is answered, and where a picture can't be written.
    """
    if drawn and cropped and drawn.resolve() == cropped.resolve():
        raise SettingsError(f"--crop {cropped}: is the folder of --draw; give each its own")
    draw = PictureFolder("--draw", drawn, "catdog's boxes", ".jpg") if drawn else None
    crop = PictureFolder("--crop", cropped, "catdog's crop", ".jpg") if cropped else None

    def answer(item: tuple[Input, str, str]) -> Detection:
        photo, drawn_name, cropped_name = item
        try:
            data = photo.content.read(photo.source)
            found = detect(photo.source, data)
            if found.objects is None:
                return found
            image, size = open_sized_photo(data, photo.source, None if crop else MAX_SIDE)
            if crop:
                for number, head in enumerate(found.objects, start=1):
                    crop.save(cut_out(image, head.box), f"{cropped_name}-{number}")
            if draw:
                draw.save(draw_heads(image, found.objects, size), drawn_name)
        except ImageError as error:
            return Detection.failed(photo.source, error)
        except MemoryError:
            return Detection.failed(photo.source, out_of_memory(photo.source))
        return found

    named = (
        (photo, draw.choose_name(photo.source) if draw else "", crop.choose_name(photo.source) if crop else "")
        for photo in photos
    )
    return map_in_order(answer, named, threads)


def draw_heads(image: Image.Image, heads: Sequence[DetectedObject], photo: Size) -> Image.Image:
    """Return a photo with its heads, at most MAX_SIDE px; ``image`` may be at a smaller scale than the ``photo``."""
    picture = image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    x, y = picture.width / photo[0], picture.height / photo[1]
    return draw_boxes(
        picture, [head.box.scaled(x, y) for head in heads], [f"{head.label} {head.confidence:.0%}" for head in heads]
    )


def cut_out(image: Image.Image, box: Box) -> Image.Image:
    """Return the part of an upright photo at full scale that a box inside of it touches."""
    return image.crop((math.floor(box.xmin), math.floor(box.ymin), math.ceil(box.xmax), math.ceil(box.ymax)))
