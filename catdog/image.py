"""Bytes to pixels: the only place in catdog that opens, orients, converts or resizes a photo.

    bytes -> checked -> upright RGB PIL image -> uint8 (H, W, 3) at the contract's size

Training, evaluation, export, the command line and every server call these functions, so that a model sees the same
pixels everywhere. Normalisation is inside the model; nothing here scales values.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

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
Room = Callable[[int, str], contextlib.AbstractContextManager[object]]
"""Asked before a photo is decoded, with the pixels that this will hold in memory and the photo's name. It may refuse by
an ImageError, or return what waits for its turn when it is entered; the photo is decoded inside."""

MAX_BYTES: Final = 256 * 2**20  # of one encoded photo; a 200-megapixel phone JPEG has about 60 MB
MAX_PIXELS: Final = 2 * 89_478_485  # Pillow's own hard limit against decompression bombs
MAX_SIDE_PX: Final = 1_000_000  # a photo of 1 px in width would take three times the memory, as each row has a pointer
PEAK_BYTES_PER_PIXEL: Final = 20
"""What decoding may take at once, of the stored size, besides the encoded bytes. Measured on photos of 25 megapixels,
Pillow 13.0: PNG, BMP, GIF, TIFF and JPEG 4 to 12, WebP 16 in all modes, HEIC 9, AVIF 14, of 10 bits with alpha 18."""
FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
_PLUGINS: Final = ("Jpeg", "Png", "WebP", "Gif", "Tiff", "Bmp", "Avif")
"""Pillow's modules that read FORMATS; pillow-heif reads HEIF. ``Image.init`` would import forty, for 20 ms more."""
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
ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS: Final = (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])
"""Those that swap a photo's sides."""

# MAX_PIXELS is enforced below for every photo; Pillow's warning at half of it would only be noise on stderr.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # "Corrupt EXIF data": the photo still counts
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its errors come as exceptions; keep them off stderr
# On a damaged photo libtiff writes up to hundreds of lines that name no file, besides the exception that Pillow raises.
# The module that is linked to it finds it; Pillow for Windows hides it inside, so there the lines stay.
with contextlib.suppress(AttributeError, OSError):
    _libtiff = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
    for _set_handler in (_libtiff.TIFFSetErrorHandler, _libtiff.TIFFSetWarningHandler):
        _set_handler(None)
with contextlib.suppress(ImportError):  # optional: pip install '.[heic]'
    import pillow_heif

    pillow_heif.register_heif_opener()


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file; raises ImageError (missing, unreadable, too_large)."""
    name = os.fspath(path)
    try:
        info = Path(name).stat()  # before opening: opening a named pipe would wait for ever
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(f"{name}: is a folder, not a photo", "unreadable")
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"{name}: is not a regular file", "unreadable")
        _check_byte_count(info.st_size, name)
        return Path(name).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise ImageError(
            f"{name}: can't be read ({getattr(error, 'strerror', None) or error})", "unreadable"
        ) from error


def any_room(pixels: int, name: str) -> contextlib.AbstractContextManager[object]:
    """Let every photo in at once."""
    return contextlib.nullcontext()


def decode(data: bytes, name: str, at_least: int | None = None, room: Room = any_room) -> Image.Image:
    """Return an upright RGB image from an encoded photo, from its first frame if it has several.

    ``at_least``, px: a JPEG much larger than this on both sides is decoded at 1/2, 1/4 or 1/8 scale, never below it.
    Grey, palette, CMYK and 16-bit samples become 8-bit RGB; alpha is laid over white; EXIF orientation is applied.
    Raises ImageError naming ``name`` (empty, unsupported, corrupt, too_large, out_of_memory).
    """
    return decode_sized(data, name, at_least, room)[0]


def decode_sized(
    data: bytes, name: str, at_least: int | None = None, room: Room = any_room
) -> tuple[Image.Image, Size]:
    """Do what ``decode`` does, and also return the upright photo's size at full scale."""
    if not data:
        raise ImageError(f"{name}: the file is empty", "empty")
    _check_byte_count(len(data), name)
    with _errors_about(name):
        try:
            image = _open(data)
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name}: over the limit of {MAX_PIXELS} pixels", "too_large") from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{name}: {_guess_content(data)}", "unsupported") from error
        except Exception:
            _check_memory(math.prod(_read_webp_size(data)))  # which is the only format whose pixels take memory already
            raise
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
            limit = f"{MAX_PIXELS} pixels, and {MAX_SIDE_PX} on a side"
            raise ImageError(f"{name}: {width}x{height}, over the limit of {limit}", "too_large")
        _check_sides(image, name)
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        is_scaled = image.size != (width, height)
        # Of a progressive JPEG all coefficients are held, however small the scale at which it is decoded.
        held = width * height if "progressive" in image.info else image.width * image.height
        with room(held, name):
            _load(image, held)
            size = (width, height) if is_scaled else image.size  # loading turns TIFFs upright
            turn = _turn_to_upright(image)
            if turn is not None:
                image = image.transpose(turn)  # under the same name, so that the memory of the first one is given back
            return _to_rgb(image, name), size[::-1] if turn in SIDEWAYS else size


