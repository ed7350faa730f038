"""An asynchronous endpoint, called: photos go through S3, so they may be large and answers may take their time.

endpoint = AsyncEndpoint(runtime, s3, "catdog-big", "s3://bucket/catdog/async/catdog-big")
endpoint.answer("cat.tif", data) -> Prediction
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import Any, Final

from catdog.aws.account import CloudError, code_of
from catdog.aws.runtime import content_type, read_answer
from catdog.prediction import Prediction
from catdog.sources.objects import split_s3_uri as split_uri
from catdog.text import printable

PREFIX: Final = "catdog/async"
PATIENCE_S: Final = 900.0  # of one photo; SageMaker itself gives up after an hour
_POLL_S: Final = (0.5, 1.0, 2.0, 5.0)


class AsyncEndpoint:
    """An endpoint made with ``deploy --async``. Threads may share it."""

    def __init__(self, runtime: Any, s3: Any, name: str, place: str, patience_s: float = PATIENCE_S) -> None:
        """``place``: s3:// prefix under which photos are put, as deploy has it."""
        self.name = name
        self._runtime, self._s3, self._patience = runtime, s3, patience_s
        self._bucket, self._prefix = split_uri(place)

    def answer(self, source: str, data: bytes) -> Prediction:
        """What the endpoint says of one encoded photo; raises what boto3 raises, and CloudError."""
        ok, body = self._ask(data, content_type(data))
        if ok:
            return read_answer(source, body, self.name)
        message = printable(body.decode("utf-8", "replace").strip()[:500])
        return Prediction.failed(source, f"{source}: {message}")

    def call(self, data: bytes, media_type: str) -> bytes:
        """The raw answer; raises CloudError with what the endpoint said instead."""
        ok, body = self._ask(data, media_type)
        if not ok:
            raise CloudError(f"{self.name}: {printable(body.decode('utf-8', 'replace').strip()[:500])}")
        return body

    def send(self, data: bytes, media_type: str | None = None) -> tuple[str, dict[str, Any]]:
        """Put the photo into S3 and ask about it: its key, and boto3's answer."""
        key, kind = f"{self._prefix.rstrip('/')}/inputs/{uuid.uuid4().hex}", media_type or content_type(data)
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=kind)
        try:
            sent = self._runtime.invoke_endpoint_async(
                EndpointName=self.name,
                ContentType=kind,
                Accept="application/json",
                InputLocation=f"s3://{self._bucket}/{key}",
            )
        except BaseException:
            self._forget(key)
            raise
        return key, sent

    def _ask(self, data: bytes, media_type: str) -> tuple[bool, bytes]:
        """Whether there is an answer, and it or the reason why not."""
        key, sent = self.send(data, media_type)
        try:
            return self._wait(sent["OutputLocation"], sent.get("FailureLocation"))
        finally:
            self._forget(key)

    def _forget(self, key: str) -> None:
        with suppress(Exception):  # photos of people are not left lying about
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _wait(self, answer: str, failure: str | None) -> tuple[bool, bytes]:
        deadline, turn = time.monotonic() + self._patience, 0
        while time.monotonic() < deadline:
            if (found := self._get(answer)) is not None:
                return True, found
            if failure and (found := self._get(failure)) is not None:
                return False, found
            time.sleep(_POLL_S[min(turn, len(_POLL_S) - 1)])
            turn += 1
        raise CloudError(f"{self.name}: no answer after {self._patience:.0f} s; it will come at {answer}")

    def _get(self, uri: str) -> bytes | None:
        bucket, key = split_uri(uri)
        try:
            body: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except Exception as error:
            # Without s3:ListBucket, S3 says 403 of what isn't there yet.
            if code_of(error) in ("NoSuchKey", "404", "AccessDenied", "403"):
                return None
            raise
        return body
