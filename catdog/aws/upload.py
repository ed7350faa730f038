"""catdog aws upload DATASET: copy a folder or a file to S3, only what changed."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from catdog.ahead import map_in_order
from catdog.aws.account import PROJECT, Account
from catdog.aws.app import EXIT_CODES, command, print_dry_run, print_result, say
from catdog.aws.failures import FORBIDDEN, error_code
from catdog.errors import SettingsError
from catdog.progress import show_progress
from catdog.sources.names import is_junk
from catdog.text import printable

DIGEST_KEY: Final = "sha256"  # in the object's metadata: x-amz-meta-sha256
MANIFEST: Final = "manifest.json"
THREADS: Final = 16
READ_BYTES: Final = 2**20
MAX_KEY_BYTES: Final = 1024  # S3's limit
WHOLE_BYTES: Final = 8 * 2**20
"""boto3 sends larger files in parts, and then their ETag is no MD5."""
_MOST_DELETED: Final = 1000  # keys that S3 deletes in one request

_HELP: Final = f"""Copy a dataset to S3, only what changed.

DATASET is a folder that catdog dataset made, any folder of photos, or an archive or other file. If a copy was cut off,
the same command finishes it. Nothing is removed from S3 unless you give --delete. Hidden files are not copied. Objects
are encrypted as the bucket's default says.

\b
Examples:
  catdog aws upload data/ --bucket my-bucket
  catdog aws upload photos.zip --bucket my-bucket --prefix catdog/raw

\b
{EXIT_CODES}"""


@dataclass(frozen=True)
class UploadFile:
    """A file and the key that it gets in S3."""

    path: Path
    key: str
    size: int


@command(_HELP, "region", "bucket", "owner", "dry_run")
def upload(
    account: Account,
    source: Annotated[Path, typer.Argument(metavar="DATASET", help="A folder, or one file such as an archive.")],
    prefix: Annotated[
        str, typer.Option(metavar="PREFIX", help="The place in the bucket; DATASET's name comes below it.")
    ] = f"{PROJECT}/datasets",
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is in S3 but not here.")] = False,
    kms_key: Annotated[str | None, typer.Option(metavar="ID|ARN", help="Encrypt with this key.")] = None,
) -> None:
    bucket = account.require_bucket()
    items, uri = list_files(source, prefix, bucket)
    start = time.monotonic()
    counts = send_files(account, bucket, items, uri, delete=delete, kms_key=kms_key)
    if account.dry_run:
        note = "S3 asks a small price for each request and for each GB a month; SageMaker none for reading it"
        print_dry_run(account.recorded, {"usd_per_hour": 0.0, "note": note, "files": len(items), **counts})
        return
    seconds = round(time.monotonic() - start, 1)
    result = {"uri": uri, "files": len(items), **counts, "seconds": seconds}
    print_result(result, f"catdog aws train {uri} --dry-run", account.asked_region)


def list_files(source: Path, prefix: str, bucket: str) -> tuple[list[UploadFile], str]:
    """Return the files to send, a dataset's manifest last, and the s3:// address that a job is given.

    Raises SettingsError if there is nothing to send, a name can't be a key, or a dataset lacks a photo.
    """
    place = prefix.strip("/")
    name = source.resolve().name
    if not re.fullmatch(r"[\w!.*'()/ -]+", place) or any(part in ("", ".", "..") for part in place.split("/")):
        raise SettingsError(f"--prefix {prefix}: must be names with slashes between them, such as catdog/datasets")
    if source.is_file():
        key = f"{place}/{name}"
        return [_make_upload_file(source, key)], f"s3://{bucket}/{key}"
    if not source.is_dir():
        raise SettingsError(f"{source}: no such folder or file")
    paths, hidden = _walk(source)
    manifest = source / MANIFEST
    if manifest.is_file():
        photos = _list_dataset_photos(source)
        paths |= photos  # those of a dataset that was made from a hidden folder lie in a hidden one
        hidden -= {folder for photo in photos for folder in photo.parents}
    if not paths:
        raise SettingsError(f"{source}: holds no files that aren't hidden")
    if hidden:
        say(f"not copied: {len(hidden)} hidden files or folders, such as {printable(min(hidden).name)}")
    root = f"{place}/{name}/"
    in_order = sorted(paths, key=lambda path: (path == manifest, path))  # it appears once all that it lists is there
    files = [_make_upload_file(path, root + path.relative_to(source).as_posix()) for path in in_order]
    return files, f"s3://{bucket}/{root}"


def send_files(
    account: Account,
    bucket: str,
    items: list[UploadFile],
    uri: str,
    *,
    delete: bool = False,
    kms_key: str | None = None,
) -> dict[str, int]:
    """Send the files that S3 lacks or has differently; returns counts: sent, sent_bytes, unchanged, extra, deleted."""
    client = account.client("s3")
    encryption = _choose_encryption(client, bucket, kms_key)
    place = uri.removeprefix(f"s3://{bucket}/")
    stored = _list_stored(client, bucket, place)
    keys = {item.key for item in items}
    extra = sorted(key for key in stored if key not in keys) if place.endswith("/") else []
    counts = {"sent": 0, "sent_bytes": 0, "unchanged": 0, "extra": len(extra), "deleted": 0}

    def send_if_changed(item: UploadFile) -> bool:
        size, etag = stored.get(item.key, (None, ""))
        md5, sha256 = _compute_digests(item.path)
        if size == item.size and (etag == md5 or sha256 == _read_stored_digest(client, bucket, item.key)):
            return False
        _put(client, bucket, item, md5, sha256, encryption)
        return True

    *most, last = items  # the last one, a dataset's manifest, is sent when all others are there
    threads = 1 if account.dry_run else THREADS  # so that a dry run records the files in order
    with show_progress("checked or sent", "files", last_line=False) as report:
        for group in (most, [last]):
            for item, was_sent in zip(group, map_in_order(send_if_changed, group, threads), strict=True):
                counts["sent" if was_sent else "unchanged"] += 1
                counts["sent_bytes"] += item.size if was_sent else 0
                report(counts["sent"] + counts["unchanged"], len(items))
    if delete and extra:
        _delete_keys(client, bucket, extra)
        counts["deleted"], counts["extra"] = len(extra), 0
    elif extra:
        say(f"{len(extra)} objects in S3 are not here, such as {printable(extra[0])}; --delete removes them")
    return counts


def _walk(folder: Path) -> tuple[set[Path], set[Path]]:
    """Return the files under ``folder`` that are to be copied, and the hidden files and folders that are not."""
    paths, hidden = set[Path](), set[Path]()
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if is_junk(name):
                hidden.add(Path(place, name))
        folders[:] = [name for name in folders if not is_junk(name)]
        paths.update(Path(place, name) for name in names if not is_junk(name))
    return paths, hidden


def _make_upload_file(path: Path, key: str) -> UploadFile:
    try:
        encoded, size = len(key.encode()), path.stat().st_size
    except UnicodeEncodeError as error:
        raise SettingsError(f"{printable(str(path))}: its name is no valid text; rename it") from error
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror})") from error
    if encoded > MAX_KEY_BYTES:
        raise SettingsError(f"{path}: its name is too long for S3 ({encoded} bytes, at most {MAX_KEY_BYTES})")
    return UploadFile(path, key, size)


def _list_dataset_photos(folder: Path) -> set[Path]:
    """Return the photos of a dataset's manifest; raises SettingsError if one is missing."""
    from catdog.dataset import Manifest

    manifest = Manifest.read(folder)
    for photo in manifest.photos:
        if not (folder / photo.path).is_file():
            raise SettingsError(f"{folder}: its manifest lists {photo.path}, which is missing; make the dataset anew")
    return {folder / photo.path for photo in manifest.photos}


