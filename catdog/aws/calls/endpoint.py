"""Ask a deployed endpoint: the bytes of a photo in, its answer out. boto3 only; no SDK is needed to ask.

    endpoint = Endpoint(account.client("sagemaker-runtime"), "catdog-20261121-1200")
    endpoint.answer("cat.jpg", data) -> Prediction, or Detection where a detector is deployed

    endpoint = AsyncEndpoint(runtime, s3, "catdog-big", "s3://bucket/catdog/async/catdog-big")   the same, through S3

A problem with one photo (unreadable, too large) becomes the error of its answer. A problem with the endpoint, the
account or the network is raised: the next photo would fail just the same.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from itertools import chain, repeat
from typing import Any, Final, TypeVar

from catdog.ahead import map_in_order
from catdog.aws.failures import (
    BUSY,
    FORBIDDEN,
    NO_OBJECT,
    CloudError,
    error_code,
    explain_error,
    is_aws_error,
    is_missing,
)
from catdog.aws.hosting import PAYLOAD_BYTES, SERVERLESS_PAYLOAD_BYTES
from catdog.contract import UNSURE, Contract
from catdog.detection.answers import BOX_COLUMNS, Detection
from catdog.errors import CatdogError, ImageError, SettingsError
from catdog.prediction import Prediction
from catdog.serving.golden import read_heads
from catdog.sources import Input
from catdog.sources.addresses import split_s3_uri as split_uri
from catdog.text import printable

JSON_TYPE: Final = "application/json"
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
"""Between whole attempts, jittered. botocore retries throttling itself, but neither what the container answers (424),
nor anything once 35 requests of a process have failed (its retry quota)."""
MOST_PARALLEL: Final = 32  # connections of the client
ASYNC_PATIENCE_S: Final = 900.0  # for one photo; SageMaker itself gives up after an hour
_ASYNC_POLL_S: Final = (0.5, 1.0, 2.0, 5.0)
_CLOSE_S: Final = 30.0  # for uploads under way to end, so that they can be deleted
_ERROR_LENGTH: Final = 500  # characters of an endpoint's error that are shown
_UNNAMED: Final = "image: "  # what the handler calls a photo that comes without a name
_MAGIC: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))

T = TypeVar("T")
Answer = Prediction | Detection
ClassNames = tuple[str, ...]


class Endpoint:
    """A real-time or serverless endpoint. Threads may share it."""

    def __init__(
        self,
        client: Any,
        name: str,
        pauses_s: tuple[float, ...] = PAUSES_S,
        find_limit: Callable[[], int] = lambda: PAYLOAD_BYTES,
    ) -> None:
        """``find_limit`` says how many bytes a request may have; it is asked only when there is a large photo."""
        self.name = name
        self._client = client
        self._pauses = pauses_s
        self._find_limit = cache(find_limit)

    def answer(self, source: str, data: bytes) -> Answer:
        """Return the endpoint's answer about one encoded photo.

        Raises SettingsError if there is no such endpoint, CloudError if its answer makes no sense, and what boto3
        raises for an account or a network that can't be used.
        """
        if len(data) > SERVERLESS_PAYLOAD_BYTES and len(data) > (limit := self._find_limit()):
            return Prediction.failed(
                source,
                f"{source}: {len(data) / 2**20:.1f} MB, and {self.name} takes {limit // 2**20} MB at most; "
                "make it smaller, or use an endpoint made with --async, catdog aws transform, or "
                "catdog predict",
            )
        try:
            body = self.ask(data)
        except Exception as error:
            reason = self._explain_photo_error(error)
            if reason is None:
                raise
            return Prediction.failed(source, f"{source}: {reason.removeprefix(_UNNAMED)}")
        return parse_answer(source, body, self.name)

    def ask(self, data: bytes) -> bytes:
        """Return the raw answer; throttling and 5xx are met with another attempt after a growing pause."""
        pauses = iter(self._pauses)
        while True:
            try:
                body: bytes = self.send(data)["Body"].read()
                return body
            except Exception as error:
                if is_missing(error):
                    raise SettingsError(
                        f"there is no endpoint {self.name} in {self._client.meta.region_name}; catdog aws ps "
                        "lists those that are there"
                    ) from error
                pause = next(pauses, None)
                if pause is None or not is_transient(error):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the attempts of many callers

    def send(self, data: bytes) -> dict[str, Any]:
        """Send one InvokeEndpoint and return boto3's response."""
        response: dict[str, Any] = self._client.invoke_endpoint(
            EndpointName=self.name, ContentType=detect_media_type(data), Accept=JSON_TYPE, Body=data
        )
        return response

    def _explain_photo_error(self, error: Exception) -> str | None:
        """Return why this photo has no answer, or None if the problem is not about the photo."""
        if not is_aws_error(error):
            return None
        code = error_code(error)
        if code == "ModelError":
            status, message = read_container_error(error)
            return message if 400 <= status < 500 else f"the endpoint failed ({status or 'no answer'}): {message}"
        http_status = _response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if http_status == 413 or (code == "ValidationError" and "size" in str(error).lower()):
            return f"larger than {self.name} takes ({explain_error(error)})"
        return explain_error(error) if code in BUSY else None


