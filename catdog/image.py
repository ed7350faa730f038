"""Bytes to pixels: the only place in catdog that opens, orients, converts or resizes a photo.

    bytes -> checked -> upright RGB PIL image -> uint8 (H, W, 3) at the contract's size

Training, evaluation, export, the command line and every server call these functions, so that a model sees the same
pixels everywhere. Normalisation is inside the model; nothing here scales values.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from catdog.contract import Contract
from catdog.errors import ImageError
from catdog.text import first_line

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, upright, values in [0, 255]."""
Size = tuple[int, int]
"""(width, height), px."""

MAX_BYTES: Final = 256 * 2**20  # of one encoded photo; a 200-megapixel phone JPEG has about 60 MB
MAX_PIXELS: Final = 2 * 89_478_485  # Pillow's own hard limit against decompression bombs: 537 MB as RGB
FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
JPEG_MARGIN: Final = 2
"""Scaled JPEG decoding stops at this many times the size needed, so that the resize proper does the rest. At 1 the
pixels differ from full decoding by up to 5.3 levels a photo, at 2 by up to 2.1 (mean of 64x64, 100 Kaggle originals;
Pillow's ``reducing_gap`` advises the same), and a 12-megapixel photo still takes 20 ms."""
SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif"}
    | {".tif", ".tiff", ".bmp", ".dib", ".avif", ".heic", ".heif"}
)
"""File endings that a folder scan takes for photos; whether one is, its bytes decide."""

_FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EXIF 2.32, tag 0x0112: what to do to a stored image to see it upright.
_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])

# MAX_PIXELS is enforced below for every photo; Pillow's warning at half of it would only be noise on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # "Corrupt EXIF data": the photo still counts
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its errors come as exceptions; keep them off stderr
with contextlib.suppress(ImportError):  # optional: pip install 'catdog[heic]'
    import pillow_heif

    pillow_heif.register_heif_opener()


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; raises ImageError (missing, unreadable, empty, too_large)."""
    name = os.fspath(path)
    try:
        info = Path(name).stat()  # before opening: opening a named pipe would wait for ever
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(f"{name}: is a folder, not a photo", "unreadable")
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"{name}: is not a regular file", "unreadable")
        if info.st_size > MAX_BYTES:
            raise ImageError(f"{name}: {info.st_size} bytes, over the limit of {MAX_BYTES}", "too_large")
        return Path(name).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise ImageError(
            f"{name}: can't be read ({getattr(error, 'strerror', None) or error})", "unreadable"
        ) from error


def decode(data: bytes, name: str, at_least: int | None = None) -> Image.Image:
    """An upright RGB image from an encoded photo, its first frame if it has several.

    ``at_least``, px: a JPEG much larger than this on both sides is decoded at 1/2, 1/4 or 1/8 scale, never below it.
    Grey, palette, CMYK and 16-bit samples become 8-bit RGB; alpha is laid over white; EXIF orientation is applied.
    Raises ImageError naming ``name`` (empty, unsupported, corrupt, too_large).
    """
    return decode_sized(data, name, at_least)[0]


def decode_sized(data: bytes, name: str, at_least: int | None = None) -> tuple[Image.Image, Size]:
    """As ``decode``; and the upright photo's size at full scale."""
    if not data:
        raise ImageError(f"{name}: the file is empty", "empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: {len(data)} bytes, over the limit of {MAX_BYTES}", "too_large")
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: over the limit of {MAX_PIXELS} pixels", "too_large") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_guess(data)}", "unsupported") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
        raise ImageError(f"{name}: damaged image ({first_line(error)})", "corrupt") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height}, over the limit of {MAX_PIXELS} pixels", "too_large")
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} pixels", "corrupt")
    try:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        scaled = image.size != (width, height)
        image.load()
        size = (width, height) if scaled else image.size  # loading turns TIFFs upright
        turn = _turn(image)
        upright = image if turn is None else image.transpose(turn)
        return _to_rgb(upright, name), size[::-1] if turn in _SIDEWAYS else size
    except ImageError:
        raise
    except Exception as error:  # likewise for damaged pixel data
        raise ImageError(f"{name}: damaged image ({first_line(error)})", "corrupt") from error


