"""Object stores (S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage) through obstore.

    list_objects("s3://bucket", "photos/", after) -> Listed(key, size, version), ... in key order
    read_object("s3://bucket/photos/1.jpg") -> the bytes of one photo
    open_object("gs://bucket/shard.tar") -> a stream of one large object

Credentials, region and endpoint are found as each store's own tools find them (AWS_PROFILE and AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, a role, ...); with boto3 installed also through profiles and
SSO. What is about one photo is an ImageError and becomes a row; what is about the bucket, the network or the
credentials is a DataError and stops the run, which can go on later: a million rows "unreadable" since a token ran out
help nobody.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar, cast

from catdog.errors import CatdogError, DataError, ImageError, SettingsError
from catdog.extras import install_command
from catdog.image import MAX_BYTES
from catdog.sources.addresses import (
    BrokenOffError,
    MissingObjectError,
    ObjectError,
    UnnamableKeyError,
    about_a_photo,
    explain_errors,
    split_uri,
)
from catdog.text import first_line

ATTEMPTS: Final = 8  # of one request; AWS_MAX_ATTEMPTS overrides it
CONNECT_TIMEOUT: Final = timedelta(seconds=10)
READ_TIMEOUT: Final = timedelta(seconds=60)  # without a single byte
LONGEST_REQUEST: Final = timedelta(days=1)  # a stream lives as long as its reader works on it
RETRY_TIMEOUT: Final = timedelta(seconds=180)
BACKOFF: Final = {"init_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=4), "base": 2}
PAUSES_S: Final = (0.5, 1.0, 2.0)
"""Between whole attempts, where a body breaks off in a way that obstore does not try again: of a listing, of a put."""
CREDENTIALS_LAST: Final = timedelta(minutes=5)  # before they are asked for again
PAGE_KEYS: Final = 1000  # the most that S3 lists at once
BUFFER_BYTES: Final = 256 * 2**10
PART_BYTES: Final = 8 * 2**20  # of a multipart upload

_MD5: Final = re.compile(r"[0-9a-f]{32}")
T = TypeVar("T")
_lock = threading.Lock()
_stores: dict[tuple[int, str], Any] = {}  # by process id: connections must not be shared with a forked child
_md5_is_no_etag: set[str] = set()  # buckets whose ETags are something else (SSE-KMS)


class Object(NamedTuple):
    """An object in an object store."""

    uri: str
    length: int | None = None
    """Bytes, where a listing has said."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        return read_object(self.uri, most_bytes)

    def size(self) -> int | None:
        return self.length


class Listed(NamedTuple):
    """An object as a listing has it."""

    key: str
    size: int
    """Bytes."""
    version: str | None
    """Its ETag, which differs when the object was replaced."""


def close() -> None:
    """Forget this process's connections; the next use makes new ones, from the environment as it is then."""
    with _lock:
        _stores.clear()


def list_objects(root: str, prefix: str, after: str = "") -> Iterator[Listed]:
    """The objects of a bucket whose key starts with ``prefix``, in key order, those after the key ``after`` only.

    One page is in memory at a time. ``root`` is like ``s3://bucket``. Raises DataError, one sentence, when it can't be
    listed.
    """
    if root.endswith("--x-s3"):
        raise DataError(
            f"{root}: a directory bucket lists its keys in no order; copy the photos to a general purpose one"
        )
    has_slash = prefix.startswith("/") or after.startswith("/") or "//" in prefix
    if has_slash or (not prefix and not after and _has_keys_below_slash(root)):
        yield from _list_with_boto3(root, prefix, after, UnnamableKeyError(f"{root}: holds keys that begin with /"))
        return
    folder, _, begun = prefix.rpartition("/")
    if begun and after < prefix[:-1]:  # obstore lists whole folders, so start shortly before the names that fit
        after = prefix[:-1]
    pauses = iter(PAUSES_S)
    while True:
        try:
            for item in _list_with_obstore(root, folder, after):
                after, pauses = item.key, iter(PAUSES_S)
                if after.startswith(prefix):
                    yield item
                elif after > prefix:
                    return
            return
        except UnnamableKeyError as error:
            yield from _list_with_boto3(root, prefix, after, error)
            return
        except BrokenOffError:
            if (pause := next(pauses, None)) is None:
                raise
            time.sleep(pause)