class AsyncEndpoint:
    """An endpoint made with ``deploy --async``: photos and answers go through S3, so they may be large and slow.

    Threads may share it. No photo stays in S3, but for one whose answer is late and ``tell`` has said where it will be.
    """

    def __init__(
        self,
        runtime: Any,
        s3: Any,
        name: str,
        place: str,
        patience_s: float = ASYNC_PATIENCE_S,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """``place`` is the s3:// prefix for photos and answers, as deploy has it.

        Without ``tell``, a late answer is given up, and its photo deleted.
        """
        self.name = name
        self._runtime, self._s3, self._patience, self._tell = runtime, s3, patience_s, tell
        self._bucket, self._prefix = split_uri(place)
        self._closing, self._under_way, self._changed = threading.Event(), 0, threading.Condition()

    def close(self) -> None:
        """Give up the answers that other threads wait for, and return once their photos are deleted."""
        self._closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, _CLOSE_S)

    def answer(self, source: str, data: bytes) -> Answer:
        """Return the endpoint's answer about one encoded photo; raises CloudError and what boto3 raises."""
        is_answer, body = self._exchange(data, source)
        if is_answer:
            return parse_answer(source, body, self.name)
        return Prediction.failed(source, f"{source}: {_read_text(body)}")

    def ask(self, data: bytes) -> bytes:
        """Return the raw answer; raises CloudError with the endpoint's error if it gives none."""
        is_answer, body = self._exchange(data, "the photo")
        if not is_answer:
            raise CloudError(f"{self.name}: {_read_text(body)}")
        return body

    def send(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """Put the photo into S3, send InvokeEndpointAsync, and return the photo's key and boto3's response."""
        key, kind = f"{self._prefix.rstrip('/')}/inputs/{uuid.uuid4().hex}", detect_media_type(data)
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=kind)
        try:
            response = self._runtime.invoke_endpoint_async(
                EndpointName=self.name, ContentType=kind, Accept=JSON_TYPE, InputLocation=f"s3://{self._bucket}/{key}"
            )
        except BaseException:
            self._delete_photo(key)
            raise
        return key, response

    def _exchange(self, data: bytes, source: str) -> tuple[bool, bytes]:
        """Return whether there is an answer, and the answer or the error."""
        deadline, keep = time.monotonic() + self._patience, False
        with self._count():
            key, response = self.send(data)
            try:
                if (answer := self._wait(response, deadline)) is not None:
                    return answer
                if keep := self._tell is not None and not self._closing.is_set():
                    self._tell(
                        f"{source}: its answer will come at {response['OutputLocation']}; it stays in S3 for that"
                    )
            finally:
                if not keep:
                    self._delete_photo(key)
        raise CloudError(f"{self.name}: no answer about {source} after {self._patience:.0f} s")

    @contextmanager
    def _count(self) -> Iterator[None]:
        """Let ``close`` know that a photo is under way; raises CloudError once it is called."""
        with self._changed:
            if self._closing.is_set():
                raise CloudError(f"{self.name}: is asked no more")
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _wait(self, response: Mapping[str, str], deadline: float) -> tuple[bool, bytes] | None:
        """Return whether there is an answer, and it or the error; None after the deadline or once all is given up."""
        for pause in chain(_ASYNC_POLL_S, repeat(_ASYNC_POLL_S[-1])):
            for place in ("OutputLocation", "FailureLocation"):
                if place in response and (body := self._get(response[place])) is not None:
                    return place == "OutputLocation", body
            if time.monotonic() > deadline or self._closing.wait(pause):
                break
        return None

    def _delete_photo(self, key: str) -> None:
        with suppress(Exception):  # photos of people are not left lying about
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _get(self, uri: str) -> bytes | None:
        bucket, key = split_uri(uri)
        try:
            body: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except Exception as error:
            # Without s3:ListBucket, S3 answers 403 for what doesn't exist yet.
            if error_code(error) in NO_OBJECT | FORBIDDEN:
                return None
            raise
        return body


