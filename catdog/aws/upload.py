"""python -m catdog.aws upload DATASET: a folder or a file to S3, only what changed there."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from catdog.aws.account import PROJECT, Account, account, code_of
from catdog.aws.app import EXIT_CODES, Bucket, DryRun, Owner, Region, app, edge, say, show, show_dry_run
from catdog.errors import SettingsError
from catdog.sources.names import is_junk
from catdog.text import printable

DIGEST: Final = "sha256"  # S3 metadata: x-amz-meta-sha256
MANIFEST: Final = "manifest.json"
THREADS: Final = 16
READ_BYTES: Final = 2**20
MAX_KEY_BYTES: Final = 1024  # S3's limit
WHOLE_BYTES: Final = 8 * 2**20
"""boto3 sends larger files in parts, and then their ETag is no MD5."""
_DELETE_KEYS: Final = 1000  # the most that S3 deletes at once

_HELP: Final = f"""Copy a dataset to S3, only what changed.

DATASET is a folder that catdog.dataset made, any folder of photos, or an archive or other file. The same command goes
on where it was cut off. Nothing at the other end is removed, unless --delete says so. Hidden files stay here. Objects
are encrypted as the bucket's default has it.

\b
Examples:
  python -m catdog.aws upload data/ --bucket my-bucket
  python -m catdog.aws upload photos.zip --bucket my-bucket --prefix catdog/raw

\b
{EXIT_CODES}"""


@dataclass(frozen=True)
class Item:
    """A file, and where it goes."""

    path: Path
    key: str
    size: int


@dataclass(frozen=True)
class Digests:
    """Of a file's bytes, in hex."""

    md5: str
    sha256: str


@app.command(help=_HELP)
def upload(
    source: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder, or one file such as an archive.")],
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="PREFIX", help="The place in the bucket; DATASET's name comes below it.")
    ] = f"{PROJECT}/datasets",
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is there but not here.")] = False,
    kms_key: Annotated[str | None, typer.Option("--kms-key", metavar="ID|ARN", help="Encrypt with this key.")] = None,
    region: Region = None,
    bucket: Bucket = None,
    owner: Owner = None,
    dry_run: DryRun = False,
) -> None:
    with edge("upload"):
        me = account(region, None, bucket, owner, dry_run)
        home = me.default_bucket()
        items, uri = find(source, prefix, home)
        begin = time.monotonic()
        done = send(me, home, items, uri, delete=delete, kms_key=kms_key)
        if dry_run:
            note = "S3 asks a small price for each request and for each GB a month; SageMaker none for reading it"
            show_dry_run(me.recorded, {"usd_per_hour": 0.0, "note": note, "files": len(items), **done})
            return
        seconds = round(time.monotonic() - begin, 1)
        show({"uri": uri, "files": len(items), **done, "seconds": seconds}, f"catdog.aws train {uri} --dry-run", region)


def find(source: Path, prefix: str, bucket: str) -> tuple[list[Item], str]:
    """The files to send, a dataset's manifest last, and the address that a job is given.

    Raises SettingsError when there is nothing to send, a name can't be a key, or a dataset lacks a photo.
    """
    place = prefix.strip("/")
    name = source.resolve().name
    if not re.fullmatch(r"[\w!.*'()/ -]+", place) or any(part in ("", ".", "..") for part in place.split("/")):
        raise SettingsError(f"--prefix {prefix}: must be names with slashes between them, such as catdog/datasets")
    if source.is_file():
        key = f"{place}/{name}"
        return [_item(source, key)], f"s3://{bucket}/{key}"
    if not source.is_dir():
        raise SettingsError(f"{source}: no such folder or file")
    paths = sorted(_files(source))
    if not paths:
        raise SettingsError(f"{source}: holds no files")
    if source / MANIFEST in paths:
        _check_dataset(source)
        paths.sort(key=lambda path: path == source / MANIFEST)  # it appears when all that it lists is there
    root = f"{place}/{name}/"
    return [_item(path, root + path.relative_to(source).as_posix()) for path in paths], f"s3://{bucket}/{root}"