def list_folder(root: str, folder: str) -> list[str]:
    """The plain names of the objects directly in a folder, sorted; ``folder`` is "" for the bucket's own."""

    def list_all() -> Any:
        with explain_errors(root):
            return _import_obstore().list_with_delimiter(_connect(root), folder or None)["objects"]

    return sorted(item["path"].rpartition("/")[2] for item in _persist(list_all))


def read_object(uri: str, most_bytes: int = MAX_BYTES, deadline: float | None = None) -> bytes:
    """The bytes of one photo.

    Raises ImageError (missing; too_large, before the body is read; unreadable: forbidden, archived, or broken off time
    and again), and DataError where no other photo could be read either: no bucket, no network, no valid credentials.
    With a ``deadline``, a value of ``time.monotonic()``, raises TimeoutError when it passes, and gives the transfer up.
    """
    root, _ = split_uri(uri)
    with about_a_photo(uri):
        data, tag = _download(uri, most_bytes, deadline)
        if _MD5.fullmatch(tag) and root not in _md5_is_no_etag and _compute_md5(data) != tag:
            # It was damaged on its way, or the ETag is no MD5 in this bucket (SSE-KMS).
            again, _ = _download(uri, most_bytes, deadline)
            if again == data:
                _md5_is_no_etag.add(root)
            data = again
        return data


def read_range(uri: str, offset: int, length: int) -> bytes:
    """``length`` bytes of an object, fewer where it ends; raises as ``read_object`` does."""
    root, key = split_uri(uri)
    with about_a_photo(uri), explain_errors(uri):
        return bytes(_import_obstore().get_range(_connect(root), key, start=offset, length=length)) if length else b""


def read_whole(uri: str, most_bytes: int) -> bytes:
    """All of an object that is no photo, a model say; raises DataError, also for more than ``most_bytes``."""
    with open_object(uri) as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise DataError(f"{uri}: over the limit of {most_bytes} bytes")
    return data


def open_object(uri: str) -> BinaryIO:
    """A stream of one object from its first byte to its last, for those too large to hold; not seekable.

    Where the connection breaks, it goes on from there, and notices if the object was replaced in the meantime. Opening
    and reading raise DataError, one sentence, when the object isn't there or can't be read.
    """
    return io.BufferedReader(_ObjectStream(uri), BUFFER_BYTES)


def open_seekable(uri: str) -> BinaryIO:
    """An object whose parts are fetched when they are read, as a zip's directory is; raises as ``read_object`` does."""
    root, key = split_uri(uri)
    with explain_errors(uri):
        size = _import_obstore().head(_connect(root), key)["size"]
    return io.BufferedReader(_SeekableObject(uri, size), BUFFER_BYTES)


def object_version(uri: str) -> str | None:
    """The ETag of an object, None where there is none; raises DataError when the store doesn't say."""
    root, key = split_uri(uri)
    try:
        with explain_errors(uri):
            return _clean_tag(_import_obstore().head(_connect(root), key)["e_tag"]) or "?"
    except MissingObjectError:
        return None


def put_object(uri: str, data: bytes | Path, *, new: bool = False) -> bool:
    """Write an object whole or not at all; with ``new``, return False where there is one already. Raises DataError."""
    root, key = split_uri(uri)
    obstore = _import_obstore()

    def put() -> bool:
        with explain_errors(uri), suppress(obstore.exceptions.AlreadyExistsError):
            obstore.put(_connect(root), key, data, mode="create" if new else "overwrite", chunk_size=PART_BYTES)
            return True
        return False

    return _persist(put)


def delete_object(uri: str) -> None:
    """Remove an object, if there is one; raises DataError."""
    root, key = split_uri(uri)

    def delete() -> None:
        with suppress(MissingObjectError), explain_errors(uri):
            _import_obstore().delete(_connect(root), key)

    _persist(delete)


def _persist(action: Callable[[], T]) -> T:
    """Return what ``action`` does, tried again after a pause where a body breaks off."""
    for pause in PAUSES_S:
        try:
            return action()
        except BrokenOffError:
            time.sleep(pause)
    return action()


