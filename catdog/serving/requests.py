"""Read the photos out of a request's body, or refuse it.

A request can name no file of this machine, and nothing elsewhere but S3 objects under the prefixes that the endpoint's
owner allows. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catdog.errors import CatdogError, ImageError, SettingsError
from catdog.serving.limits import MAX_PHOTOS
from catdog.serving.multipart import parse_multipart
from catdog.sources.addresses import S3_SCHEME as SCHEME
from catdog.sources.addresses import split_s3_uri as split_uri
from catdog.sources.objects import read_object
from catdog.text import count_json_items, first_line

IMAGE_TYPES: Final = (
    *(f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "tiff", "bmp", "avif", "heic", "heif")),
    "application/x-image",
    "application/octet-stream",
)
"""One photo's bytes, which decide by themselves what they are."""
JSON_TYPE: Final = "application/json"
NPY_TYPE: Final = "application/x-npy"
MULTIPART_TYPE: Final = "multipart/form-data"
ALLOWED_S3: Final = "CATDOG_ALLOWED_S3"
MAX_BODY: Final = "CATDOG_MAX_BODY"  # MiB

BAD_REQUEST: Final = 400
TOO_LARGE: Final = 413
UNSUPPORTED_TYPE: Final = 415
NO_PHOTO: Final = 422  # a sound request about something that is no photo, or a damaged one

# numpy.lib.format: magic and version, the header's length in 2 or 4 bytes, and a dict of these three in any order.
_NPY_WIDTHS: Final = {b"\x93NUMPY\x01\0": 2, b"\x93NUMPY\x02\0": 4, b"\x93NUMPY\x03\0": 4}
_NPY_FIELDS: Final = (
    re.compile(rb"""['"]descr['"]:\s*['"]([!-~]{1,20}?)['"]"""),
    re.compile(rb"""['"]fortran_order['"]:\s*(True|False)"""),
    re.compile(rb"""['"]shape['"]:\s*\(([\dL,\s]*)\)"""),  # Python 2 wrote 1L
)
_MOST_NPY_HEADER: Final = 4096  # bytes; numpy.save writes 128
MOST_MARKS: Final = 100_000
"""Of a JSON body with photos. It needs a hundred, base64 has none, and the names of a hundred S3 objects could hold as
many; by 240 bytes it is at most 24 MB of memory, where 32 MiB of ``{},`` took 800 MB."""
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # no base64 text has a colon

ReadPhoto = Callable[[float], bytes]
"""Reads a photo's bytes until a deadline, a value of ``time.monotonic()``; raises ImageError, or TimeoutError then."""
RequestPhoto = bytes | npt.NDArray[np.uint8] | ImageError | ReadPhoto
"""Encoded bytes, pixels uint8 (H, W, 3), why there is none, or a function that reads the bytes."""
Prefixes = Sequence[tuple[str, str]]
"""Pairs of a bucket and the start of a key, which is empty or ends in ``/``."""


