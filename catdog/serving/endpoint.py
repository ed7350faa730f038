"""Answer a request: its caller's mistakes get a 4xx, its owner's a 5xx.

    read_request(body, Content-Type) -> answer_request -> write_reply(by Accept) -> status, body, media type

Each of the three returns a Refusal instead where something is wrong, and passes on one that it is given. None raises.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Final

import numpy as np

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.errors import CatdogError, ImageError
from catdog.image import Pixels
from catdog.prediction import Prediction, decide
from catdog.serving.explaining import ExplainedPrediction, explain_pixels, explain_stream
from catdog.serving.limits import LateError, LoadPixels, load_within_limits
from catdog.serving.requests import (
    ALLOWED_S3,
    BAD_REQUEST,
    JSON_TYPE,
    NO_PHOTO,
    TOO_LARGE,
    Request,
    RequestError,
    RequestPhoto,
    parse_prefixes,
    parse_request,
)

BUDGET_S: Final = 40.0
"""Time for a request's reading; what isn't read by then is answered with an error. TorchServe ends a worker after 60 s
of silence, so the rest is for what was read last: to be decoded and classified."""
ANSWER_ALL: Final = "CATDOG_ANSWER_ALL"
"""Set in Batch Transform jobs, which a 4xx would fail as a whole: a photo that can't be read is answered with 200."""
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

    rows: Sequence[Prediction]
    class_names: tuple[str, ...]
    single: bool
    """Whether the request was about one photo; its answer is one JSON object instead of an array."""
    explained: bool = False
    """Whether each row says where the model looked."""


@dataclass(frozen=True)
class Reply:
    """What goes back to the caller."""

    status: int
    body: bytes
    content_type: str

    @property
    def phrase(self) -> str:
        """HTTP's name for the status, ASCII."""
        return HTTPStatus(self.status).phrase


def read_request(body: object, content_type: object, *explain: str) -> Request | Refusal:
    """Return the photos of a request, none of them decoded yet. ``explain``: as in the address, once "1" or "0"."""
    try:
        if explain not in ((), ("0",), ("1",)):
            raise RequestError("explain: give 1 or 0, once")
        request = parse_request(body, content_type, parse_prefixes(os.environ.get(ALLOWED_S3, "")))
        return replace(request, explain=explain == ("1",))
    except Exception as error:
        return _make_refusal(error)


def answer_request(
    request: Request | Refusal,
    classifier: Classifier,
    budget_s: float = BUDGET_S,
    load_pixels: LoadPixels = load_within_limits,
) -> Answers | Refusal:
    """Answer each photo. One that can't be read fails a request about one photo, and only its own row in a list.

    A list that is wanted whole or not at all fails with the status that its first such photo would get alone.
    """
    if isinstance(request, Refusal):
        return request
    if request.explain and not classifier.has_evidence:
        return Refusal(BAD_REQUEST, "explain: this server's model can't say where it looked; ask without explain")
    try:
        answer = _answer_one if request.single else _answer_many
        rows = answer(request, classifier, budget_s, load_pixels)
        return Answers(rows, classifier.contract.class_names, request.single, request.explain)
    except Exception as error:
        return _make_refusal(error)


def write_reply(answers: Answers | Refusal, accept: object) -> Reply:
    """Write the answers as ``Accept`` asks for, by default as JSON; a refusal becomes ``{"error": ...}``."""
    kind = choose_media_type(accept)
    if isinstance(answers, Refusal):
        refusal = answers
    elif kind is None:
        refusal = Refusal(HTTPStatus.NOT_ACCEPTABLE, f"Accept: answers come as {', '.join(FORMS)}")
    elif kind == CSV_TYPE and answers.explained:
        refusal = Refusal(BAD_REQUEST, f"explain: {CSV_TYPE} has no place for it; accept {JSON_TYPE}")
    else:
        form = as_jsonl if answers.single and kind == JSON_TYPE else FORMS[kind]
        text = "".join(form(answers.rows, answers.class_names))
        return Reply(HTTPStatus.OK, text.encode(), kind)
    return Reply(refusal.status, json.dumps({"error": refusal.message}).encode("ascii"), JSON_TYPE)


