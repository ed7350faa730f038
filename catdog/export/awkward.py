"""Photos that go wrong elsewhere, of odd sizes, modes, formats and orientations, made from one that doesn't."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, features

from catdog.image import ORIENTATION_TAG, decode, encode

HUGE_PX: Final = (4000, 3000)  # a 12-megapixel camera's; decoded at a fraction of its size


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
        "portrait": encode(square.resize((square.width, square.width * 2)), "JPEG"),
        "panorama": encode(square.resize((square.width * 4, square.width)), "JPEG"),
        "8x8 px": encode(photo.resize((8, 8)), "PNG"),
        "1x1 px": encode(photo.resize((1, 1)), "PNG"),
        "one row": encode(photo.resize((width, 1)), "PNG"),
        "12 megapixels": encode(photo.resize(HUGE_PX), "JPEG"),
        "1 bit": encode(photo.convert("1"), "PNG"),
        "grey JPEG": encode(grey, "JPEG"),
        "grey PNG": encode(grey, "PNG"),
        "16-bit grey PNG": encode(deep_grey, "PNG"),
        "16-bit grey TIFF": encode(deep_grey, "TIFF"),
        "palette": encode(palette, "PNG"),
        "palette with a transparent colour": encode(palette, "PNG", transparency=0),
        "grey with alpha": encode(see_through.convert("LA"), "PNG"),
        "alpha": encode(see_through, "PNG"),
        "CMYK JPEG": encode(photo.convert("CMYK"), "JPEG"),
        "CMYK TIFF": encode(photo.convert("CMYK"), "TIFF"),
        "progressive JPEG": encode(photo, "JPEG", progressive=True),
        "JPEG of quality 5": encode(photo, "JPEG", quality=5),
        "WebP with alpha": encode(see_through, "WEBP"),
        "GIF": encode(photo, "GIF"),
        "animated GIF": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "TIFF": encode(photo, "TIFF"),
        "BMP": encode(photo, "BMP"),
    }
    if features.check("avif"):
        photos["AVIF"] = encode(photo, "AVIF")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        photos[f"EXIF orientation {orientation}"] = encode(
            photo.resize((width, max(1, height // 2))), "JPEG", exif=exif
        )
    return photos
