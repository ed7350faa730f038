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
from typing import Any, Final

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.contract import Contract, Task
from catdog.detection.answers import Detection
from catdog.detection.answers import as_csv as as_box_csv
from catdog.detection.detector import Detector
from catdog.detection.models import Model
from catdog.errors import CatdogError, ImageError
from catdog.image import Pixels, Size
from catdog.prediction import DECIMALS, Prediction
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

Form = Callable[[Iterable[Any], Sequence[str]], Iterator[str]]
FORMS: Final[dict[str, Form]] = {JSON_TYPE: as_json, JSON_LINES_TYPE: as_jsonl, CSV_TYPE: as_csv}
_CSV: Final[dict[Task, Form]] = {"classify": as_csv, "detect": as_box_csv}
SAGEMAKER: Final = "sagemaker"
"""``format=sagemaker`` asks for what SageMaker's built-in Object Detection answers."""
_WILD: Final = {"*/*": JSON_TYPE, "application/*": JSON_TYPE, "text/*": CSV_TYPE}


@dataclass(frozen=True)
class Refusal:
    """Why there are no answers: an HTTP status, and one sentence."""

    status: int
    message: str


@dataclass(frozen=True)
class Answers:
    """Predictions or Detections in the order of the request."""

    rows: Sequence[Prediction | Detection]
    class_names: tuple[str, ...]
    single: bool
    """Whether the request was about one photo; its answer is one JSON object instead of an array."""
    explained: bool = False
    """Whether each row says where the model looked."""
    task: Task = "classify"
    """What the rows are answers to."""
    as_sagemaker: bool = False
    """Whether the heads are wanted in the form of SageMaker's own algorithm."""


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


def read_request(body: object, content_type: object, *explain: str, formats: Sequence[str] = ()) -> Request | Refusal:
    """Return the photos of a request, none of them decoded yet.

    ``explain`` and ``formats``: as in the address, once "1" or "0", and once "sagemaker".
    """
    try:
        if explain not in ((), ("0",), ("1",)):
            raise RequestError("explain: give 1 or 0, once")
        if list(formats) not in ([], [SAGEMAKER]):
            raise RequestError(f"format: give {SAGEMAKER}, once, or leave it out")
        request = parse_request(body, content_type, parse_prefixes(os.environ.get(ALLOWED_S3, "")))
        if formats and not request.single:
            raise RequestError(f"format={SAGEMAKER}: answers one photo; send it alone, or as image")
        return replace(request, explain=explain == ("1",), as_sagemaker=bool(formats))
    except Exception as error:
        return _make_refusal(error)


def answer_request(
    request: Request | Refusal,
    model: Model,
    budget_s: float = BUDGET_S,
    load_pixels: LoadPixels = load_within_limits,
) -> Answers | Refusal:
    """Answer each photo. One that can't be read fails a request about one photo, and only its own row in a list.

    A list that is wanted whole or not at all fails with the status that its first such photo would get alone.
    """
    if isinstance(request, Refusal):
        return request
    if request.explain and (isinstance(model, Detector) or not model.has_evidence):
        return Refusal(BAD_REQUEST, "explain: this server's model can't say where it looked; ask without explain")
    if request.as_sagemaker and not isinstance(model, Detector):
        return Refusal(BAD_REQUEST, f"format={SAGEMAKER}: this server's model finds no boxes; ask without format")
    try:
        answer = _answer_one if request.single else _answer_many
        rows = answer(request, model, budget_s, load_pixels)
        names = model.contract.class_names
        return Answers(rows, names, request.single, request.explain, model.task, request.as_sagemaker)
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
    elif kind == CSV_TYPE and answers.as_sagemaker:
        refusal = Refusal(BAD_REQUEST, f"format={SAGEMAKER}: is JSON; accept {JSON_TYPE}")
    else:
        form = FORMS[kind]
        if answers.as_sagemaker:
            form = _as_sagemaker
        elif kind == CSV_TYPE:
            form = _CSV[answers.task]
        elif answers.single:
            form = as_jsonl
        return Reply(HTTPStatus.OK, "".join(form(answers.rows, answers.class_names)).encode(), kind)
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


def _as_sagemaker(rows: Iterable[Any], class_names: Sequence[str]) -> Iterator[str]:
    """What Object Detection - MXNet answers for a photo: class, confidence and corners as shares of the photo's sides.

    One that has no answer, which Batch Transform alone can ask for, is an error.
    """
    for row in rows:
        if row.objects is None:
            yield json.dumps({"error": row.error}) + "\n"
            continue
        sides = [row.width, row.height] * 2
        found = [
            [class_names.index(head.label), head.confidence]
            + [round(at / side, DECIMALS) for at, side in zip(head.box.corners, sides, strict=True)]
            for head in row.objects
        ]
        yield json.dumps({"prediction": found}) + "\n"


def _answer_one(
    request: Request, model: Model, budget_s: float, load_pixels: LoadPixels
) -> Sequence[Prediction | Detection]:
    photo, name, deadline = request.photos[0], request.names[0], time.monotonic() + budget_s
    try:
        data = _read_in_time(photo, name, deadline, budget_s)
        loaded = load_pixels(data, model.contract, name, deadline)
    except ImageError as error:
        if os.environ.get(ANSWER_ALL):
            return [(ExplainedPrediction if request.explain else model.answer_type).failed(name, error)]
        raise RequestError(str(error), BAD_REQUEST if error is photo else _choose_status(error)) from error
    if isinstance(model, Detector):
        return model.answer_batch([(name, loaded)])
    pixels, _ = loaded
    return [explain_pixels(model, pixels, name)] if request.explain else model.answer_batch([(name, pixels)])


def _answer_many(
    request: Request, model: Model, budget_s: float, load_pixels: LoadPixels
) -> Sequence[Prediction | Detection]:
    deadline = time.monotonic() + budget_s
    statuses: dict[str, int] = {}

    def read_in_time(photo: RequestPhoto, name: str) -> object:
        with _note_status(statuses, name):
            return _read_in_time(photo, name, deadline, budget_s)

    def load_in_time(data: object, contract: Contract, name: str) -> tuple[Pixels, Size]:
        with _note_status(statuses, name):
            return load_pixels(data, contract, name, deadline)

    def load_unsized(data: object, contract: Contract, name: str) -> Pixels:
        return load_in_time(data, contract, name)[0]

    photos = (partial(read_in_time, *pair) for pair in zip(request.photos, request.names, strict=True))
    rows: Sequence[Prediction | Detection]
    if isinstance(model, Detector):
        rows = list(model.stream(photos, names=request.names, load_pixels=load_in_time))
    elif request.explain:
        rows = list(explain_stream(model, zip(photos, request.names, strict=True), load_unsized))
    else:
        rows = list(model.stream(photos, names=request.names, load_pixels=load_unsized))
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
