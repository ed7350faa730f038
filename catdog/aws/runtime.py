"""A deployed endpoint, called: the bytes of a photo in, a Prediction out. boto3 only; no SDK is needed to call.

    endpoint = Endpoint(account.client("sagemaker-runtime"), "catdog-20261121-1200")
    endpoint.answer("cat.jpg", data) -> Prediction

What is about one photo (unreadable, too large) becomes its answer's error. What is about the endpoint, the account or
the network is raised: the next photo would fail just the same.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, TypeVar

from catdog.aws.account import CloudError, code_of, explain, is_aws_error
from catdog.contract import UNSURE
from catdog.errors import ImageError, SettingsError
from catdog.prediction import Prediction
from catdog.sources import Input
from catdog.text import printable

PAYLOAD_BYTES: Final = 6 * 2**20  # of one request; InvokeEndpoint's own limit (botocore: BodyBlob)
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
"""Between whole attempts, jittered. botocore retries throttling itself, but neither what the container answers (424),
nor anything once 35 requests of a process have failed (its retry quota)."""
MOST_PARALLEL: Final = 32  # connections of the client

_BUSY: Final = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "ModelNotReadyException", "ServiceUnavailable"}
    | {"InternalFailure", "InternalDependencyException", "ServiceUnavailableException", "InternalServerException"}
)
_UNNAMED: Final = "image: "  # how the handler calls a photo that comes without a name
_MAGIC: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))

T = TypeVar("T")
U = TypeVar("U")


class Endpoint:
    """A real-time or serverless endpoint. Threads may share it."""

    def __init__(self, client: Any, name: str, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self.name = name
        self._client = client
        self._pauses = pauses_s

    def answer(self, source: str, data: bytes) -> Prediction:
        """What the endpoint says of one encoded photo.

        Raises SettingsError where there is no such endpoint, CloudError where its answer makes no sense, and what
        boto3 raises for an account or a network that can't be used.
        """
        if len(data) > PAYLOAD_BYTES:
            return Prediction.failed(source, too_large(source, len(data)))
        try:
            body = self.call(data, content_type(data))
        except Exception as error:
            reason = self._about_photo(error)
            if reason is None:
                raise
            return Prediction.failed(source, f"{source}: {reason.removeprefix(_UNNAMED)}")
        return read_answer(source, body, self.name)

    def call(self, data: bytes, media_type: str, accept: str = "application/json") -> bytes:
        """The raw answer; throttling and 5xx are met with another attempt after a growing pause."""
        for pause in self._pauses:
            try:
                return self._invoke(data, media_type, accept)
            except Exception as error:
                if not may_pass(error):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the attempts of many callers
        return self._invoke(data, media_type, accept)

    def send(self, data: bytes, media_type: str | None = None, accept: str = "application/json") -> dict[str, Any]:
        """One InvokeEndpoint; boto3's answer to it."""
        kind = media_type or content_type(data)
        sent: dict[str, Any] = self._client.invoke_endpoint(
            EndpointName=self.name, ContentType=kind, Accept=accept, Body=data
        )
        return sent

    def _invoke(self, data: bytes, media_type: str, accept: str) -> bytes:
        try:
            answer = self.send(data, media_type, accept)
        except Exception as error:
            if is_unknown(error):
                raise SettingsError(
                    f"there is no endpoint {self.name} in {self._client.meta.region_name}; python -m catdog.aws ps "
                    "lists those that are there"
                ) from error
            raise
        body: bytes = answer["Body"].read()
        return body

    def _about_photo(self, error: Exception) -> str | None:
        """Why this photo has no answer; None when it isn't about the photo."""
        if not is_aws_error(error):
            return None
        code = code_of(error)
        if code == "ModelError":
            status, said = original(error)
            if 400 <= status < 500:
                return said
            return f"the endpoint failed ({status or 'no answer'}): {said}"
        if _status(error) == 413 or (code == "ValidationError" and "size" in str(error).lower()):
            return f"larger than {self.name} takes ({explain(error)})"
        return explain(error) if code in _BUSY else None


def read_answer(source: str, body: bytes, endpoint: str) -> Prediction:
    """The endpoint's JSON for one photo as a Prediction; raises CloudError for anything else."""
    try:
        data = json.loads(body)
        if isinstance(data, list):
            (data,) = data
        if data.get("error") is not None:
            return Prediction.failed(source, printable(str(data["error"])))
        probabilities = {str(name): float(p) for name, p in data["probabilities"].items()}
        confidence, label = float(data["confidence"]), data["label"]
        if label != UNSURE and label not in probabilities:
            raise ValueError(label)
        return Prediction(source, label, confidence, probabilities)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = printable(body[:80].decode("utf-8", "replace"))
        raise CloudError(f"{endpoint}: answers something else than catdog's JSON ({shown}); is it catdog's?") from error


def answers(endpoint: Any, photos: Iterable[Input], parallel: int) -> Iterator[Prediction]:
    """Answers in the order of the photos, ``parallel`` requests at once; memory holds a few photos at a time."""

    def one(photo: Input) -> Prediction:
        try:
            data = content(photo)
        except ImageError as error:
            return Prediction.failed(photo.source, error)
        answer: Prediction = endpoint.answer(photo.source, data)
        return answer

    return in_order(one, photos, parallel)


def content(photo: Input) -> bytes:
    """The encoded photo; raises ImageError."""
    return photo.content.read(photo.source)


def in_order(function: Callable[[T], U], items: Iterable[T], parallel: int) -> Iterator[U]:
    """``map`` on threads, in order, that looks ahead no further than it works at once."""
    items = iter(items)
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="invoke")
    waiting: deque[Future[U]] = deque()
    try:
        waiting.extend(pool.submit(function, item) for item in islice(items, parallel))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def too_large(source: str, size: int) -> str:
    """Why a photo can't be sent."""
    return (
        f"{source}: {size / 2**20:.1f} MB, and an endpoint takes {PAYLOAD_BYTES // 2**20} MB at most; make it smaller, "
        "or use an endpoint made with --async, python -m catdog.aws transform, or python -m catdog.predict"
    )


def content_type(data: bytes) -> str:
    """The media type, from the first bytes: the endings of names lie."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "application/x-image")


def may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered a moment later."""
    if code_of(error) == "ModelError":
        status, _ = original(error)
        return status >= 500 or status == 0
    return code_of(error) in _BUSY


def original(error: BaseException) -> tuple[int, str]:
    """The container's own status (0: it gave none) and message, one line, of a ModelError."""
    answer: dict[str, Any] = getattr(error, "response", {})
    message = str(answer.get("OriginalMessage") or answer.get("Error", {}).get("Message", ""))
    try:
        message = str(json.loads(message)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = next(iter(message.strip().splitlines()), "no reason given")
    status = answer.get("OriginalStatusCode")
    return (int(status) if status else 0), printable(message)[:500]


def is_unknown(error: BaseException) -> bool:
    """Whether SageMaker says that there is no such endpoint (config, model, ...)."""
    text = str(error).lower()
    return code_of(error) in ("ValidationError", "ValidationException") and (
        "could not find" in text or "not found" in text
    )


def _status(error: BaseException) -> int:
    answer: dict[str, Any] = getattr(error, "response", {})
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