def _open(data: bytes) -> Image.Image:
    """Return the image before its pixels are decoded; raises what Pillow raises."""
    return Image.open(io.BytesIO(data), formats=_list_readable())


@cache
def _list_readable() -> tuple[str, ...]:
    """Return those of FORMATS that can be read on this machine."""
    for plugin in _PLUGINS:
        import_module(f"PIL.{plugin}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def from_array(array: npt.NDArray[np.generic], name: str) -> Image.Image:
    """Return an RGB image from an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the fourth channel being alpha.

    Values are uint8 in [0, 255] or floats in [0, 1]; alpha is laid over white. Raises ImageError for anything else.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.size > 0 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    if fits and array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:  # both are false of NaN
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if not fits or array.dtype != np.uint8:
        raise ImageError(
            f"{name}: an array must be (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]; "
            f"this is {array.dtype} {array.shape}",
            "unsupported",
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def from_pil(image: Image.Image, name: str) -> Image.Image:
    """Return an upright RGB image from any PIL image, which is left as it was; raises ImageError if it is damaged."""
    _check_sides(image, name)
    with _errors_about(name):
        _load(image, image.width * image.height)
        turn = _turn_to_upright(image)
        return _to_rgb(image if turn is None else image.transpose(turn), name)


def resize(image: Image.Image, contract: Contract, photo: Size | None = None) -> Pixels:
    """Return uint8 (input_size, input_size, 3), made by the contract's resize rule, filter and centre crop.

    ``photo``: the upright photo's size at full scale, where ``image`` was decoded at a smaller one; a letterbox lies
    where that size says, so that ``find_kept_box`` tells exactly where each pixel is from.
    """
    size = (contract.input_size, contract.input_size)
    if contract.resize == "letterbox":
        inside = _fit_inside(photo or image.size, contract.input_size)
        canvas = Image.new("RGB", size, tuple(round(255 * level) for level in contract.mean))
        canvas.paste(image.resize(inside, _FILTERS[contract.interpolation]), _find_corner(inside, contract.input_size))
        return np.asarray(canvas, dtype=np.uint8)
    # One step: resizing just the kept box is the same as resizing everything and cropping, without the waste.
    box = find_kept_box(image.size, contract)
    return np.asarray(image.resize(size, _FILTERS[contract.interpolation], box=box), dtype=np.uint8)


def shrink(photos: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return photos that ``resize`` made, uint8 (N, H, W, 3), at a smaller size: uint8 (N, side, side, 3).

    A pixel is the mean of those that it covers. Of Pillow's filters this one is the quickest that leaves nothing out,
    and the one after which a model's answers change least (docs/decisions.md).
    """
    small = np.empty((len(photos), side, side, 3), np.uint8)
    for at, photo in enumerate(photos):
        small[at] = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BOX))
    return small


