"""The MODEL that a command names, packed for the endpoint's container and put where SageMaker finds it.

    MODEL (a run folder, a model.tar.gz here or in S3, "embedded") -> model.tar.gz -> s3://bucket/...

    model.onnx, contract.json, golden.json    and for AWS's PyTorch container
    model.safetensors, code/inference.py, code/requirements.txt, code/catdog/

The same run folder and the same code give the same bytes, and the archive's name in S3 is its SHA-256, so that the
same model is uploaded only once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from catdog.aws.account import Account
from catdog.aws.archive import make_archive
from catdog.aws.containers import has_serving_toolkit
from catdog.aws.failures import FORBIDDEN, NO_OBJECT, error_code
from catdog.aws.source_code import ROOT, read_handler_code
from catdog.contract import CONTRACT_NAME, WEIGHTS_NAME, Contract, Task
from catdog.detection.decoding import DetectedObject
from catdog.detection.models import load_model
from catdog.errors import ModelError, SettingsError
from catdog.files import replace_file
from catdog.onnx_model import EMBEDDED, find_embedded
from catdog.serving import golden
from catdog.serving.loading import GOLDEN_NAME, ONNX_NAME, check_same_contract
from catdog.sources.addresses import S3_SCHEME as SCHEME
from catdog.sources.addresses import split_s3_uri as split_uri
from catdog.text import first_line

ARCHIVE_NAME: Final = "model.tar.gz"
ONNX_CHOICES: Final = ("model-int8.onnx", ONNX_NAME)
"""Of a run folder's ONNX files the first one is packed: int8 is two to three times as fast on a CPU."""
UNPACKED_NAMES: Final = (CONTRACT_NAME, *ONNX_CHOICES, WEIGHTS_NAME)
"""What packing reads of a training job's archive; nothing else of it is unpacked."""
MAX_UNPACKED_BYTES: Final = 4 * 2**30  # a resnet152 has 0.24 GB
S3_PREFIX: Final = "catdog/models"
REQUIREMENTS: Final = Path(__file__).with_name("endpoint_requirements.txt")
"""What the container installs before it serves, in exact versions with the hashes of their files: an instance that is
added months later gets the same."""
_COPY_BYTES: Final = 2**20


@dataclass(frozen=True)
class Package:
    """A ``model.tar.gz`` that was written."""

    path: Path
    sha256: str
    """Of the archive, hex."""
    size_bytes: int
    model_sha256: str
    """Of the ONNX file in it, as batch scoring has it in its ``model`` column."""
    task: Task = "classify"
    """What the model is for."""
    threshold: float = 0.5
    """The contract's."""


@dataclass(frozen=True)
class GoldenPhoto:
    """A photo with the answer that the packed model gave."""

    name: str
    data: bytes
    probabilities: dict[str, float] | None
    """By class name; None of a detector."""
    heads: tuple[DetectedObject, ...] = ()
    """What a detector found."""


@dataclass(frozen=True)
class PackageUpload:
    """A package on this machine and its place in S3."""

    package: Package | None
    """None in a dry run that would have to fetch the model first."""
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """Its s3:// address, once ``upload_package`` has put it there."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    def read_golden_photos(self) -> list[GoldenPhoto]:
        """Return the photos with known answers that are in the package."""
        if self.package is None:
            return []
        with tarfile.open(self.package.path) as tar:
            file = tar.extractfile(GOLDEN_NAME)
            assert file is not None  # we have packed it
            photos = json.load(file)["photos"]
        return [
            GoldenPhoto(
                photo["name"],
                base64.b64decode(photo["image"]),
                photo.get("probabilities"),
                golden.read_heads(photo.get("objects", ())),
            )
            for photo in photos
        ]

    def check_machine(self, on_gpu: bool) -> None:
        """Raise SettingsError where the package would leave the machine's GPU idle."""
        if on_gpu and self.package is not None and self.package.task == "detect":
            raise SettingsError(
                "a detector runs on the CPU here, and a GPU would be idle; give --instance-type ml.c7i.large"
            )