def choose_media_type(accept: object) -> str | None:
    """Return the media type to answer in; None where ``Accept`` names only others (RFC 9110, section 12.5.1)."""
    if not isinstance(accept, str) or not accept.strip():
        return JSON_TYPE
    found = []
    for position, part in enumerate(accept.split(",")):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [_parse_weight(p[2:]) for p in parameters if p.startswith("q=")]
        found.append((-(weights[0] if weights else 1.0), position, _WILD.get(name, name)))
    return next((name for weight, _, name in sorted(found) if weight < 0 and name in FORMS), None)


def _answer_one(
    request: Request, classifier: Classifier, budget_s: float, load_pixels: LoadPixels
) -> Sequence[Prediction]:
    photo, name, deadline = request.photos[0], request.names[0], time.monotonic() + budget_s
    try:
        data = _read_in_time(photo, name, deadline, budget_s)
        pixels = load_pixels(data, classifier.contract, name, deadline)
    except ImageError as error:
        if os.environ.get(ANSWER_ALL):
            return [(ExplainedPrediction if request.explain else Prediction).failed(name, error)]
        raise RequestError(str(error), BAD_REQUEST if error is photo else _choose_status(error)) from error
    if request.explain:
        return [explain_pixels(classifier, pixels, name)]
    return decide([name], classifier.probabilities(pixels[np.newaxis]), classifier.contract)


def _answer_many(
    request: Request, classifier: Classifier, budget_s: float, load_pixels: LoadPixels
) -> Sequence[Prediction]:
    deadline = time.monotonic() + budget_s
    statuses: dict[str, int] = {}

    def read_in_time(photo: RequestPhoto, name: str) -> object:
        with _note_status(statuses, name):
            return _read_in_time(photo, name, deadline, budget_s)

    def load_in_time(data: object, contract: Contract, name: str) -> Pixels:
        with _note_status(statuses, name):
            return load_pixels(data, contract, name, deadline)

    photos = (partial(read_in_time, *pair) for pair in zip(request.photos, request.names, strict=True))
    rows: Sequence[Prediction]
    if request.explain:
        rows = list(explain_stream(classifier, zip(photos, request.names, strict=True), load_in_time))
    else:
        rows = list(classifier.stream(photos, names=request.names, load_pixels=load_in_time))
    if request.all_or_none and (failed := next((row for row in rows if row.error), None)):
        # What has no status is a MemoryError, which the classifier makes a row of.
        raise RequestError(str(failed.error), statuses.get(failed.source, HTTPStatus.SERVICE_UNAVAILABLE))
    return rows


@contextmanager
def _note_status(statuses: dict[str, int], name: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        statuses[name] = _choose_status(error)
        raise


def _read_in_time(photo: RequestPhoto, name: str, deadline: float, budget_s: float) -> object:
    """Return a photo's bytes or pixels; raises ImageError, also when the deadline passes before it is read."""
    if isinstance(photo, ImageError):
        raise photo
    try:
        if time.monotonic() > deadline:
            raise TimeoutError
        return photo(deadline) if callable(photo) else photo
    except TimeoutError as error:
        message = f"{name}: not read within the request's {budget_s:g} s; send it again, or fewer photos at once"
        raise LateError(message, "unreadable") from error


def _choose_status(error: ImageError) -> int:
    if isinstance(error, LateError):
        return HTTPStatus.GATEWAY_TIMEOUT
    if error.reason == "out_of_memory":
        return HTTPStatus.SERVICE_UNAVAILABLE
    if error.reason in ("missing", "unreadable"):
        return BAD_REQUEST
    return TOO_LARGE if error.reason == "too_large" else NO_PHOTO


def _make_refusal(error: Exception) -> Refusal:
    if isinstance(error, RequestError):
        return Refusal(error.status, str(error))
    _log.error("catdog: a request failed", exc_info=error)
    # A CatdogError says in a sentence what is wrong with the endpoint's S3 access, say; anything else is a bug.
    message = str(error) if isinstance(error, CatdogError) else "the endpoint failed; its log says why"
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def _parse_weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