AnyEndpoint = Endpoint | AsyncEndpoint


def answer_photos(endpoint: AnyEndpoint, photos: Iterable[Input], parallel: int) -> Iterator[Answer]:
    """Yield the answers in the order of the photos; only a few photos are in memory at a time.

    ``parallel`` is the number of requests at once.
    """

    def answer(photo: Input) -> Answer:
        try:
            data = photo.content.read(photo.source)
        except ImageError as error:
            return Prediction.failed(photo.source, error)
        return endpoint.answer(photo.source, data)

    return map_in_order(answer, photos, parallel)


def parse_answer(source: str, body: bytes, endpoint: str) -> Answer:
    """Turn an endpoint's JSON about one photo into an answer; raises CloudError for anything else.

    A failed one is a Prediction where the endpoint doesn't say what it is for.
    """
    try:
        data = json.loads(body)
        if isinstance(data, list):
            (data,) = data
        is_detection = "objects" in data
        if data.get("error") is not None:
            return (Detection if is_detection else Prediction).failed(source, data["error"])
        if is_detection:
            width, height = data["width"], data["height"]
            if not all(type(side) is int and 0 < side < 2**31 for side in (width, height)):
                raise ValueError("not the size of a photo")
            heads = read_heads(data["objects"])
            if any(min(h.box.xmin, h.box.ymin) < 0 or h.box.xmax > width or h.box.ymax > height for h in heads):
                raise ValueError("a head outside of the photo")
            return Detection(source, width, height, heads)
        probabilities = {str(name): float(p) for name, p in data["probabilities"].items()}
        confidence, label = float(data["confidence"]), data["label"]
        if label != UNSURE and label not in probabilities:
            raise ValueError(label)
        if not all(0 <= p <= 1 for p in (confidence, *probabilities.values())):  # also true of NaN
            raise ValueError("not a probability")
        ",".join(probabilities).encode()  # JSON's text may hold half of a surrogate pair
        return Prediction(source, label, confidence, probabilities)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        shown = printable(body[:80].decode("utf-8", "replace"))
        raise CloudError(f"{endpoint}: answers something else than catdog's JSON ({shown}); is it catdog's?") from error


def list_columns(row: Answer) -> tuple[str, ...]:
    """The columns of an answer, as catdog score has them; none of a failed one."""
    if row.error is not None:
        return ()
    return BOX_COLUMNS if isinstance(row, Detection) else tuple(row.probabilities or ())


def peek_class_names(items: Iterator[T], names_of: Callable[[T], ClassNames]) -> tuple[ClassNames, Iterator[T]]:
    """Return the class names, which the first item that has any tells, and all items again.

    If no item tells, they are those of the embedded model.
    """
    passed: list[T] = []
    for item in items:
        passed.append(item)
        if names := names_of(item):
            return names, chain(passed, items)
    try:
        contract = Contract.from_json(files("catdog").joinpath("assets", "contract.json").read_bytes())
    except (OSError, CatdogError):  # not in this installation
        return ("cat", "dog"), iter(passed)
    return contract.class_names, iter(passed)


def detect_media_type(data: bytes) -> str:
    """Return the media type that the first bytes show; the endings of names lie."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "application/x-image")


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a moment later."""
    if error_code(error) == "ModelError":
        status, _ = read_container_error(error)
        return status >= 500 or status == 0
    return error_code(error) in BUSY


def read_container_error(error: BaseException) -> tuple[int, str]:
    """Return the container's own status (0 if it gave none) and its message in one line, of a ModelError."""
    response = _response_of(error)
    message = str(response.get("OriginalMessage") or response.get("Error", {}).get("Message", ""))
    try:
        message = str(json.loads(message)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = next(iter(message.strip().splitlines()), "no reason given")
    return int(response.get("OriginalStatusCode") or 0), printable(message)[:_ERROR_LENGTH]


def _response_of(error: BaseException) -> dict[str, Any]:
    return getattr(error, "response", None) or {}  # None in botocore's timeouts


def _read_text(body: bytes) -> str:
    return printable(body.decode("utf-8", "replace").strip()[:_ERROR_LENGTH])