def find_kept_box(photo: Size, contract: Contract) -> tuple[float, float, float, float]:
    """Return the part of a photo that the model sees: left, top, right and bottom, px, of an upright photo's size.

    A point at the share x of the model's input is at ``left + x * (right - left)`` in the photo. With ``letterbox`` the
    part is larger than the photo.
    """
    size, resized = contract.input_size, contract.resized
    width, height = photo
    if contract.resize == "letterbox":
        inside = _fit_inside(photo, size)
        left, top = (
            -corner * side / kept for corner, side, kept in zip(_find_corner(inside, size), photo, inside, strict=True)
        )
        return left, top, left + size * width / inside[0], top + size * height / inside[1]
    if contract.resize == "stretch":
        kept_width = kept_height = size / resized
    else:
        short = min(width, height)
        kept_width, kept_height = (size / resized * short / side for side in (width, height))
    left, top = width * (1 - kept_width) / 2, height * (1 - kept_height) / 2
    return left, top, width - left, height - top


def _fit_inside(photo: Size, size: int) -> Size:
    """Return the size, px, that a photo gets so that its longer side is ``size``."""
    longest = max(photo)
    return max(1, round(photo[0] * size / longest)), max(1, round(photo[1] * size / longest))


def _find_corner(inside: Size, size: int) -> tuple[int, int]:
    """Return where the photo begins, left and top, px, so that it lies in the middle of the square."""
    return (size - inside[0]) // 2, (size - inside[1]) // 2


def load_pixels(source: object, contract: Contract, name: str | None = None, room: Room = any_room) -> Pixels:
    """Return a photo as uint8 (input_size, input_size, 3); ``source``, ``room`` and errors as in ``open_photo``."""
    return load_sized_pixels(source, contract, name, room)[0]


def load_sized_pixels(
    source: object, contract: Contract, name: str | None = None, room: Room = any_room
) -> tuple[Pixels, Size]:
    """Do what ``load_pixels`` does, and also return the upright photo's size at full scale."""
    name = name or describe(source)
    image, size = open_sized_photo(source, name, JPEG_MARGIN * contract.resized, room)
    with _errors_about(name):
        return resize(image, contract, size), size


def open_photo(
    source: object, name: str | None = None, at_least: int | None = None, room: Room = any_room
) -> Image.Image:
    """Return a photo as an upright RGB image; ``at_least`` as in ``decode``.

    ``source``: a path, encoded bytes, an open binary file, a PIL image, or an array as ``from_array`` takes it.
    ``room`` is asked before encoded bytes are decoded.
    Raises ImageError naming ``name`` (default: the path, or what kind of thing it is).
    """
    return open_sized_photo(source, name, at_least, room)[0]


