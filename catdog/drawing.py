"""Boxes drawn on a photo, for datasets and for answers alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from catdog.boxes import Box
from catdog.colours import BLUE, GREY, ORANGE
from catdog.contract import NEITHER
from catdog.text import printable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS: Final = {"cat": ORANGE, "dog": BLUE, NEITHER: GREY}
"""Of each class's boxes and words."""
_LINE: Final = 1 / 160  # of the photo's mean side
_TEXT: Final = 1 / 24  # likewise: the height of a caption's letters
_FEWEST_LINE_PX, _FEWEST_TEXT_PX = 2, 12


def draw_boxes(image: Image.Image, boxes: Sequence[Box], captions: Sequence[str] | None = None) -> Image.Image:
    """Return a copy of an RGB image with boxes, px of that image, each in the colour of its class under a caption.

    ``captions``: one a box, "cat 98.1%" say; by default its label, and an empty one draws no label at all. Lines and
    letters grow with the photo. Of boxes that overlap, the first ones lie on top: give the surest first.
    """
    captions = [box.label for box in boxes] if captions is None else captions
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    side = (image.width + image.height) / 2
    line = max(_FEWEST_LINE_PX, round(side * _LINE))
    font = load_font(max(_FEWEST_TEXT_PX, round(side * _TEXT)))
    pairs = list(zip(boxes, captions, strict=True))[::-1]
    for box, _ in pairs:
        corners = [round(at) for at in box.corners]
        # Pillow's last pixel is inside, and it refuses a corner that lies before the first one.
        right, bottom = max(corners[0], corners[2] - 1), max(corners[1], corners[3] - 1)
        draw.rectangle((*corners[:2], right, bottom), outline=COLOURS.get(box.label, GREY), width=line)
    for box, caption in pairs:  # after all boxes, so that no line runs through a caption
        if caption:
            _write_caption(draw, printable(caption), box, font, line, image.size)
    return drawn


def _write_caption(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Box,
    font: Font,
    line: int,
    size: tuple[int, int],
) -> None:
    """Write on a filled label that stands on the box, or hangs inside of it where there is no room above."""
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 4 * line, bottom - top + 4 * line
    x = max(0, min(round(box.xmin), size[0] - width))
    y = round(box.ymin) - height + line
    if y < 0:
        y = min(max(0, round(box.ymin)), max(0, size[1] - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=COLOURS.get(box.label, GREY))
    draw.text((x + 2 * line - left, y + 2 * line - top), text, "#ffffff", font)


def load_font(size: int) -> Font:
    """Return Pillow's own font; in the few builds without FreeType, a bitmap font of one small size."""
    try:
        return ImageFont.load_default(size)
    except ImportError:
        return ImageFont.load_default()