def _compute_digests(path: Path) -> tuple[str, str]:
    """Return MD5 and SHA-256 of a file, in hex."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                md5.update(block)
                sha256.update(block)
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror})") from error
    return md5.hexdigest(), sha256.hexdigest()


def _list_stored(client: Any, bucket: str, prefix: str) -> dict[str, tuple[int, str]]:
    """Return size and ETag of what is stored, by key.

    The ETag is the MD5, unless the object was sent in parts or KMS encrypted it.
    """
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item for page in pages for item in page.get("Contents", ())]
    return {item["Key"]: (item["Size"], item["ETag"].strip('"')) for item in objects if not item["Key"].endswith("/")}


def _read_stored_digest(client: Any, bucket: str, key: str) -> object:
    return client.head_object(Bucket=bucket, Key=key).get("Metadata", {}).get(DIGEST_KEY)


def _choose_encryption(client: Any, bucket: str, kms_key: str | None) -> dict[str, str]:
    """Return the encryption to ask for: the user's key, none if the bucket has a default, else S3's own keys.

    Also warns of a bucket that may be public.
    """
    try:
        blocked = client.get_public_access_block(Bucket=bucket).get("PublicAccessBlockConfiguration", {})
        if blocked and not all(blocked.values()):
            say(f"warning: s3://{bucket} doesn't block all public access; docs/aws/README.md says how")
    except client.exceptions.ClientError as error:
        if error_code(error) == "NoSuchPublicAccessBlockConfiguration":
            say(f"warning: s3://{bucket} doesn't block public access; docs/aws/README.md says how")
        elif error_code(error) not in FORBIDDEN:  # one may be allowed to write, and not to look at this
            raise
    if kms_key:
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
    try:
        client.get_bucket_encryption(Bucket=bucket)
    except client.exceptions.ClientError as error:
        if error_code(error) == "ServerSideEncryptionConfigurationNotFoundError":
            return {"ServerSideEncryption": "AES256"}
        if error_code(error) not in FORBIDDEN:
            raise
    return {}


def _put(client: Any, bucket: str, item: UploadFile, md5: str, sha256: str, encryption: Mapping[str, str]) -> None:
    details = {
        "Metadata": {DIGEST_KEY: sha256},
        "ContentType": mimetypes.guess_type(item.path.name)[0] or "application/octet-stream",
        **encryption,
    }
    if item.size > WHOLE_BYTES:
        client.upload_file(str(item.path), bucket, item.key, ExtraArgs=details)
        return
    checksum = base64.b64encode(bytes.fromhex(md5)).decode()  # S3 refuses a body that changed on its way, or since
    with item.path.open("rb") as body:
        client.put_object(Bucket=bucket, Key=item.key, Body=body, ContentMD5=checksum, **details)


def _delete_keys(client: Any, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), _MOST_DELETED):
        objects = [{"Key": key} for key in keys[start : start + _MOST_DELETED]]
        response = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        if errors := response.get("Errors"):
            raise SettingsError(f"s3://{bucket}/{errors[0]['Key']}: can't be deleted ({errors[0]['Code']})")
