"""Requests and answers that SageMaker kept (data capture), from S3's JSON lines to answers with their photos.

    read_captured(place, variants, since, until, skip) -> CapturedAnswer, ...

A file is <prefix>/<endpoint>/<variant>/YYYY/MM/DD/HH/<name>.jsonl, and a line of it is

    {"captureData": {"endpointInput": {"data": ..., "encoding": "BASE64", "observedContentType": "image/jpeg"},
                     "endpointOutput": {...}},
     "eventMetadata": {"eventId": ..., "inferenceTime": "2026-11-28T17:25:49Z"}}

(SageMaker developer guide, "Capture data from real-time endpoint"). Whoever sent a request wrote half of such a line,
so nothing in it is believed, and all that is read of it is bounded.
"""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from PIL import Image

from catdog.contact_sheet import THUMBNAIL_PX, thumbnail
from catdog.drift.tables import join_photos, read_lines
from catdog.drift.tally import Answer
from catdog.errors import CatdogError, ImageError
from catdog.image import JPEG_MARGIN, decode, from_array
from catdog.serving.endpoint import FORMS, JSON_LINES_TYPE
from catdog.serving.limits import MAX_PHOTOS, MAX_PIXELS, make_room
from catdog.serving.requests import JSON_TYPE, parse_request
from catdog.sources import objects
from catdog.sources.addresses import split_uri

MOST_LINE_BYTES: Final = 48 * 2**20
"""A request of 25 MB, the most that an endpoint takes, is 33 MB in base64; the answer is small."""
_MOST_ANSWER_CHARACTERS: Final = 2**20
_FILE: Final = re.compile(r"(\d{4}/\d\d/\d\d/\d\d)/[^/]+\.jsonl")
_HOUR: Final = "%Y/%m/%d/%H"
_NAME_CHARACTERS: Final = 200

_room: Final = make_room(MAX_PIXELS, nullcontext())  # what an endpoint has decoded, this machine can, too

Skip = Callable[[str], None]
"""Is told in a few words why something was passed over."""


@dataclass(frozen=True)
class CapturedAnswer:
    """One photo's answer as an endpoint gave it."""

    time: datetime
    answer: Answer
    name: str
    request: Mapping[str, Any] | None
    """``endpointInput``; None where it wasn't kept."""
    index: int
    """Of the photo in the request."""

    def read_thumbnail(self) -> Image.Image | None:
        """Return the photo for a contact sheet, None where the request doesn't hold it."""
        if self.request is None:
            return None
        try:
            photos = parse_request(_read_body(self.request), self.request.get("observedContentType"), ()).photos
        except (CatdogError, ValueError):
            return None
        if self.index >= len(photos):
            return None
        photo = photos[self.index]
        if isinstance(photo, ImageError) or callable(photo):  # it was named, not sent
            return None
        try:
            if isinstance(photo, bytes):
                return thumbnail(decode(photo, "photo", JPEG_MARGIN * THUMBNAIL_PX, _room))
            return thumbnail(from_array(photo, "photo"))
        except ImageError as error:
            return thumbnail(error)


def read_captured(
    place: str, variants: Sequence[str], since: datetime, until: datetime, skip: Skip
) -> Iterator[CapturedAnswer]:
    """Yield what was captured between two moments, variant by variant, in the order of the files' hours.

    ``place`` is the s3:// prefix that ends in the endpoint's name. One line is in memory at a time. Raises DataError,
    one sentence, if the bucket can't be read.
    """
    root, prefix = split_uri(place.rstrip("/") + "/")
    for variant in variants:
        folder = f"{prefix}{variant}/"
        for item in objects.list_objects(root, folder, f"{folder}{since:{_HOUR}}"):
            hour = _read_hour(item.key[len(folder) :])
            if hour is None:
                continue
            if hour > until:
                break
            yield from _read_file(f"{root}/{item.key}", hour, since, until, skip)