def from_array(array: npt.NDArray[np.generic], name: str) -> Image.Image:
    """An RGB image from uint8 (H, W), (H, W, 1) or (H, W, 3); raises ImageError for another shape or type."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or not array.size
    ):
        raise ImageError(
            f"{name}: an array must be uint8 (H, W, 3) or (H, W), this is {array.dtype} {array.shape}", "unsupported"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def from_pil(image: Image.Image, name: str) -> Image.Image:
    """An upright RGB image from any PIL image, which is left as it was; raises ImageError on an empty or broken one."""
    if not (image.width and image.height):
        raise ImageError(f"{name}: {image.width}x{image.height} pixels", "corrupt")
    try:
        image.load()
        turn = _turn(image)
        return _to_rgb(image if turn is None else image.transpose(turn), name)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: damaged image ({first_line(error)})", "corrupt") from error


def resize(image: Image.Image, contract: Contract) -> Pixels:
    """RGB image -> uint8 (input_size, input_size, 3) by the contract's resize rule, filter and centre crop."""
    size, resized = contract.input_size, contract.resized
    width, height = image.size
    if contract.resize == "stretch":
        kept_width = kept_height = size / resized
    else:
        short = min(width, height)
        kept_width, kept_height = (size / resized * short / side for side in (width, height))
    left, top = width * (1 - kept_width) / 2, height * (1 - kept_height) / 2
    box = (left, top, width - left, height - top)
    # One step: resizing just the kept box is the same as resizing everything and cropping, without the waste.
    return np.asarray(image.resize((size, size), _FILTERS[contract.interpolation], box=box), dtype=np.uint8)


def load_pixels(source: object, contract: Contract, name: str | None = None) -> Pixels:
    """A path, encoded bytes, PIL image or uint8 array -> uint8 (input_size, input_size, 3).

    Raises ImageError naming ``name`` (default: the path, or what kind of thing it is).
    """
    name = name or describe(source)
    if isinstance(source, (str, os.PathLike)):
        image = decode(read_file(source), name, at_least=JPEG_MARGIN * contract.resized)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        image = decode(bytes(source), name, at_least=JPEG_MARGIN * contract.resized)
    elif isinstance(source, Image.Image):
        image = from_pil(source, name)
    elif isinstance(source, np.ndarray):
        image = from_array(source, name)
    else:
        raise ImageError(f"{name}: give a path, encoded bytes, a PIL image or a uint8 array (H, W, 3)", "unsupported")
    return resize(image, contract)


def describe(source: object) -> str:
    """The name of an input in answers and errors: its path, or its kind where it has none."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    return f"<{type(source).__name__}>"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes a loaded image upright."""
    # Read after load(): Pillow turns TIFFs itself while loading and then removes the tag. A broken EXIF block is
    # no reason to lose a good photo, and Pillow raises nearly anything on one.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        orientation = None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, name: str) -> Image.Image:
    """16-bit (or float) grey to 8-bit; Pillow's own convert() would clip all above 255 to white."""
    values = np.asarray(image)
    bottom, top = float(values.min()), float(values.max())
    if not (bottom >= 0 and top <= 65535):  # also true of NaN
        raise ImageError(f"{name}: grey samples outside 0..65535 are not a photo", "unsupported")
    if image.mode == "F" and top <= 1:
        scale = 255.0  # floats in [0, 1]
    elif image.mode != "F" and (image.mode.startswith("I;16") or image.format == "PNG" or top > 255):
        scale = 255 / 65535
    else:
        scale = 1.0 if top <= 255 else 255 / 65535
    # float32 and in place, since at MAX_PIXELS each copy takes 0.7 GB; it holds all 16-bit samples exactly.
    scaled = np.multiply(values, scale, dtype=np.float32)
    return Image.fromarray(np.rint(scaled, out=scaled).astype(np.uint8)).convert("RGB")


def _guess(data: bytes) -> str:
    """What an unreadable file seems to be, for the error message."""
    head = data[:512].lstrip()
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc", b"ftypmsf1"):
        return "HEIC needs one more package: pip install pillow-heif"
    if head[:5].lower() in (b"<html", b"<!doc"):
        return "not an image but a web page"
    if head[:5] in (b"<?xml", b"<svg ") or b"<svg" in head:
        return "SVG and XML are not read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
    if head[:5] == b"%PDF-":
        return "not an image but a PDF"
    return "not an image that can be read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
