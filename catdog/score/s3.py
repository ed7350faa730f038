"""S3, and stores that speak its protocol: the only place in batch scoring that talks to one.

    split_uri("s3://bucket/photos/") -> ("bucket", "photos/")
    list_objects(bucket, prefix, after) -> (key, size), ... in key order
    read_object(bucket, key) -> bytes of one photo; open_object(bucket, key) -> a stream of one large object

boto3 finds credentials, region and endpoint as it always does (AWS_PROFILE, AWS_ENDPOINT_URL, a role, ...). What is
about one photo is an ImageError and becomes a row; what is about the bucket, the network or the credentials is a
DataError and stops the run, which can go on later: a million rows "unreadable" since a token ran out help nobody.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, Final, TypeVar

from catdog.errors import CatdogError, DataError, ImageError, SettingsError
from catdog.image import MAX_BYTES

SCHEME: Final = "s3://"
ATTEMPTS: Final = 8  # of one request, inside botocore; AWS_MAX_ATTEMPTS overrides it
CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 60  # without a single byte
CONNECTIONS: Final = 32
PAUSES_S: Final = (0.25, 0.5, 1.0, 2.0)
"""Between whole attempts, each of which botocore has already retried. botocore alone is not enough: it never retries a
body that breaks off, starts at 50 ms, and stops retrying altogether once 35 requests of a process have failed (its
retry quota: 500 tokens, 14 a retry; botocore 1.44)."""
PATIENCE_S: Final = 180.0  # no new attempt after this long
BUFFER_BYTES: Final = 256 * 2**10  # of open_object's stream; what a broken connection loses at most
PAGE_KEYS: Final = 1000  # the most that S3 lists at once

# AWS's rule for new buckets, widened to what older ones and other makes have.
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_NOT_THERE: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_FORBIDDEN: Final = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled"})
_REFUSED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"}
    | {"SignatureDoesNotMatch", "RequestTimeTooSkewed"}
)
_ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_ARCHIVED: Final = "InvalidObjectState"
_CHANGED: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_GO_ON: Final = "start the same command again: it goes on"

T = TypeVar("T")
_lock = threading.Lock()
_clients: dict[int, Any] = {}  # by process id: connections must not be shared with a forked child


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` -> ``("bucket", "some/key")``; the key may be empty. Raises SettingsError."""
    bucket, _, key = uri[len(SCHEME) :].partition("/")
    if not uri.lower().startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise SettingsError(f"{uri}: not an S3 address; give s3://bucket/key")
    return bucket, key


def client() -> Any:
    """This process's S3 client, made on first use; threads may share it. Raises SettingsError without boto3."""
    with _lock:
        if os.getpid() not in _clients:
            _clients[os.getpid()] = _connect()
        return _clients[os.getpid()]


def close() -> None:
    """Close this process's client; the next use makes a new one, from the environment as it is then."""
    with _lock:
        made = _clients.pop(os.getpid(), None)
    if made is not None:
        made.close()


def list_objects(
    bucket: str, prefix: str, after: str = "", *, delimiter: str = "", page_keys: int = PAGE_KEYS
) -> Iterator[tuple[str, int]]:
    """``(key, bytes)`` of the objects whose key starts with ``prefix``, in key order, those after ``after`` only.

    One page is in memory at a time. "Folders" (keys that end in ``/``) are left out; with ``delimiter`` so is what has
    one after the prefix. Raises DataError, one sentence, when the bucket can't be listed.
    """
    if bucket.endswith("--x-s3"):
        raise DataError(
            f"{SCHEME}{bucket}: a directory bucket lists its keys in no order; copy the photos to a general purpose one"
        )
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": page_keys}
    request |= {"StartAfter": after} if after else {}
    request |= {"Delimiter": delimiter} if delimiter else {}
    while True:
        with explained(f"{SCHEME}{bucket}"):
            page = persist(lambda: client().list_objects_v2(**request))
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/") and item["Key"] > after:  # not every make knows StartAfter
                yield item["Key"], item["Size"]
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def read_object(bucket: str, key: str) -> bytes:
    """The bytes of one photo.

    Raises ImageError (missing; too_large, before the body is read; unreadable: forbidden, archived, or broken off time
    and again), and DataError where no other photo could be read either: no bucket, no network, no valid credentials.
    """
    name = f"{SCHEME}{bucket}/{key}"
    try:
        return persist(lambda: _read(name, bucket, key))
    except CatdogError:
        raise
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        if _code(error) in _NOT_THERE:
            raise ImageError(f"{name}: no such object", "missing") from error
        if _concerns_all(error):
            raise DataError(f"{SCHEME}{bucket}: {explanation}") from error
        raise ImageError(f"{name}: {explanation}", "unreadable") from error


