"""One PNG that shows photos with what was answered for them, in rows of six.

Each photo stands on a square tile, with its verdict and its path below.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from catdog.colours import BLUE
from catdog.drawing import Font, load_font
from catdog.errors import ImageError
from catdog.files import replace_file
from catdog.image import JPEG_MARGIN, decode, read_file
from catdog.text import printable

MOST: Final = 24  # photos on a sheet
THUMBNAIL_PX: Final = 256  # of the longer side, and both sides of a tile

_COLUMNS: Final = 6
_FEWEST_COLUMNS: Final = 3  # a title needs some width
_GAP: Final = 20  # px, between tiles and around all of them
_TEXT_GAP: Final = 6  # px, between a tile and its text
_TITLE, _VERDICT, _NAME, _WORD = 24, 16, 13, 20  # font sizes, px
_VERDICT_LINES, _NAME_LINES = 2, 3  # at most
_BOLD: Final = 0.4  # px of outline: Pillow's own font has one weight
_PAPER, _TILE, _INK, _FAINT = "#ffffff", "#f0f0f0", "#222222", "#666666"
_LONGEST: Final = 400  # characters of a text that are looked at: more than three lines hold


@dataclass(frozen=True)
class Cell:
    """A photo and what is written under it."""

    photo: Path | bytes | Image.Image
    """A file, its bytes, or what ``thumbnail`` made of them, which takes less memory where many cells are kept."""
    verdict: str
    name: str
    """The path to show."""
    colour: str = BLUE
    """Of the verdict, ``#rrggbb``."""


def contact_sheet(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Write the first ``MOST`` photos, or the title alone where there are none, to ``path``. Raises OSError."""
    cells = cells[:MOST]
    columns = max(_FEWEST_COLUMNS, min(_COLUMNS, len(cells)))
    fonts = title_font, verdict_font, name_font = load_font(_TITLE), load_font(_VERDICT), load_font(_NAME)
    title_step, verdict_step, name_step = (_measure_line(font) for font in fonts)
    width = columns * (THUMBNAIL_PX + _GAP) + _GAP
    titles = _break_into_lines(title, title_font, width - 2 * _GAP, 2)
    verdicts = [_break_into_lines(cell.verdict, verdict_font, THUMBNAIL_PX, _VERDICT_LINES) for cell in cells]
    names = [_break_into_lines(cell.name, name_font, THUMBNAIL_PX, _NAME_LINES) for cell in cells]

    rows = range(0, len(cells), columns)
    heights = [  # a row is as high as its longest text
        THUMBNAIL_PX
        + _TEXT_GAP
        + max(verdict_step * len(v) + name_step * len(n) for v, n in zip(verdicts[i:j], names[i:j], strict=True))
        + _GAP
        for i, j in ((row, row + columns) for row in rows)
    ]
    top = _GAP + title_step * len(titles) + _GAP
    sheet = Image.new("RGB", (width, top + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write_lines(draw, titles, (width // 2, _GAP), title_font, _INK)
    for row, height in zip(rows, heights, strict=True):
        for i, cell in enumerate(cells[row : row + columns], row):
            left = _GAP + (i - row) * (THUMBNAIL_PX + _GAP)
            tile = ImageOps.pad(thumbnail(cell.photo), (THUMBNAIL_PX, THUMBNAIL_PX), color=_TILE)
            sheet.paste(tile, (left, top))
            at = (left + THUMBNAIL_PX // 2, top + THUMBNAIL_PX + _TEXT_GAP)
            after = _write_lines(draw, verdicts[i], at, verdict_font, cell.colour, bold=True)
            _write_lines(draw, names[i], (at[0], after), name_font, _INK)
        top += height
    with replace_file(path) as temporary:
        about = PngInfo()
        about.add_text("Software", "catdog")  # by which the next one knows that it may replace this
        sheet.save(temporary, format="PNG", pnginfo=about)


def thumbnail(photo: Path | bytes | Image.Image | ImageError) -> Image.Image:
    """Return an upright RGB image whose longer side is THUMBNAIL_PX.

    For a photo that can't be read, and for an ImageError in its place, it is a blank tile with the reason in a word.
    """
    if isinstance(photo, Image.Image):
        return _scale_to_tile(photo)
    try:
        if isinstance(photo, ImageError):
            raise photo
        data = photo if isinstance(photo, bytes) else read_file(photo)
        return _scale_to_tile(decode(data, "photo", at_least=JPEG_MARGIN * THUMBNAIL_PX))
    except ImageError as error:
        blank = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), _TILE)
        font = load_font(_WORD)
        middle = (THUMBNAIL_PX // 2, (THUMBNAIL_PX - _measure_line(font)) // 2)
        _write_lines(ImageDraw.Draw(blank), [error.reason.replace("_", " ")], middle, font, _FAINT)
        return blank


def _scale_to_tile(image: Image.Image) -> Image.Image:
    """Scale the image, up or down, so that its longer side is THUMBNAIL_PX and the other one at least 1 px."""
    scale = THUMBNAIL_PX / max(image.size)
    if scale == 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


def _write_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], font: Font, colour: str, bold: bool = False
) -> int:
    """Write the lines centred on ``at``'s x, from its y down; return the y below them."""
    x, y = at
    stroke = _BOLD if bold and isinstance(font, ImageFont.FreeTypeFont) else 0
    for line in lines:
        draw.text((round(x - font.getlength(line) / 2), y), line, colour, font, stroke_width=stroke)
        y += _measure_line(font)
    return y


def _break_into_lines(text: str, font: Font, width: int, most: int) -> list[str]:
    """Break the text into lines of at most ``width`` px, after a slash or a space where there is one.

    The end of a path tells most, so of a text with too many lines the last ones stay.
    """
    rest = _replace_missing_glyphs(text[-_LONGEST:], font)
    cut = len(text) > _LONGEST or len(rest) > _LONGEST
    rest = rest[-_LONGEST:]
    lines = []
    while rest:
        fits = max(1, bisect_right(range(1, len(rest) + 1), width, key=lambda n: math.ceil(font.getlength(rest[:n]))))
        if fits < len(rest):
            fits = max(rest.rfind("/", 0, fits), rest.rfind(" ", 0, fits)) + 1 or fits
        lines.append(rest[:fits].strip(" "))
        rest = rest[fits:]
    if cut or len(lines) > most:
        lines = lines[-most:]
        dots, first = _replace_missing_glyphs("…", font), lines[0][1:]
        while first and font.getlength(dots + first) > width:
            first = first[1:]
        lines[0] = dots + first
    return lines


def _replace_missing_glyphs(text: str, font: Font) -> str:
    r"""Replace what the font can't show: "Löwe" by "Lowe", where it lacks the ö, and "猫" by "\u732b"."""

    def replace(c: str) -> str:
        plain = "".join(p for p in unicodedata.normalize("NFKD", c) if not unicodedata.combining(p))
        drawable = all(_has_glyph(p, font) for p in plain)
        return plain if drawable else c.encode("unicode_escape").decode("ascii")

    return "".join(c if _has_glyph(c, font) else replace(c) for c in printable(text))


@functools.lru_cache(4096)
def _has_glyph(c: str, font: Font) -> bool:
    if c.isascii():
        return True
    if isinstance(font, ImageFont.ImageFont):
        return False  # the bitmap font has Latin-1, but half of it looks wrong
    missing, mask = font.getmask("\uffff"), font.getmask(c)
    return (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@functools.lru_cache
def _measure_line(font: Font) -> int:
    return math.ceil(font.getbbox("Ag|_")[3] * 1.1)