def build_package(run: Path, out: Path, photos: Sequence[Path] = (), with_code: bool = True) -> Package:
    """Pack a run folder (or an unpacked training job's model) as the archive ``out``.

    ``with_code``: also the handler for AWS's container; catdog's own image has it inside.

    ``run`` holds contract.json, an ONNX file (ONNX_CHOICES), and model.safetensors, without which no GPU is used.
    ``photos`` are the user's golden photos, beside those that catdog draws. Raises CatdogError if there is no contract
    or no ONNX file, if they don't belong together, or if a photo can't be read.
    """
    contract = Contract.read(run / CONTRACT_NAME)
    onnx = next((run / name for name in ONNX_CHOICES if (run / name).is_file()), None)
    if onnx is None:
        raise ModelError(f"{run}: no {' or '.join(ONNX_CHOICES)}; make it with catdog export {run}")
    model = load_model(onnx, contract.task, threads=1)
    check_same_contract(contract, model)
    contents = {
        CONTRACT_NAME: (run / CONTRACT_NAME).read_bytes(),
        GOLDEN_NAME: golden.write_golden(model, photos).encode("utf-8"),
        ONNX_NAME: onnx.read_bytes(),
    }
    if with_code:
        contents |= {f"code/{name}": data for name, data in list_code().items()}
    # Only AWS's container has torch, for a GPU, and a detector runs on the CPU.
    if with_code and model.task == "classify" and (run / WEIGHTS_NAME).is_file():
        contents[WEIGHTS_NAME] = (run / WEIGHTS_NAME).read_bytes()
    data = make_archive(contents)
    with replace_file(out) as temporary:
        temporary.write_bytes(data)
    sha256, model_sha256 = (hashlib.sha256(content).hexdigest() for content in (data, contents[ONNX_NAME]))
    return Package(out, sha256, len(data), model_sha256, model.task, contract.threshold)


def list_code(root: Path = ROOT) -> dict[str, bytes]:
    """Return the files below ``code/``: the handler, what it imports, and its requirements."""
    return {**read_handler_code(root), "requirements.txt": REQUIREMENTS.read_bytes()}


def prepare_upload(
    account: Account, model: str, folder: Path, image: str, photos: Sequence[Path] = ()
) -> PackageUpload:
    """Pack ``model`` in ``folder`` for the container ``image``; ``photos`` are additional golden ones.

    Raises CatdogError if there is no such model, it can't be packed, or no bucket is known.
    """
    bucket = account.require_bucket()
    if account.dry_run and model.startswith(SCHEME):
        split_uri(model)
        return PackageUpload(None, bucket, f"{S3_PREFIX}/SHA256-OF-THE-PACKAGE/{ARCHIVE_NAME}")
    run = _find_run_folder(account, model, folder)
    package = build_package(run, folder / ARCHIVE_NAME, photos, with_code=has_serving_toolkit(image))
    return PackageUpload(package, bucket, f"{S3_PREFIX}/{package.sha256[:16]}/{ARCHIVE_NAME}")


def upload_package(account: Account, upload: PackageUpload, kms_key: str | None) -> None:
    """Put the package into its bucket, unless it is there already."""
    client = account.client("s3")
    place = {"Bucket": upload.bucket, "Key": upload.key}
    if upload.package is None or (not account.dry_run and _is_uploaded(client, place, upload.package.size_bytes)):
        return
    # Without a key of the user's, the bucket's default encryption holds.
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    with upload.package.path.open("rb") as body:
        client.put_object(**place, Body=body, ContentType="application/gzip", **encryption)


