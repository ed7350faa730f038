"""Photos that go wrong elsewhere, of odd sizes, modes, formats and orientations, made from one that doesn't."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image, features

from catdog.image import decode

HUGE_PX: Final = (4000, 3000)  # a 12-megapixel camera's; decoded at a fraction of its size
_ORIENTATION_TAG: Final = 0x0112  # EXIF 2.32


def make_awkward_photos(data: bytes) -> dict[str, bytes]:
    """Return encoded variants of an encoded photo, by name; ``catdog.image`` must be able to read all of them."""
    photo = decode(data, "the photo that awkward ones are made from")
    width, height = photo.size
    grey = photo.convert("L")
    alpha = Image.linear_gradient("L").resize(photo.size)
    see_through = photo.copy()
    see_through.putalpha(alpha)
    palette = photo.quantize(64)
    deep_grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)  # 255 * 257 = 65535
    square = photo.resize((min(photo.size),) * 2)

    photos = {
        "portrait": _encode(square.resize((square.width, square.width * 2)), "JPEG"),
        "panorama": _encode(square.resize((square.width * 4, square.width)), "JPEG"),
        "8x8 px": _encode(photo.resize((8, 8)), "PNG"),
        "1x1 px": _encode(photo.resize((1, 1)), "PNG"),
        "one row": _encode(photo.resize((width, 1)), "PNG"),
        "12 megapixels": _encode(photo.resize(HUGE_PX), "JPEG"),
        "1 bit": _encode(photo.convert("1"), "PNG"),
        "grey JPEG": _encode(grey, "JPEG"),
        "grey PNG": _encode(grey, "PNG"),
        "16-bit grey PNG": _encode(deep_grey, "PNG"),
        "16-bit grey TIFF": _encode(deep_grey, "TIFF"),
        "palette": _encode(palette, "PNG"),
        "palette with a transparent colour": _encode(palette, "PNG", transparency=0),
        "grey with alpha": _encode(see_through.convert("LA"), "PNG"),
        "alpha": _encode(see_through, "PNG"),
        "CMYK JPEG": _encode(photo.convert("CMYK"), "JPEG"),
        "CMYK TIFF": _encode(photo.convert("CMYK"), "TIFF"),
        "progressive JPEG": _encode(photo, "JPEG", progressive=True),
        "JPEG of quality 5": _encode(photo, "JPEG", quality=5),
        "WebP with alpha": _encode(see_through, "WEBP"),
        "GIF": _encode(photo, "GIF"),
        "animated GIF": _encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "TIFF": _encode(photo, "TIFF"),
        "BMP": _encode(photo, "BMP"),
    }
    if features.check("avif"):
        photos["AVIF"] = _encode(photo, "AVIF")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = orientation
        photos[f"EXIF orientation {orientation}"] = _encode(
            photo.resize((width, max(1, height // 2))), "JPEG", exif=exif
        )
    return photos


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