def open_object(bucket: str, key: str) -> BinaryIO:
    """A stream of one object from its first byte to its last, for those too large to hold; not seekable.

    Where the connection breaks, it goes on from there, and notices if the object was replaced in the meantime. Opening
    and reading raise DataError, one sentence, when the object isn't there or can't be read.
    """
    return io.BufferedReader(_ObjectStream(bucket, key), BUFFER_BYTES)


def exists(bucket: str, key: str) -> bool:
    """Whether there is such an object; raises DataError when S3 doesn't say."""
    with explained(f"{SCHEME}{bucket}/{key}"):
        try:
            persist(lambda: client().head_object(Bucket=bucket, Key=key))
        except Exception as error:
            if _code(error) in _NOT_THERE:
                return False
            raise
    return True


def persist(action: Callable[[], T]) -> T:
    """What ``action`` gives; a failure that may pass is met with another attempt, after a growing pause."""
    deadline = time.monotonic() + PATIENCE_S
    for pause in PAUSES_S:
        try:
            return action()
        except Exception as error:
            if not _may_pass(error) or time.monotonic() > deadline:
                raise
        time.sleep(pause)
    return action()


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what boto3 raises in the block into a DataError: ``place``, what is wrong, and what to do."""
    try:
        yield
    except Exception as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        raise DataError(f"{place}: {explanation}") from error


def is_conflict(error: Exception) -> bool:
    """Whether S3 refused because an object is there already, or is no longer the one that was asked for."""
    return _code(error) in _CHANGED


class _ObjectStream(io.RawIOBase):
    """An object, read in order over as many connections as it takes."""

    def __init__(self, bucket: str, key: str) -> None:
        self._bucket, self._key, self._name = bucket, key, f"{SCHEME}{bucket}/{key}"
        self._body: Any = None
        self._position, self._size, self._etag = 0, -1, ""
        with explained(self._name):
            persist(self._request)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with explained(self._name):
            data = persist(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _request(self) -> None:
        rest = {"Range": f"bytes={self._position}-", "IfMatch": self._etag} if self._position else {}
        answer = client().get_object(Bucket=self._bucket, Key=self._key, **rest)
        self._body = answer["Body"]
        if not self._position:
            self._size, self._etag = answer.get("ContentLength", -1), answer["ETag"]
        elif not answer.get("ContentRange", "").startswith(f"bytes {self._position}-"):
            raise DataError(f"{self._name}: the connection broke off, and the server can't go on in the middle")

    def _read(self, size: int) -> bytes:
        from botocore.exceptions import FlexibleChecksumError

        if self._body is None:
            if self._position == self._size:
                return b""
            self._request()
        try:
            data: bytes = self._body.read(size)
        except FlexibleChecksumError as error:  # known at the end only, when all has been given out
            raise DataError(f"{self._name}: it arrived damaged (wrong checksum); {_GO_ON}") from error
        except Exception:
            self._hang_up()
            raise
        self._position += len(data)
        return data

    def _hang_up(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


def _connect() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise SettingsError("s3:// needs one more package: pip install '.[s3]'") from error
    retries: dict[str, Any] = {"mode": "standard"}  # backs off with jitter, up to 20 s where S3 says SlowDown
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = Config(
        retries=retries,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        user_agent_extra="catdog",
    )
    try:
        return boto3.session.Session().client("s3", config=config)  # boto3.client's shared session isn't thread-safe
    except (BotoCoreError, ValueError) as error:  # a profile that isn't there, an endpoint that is no URL
        raise SettingsError(f"the AWS settings of this machine can't be used ({_first_line(error)})") from error


def _read(name: str, bucket: str, key: str) -> bytes:
    answer = client().get_object(Bucket=bucket, Key=key)
    with closing(answer["Body"]) as body:
        size = answer.get("ContentLength")
        if size is None:
            raise ImageError(f"{name}: the server doesn't say how large it is", "unreadable")
        if size > MAX_BYTES:
            raise ImageError(f"{name}: {size} bytes, over the limit of {MAX_BYTES}", "too_large")
        data: bytes = body.read()
        return data


def _may_pass(error: Exception) -> bool:
    if isinstance(error, CatdogError):  # it says all; without boto3 there is nothing to import below, either
        return False
    from botocore import exceptions as e
    from urllib3.exceptions import HTTPError

    if isinstance(error, e.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or _code(error) in {"SlowDown", "RequestTimeout"}
    if isinstance(error, e.SSLError):  # a certificate that isn't trusted won't be in a second
        return False
    broken = (e.HTTPClientError, e.ConnectionError, e.IncompleteReadError, e.FlexibleChecksumError)
    return isinstance(error, (*broken, HTTPError, OSError))


def _concerns_all(error: Exception) -> bool:
    """Whether the next photo would fail just the same."""
    from botocore import exceptions as e

    if isinstance(error, e.ClientError):
        # Another operation than reading a photo is AssumeRole or the like, on the way to credentials.
        return error.operation_name != "GetObject" or _code(error) in _REFUSED | _ELSEWHERE | {"NoSuchBucket"}
    if isinstance(error, e.ParamValidationError):  # a key that can't be
        return False
    return isinstance(error, e.ConnectionError) or not _may_pass(error)


def _code(error: Exception) -> str:
    """S3's word for what is wrong, its HTTP status where it sends no body, "" for what isn't S3's answer."""
    answer = getattr(error, "response", None)  # None in botocore's HTTPClientError
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _explain(error: Exception) -> str | None:
    """What is wrong and what to do, as the end of a sentence; None for what is no failure of S3."""
    if isinstance(error, CatdogError):
        return None
    from botocore import exceptions as e

    if isinstance(error, e.ClientError):
        return _explain_answer(_code(error), error)
    if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError)):
        return "no AWS credentials were found; run aws configure, or set AWS_PROFILE"
    if isinstance(error, (e.CredentialRetrievalError, e.TokenRetrievalError, e.SSOError)):
        return f"the AWS credentials can't be had ({_first_line(error)}); log in again"
    if isinstance(error, e.SSLError):
        return f"the server's certificate is not trusted ({_first_line(error)})"
    if isinstance(error, e.ConnectionError):
        return f"can't be reached ({_first_line(error)}); check the network and AWS_ENDPOINT_URL, then {_GO_ON}"
    if isinstance(error, e.ParamValidationError):
        return "not a name that S3 allows"
    if _may_pass(error):
        return f"the transfer failed ({_first_line(error)})"
    return f"S3 can't be used ({_first_line(error)})" if isinstance(error, e.BotoCoreError) else None


def _explain_answer(code: str, error: Exception) -> str:
    if code == "NoSuchBucket":
        return "there is no such bucket; check its name"
    if code in _NOT_THERE:
        return "there is no such object"
    if code in _FORBIDDEN:
        return (
            "access is forbidden; the credentials in use need s3:ListBucket and s3:GetObject"
            " (where results go s3:PutObject and s3:DeleteObject, too)"
        )
    if code in _REFUSED:
        return f"the AWS credentials are refused ({code}); renew them, then {_GO_ON}"
    if code in _ELSEWHERE:
        return "the bucket is in another region; set AWS_DEFAULT_REGION to it"
    if code == _ARCHIVED:
        return "it is archived (Glacier); restore it to S3 first"
    if code in _CHANGED:
        return "it was replaced by another one in the meantime; start again"
    return f"S3 refuses ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