def find_job_model(account: Account, job: str) -> str:
    """Return the s3:// address of a training job's model; raises SettingsError if it has none (yet)."""
    if account.dry_run:
        return f"{SCHEME}{account.require_bucket()}/catdog/jobs/{job}/output/{ARCHIVE_NAME}"
    description = account.client("sagemaker").describe_training_job(TrainingJobName=job)
    status, uri = description["TrainingJobStatus"], description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if status != "Completed" or not uri:
        raise SettingsError(f"--from-job {job}: has no model, its status is {status}")
    return str(uri)


def explain_export(archive: str) -> str:
    """Return the commands that export and deploy the model in a training job's archive, which has no ONNX file."""
    name = shlex.quote(archive)
    unpack = f"aws s3 cp {name} - | tar -xzC run" if archive.startswith(SCHEME) else f"tar -xzf {name} -C run"
    export = f"catdog export run --out run/{ONNX_NAME} --data PHOTOS"
    return f"mkdir run && {unpack} && {export} && catdog aws deploy run"


def _find_run_folder(account: Account, model: str, folder: Path) -> Path:
    run, path = folder / "run", Path(model)
    if model == EMBEDDED:
        return copy_embedded(run)
    if model.startswith(SCHEME):
        path = _download(account, model, folder / "fetched.tar.gz")
    elif path.is_dir():
        if not (path / CONTRACT_NAME).exists():
            raise ModelError(f"{model}: holds no model; name a run folder of catdog train")
        return path
    elif not path.is_file():
        raise ModelError(f"{model}: no such folder or {ARCHIVE_NAME}; give one, an {SCHEME} address, or {EMBEDDED!r}")
    return _unpack(path, run, model)


def copy_embedded(run: Path) -> Path:
    """Make a run folder of the embedded classifier, and return it."""
    onnx = find_embedded()
    run.mkdir()
    for name, source in ((ONNX_NAME, onnx), (CONTRACT_NAME, onnx.with_name(CONTRACT_NAME))):
        shutil.copyfile(source, run / name)
    return run


def _download(account: Account, uri: str, path: Path) -> Path:
    bucket, key = split_uri(uri)
    try:
        body = account.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    except Exception as error:
        if error_code(error) in NO_OBJECT:
            raise ModelError(f"{uri}: there is no such object; has the training job ended?") from error
        raise
    with path.open("wb") as file:
        shutil.copyfileobj(body, file, _COPY_BYTES)
    return path


def _unpack(archive: Path, run: Path, name: str) -> Path:
    """Unpack the files in UNPACKED_NAMES into the folder ``run``; links and everything else are passed over."""
    run.mkdir()
    try:
        with tarfile.open(archive) as tar:
            room = MAX_UNPACKED_BYTES
            for member in tar:
                wanted = member.name.removeprefix("./")
                if wanted not in UNPACKED_NAMES or not member.isreg():
                    continue
                room -= member.size
                if room < 0:
                    raise ModelError(f"{name}: holds over {MAX_UNPACKED_BYTES >> 30} GB")
                source = tar.extractfile(member)
                assert source is not None  # regular files have one
                with source, (run / wanted).open("wb") as file:
                    shutil.copyfileobj(source, file, _COPY_BYTES)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = first_line(error).rstrip(":")
        raise ModelError(
            f"{name}: not a {ARCHIVE_NAME} that can be read ({reason}); give one, or a run folder with its ONNX file"
        ) from error
    if not (run / CONTRACT_NAME).is_file():
        raise ModelError(f"{name}: has no {CONTRACT_NAME}; is it the {ARCHIVE_NAME} of a catdog training job?")
    if not any((run / onnx).is_file() for onnx in ONNX_CHOICES):
        raise ModelError(f"{name}: has no {ONNX_NAME}, its job exported none; make one: {explain_export(name)}")
    return run


def _is_uploaded(client: Any, place: dict[str, str], size: int) -> bool:
    try:
        return bool(client.head_object(**place)["ContentLength"] == size)
    except Exception as error:
        # Without s3:ListBucket, S3 answers 403 for a missing object; if it is really forbidden, the upload says so.
        if error_code(error) in NO_OBJECT | FORBIDDEN:
            return False
        raise