class _SeekableObject(io.RawIOBase):
    """An object, read where it is asked for."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = read_range(self._uri, self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _ObjectStream(io.RawIOBase):
    """An object, read in order; where it breaks off for good, it is asked for once more from there."""

    def __init__(self, uri: str) -> None:
        self._uri, self._at, self._size, self._tag = uri, 0, 0, ""
        self._pauses = iter(PAUSES_S)
        self._block = memoryview(b"")
        self._open()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._block:
            try:
                with explain_errors(self._uri):
                    block = next(self._blocks, None)
            except BrokenOffError:
                if (pause := next(self._pauses, None)) is None:
                    raise
                time.sleep(pause)
                self._open()
                continue
            self._at += 0 if block is None else len(block)
            if self._at > self._size or (block is None and self._at < self._size):
                raise DataError(f"{self._uri}: {self._at} bytes came, not {self._size}")
            if block is None:
                return 0
            self._block = memoryview(bytes(block))
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def _open(self) -> None:
        root, key = split_uri(self._uri)
        rest = {"range": {"offset": self._at}, "if_match": self._tag} if self._at else {}
        with explain_errors(self._uri):
            found = _import_obstore().get(_connect(root), key, options=rest)
            self._blocks = iter(found.stream(min_chunk_size=BUFFER_BYTES))
        self._size, self._tag = found.meta["size"], found.meta["e_tag"] or ""


def _list_with_obstore(root: str, folder: str, after: str) -> Iterator[Listed]:
    with explain_errors(root):
        pages = iter(_import_obstore().list(_connect(root), folder or None, offset=after or None, chunk_size=PAGE_KEYS))
    while True:
        with explain_errors(root):
            page = next(pages, None)
        if page is None:
            return
        for item in page:
            yield Listed(item["path"], item["size"], _clean_tag(item["e_tag"]))


def _download(uri: str, most_bytes: int, deadline: float | None) -> tuple[bytes, str]:
    """The bytes of an object of a photo's size, and its ETag."""
    root, key = split_uri(uri)
    try:
        if key.startswith("/"):
            raise UnnamableKeyError(f"{uri}: obstore drops the slash at the beginning of its key")
        with explain_errors(uri):
            if deadline is None:
                found = _import_obstore().get(_connect(root), key)
                _check_size(uri, found.meta["size"], most_bytes)
                data = bytes(found.bytes())
            else:
                found, data = _get_in_time(uri, most_bytes, deadline)
            if len(data) != (size := found.meta["size"]):
                raise ObjectError(f"{uri}: {len(data)} bytes came, not {size}")
            return data, _clean_tag(found.meta["e_tag"]) or ""
    except UnnamableKeyError as error:
        if deadline is None:
            return _read_with_boto3(uri, most_bytes, error), ""
        return _read_with_boto3_in_time(uri, most_bytes, error, deadline), ""


def _get_in_time(uri: str, most_bytes: int, deadline: float) -> tuple[Any, bytes]:
    """obstore's answer and the bytes; raises TimeoutError. Nothing of the transfer is left behind."""
    root, key = split_uri(uri)
    store = _connect(root)

    async def get() -> tuple[Any, bytes]:
        found = await _import_obstore().get_async(store, key)
        _check_size(uri, found.meta["size"], most_bytes)
        return found, bytes(await found.bytes_async())

    async def get_or_cancel() -> tuple[Any, bytes]:
        return await asyncio.wait_for(get(), deadline - time.monotonic())

    try:
        return asyncio.run(get_or_cancel())
    except asyncio.TimeoutError as error:  # before Python 3.11 it isn't the built-in one
        raise TimeoutError(f"{uri}: not read in time") from error


def _read_with_boto3_in_time(uri: str, most_bytes: int, reason: UnnamableKeyError, deadline: float) -> bytes:
    """As ``_read_with_boto3``; raises TimeoutError, and leaves a thread behind that boto3's own time limits end."""
    pool = concurrent.futures.ThreadPoolExecutor(1, "catdog-boto3")
    try:
        reading = pool.submit(_read_with_boto3, uri, most_bytes, reason)
        return reading.result(max(0.0, deadline - time.monotonic()))
    except concurrent.futures.TimeoutError as error:  # before Python 3.11 it isn't the built-in one
        raise TimeoutError(f"{uri}: not read in time") from error
    finally:
        pool.shutdown(wait=False)


def _check_size(uri: str, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise ImageError(f"{uri}: {size} bytes, over the limit of {most_bytes}", "too_large")


def _list_with_boto3(root: str, prefix: str, after: str, reason: UnnamableKeyError) -> Iterator[Listed]:
    """Go on with a listing behind a key that obstore has no name for."""
    client = _make_boto3_client(root, reason)
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=root[5:], Prefix=prefix, StartAfter=after):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield Listed(item["Key"], item["Size"], _clean_tag(item["ETag"]))
    except _list_boto3_errors() as error:
        raise DataError(f"{root}: can't be listed ({first_line(error)})") from error


