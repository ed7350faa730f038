"""What an endpoint does with a request: parsed, answered, written. Its owner's faults are 500, its caller's 4xx.

    body, Content-Type -> read -> Request -> answer -> Answers -> reply, by Accept -> Reply(status, body, media type)

Each of the three gives a Refusal instead where something is wrong, and hands one on that it is given. None raises.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

import numpy as np

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.classifier import Classifier
from catdog.errors import CatdogError, ImageError
from catdog.image import load_pixels
from catdog.prediction import Prediction, decide
from catdog.serving.requests import (
    ALLOWED_S3,
    BAD_REQUEST,
    JSON_TYPE,
    TOO_LARGE,
    Photo,
    Request,
    RequestError,
    allowed_prefixes,
    parse,
)

BUDGET_S: Final = 40.0
"""Of one request; photos whose turn comes later aren't read. TorchServe ends a worker that is silent for 60 s."""
ANSWER_ALL: Final = "CATDOG_ANSWER_ALL"
"""Set in a Batch Transform job, which a 4xx would fail as a whole: a photo that can't be read is answered with 200."""
JSON_LINES_TYPE: Final = "application/jsonlines"
CSV_TYPE: Final = "text/csv"

_log = logging.getLogger(__name__)

Form = Callable[[Iterable[Prediction], Sequence[str]], Iterator[str]]
FORMS: Final[dict[str, Form]] = {JSON_TYPE: as_json, JSON_LINES_TYPE: as_jsonl, CSV_TYPE: as_csv}
_WILD: Final = {"*/*": JSON_TYPE, "application/*": JSON_TYPE, "text/*": CSV_TYPE}


@dataclass(frozen=True)
class Refusal:
    """Why there are no answers: an HTTP status, and one sentence."""

    status: int
    message: str


@dataclass(frozen=True)
class Answers:
    """Predictions in the order of the request."""

    rows: list[Prediction]
    class_names: tuple[str, ...]
    single: bool
    """Of a request about one photo: as JSON, one object instead of an array."""


@dataclass(frozen=True)
class Reply:
    """What goes back."""

    status: int
    body: bytes
    content_type: str

    @property
    def phrase(self) -> str:
        """HTTP's name of the status, ASCII."""
        return HTTPStatus(self.status).phrase


def read(body: object, content_type: object) -> Request | Refusal:
    """The photos of a request, none of them decoded yet."""
    try:
        return parse(body, content_type, allowed_prefixes(os.environ.get(ALLOWED_S3, "")))
    except Exception as error:
        return _refusal(error)


def answer(request: Request | Refusal, classifier: Classifier, budget_s: float = BUDGET_S) -> Answers | Refusal:
    """One Prediction a photo. One that can't be read fails a request about one photo, and only its item in a list."""
    if isinstance(request, Refusal):
        return request
    try:
        rows = _single(request, classifier) if request.single else _many(request, classifier, budget_s)
        return Answers(rows, classifier.contract.class_names, request.single)
    except Exception as error:
        return _refusal(error)


def reply(answers: Answers | Refusal, accept: object) -> Reply:
    """The answers in the form that ``Accept`` asks for, JSON by default; a refusal as ``{"error": ...}``."""
    kind = negotiate(accept)
    if isinstance(answers, Refusal):
        refusal = answers
    elif kind is None:
        refusal = Refusal(HTTPStatus.NOT_ACCEPTABLE, f"Accept: answers come as {', '.join(FORMS)}")
    else:
        form = as_jsonl if answers.single and kind == JSON_TYPE else FORMS[kind]
        # As catdog.predict writes them: text that isn't Unicode has its odd parts escaped.
        text = "".join(form(answers.rows, answers.class_names))
        return Reply(HTTPStatus.OK, text.encode("utf-8", "backslashreplace"), kind)
    return Reply(refusal.status, json.dumps({"error": refusal.message}).encode("ascii"), JSON_TYPE)


def negotiate(accept: object) -> str | None:
    """The media type to answer in, None where all that ``Accept`` names are others (RFC 9110, section 12.5.1)."""
    if not isinstance(accept, str) or not accept.strip():
        return JSON_TYPE
    found = []
    for position, part in enumerate(accept.split(",")):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [_weight(p[2:]) for p in parameters if p.startswith("q=")]
        found.append((-(weights[0] if weights else 1.0), position, _WILD.get(name, name)))
    return next((name for weight, _, name in sorted(found) if weight < 0 and name in FORMS), None)


def _single(request: Request, classifier: Classifier) -> list[Prediction]:
    photo, name = request.photos[0], request.names[0]
    try:
        pixels = load_pixels(_content(photo), classifier.contract, name)
    except ImageError as error:
        if os.environ.get(ANSWER_ALL):
            return [Prediction.failed(name, error)]
        raise RequestError(str(error), TOO_LARGE if error.reason == "too_large" else BAD_REQUEST) from error
    return decide([name], classifier.probabilities(pixels[np.newaxis]), classifier.contract)


def _many(request: Request, classifier: Classifier, budget_s: float) -> list[Prediction]:
    deadline = time.monotonic() + budget_s
    photos = (partial(_in_time, *pair, deadline) for pair in zip(request.photos, request.names, strict=True))
    return list(classifier.stream(photos, names=request.names))


def _in_time(photo: Photo, name: str, deadline: float) -> object:
    if time.monotonic() > deadline:
        raise ImageError(f"{name}: not read, the request took too long; send fewer photos at once", "unreadable")
    return _content(photo)


def _content(photo: Photo) -> object:
    if isinstance(photo, ImageError):
        raise photo
    return photo() if callable(photo) else photo


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, RequestError):
        return Refusal(error.status, str(error))
    _log.error("catdog: a request failed", exc_info=error)
    # A CatdogError says in a sentence what is wrong with the endpoint's S3 access, say; anything else is a bug.
    message = str(error) if isinstance(error, CatdogError) else "the endpoint failed; its log says why"
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