def send(
    me: Account, bucket: str, items: list[Item], uri: str, *, delete: bool = False, kms_key: str | None = None
) -> dict[str, int]:
    """Bring S3 to where the files are; gives counts: sent, sent_bytes, unchanged, extra, deleted."""
    client = me.client("s3")
    encryption = _encryption(client, bucket, kms_key)
    place = uri.removeprefix(f"s3://{bucket}/")
    there = _listing(client, bucket, place)
    here = {item.key for item in items}
    extra = sorted(key for key in there if key not in here) if place.endswith("/") else []
    counts = {"sent": 0, "sent_bytes": 0, "unchanged": 0, "extra": len(extra), "deleted": 0}

    def one(item: Item) -> int:
        """The bytes sent; -1 for none, since it is there."""
        known = there.get(item.key)
        digests = _digest(item.path)
        if known == (item.size, digests.md5) or (
            known and known[0] == item.size and _stored_digest(client, bucket, item.key) == digests.sha256
        ):
            return -1
        _put(client, bucket, item, digests, encryption)
        return item.size

    with _progress(sum(item.size for item in items)) as advance:
        # One thread in a dry run, whose record then has the files in order.
        for item, sent in _in_threads(one, items, 1 if me.dry_run else THREADS):
            advance(item.size)
            counts["unchanged" if sent < 0 else "sent"] += 1
            counts["sent_bytes"] += max(sent, 0)
    if delete and extra:
        for first in range(0, len(extra), _DELETE_KEYS):
            keys = [{"Key": key} for key in extra[first : first + _DELETE_KEYS]]
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if errors := answer.get("Errors"):
                raise SettingsError(f"s3://{bucket}/{errors[0]['Key']}: can't be deleted ({errors[0]['Code']})")
        counts["deleted"], counts["extra"] = len(extra), 0
    elif extra:
        say(f"{len(extra)} objects there are not here, such as {printable(extra[0])}; --delete removes them")
    return counts


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(name)]
        yield from (Path(place, name) for name in names if not is_junk(name))


def _item(path: Path, key: str) -> Item:
    try:
        encoded, size = len(key.encode()), path.stat().st_size
    except UnicodeEncodeError as error:
        raise SettingsError(f"{printable(str(path))}: its name is no valid text; rename it") from error
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror})") from error
    if encoded > MAX_KEY_BYTES:
        raise SettingsError(f"{path}: its name is too long for S3 ({encoded} bytes, at most {MAX_KEY_BYTES})")
    return Item(path, key, size)


def _check_dataset(folder: Path) -> None:
    """A dataset must be whole before it goes: a job would find out much later."""
    from catdog.dataset import Manifest

    manifest = Manifest.read(folder)
    for photo in manifest.photos:
        if not (folder / photo.path).is_file():
            raise SettingsError(f"{folder}: its manifest lists {photo.path}, which is missing; make the dataset anew")


def _digest(path: Path) -> Digests:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                md5.update(block)
                sha256.update(block)
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror})") from error
    return Digests(md5.hexdigest(), sha256.hexdigest())


def _listing(client: Any, bucket: str, prefix: str) -> dict[str, tuple[int, str]]:
    """Key -> bytes and ETag (the MD5, unless it went in parts or KMS encrypted it) of what is there."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item for page in pages for item in page.get("Contents", ())]
    return {item["Key"]: (item["Size"], item["ETag"].strip('"')) for item in objects if not item["Key"].endswith("/")}


def _stored_digest(client: Any, bucket: str, key: str) -> str | None:
    found: str | None = client.head_object(Bucket=bucket, Key=key).get("Metadata", {}).get(DIGEST)
    return found


def _encryption(client: Any, bucket: str, kms_key: str | None) -> dict[str, str]:
    """How to ask for encryption: nothing where the bucket has a default, else S3's own keys. Warns of open buckets."""
    try:
        blocked = client.get_public_access_block(Bucket=bucket).get("PublicAccessBlockConfiguration", {})
        if blocked and not all(blocked.values()):
            say(f"warning: s3://{bucket} doesn't block all public access; docs/aws/README.md says how")
    except client.exceptions.ClientError as error:
        if code_of(error) == "NoSuchPublicAccessBlockConfiguration":
            say(f"warning: s3://{bucket} doesn't block public access; docs/aws/README.md says how")
        elif code_of(error) not in ("AccessDenied", "403"):  # one may be allowed to write, and not to look at this
            raise
    if kms_key:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
    try:
        client.get_bucket_encryption(Bucket=bucket)
    except client.exceptions.ClientError as error:
        if code_of(error) == "ServerSideEncryptionConfigurationNotFoundError":
            return {"ServerSideEncryption": "AES256"}
        if code_of(error) not in ("AccessDenied", "403"):
            raise
    return {}


def _put(client: Any, bucket: str, item: Item, digests: Digests, encryption: Mapping[str, str]) -> None:
    about = {
        "Metadata": {DIGEST: digests.sha256},
        "ContentType": mimetypes.guess_type(item.path.name)[0] or "application/octet-stream",
        **encryption,
    }
    if item.size > WHOLE_BYTES:
        client.upload_file(str(item.path), bucket, item.key, ExtraArgs=about)
        return
    md5 = base64.b64encode(bytes.fromhex(digests.md5)).decode()  # S3 refuses what changed on its way, or since
    with item.path.open("rb") as body:
        client.put_object(Bucket=bucket, Key=item.key, Body=body, ContentMD5=md5, **about)


def _in_threads(action: Callable[[Item], int], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, int]]:
    """``action`` of each item; the last begins when all others are done. The first failure ends it."""
    *most, last = items
    waiting: dict[Future[int], Item] = {}
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in most:
                waiting[pool.submit(action, item)] = item
                while len(waiting) >= 2 * threads:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    yield last, action(last)


def _finished(waiting: dict[Future[int], Item]) -> Iterator[tuple[Item, int]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal; elsewhere a line every now and then would only be noise."""
    console = Console(stderr=True)
    columns = (TextColumn("upload"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)