def _read_with_boto3(uri: str, most_bytes: int, reason: UnnamableKeyError) -> bytes:
    root, key = split_uri(uri)
    client = _make_boto3_client(root, reason)
    try:
        answer = client.get_object(Bucket=root[5:], Key=key)
        if answer["ContentLength"] > most_bytes:
            raise ImageError(f"{uri}: over the limit of {most_bytes} bytes", "too_large")
        return cast(bytes, answer["Body"].read())
    except client.exceptions.NoSuchKey as error:
        raise MissingObjectError(str(error)) from error
    except _list_boto3_errors() as error:
        raise ObjectError(f"{uri}: {first_line(error)}") from error


def _has_keys_below_slash(root: str) -> bool:
    """Whether a bucket has keys that begin with ``/``, which obstore would list without it; needs boto3 to know."""
    try:
        client = _make_boto3_client(root, UnnamableKeyError(root))
    except UnnamableKeyError:  # another store, or no boto3, and then they can't be read, either
        return False
    try:
        return bool(client.list_objects_v2(Bucket=root[5:], Prefix="/", MaxKeys=1).get("KeyCount"))
    except _list_boto3_errors():  # the listing itself will say what is wrong
        return False


def _list_boto3_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, OSError


def _make_boto3_client(root: str, reason: UnnamableKeyError) -> Any:
    if not root.startswith("s3://"):
        raise reason
    try:
        import boto3.session
    except ImportError:
        raise UnnamableKeyError(f"{reason}; rename it, or pip install boto3") from reason
    return boto3.session.Session().client("s3")


def _clean_tag(tag: str | None) -> str | None:
    return (tag or "").strip('"') or None


def _compute_md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _import_obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        needed = install_command("cloud")
        raise SettingsError(f"object stores (s3://, gs://, az://) need one more package: {needed}") from error
    return obstore


def _connect(root: str) -> Any:
    """This process's connection to a bucket, made on first use; threads may share it."""
    with _lock:
        which = (os.getpid(), root)
        if which not in _stores:
            _stores[which] = _make_store(root)
        return _stores[which]


def _make_store(root: str) -> Any:
    stores = _import_obstore().store
    client = {
        "allow_http": True,  # for stores on one's own network; https:// stays https://
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "timeout": LONGEST_REQUEST,
        "user_agent": "catdog",
    }
    attempts = os.environ.get("AWS_MAX_ATTEMPTS", "")
    retry = {
        "max_retries": (int(attempts) if attempts.isdecimal() and int(attempts) else ATTEMPTS) - 1,
        "retry_timeout": RETRY_TIMEOUT,
        "backoff": BACKOFF,
    }
    scheme, name = root[:5], root[5:]
    try:
        if scheme == "gs://":
            return stores.GCSStore(name, client_options=client, retry_config=retry)
        if scheme == "az://":
            return stores.AzureStore(name, client_options=client, retry_config=retry)
        return stores.S3Store(name, client_options=client, retry_config=retry, **_find_aws_settings())
    except CatdogError:
        raise
    except Exception as error:  # a profile that isn't there, an endpoint that is no URL
        raise SettingsError(f"the settings of this machine for {scheme} can't be used ({first_line(error)})") from error


def _find_aws_settings() -> dict[str, Any]:
    """Credentials and region through boto3, where they aren't in the environment and boto3 is installed."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings: dict[str, Any] = {"config": {"aws_endpoint": endpoint}} if endpoint else {}
    if endpoint and not re.match(r"https?://", endpoint):
        raise SettingsError(f"AWS_ENDPOINT_URL={endpoint}: not a URL; give one like https://minio.example.org:9000")
    if ("AWS_ACCESS_KEY_ID" in os.environ and "AWS_PROFILE" not in os.environ) or "AWS_SKIP_SIGNATURE" in os.environ:
        return settings
    try:
        import boto3.session
    except ImportError:
        return settings
    session = boto3.session.Session()  # the shared one isn't thread-safe
    credentials = session.get_credentials()
    if session.region_name:
        settings["region"] = session.region_name

    def provide() -> dict[str, Any]:
        if credentials is None:
            raise LookupError("no AWS credentials were found; run aws configure, or set AWS_PROFILE")
        now = credentials.get_frozen_credentials()
        expires = datetime.now(timezone.utc) + CREDENTIALS_LAST
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": expires,
        }

    return settings | {"credential_provider": provide}