class RequestError(CatdogError):
    """A request can't be answered; ``status`` is the HTTP status that says so, 4xx for a mistake of the caller's."""

    def __init__(self, message: str, status: int = BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """Photos to answer, in order; as many names as photos."""

    photos: list[RequestPhoto]
    names: list[str]
    single: bool
    """Whether one photo was sent rather than a list; then a photo that can't be read fails the request."""
    explain: bool = False
    """Whether each answer says where the model looked."""
    as_sagemaker: bool = False
    """Whether the answer is wanted in the form of SageMaker's own object detection."""
    all_or_none: bool = False
    """Whether a photo of a list that can't be read fails the request, too."""


def parse_request(body: object, content_type: object, allowed: Prefixes) -> Request:
    """Return what is asked; raises RequestError (400, 413, 415). ``allowed``: where s3:// addresses may lead."""
    if not isinstance(content_type, str) or not content_type.strip():
        raise RequestError(f"no Content-Type; give {_TYPES}", UNSUPPORTED_TYPE)
    kind = content_type.split(";", 1)[0].strip().lower()
    if kind not in (*IMAGE_TYPES, JSON_TYPE, NPY_TYPE, MULTIPART_TYPE):
        raise RequestError(f"Content-Type {kind[:100]!r} is not read; give {_TYPES}", UNSUPPORTED_TYPE)
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not isinstance(data, (bytes, bytearray)) or not data:
        raise RequestError("the request has no body")
    if kind == JSON_TYPE:
        return _parse_json(bytes(data), allowed)
    if kind == MULTIPART_TYPE:
        return _parse_form(bytes(data), content_type)
    if kind == NPY_TYPE:
        photos = list(_parse_npy(bytes(data)))
        return Request(photos, _number_names(len(photos)), single=False)
    return Request([bytes(data)], ["image"], single=True)


def parse_prefixes(text: str, setting: str = ALLOWED_S3) -> Prefixes:
    """Read ``CATDOG_ALLOWED_S3``, addresses with spaces or commas between them.

    ``s3://bucket/photos`` allows what is under ``photos/``, not ``photos-of-others/``. Raises SettingsError, which
    names the ``setting`` that the text is from.
    """
    try:
        found = [split_uri(uri) for uri in text.replace(",", " ").split()]
    except SettingsError as error:
        raise SettingsError(f"{setting}: {error}") from error
    return [(bucket, key if not key or key.endswith("/") else f"{key}/") for bucket, key in found]


def parse_json(data: bytes, most_marks: int) -> Any:
    """Return the value that the JSON holds; raises RequestError (400, 413).

    ``most_marks``: of the characters that open an object or a list or part its items. Each of them may cost up to 240
    bytes of memory (an object of one item), where all else costs at most four times its own size.
    """
    if count_json_items(data) > most_marks:
        raise RequestError(
            f"the JSON has more than {most_marks:,} objects, lists and items; send less at once", TOO_LARGE
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also of text that isn't UTF-8
        raise RequestError(f"the body is not JSON ({first_line(error)})") from error


def _parse_json(data: bytes, allowed: Prefixes) -> Request:
    asked = parse_json(data, MOST_MARKS)
    if not isinstance(asked, dict) or len(asked) != 1 or not asked.keys() <= {"image", "images"}:
        raise RequestError(f"the JSON must be {_JSON_FORMS}")
    if "image" in asked:
        photo, name = _parse_item(asked["image"], "image", allowed)
        return Request([photo], [name], single=True)
    items = asked["images"]
    if not isinstance(items, list) or not items:
        raise RequestError(f"images must be a list of one photo or more; the JSON must be {_JSON_FORMS}")
    _check_count(len(items))
    pairs = [_parse_item(item, name, allowed) for item, name in zip(items, _number_names(len(items)), strict=True)]
    return Request([photo for photo, _ in pairs], [name for _, name in pairs], single=False)


def _parse_form(data: bytes, content_type: str) -> Request:
    try:
        parts = parse_multipart(data, content_type, MAX_PHOTOS)
    except ValueError as error:
        raise RequestError(f"the body is not {MULTIPART_TYPE}: {error}") from error
    _check_count(len(parts))
    names = {part.name for part in parts}
    single = names == {"image"} and len(parts) == 1
    if not single and names != {"images"}:
        raise RequestError("the form must have one field named image, or one or more named images")
    numbered = ["image"] if single else _number_names(len(parts))
    named = [part.filename or name for part, name in zip(parts, numbered, strict=True)]
    return Request([part.data for part in parts], named, single)


def _parse_item(item: Any, name: str, allowed: Prefixes) -> tuple[RequestPhoto, str]:
    """Return one photo of a JSON body, and its name in the answer."""
    if not isinstance(item, str):
        return ImageError(f"{name}: must be text, base64 or an {SCHEME} address", "unsupported"), name
    if item[: len(SCHEME)].lower() == SCHEME:
        return _find_object(item, allowed), item
    if _ADDRESS.match(item):
        return ImageError(f"{name}: of addresses, only {SCHEME} ones are read; or give base64", "unsupported"), name
    try:
        return base64.b64decode("".join(item.split()), validate=True), name
    except ValueError:
        return ImageError(f"{name}: is neither base64 nor an {SCHEME} address", "unsupported"), name


def _find_object(uri: str, allowed: Prefixes) -> RequestPhoto:
    """Return a function that reads an S3 object, or why it may not be read; nothing is sent to S3 here."""
    try:
        bucket, key = split_uri(uri)
    except SettingsError as error:
        return ImageError(str(error), "unsupported")
    # S3 takes "a/../b" for a name, but what is between here and there might not.
    sound = not {".", ".."} & set(key.split("/")) and key.isprintable()
    if not sound or not any(bucket == b and key.startswith(start) and key != start for b, start in allowed):
        return ImageError(f"{uri}: this endpoint may not read it ({ALLOWED_S3} doesn't allow it)", "unreadable")
    return partial(_read_object, f"{SCHEME}{bucket}/{key}")


def _read_object(uri: str, deadline: float) -> bytes:
    return read_object(uri, deadline=deadline)


def _parse_npy(data: bytes) -> npt.NDArray[np.uint8]:
    """Return uint8 (N, H, W, 3) as a view of .npy bytes, so that a header can't ask for memory the body hasn't."""
    width = _NPY_WIDTHS.get(data[:8], 0)
    begin = 8 + width
    end = begin + int.from_bytes(data[8:begin], "little")
    # Not by numpy, which takes a header for Python text and warns on standard error of some that a stranger may write.
    found = [field.search(data[begin : min(end, _MOST_NPY_HEADER)]) for field in _NPY_FIELDS]
    if not width or end > len(data) or not all(found):
        raise RequestError("the body is not an array in numpy's .npy format (numpy.save, without pickle)")
    kind, order, sides = (match[1].decode("ascii", "replace") for match in found if match)
    shape = tuple(map(int, re.findall(r"\d+", sides)))
    fits = kind.lstrip("|<>=") == "u1" and len(shape) == 4 and shape[3] == 3 and all(n > 0 for n in shape)
    if not fits:
        raise RequestError(f"the array must be uint8 (N, H, W, 3), this is {kind} {shape}"[:200])
    _check_count(shape[0])
    pixels = np.frombuffer(data, np.uint8, offset=end)
    if pixels.size != shape[0] * shape[1] * shape[2] * shape[3]:
        raise RequestError(f"the body holds {pixels.size} bytes of pixels, its header says {shape}"[:200])
    return pixels.reshape(shape, order="F" if order == "True" else "C")


def _check_count(count: int) -> None:
    if count > MAX_PHOTOS:
        raise RequestError(f"a request may be about {MAX_PHOTOS} photos, this one is about more", TOO_LARGE)


def _number_names(count: int) -> list[str]:
    return [f"images[{i}]" for i in range(count)]


_TYPES: Final = ", ".join((*IMAGE_TYPES, JSON_TYPE, MULTIPART_TYPE)) + f" or {NPY_TYPE}"
_JSON_FORMS: Final = '{"image": PHOTO} or {"images": [PHOTO, ...]}, PHOTO being base64 or an s3:// address'
