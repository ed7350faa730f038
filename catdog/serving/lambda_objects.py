"""Photos that S3 says were written, itself or through SQS: each is answered by an object under CATDOG_ANSWERS.

    s3://photos/in/cat.jpg -> s3://results/answers/photos/in/cat.jpg.catdog.json

What is about the photo is its answer (corrupt, too large, deleted since). What is about the way to it (S3, permissions,
time) is none: the event fails, so that Lambda or SQS tries it again, and puts it aside in the end.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_plus

from catdog.ahead import map_in_order
from catdog.detection.models import Model
from catdog.errors import CatdogError, ImageError, SettingsError
from catdog.serving.endpoint import Answers, Refusal, answer_request, read_request, write_reply
from catdog.serving.requests import JSON_TYPE, ReadPhoto, Request
from catdog.sources.addresses import S3_SCHEME, split_s3_uri
from catdog.sources.objects import put_object
from catdog.text import first_line, printable

ANSWERS: Final = "CATDOG_ANSWERS"
SUFFIX: Final = ".catdog.json"
"""Of every answer. No object of such a name is answered, wherever it lies, so that two functions that watch each
other's answers don't go on for ever, either."""
THREADS: Final = 4
"""Photos at once. S3 takes about 0.1 s to read one and to write its answer, the model far less."""
SETTLED: Final = frozenset({"read", "missing", "too_large"})
"""What reading may come to that would come to the same another time."""

_log = logging.getLogger(__name__)


class EventError(CatdogError):
    """An event has to be tried again, or put aside."""


def find_answers_folder() -> str:
    """Return the address that answers go below, "" where CATDOG_ANSWERS is not set; raises SettingsError."""
    text = os.environ.get(ANSWERS, "").strip()
    try:
        key = split_s3_uri(text)[1] if text else "-"
    except SettingsError as error:
        raise SettingsError(f"{ANSWERS}: {error}") from error
    if not key.strip("/"):
        raise SettingsError(f"{ANSWERS}: {text}: name a folder in the bucket, such as {S3_SCHEME}bucket/answers/")
    return text if not text or text.endswith("/") else f"{text}/"


def answer_notification(event: Mapping[str, Any], model: Model, budget_s: float) -> dict[str, Any]:
    """Answer what S3 says was written; raises EventError where Lambda has to try it again."""
    found = list_created(event)
    failures = answer_objects(found, model, budget_s)
    if failures:
        first = printable(next(iter(failures.values())))
        raise EventError(f"{len(failures)} of {len(found)} photos could not be answered: {first}")
    return {"answered": len(found)}


def answer_batch(event: Mapping[str, Any], model: Model, budget_s: float) -> dict[str, Any]:
    """Answer SQS messages that hold S3's events; returns those that SQS is to deliver again.

    The function's event source must have ReportBatchItemFailures, else a failure is taken for none.
    """
    try:
        messages = {str(record["messageId"]): record["body"] for record in event["Records"]}
    except (KeyError, TypeError) as error:
        raise EventError(f"an event of SQS has Records with messageId and body; this has none ({error!r})") from error
    wanted: dict[str, list[str]] = {}
    failed: list[str] = []
    for message, body in messages.items():
        try:
            wanted[message] = list_created(_open_message(body))
        except EventError as error:
            _log.error("catdog: message %s: %s", printable(message), error)
            failed.append(message)
    failures = answer_objects(dict.fromkeys(uri for uris in wanted.values() for uri in uris), model, budget_s)
    failed += [message for message, uris in wanted.items() if not failures.keys().isdisjoint(uris)]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}


def list_created(event: Any) -> list[str]:
    """Return the addresses of the photos that an event of S3's says were written; raises EventError if it is none.

    Answers, and the empty objects by which the console makes folders, are left out.
    """
    folder, found = find_answers_folder(), []
    try:
        if event.get("Event") == "s3:TestEvent":  # which S3 sends when it is told where to send
            return []
        for record in event["Records"]:
            kind, place = record["eventName"], record["s3"]
            uri = f"{S3_SCHEME}{place['bucket']['name']}/{unquote_plus(place['object']['key'])}"
            is_ours = uri.endswith(SUFFIX) or (folder and uri.startswith(folder))
            if kind.startswith("ObjectCreated:") and not is_ours and not uri.endswith("/"):
                found.append(uri)
    except (KeyError, TypeError, AttributeError) as error:
        raise EventError(f"an event of S3's has Records of what was written; this has none ({error!r})") from error
    return found


def answer_objects(uris: Iterable[str], model: Model, budget_s: float) -> dict[str, str]:
    """Answer photos on S3, each on its own; return why, by address, for those that are to be tried again."""
    folder, deadline = find_answers_folder(), time.monotonic() + budget_s
    uris = list(uris)
    if uris and not folder:
        raise SettingsError(f"{ANSWERS}: is not set; name where answers to photos on S3 go: {S3_SCHEME}bucket/answers/")
    found = map_in_order(lambda uri: _answer_object(uri, folder, model, deadline), uris, THREADS)
    failures = {uri: reason for uri, reason in zip(uris, found, strict=True) if reason}
    for reason in failures.values():
        _log.error("catdog: to be tried again: %s", printable(reason))
    return failures


def _open_message(body: object) -> Any:
    """Return the event in an SQS message, which may have come through SNS; raises EventError."""
    try:
        event = json.loads(body) if isinstance(body, str) else None
        if isinstance(event, dict) and event.get("Type") == "Notification":
            event = json.loads(event["Message"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EventError(f"it holds no event ({first_line(error)})") from error
    return event


def _answer_object(uri: str, folder: str, model: Model, deadline: float) -> str:
    """Answer one photo; returns "", or why it is to be tried again."""
    outcome: list[str] = []
    request = read_request(json.dumps({"image": uri}), JSON_TYPE)
    if isinstance(request, Request):
        photos = [_note_outcome(photo, outcome) if callable(photo) else photo for photo in request.photos]
        request = replace(request, photos=photos)
    answers = answer_request(request, model, deadline - time.monotonic())
    if isinstance(answers, Refusal):
        if SETTLED.isdisjoint(outcome) or answers.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return answers.message
        failed = model.answer_type.failed(uri, answers.message)
        answers = Answers([failed], model.contract.class_names, single=True, task=model.task)
    name = uri[len(S3_SCHEME) :].replace("//", "/%2F")  # obstore has no name for a key with an empty part
    try:
        put_object(f"{folder}{name}{SUFFIX}", write_reply(answers, JSON_TYPE).body)
    except CatdogError as error:
        return str(error)
    return ""


def _note_outcome(photo: ReadPhoto, outcome: list[str]) -> ReadPhoto:
    """Return the same reader, which also notes "read", or the reason why not."""

    def read(deadline: float) -> bytes:
        try:
            data = photo(deadline)
        except ImageError as error:
            outcome.append(error.reason)
            raise
        outcome.append("read")
        return data

    return read
