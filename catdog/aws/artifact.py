"""The MODEL that a command names, packed for the container and put where SageMaker finds it.

    MODEL (a run folder, a model.tar.gz here or in S3, "embedded") -> model.tar.gz with code/ -> s3://bucket/...

The archive's name in S3 is its content's SHA-256, so the same model is uploaded once.
"""

from __future__ import annotations

import base64
import json
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from catdog.aws.account import Account, code_of
from catdog.aws.package import Package, build_package
from catdog.contract import CONTRACT_NAME, WEIGHTS_NAME
from catdog.errors import ModelError, SettingsError
from catdog.serving.loading import GOLDEN_NAME, ONNX_NAME
from catdog.sources.objects import S3_SCHEME as SCHEME
from catdog.sources.objects import split_s3_uri as split_uri

EMBEDDED: Final = "embedded"
ARCHIVE: Final = "model.tar.gz"
PREFIX: Final = "catdog/models"
INT8_NAME: Final = "model-int8.onnx"
MOST_BYTES: Final = 4 * 2**30  # unpacked; a resnet152 has 0.24 GB
WANTED: Final = (CONTRACT_NAME, ONNX_NAME, INT8_NAME, WEIGHTS_NAME)
"""What packing reads; nothing else of an archive is unpacked."""


@dataclass(frozen=True)
class Golden:
    """A photo with the answer that the packed model gave."""

    name: str
    data: bytes
    probabilities: dict[str, float]
    """By class name."""


@dataclass(frozen=True)
class Artifact:
    """A package on this machine, on its way to S3."""

    package: Package | None
    """None where a dry run can't fetch what would be packed."""
    bucket: str
    key: str
    model_sha256: str
    """Of the ONNX file in it, as batch scoring has it in its ``model`` column."""

    @property
    def uri(self) -> str:
        """Where it is once ``upload`` has put it there."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    def golden(self) -> list[Golden]:
        """The package's golden photos."""
        if self.package is None:
            return []
        found = json.loads(_member(self.package.path, GOLDEN_NAME))
        return [Golden(p["name"], base64.b64decode(p["image"]), p["probabilities"]) for p in found["photos"]]


def prepare(account: Account, model: str, folder: Path, photos: Sequence[Path] = ()) -> Artifact:
    """Pack ``model`` in ``folder``. ``photos``: more golden ones.

    Raises CatdogError: there is no such model, it can't be packed, or no bucket is known.
    """
    bucket = account.default_bucket()
    if account.dry_run and model.startswith(SCHEME):
        split_uri(model)
        return Artifact(None, bucket, f"{PREFIX}/SHA256-OF-THE-PACKAGE/{ARCHIVE}", "")
    package = build_package(_run_folder(account, model, folder), folder / ARCHIVE, photos)
    onnx = sha256(_member(package.path, ONNX_NAME)).hexdigest()
    return Artifact(package, bucket, f"{PREFIX}/{package.sha256[:16]}/{ARCHIVE}", onnx)


def upload(account: Account, artifact: Artifact, kms_key: str | None) -> bool:
    """Put the package into its bucket, unless it is there; returns whether it was sent."""
    client = account.client("s3")
    place = {"Bucket": artifact.bucket, "Key": artifact.key}
    if artifact.package is None or (not account.dry_run and _is_there(client, place, artifact.package.size_bytes)):
        return False
    key = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}  # else the bucket's own
    with artifact.package.path.open("rb") as body:
        client.put_object(**place, Body=body, ContentType="application/gzip", **key)
    return True


def of_job(account: Account, job: str) -> str:
    """The s3:// address of a training job's model; raises SettingsError for one that has none (yet)."""
    found = account.client("sagemaker").describe_training_job(TrainingJobName=job)
    status, uri = found["TrainingJobStatus"], found.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if status != "Completed" or not uri:
        raise SettingsError(f"--from-job {job}: has no model, its status is {status}")
    return str(uri)


def _run_folder(account: Account, model: str, folder: Path) -> Path:
    run = folder / "run"
    if model == EMBEDDED:
        return _embedded(run)
    if model.startswith(SCHEME):
        return _unpacked(_fetched(account, model, folder / "fetched.tar.gz"), run, model)
    path = Path(model)
    if path.is_dir():
        return path
    if not path.is_file():
        raise ModelError(f"{model}: no such folder or {ARCHIVE}; give one, an {SCHEME} address, or {EMBEDDED!r}")
    return _unpacked(path, run, model)


def _embedded(run: Path) -> Path:
    assets = files("catdog").joinpath("assets")
    run.mkdir()
    try:
        (run / ONNX_NAME).write_bytes(assets.joinpath("catdog.onnx").read_bytes())
        (run / CONTRACT_NAME).write_bytes(assets.joinpath(CONTRACT_NAME).read_bytes())
    except OSError as error:
        raise ModelError("the embedded model is missing from this installation; name another one") from error
    return run


def _fetched(account: Account, uri: str, path: Path) -> Path:
    bucket, key = split_uri(uri)
    client = account.client("s3")
    try:
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
    except Exception as error:
        if code_of(error) in ("NoSuchKey", "404"):
            raise ModelError(f"{uri}: there is no such object; has the training job ended?") from error
        raise
    with path.open("wb") as file:
        shutil.copyfileobj(body, file, 1 << 20)
    return path


def _unpacked(archive: Path, run: Path, name: str) -> Path:
    """The files in ``WANTED`` of an archive, as a folder; links and all else are passed over."""
    run.mkdir()
    try:
        with tarfile.open(archive) as tar:
            room = MOST_BYTES
            for member in tar:
                wanted = member.name.removeprefix("./")
                if wanted not in WANTED or not member.isreg():
                    continue
                room -= member.size
                if room < 0:
                    raise ModelError(f"{name}: holds over {MOST_BYTES >> 30} GB")
                source = tar.extractfile(member)
                assert source is not None  # regular files have one
                with source, (run / wanted).open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise ModelError(f"{name}: not a {ARCHIVE} that can be read ({_first_line(error)})") from error
    if not (run / CONTRACT_NAME).is_file():
        raise ModelError(f"{name}: has no {CONTRACT_NAME}; is it the model.tar.gz of a catdog training job?")
    return run


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None, name  # we have packed it
        return file.read()


def _is_there(client: Any, place: dict[str, str], size: int) -> bool:
    try:
        return bool(client.head_object(**place)["ContentLength"] == size)
    except Exception as error:
        # Without s3:ListBucket, S3 says 403 of what isn't there; the upload will tell.
        if code_of(error) in ("404", "NoSuchKey", "NotFound", "403", "AccessDenied"):
            return False
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