def _read_hour(name: str) -> datetime | None:
    """Return the hour that a file's name below its variant says, None for a file that isn't SageMaker's."""
    found = _FILE.fullmatch(name)
    try:
        return datetime.strptime(found[1], _HOUR).replace(tzinfo=timezone.utc) if found else None
    except ValueError:
        return None


def _read_file(uri: str, hour: datetime, since: datetime, until: datetime, skip: Skip) -> Iterator[CapturedAnswer]:
    with closing(objects.open_object(uri)) as file:
        for line in read_lines(file, MOST_LINE_BYTES):
            if line is None:
                skip(f"longer than {MOST_LINE_BYTES // 2**20} MB")
                continue
            if not line.strip():
                continue
            try:
                yield from _read_line(line, hour, since, until)
            except _UnreadableError as error:
                skip(str(error))


class _UnreadableError(Exception):
    """A line that holds no answer; the message is one of a few."""


def _read_line(line: bytes, hour: datetime, since: datetime, until: datetime) -> Iterator[CapturedAnswer]:
    """Yield the answers of one request; those outside the period are passed over, as files hold a whole hour."""
    try:
        record = json.loads(line)
        captured, about = record["captureData"], record.get("eventMetadata") or {}
        request, response = captured.get("endpointInput"), captured.get("endpointOutput")
        event = str(about.get("eventId", ""))[:_NAME_CHARACTERS]
        told = about.get("inferenceTime")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _UnreadableError("not a captured request") from error
    time = _read_time(told, hour)
    if not since <= time <= until:
        return
    rows = _read_rows(response)
    if not rows:
        raise _UnreadableError("not an answer of catdog's")
    if len(rows) > MAX_PHOTOS:
        raise _UnreadableError(f"answers about more than {MAX_PHOTOS} photos")
    try:
        answers = [Answer.from_row(row) for row in rows]
    except (ValueError, AttributeError) as error:
        raise _UnreadableError("not an answer of catdog's") from error
    for index, answer in enumerate(answers):
        name = f"{time:%Y-%m-%d %H:%M} {answer.source[:_NAME_CHARACTERS]} {event[:8]}"
        yield CapturedAnswer(time, answer, name, request if isinstance(request, dict) else None, index)


def _read_time(told: object, hour: datetime) -> datetime:
    """Return the time that a line tells, where it fits its file's hour, which S3's writer chose; else that hour."""
    try:
        time = datetime.fromisoformat(str(told).replace("Z", "+00:00"))
        time = time.replace(tzinfo=time.tzinfo or timezone.utc).astimezone(timezone.utc)
        return time if abs(time - hour) <= timedelta(hours=2) else hour
    except (ValueError, OverflowError):
        return hour


def _read_rows(response: object) -> list[Any]:
    """Return the rows of an answer, in any form in which catdog answers; an HTTP error is a row with an error."""
    if not isinstance(response, dict):
        raise _UnreadableError("without an answer")
    kind = str(response.get("observedContentType") or JSON_TYPE).partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise _UnreadableError("an answer of another media type")
    if len(str(response.get("data"))) > _MOST_ANSWER_CHARACTERS:
        raise _UnreadableError("not an answer of catdog's")
    try:
        text = _read_body(response).decode()
        if kind == JSON_TYPE:
            found = json.loads(text)
            return found if isinstance(found, list) else [found]
        if kind == JSON_LINES_TYPE:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return list(join_photos(csv.DictReader(text.splitlines(keepends=True))))
    except (ValueError, RecursionError, csv.Error) as error:
        raise _UnreadableError("not an answer of catdog's") from error


def _read_body(side: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``endpointInput`` or ``endpointOutput``; raises ValueError."""
    data = side.get("data")
    if not isinstance(data, str):
        raise ValueError("no data")
    if side.get("encoding") == "BASE64":
        return base64.b64decode(data, validate=True)
    return data.encode("utf-8", "surrogatepass")