def open_sized_photo(
    source: object, name: str | None = None, at_least: int | None = None, room: Room = any_room
) -> tuple[Image.Image, Size]:
    """Do what ``open_photo`` does, and also return the upright photo's size at full scale."""
    name = name or describe(source)
    if isinstance(source, (str, os.PathLike)):
        source = read_file(source)
    elif hasattr(source, "read"):
        source = _read_stream(source, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_sized(bytes(source), name, at_least, room)
    if isinstance(source, Image.Image):
        image = from_pil(source, name)
    elif hasattr(source, "__array__"):
        try:
            array = np.asarray(source)
        except Exception as error:  # of another library: a tensor on a GPU, say
            raise ImageError(f"{name}: can't be taken for an array ({first_line(error)})", "unsupported") from error
        image = from_array(array, name)
    else:
        raise ImageError(
            f"{name}: give a path, encoded bytes, an open binary file, a PIL image or an array (H, W, 3)", "unsupported"
        )
    return image, image.size


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image as a file of Pillow's format ``kind``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def describe(source: object) -> str:
    """Return the name of an input in answers and errors: its path, or its kind where it has none."""
    path = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    if isinstance(path, (str, os.PathLike)):
        return os.fsdecode(path)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    return f"<{type(source).__name__}>"


def _read_stream(stream: Any, name: str) -> bytes:
    try:
        data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a closed file, or one that was opened as text
        raise ImageError(f"{name}: can't be read ({first_line(error)})", "unreadable") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: gives text; open it in binary mode", "unsupported")
    return data


def _check_byte_count(count: int, name: str) -> None:
    if count > MAX_BYTES:
        raise ImageError(f"{name}: {count} bytes, over the limit of {MAX_BYTES}", "too_large")


def _check_sides(image: Image.Image, name: str) -> None:
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels", "corrupt")


@contextlib.contextmanager
def _errors_about(name: str) -> Iterator[None]:
    """Turn what Pillow raises on a damaged photo, which is nearly anything, into an ImageError that names the photo."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise out_of_memory(name) from error
    except Exception as error:
        raise ImageError(f"{name}: damaged image ({first_line(error)})", "corrupt") from error


def find_turn(data: bytes, name: str) -> Image.Transpose | None:
    """Return how ``decode`` turns a stored photo to make it upright, None where it is.

    Raises ImageError as ``decode`` does; the pixels are not decoded.
    """
    with _errors_about(name), _open(data) as image:
        return _turn_to_upright(image)


def turn_point(point: Sequence[float], stored: Size, turn: Image.Transpose | None) -> tuple[float, float]:
    """Return where a point of a stored photo, px, is once ``turn`` has made the photo upright."""
    (x, y), (width, height) = point, stored
    turned = {
        None: (x, y),
        Image.Transpose.FLIP_LEFT_RIGHT: (width - x, y),
        Image.Transpose.ROTATE_180: (width - x, height - y),
        Image.Transpose.FLIP_TOP_BOTTOM: (x, height - y),
        Image.Transpose.TRANSPOSE: (y, x),
        Image.Transpose.ROTATE_270: (height - y, x),
        Image.Transpose.TRANSVERSE: (height - y, width - x),
        Image.Transpose.ROTATE_90: (y, width - x),
    }
    return turned[turn]


def _load(image: Image.Image, held: int) -> None:
    """Decode an opened image that holds so many pixels; raises MemoryError where memory may be what was lacking."""
    try:
        image.load()
    except Exception:
        _check_memory(held)
        raise


def _check_memory(pixels: int) -> None:
    """Raise MemoryError where a photo that holds so many pixels could not have been decoded.

    libjpeg, libtiff, libwebp and libavif say the same of a lack of memory as of a damaged photo.
    """
    np.empty(min(pixels, MAX_PIXELS) * PEAK_BYTES_PER_PIXEL, np.uint8)


def _read_webp_size(data: bytes) -> Size:
    """Return the size that a WebP file claims (RFC 9649, sections 2.5 to 2.7); (0, 0) of another file."""
    if data[8:15] == b"WEBPVP8":
        if data[15:16] == b"X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        if data[15:16] == b"L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def out_of_memory(name: str) -> ImageError:
    """Return the error of a photo that there was no room for, which says nothing about the photo."""
    return ImageError(
        f"{name}: not enough memory to decode it; run fewer workers, or on a machine with more", "out_of_memory"
    )


def _turn_to_upright(image: Image.Image) -> Image.Transpose | None:
    """Return what makes a loaded image upright, None where it is."""
    # Read after load(): Pillow turns TIFFs itself while loading and then removes the tag. A broken EXIF block is
    # no reason to lose a good photo, and Pillow raises nearly anything on one.
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:
        orientation = None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if image.mode == "RGB" and not has_alpha:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image, name)
    if not has_alpha:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer)  # the same values as Image.alpha_composite, which would need three more copies
    return white


def _from_deep_grey(image: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit or float grey to 8 bits; Pillow's own convert() would clip all above 255 to white."""
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
    # float32, in place and deleted early, since at MAX_PIXELS each copy takes 0.7 GB; it holds 16-bit samples exactly.
    scaled = np.multiply(values, scale, dtype=np.float32)
    del values
    grey = np.rint(scaled, out=scaled).astype(np.uint8)
    del scaled
    return Image.fromarray(grey).convert("RGB")


def _guess_content(data: bytes) -> str:
    """Return what an unreadable file seems to be, for the error message."""
    head = data[:512].lstrip()
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc", b"ftypmsf1"):
        return "HEIC needs one more package: pip install '.[heic]'"
    if head[:5].lower() in (b"<html", b"<!doc"):
        return "not an image but a web page"
    if head[:5] in (b"<?xml", b"<svg ") or b"<svg" in head:
        return "SVG and XML are not read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
    if head[:5] == b"%PDF-":
        return "not an image but a PDF"
    return "not an image that can be read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
