"""catdog aws upload, train, tune and status: the real SDK and the real boto3 against moto, in a process of its own.

The requests that SageMaker would get are compared with tests/golden/aws/*.json; CATDOG_UPDATE_GOLDEN=1 writes these.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from catdog.errors import SettingsError
from tests.integration.aws_on_loopback import use
from tests.integration.aws_server import Cloud
from tests.integration.test_train import SMALL, paint

pytest.importorskip("boto3", reason="needs boto3")
pytest.importorskip("moto", reason="needs moto")

from catdog.aws import (
    image,  # noqa: F401  it registers its command
    upload,
)
from catdog.aws.account import Account, find_account, find_studio_role
from catdog.aws.app import app, exit_on_error
from catdog.aws.archive import make_archive
from catdog.aws.failures import CloudError
from catdog.aws.jobs import tune  # noqa: F401  and train's
from catdog.aws.jobs.requests import METRICS, OBJECTIVES, parse_job_settings
from catdog.aws.jobs.sending import has_sdk
from catdog.aws.jobs.status import watch_job
from catdog.aws.source_code import list_imported_files, list_training_files, read_training_code
from catdog.training.settings import parse

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "aws"
BUCKET = "catdog-golden"
ROLE = "arn:aws:iam::123456789012:role/catdog-training"
COMMON = ["--bucket", BUCKET, "--owner", "golden"]
PHOTOS = f"s3://{BUCKET}/catdog/datasets/data/"


class Outcome:
    """What a command said and how it ended."""

    def __init__(self, result: Any) -> None:
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    @property
    def answer(self) -> Any:
        return json.loads(self.out)

    def refused(self, code: int = 2) -> str:
        """The one line of an error."""
        assert (self.code, self.out) == (code, ""), (self.code, self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return str(lines[0])


@pytest.fixture(scope="module")
def running_cloud(moto: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The proxy; the environment has it for AWS, and no other configuration."""
    nowhere = str(tmp_path_factory.mktemp("home") / "none.yaml")
    Path(nowhere).write_text("SchemaVersion: '1.0'\n")
    with Cloud(moto) as server, pytest.MonkeyPatch.context() as environment:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        use(
            environment,
            f"http://127.0.0.1:{server.server_port}",
            ("AWS_", "CATDOG_", "SAGEMAKER_"),
            kept="CATDOG_UPDATE_GOLDEN",
            HTTPS_PROXY=f"http://127.0.0.1:{server.server_port}",
            SAGEMAKER_ADMIN_CONFIG_OVERRIDE=nowhere,
            SAGEMAKER_USER_CONFIG_OVERRIDE=nowhere,
        )
        # The SDK has its own schema checked at each of 20 looks at its configuration, 2 s for a job.
        check = pytest.importorskip("jsonschema").validators.validator_for
        environment.setattr("jsonschema.validate", lambda given, schema: check(schema)(schema).validate(given))
        find_account().client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cloud(running_cloud: Cloud) -> Iterator[Cloud]:
    """That proxy, with nothing seen and nothing planned."""
    running_cloud.seen.clear()
    yield running_cloud
    running_cloud.replies.clear()


@pytest.fixture
def me(cloud: Cloud) -> Account:
    return find_account()


@pytest.fixture
def aws(cloud: Cloud) -> Callable[..., Outcome]:
    """aws("train", ...) runs a command as the shell would."""
    return lambda *arguments: Outcome(CliRunner().invoke(app, [str(a) for a in arguments]))


@pytest.fixture
def keys(me: Account) -> Callable[[str], list[str]]:
    """keys(prefix) -> what lies there."""
    return lambda prefix: [
        item["Key"] for item in me.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())
    ]


def assert_golden(name: str, request: Any) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("CATDOG_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(request, indent=2, sort_keys=True) + "\n")
    assert request == json.loads(path.read_text())


# upload


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "some photos"
    for name in ("cats/1.jpg", "cats/ä 2.jpg", "dogs/1.jpg", ".DS_Store", ".git/config", "dogs/.env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_upload_sends_what_changed_and_removes_only_what_it_is_told_to(
    aws: Callable[..., Outcome], keys: Callable[[str], list[str]], photos: Path
) -> None:
    first = aws("upload", photos, "--prefix", "catdog/a", *COMMON)
    assert first.answer["uri"] == f"s3://{BUCKET}/catdog/a/some photos/"
    assert {k: first.answer[k] for k in ("files", "sent", "unchanged")} == {"files": 3, "sent": 3, "unchanged": 0}
    assert "next: catdog aws train" in first.err
    root = "catdog/a/some photos/"
    assert keys(root) == [f"{root}cats/1.jpg", f"{root}cats/ä 2.jpg", f"{root}dogs/1.jpg"]  # no hidden file

    again = aws("upload", photos, "--prefix", "catdog/a", *COMMON)
    assert (again.answer["sent"], again.answer["unchanged"]) == (0, 3)

    (photos / "cats/1.jpg").write_bytes(b"CATS/1.jpg")  # of the same size
    (photos / "dogs/1.jpg").unlink()
    changed = aws("upload", photos, "--prefix", "catdog/a", *COMMON)
    assert {k: changed.answer[k] for k in ("sent", "unchanged", "extra", "deleted")} == {
        "sent": 1, "unchanged": 1, "extra": 1, "deleted": 0,
    }  # fmt: skip
    assert "dogs/1.jpg" in changed.err
    assert "--delete" in changed.err
    assert aws("upload", photos, "--prefix", "catdog/a", "--delete", *COMMON).answer["deleted"] == 1
    assert keys(root) == [f"{root}cats/1.jpg", f"{root}cats/ä 2.jpg"]


def test_upload_knows_a_large_file_by_its_sha256(aws: Callable[..., Outcome], tmp_path: Path, cloud: Cloud) -> None:
    archive = tmp_path / "photos.zip"
    with archive.open("wb") as file:
        file.truncate(upload.WHOLE_BYTES + 1)
    first = aws("upload", archive, *COMMON)
    assert first.answer["uri"] == f"s3://{BUCKET}/catdog/datasets/photos.zip"
    assert first.answer["sent"] == 1
    assert any("uploadId=" in operation for operation, _ in cloud.seen)  # in parts, so its ETag is no MD5
    assert aws("upload", archive, *COMMON).answer["unchanged"] == 1


def test_upload_asks_for_encryption_and_lets_s3_check_the_bytes(
    aws: Callable[..., Outcome], cloud: Cloud, photos: Path, me: Account
) -> None:
    aws("upload", photos / "cats", "--prefix", "catdog/b", *COMMON)
    sent = next(headers for name, headers in cloud.seen if name.startswith("PUT") and "1.jpg" in name)
    # This bucket of moto's has no default; AWS's have had one since 2023, and then nothing is asked for.
    assert sent["x-amz-server-side-encryption"] == "AES256"
    assert {"content-md5", "x-amz-meta-sha256"} <= sent.keys()
    assert sent["content-type"] == "image/jpeg"

    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "our-key"}}
    client = me.client("s3")
    client.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]})
    cloud.seen.clear()
    aws("upload", photos / "cats", "--prefix", "catdog/c", *COMMON)
    client.delete_bucket_encryption(Bucket=BUCKET)
    sent = next(headers for name, headers in cloud.seen if name.startswith("PUT") and "1.jpg" in name)
    assert "x-amz-server-side-encryption" not in sent


def test_upload_warns_of_a_bucket_that_may_be_public(aws: Callable[..., Outcome], photos: Path, me: Account) -> None:
    assert "block public access" in aws("upload", photos, *COMMON).err
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    me.client("s3").put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=block)
    said = aws("upload", photos, *COMMON).err
    me.client("s3").delete_public_access_block(Bucket=BUCKET)
    assert "warning" not in said


def test_upload_of_a_dataset_ends_with_its_manifest_and_refuses_one_that_lacks_a_photo(
    aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path
) -> None:
    from catdog.dataset import build

    build([paint(tmp_path / "raw", {"cats": 4, "dogs": 4})], tmp_path / "data")
    assert aws("upload", tmp_path / "data", "--prefix", "catdog/d", *COMMON).code == 0
    put = [name for name, _ in cloud.seen if name.startswith("PUT")]
    assert put[-1].endswith("/manifest.json")
    assert sum("manifest" in name for name in put) == 1
    next((tmp_path / "data").rglob("*.jpg")).unlink()
    assert "which is missing" in aws("upload", tmp_path / "data", *COMMON).refused()


def test_upload_dry_run_sends_nothing(aws: Callable[..., Outcome], cloud: Cloud, photos: Path) -> None:
    done = aws("upload", photos, "--dry-run", *COMMON)
    assert cloud.seen == []
    puts = [r["parameters"] for r in done.answer["requests"] if r["operation"] == "PutObject"]
    assert [put["Key"].rpartition("/")[2] for put in puts] == ["1.jpg", "ä 2.jpg", "1.jpg"]
    assert all(re.fullmatch(r"<\d+ bytes>|<a stream>", put["Body"]) for put in puts)
    with (photos / "large.zip").open("wb") as file:
        file.truncate(upload.WHOLE_BYTES + 1)
    parts = aws("upload", photos / "large.zip", "--dry-run", *COMMON).answer["requests"]
    assert {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"} <= {r["operation"] for r in parts}
    assert cloud.seen == []


def test_upload_dry_run_of_many_files_fits_on_a_screen(aws: Callable[..., Outcome], tmp_path: Path) -> None:
    for number in range(202):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    done = aws("upload", tmp_path, "--dry-run", *COMMON)
    assert len(done.out.splitlines()) < 100
    assert done.answer["not_shown"] == {"s3 PutObject": 199}
    assert (done.answer["cost"]["files"], done.answer["cost"]["sent"]) == (202, 202)


def test_upload_of_a_dataset_from_a_hidden_folder_takes_its_photos(
    aws: Callable[..., Outcome], keys: Callable[[str], list[str]], tmp_path: Path
) -> None:
    from catdog.dataset import Manifest, build

    build([paint(tmp_path / "raw", {"cats": 4, "dogs": 4})], tmp_path / "data")
    (tmp_path / "data/photos/raw").rename(tmp_path / "data/photos/.raw")  # as earlier versions made it of such a folder
    path = tmp_path / "data/manifest.json"
    path.write_text(path.read_text().replace("photos/raw/", "photos/.raw/"))
    manifest = Manifest.read(tmp_path / "data")
    assert all(".raw" in photo.path for photo in manifest.photos)
    aws("upload", tmp_path / "data", "--prefix", "catdog/hidden", *COMMON)
    assert {f"catdog/hidden/data/{photo.path}" for photo in manifest.photos} <= set(keys("catdog/hidden/"))


def test_upload_says_what_it_leaves_here(aws: Callable[..., Outcome], photos: Path) -> None:
    said = aws("upload", photos, "--prefix", "catdog/said", *COMMON).err
    assert "not copied: 3 hidden files or folders, such as .DS_Store" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder or file"),
        (["docs", "--prefix", "../x"], "--prefix ../x: must be names"),
        (["docs", "--bucket", "UPPER"], "--bucket UPPER: not a name that S3 allows"),
        (["docs", "--bucket", "no-such-bucket"], "there is no bucket"),
        (["docs", "--bucket", ""], "no bucket; give --bucket"),
        (["docs", "--region", "mars"], "--region mars: not a region's name"),
    ],
)
def test_upload_says_what_is_wrong(
    aws: Callable[..., Outcome], arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert said in aws("upload", *arguments[:1], *COMMON, *arguments[1:]).refused()


# train

# --instance is the old spelling of --instance-type.
TRAININGS: dict[str, tuple[list[str], list[str]]] = {
    "train": ([], ["--epochs", "3", "--amp", "False", "--lr", "0.01", "--arch", "cnn"]),
    "train-spot-distributed": (
        [
            *(
                "--spot",
                "--max-hours",
                "2",
                "--max-wait-hours",
                "5",
                "--instance",
                "ml.g5.12xlarge",
                "--instances",
                "2",
            ),
            *("--validation", f"s3://{BUCKET}/catdog/val", "--test", f"s3://{BUCKET}/catdog/test.zip"),
            *("--kms-key", "our-key", "--framework-version", "2.10.0", "--volume", "100"),
        ],
        ["--weights", f"s3://{BUCKET}/catdog/datasets/imagenet.safetensors"],
    ),
    "train-warm-cpu": (
        ["--instance-type", "ml.m5.xlarge", "--keep-alive", "30", "--kms-key", "our-key", "--resume", "catdog-old"],
        [],
    ),
    "train-image": (
        [
            "--instances",
            "2",
            "--image",
            "public.ecr.aws/deep-learning-containers/pytorch:2.14-cu133-amzn2023-sagemaker",
        ],
        ["--epochs", "1"],
    ),
    "train-detect": ([], ["--task", "detect", "--epochs", "40", "--size", "256"]),
}


@pytest.fixture(params=["boto3", "sdk"])
def sender(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who sends jobs: the SDK, or boto3, as where the SDK isn't installed."""
    if request.param == "boto3":
        monkeypatch.setitem(sys.modules, "sagemaker", None)  # how Python itself marks what can't be imported
    else:
        pytest.importorskip("sagemaker", reason="needs the SageMaker SDK: pip install '.[sagemaker]'")
    assert has_sdk() == (request.param == "sdk")
    return str(request.param)


@pytest.mark.parametrize("name", TRAININGS)
def test_train_asks_sagemaker_for_this_job(aws: Callable[..., Outcome], cloud: Cloud, name: str, sender: str) -> None:
    options, settings = TRAININGS[name]
    arguments = ["train", PHOTOS.rstrip("/"), "--name", f"catdog-{name}", "--role", ROLE, *COMMON, *options]
    arguments += ["--", *settings] if settings else []
    done = aws(*arguments)
    assert done.code == 0, done.err
    assert done.answer["name"] == f"catdog-{name}"
    assert f"next: catdog aws status catdog-{name}" in done.err
    (request,) = cloud.asked("CreateTrainingJob")
    assert_golden(name, request)
    assert {operation.split()[0] for operation, _ in cloud.seen} == {"PUT", "CreateTrainingJob"}  # no STS, no telemetry


def test_a_spot_job_keeps_a_checkpoint_every_2_minutes_unless_told_otherwise(
    aws: Callable[..., Outcome], tmp_path: Path
) -> None:
    """SageMaker's toolkit doesn't pass SIGTERM on, so all since the last checkpoint is lost."""

    def ask(*arguments: str) -> Any:
        done = aws("train", PHOTOS, "--dry-run", "--role", ROLE, *COMMON, *arguments)
        return done.answer["requests"][-1]["parameters"]["HyperParameters"].get("checkpoint_minutes")

    config = tmp_path / "config.yaml"
    config.write_text(parse([], {}).to_yaml())  # of a run at home, where it is 10
    assert ask("--spot", "--", "--config", str(config)) == ask("--spot") == "2.0"
    assert ask("--spot", "--", "--checkpoint-minutes", "5") == "5.0"
    assert ask("--spot", "--", "--checkpoint-minutes", "10") is None  # the training's own default
    assert ask() is None


def test_a_dry_run_says_the_same_and_needs_neither_network_nor_credentials(
    aws: Callable[..., Outcome], cloud: Cloud, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    name = "train-spot-distributed"
    options, settings = TRAININGS[name]
    role = ["--role", "catdog-training"]
    done = aws("train", PHOTOS, "--dry-run", "--name", f"catdog-{name}", *role, *COMMON, *options, "--", *settings)
    assert cloud.seen == []
    asked = {r["operation"]: r["parameters"] for r in done.answer["requests"]}
    assert list(asked) == ["PutObject", "CreateTrainingJob"]
    put = asked["PutObject"]
    assert put.pop("Body") == "<a stream>"
    assert put == {
        "Bucket": BUCKET,
        "Key": f"catdog/jobs/catdog-{name}/source/sourcedir.tar.gz",
        "ContentType": "application/gzip",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "our-key",
    }
    assert "pytorch-training:2.10.0-gpu-py313: AWS patche" in done.err
    assert asked["CreateTrainingJob"].pop("RoleArn") == "arn:aws:iam::000000000000:role/catdog-training"
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert golden.pop("RoleArn") == ROLE
    assert asked["CreateTrainingJob"] == golden
    cost = done.answer["cost"]
    assert (cost["instances"], cost["max_hours"], cost["jobs"]) == (2, 2.0, 1)
    assert cost["usd_at_most"] == pytest.approx(cost["usd_per_hour"] * 2, abs=0.01)
    assert "spot" in cost["note"]


def test_the_code_that_goes_trains_and_every_number_it_prints_is_a_metric(
    aws: Callable[..., Outcome], cloud: Cloud, me: Account, tmp_path: Path
) -> None:
    cloud.refuse("CreateTrainingJob", "AccessDeniedException", "User is not allowed")
    said = aws("train", PHOTOS, "--name", "catdog-code", "--role", ROLE, *COMMON).refused()
    assert said.startswith("catdog aws train: error: AWS forbids CreateTrainingJob; the policies in docs/aws/")
    # The code went before the job was refused.
    key = "catdog/jobs/catdog-code/source/sourcedir.tar.gz"
    data = me.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    code = tmp_path / "code"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = sorted(member.name for member in archive.getmembers() if member.isfile())
        archive.extractall(code, filter="data")
    assert names == list_training_files()
    assert not [name for name in names if re.search(r"catdog/(aws|serving|score|assets)/|\.onnx|__pycache__|/\.", name)]

    data_folder = paint(tmp_path / "photos", {"cats": 30, "dogs": 30})
    small = [*SMALL, "--size", "32", "--export", "False"]
    arguments = ["--data", str(data_folder), "--output", str(tmp_path / "run"), *small]
    run = "import sys, runpy, catdog; sys.stderr.write(catdog.__file__ + chr(10)); sys.argv[0] = 'train.py'; "
    run += "runpy.run_path('train.py', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", run, *arguments], cwd=code, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stderr.splitlines()[0]) == code / "catdog" / "__init__.py"
    *epochs, end = done.stdout.splitlines()
    printed = {name for line in (*epochs, end) for name in re.findall(r"(\w+)=", line)}
    assert printed - {"epoch"} == METRICS["classify"].keys()
    for line in (*epochs, end):
        values = {
            name: float(found[1]) for name, regex in METRICS["classify"].items() if (found := re.search(regex, line))
        }
        assert values == {k: float(v) for k, v in re.findall(r"(\w+)=(\S+)", line) if k != "epoch"}
    assert len(epochs) == 2


def test_metrics_are_within_sagemaker_s_limits() -> None:
    assert all(len(metrics) <= 40 for metrics in METRICS.values())
    assert all(len(regex) <= 500 for metrics in METRICS.values() for regex in metrics.values())
    metrics = METRICS["classify"]
    assert re.search(metrics["val_loss"], "epoch=3 train_loss=0.1 val_loss=1.5e-05")[1] == "1.5e-05"  # type: ignore[index]
    assert not re.search(metrics["lr"], "clr=0.1")
    assert all(objectives.keys() <= METRICS[task].keys() for task, objectives in OBJECTIVES.items())


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        (["--task", "detect"], True),
        (["--task", "detect", "--weights", "none"], False),
        (["--weights", "embedded"], True),
        (["--teacher", "embedded"], True),
        ([], False),
    ],
)
def test_the_embedded_model_goes_with_jobs_that_learn_from_it(
    aws: Callable[..., Outcome], cloud: Cloud, me: Account, settings: list[str], goes: bool
) -> None:
    cloud.refuse("CreateTrainingJob", "AccessDeniedException", "the code went before")
    aws(
        "train", PHOTOS, "--name", "catdog-embedded", "--role", ROLE, *COMMON, "--", "--epochs", "1", *settings
    ).refused()
    key = "catdog/jobs/catdog-embedded/source/sourcedir.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(me.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())) as archive:
        assert ("catdog/assets/catdog.onnx" in archive.getnames()) == goes


def test_the_code_is_packed_alike_each_time() -> None:
    first = make_archive(read_training_code())
    list_imported_files.cache_clear()
    assert make_archive(read_training_code()) == first


def test_the_code_comes_from_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.py: is missing; train from a checkout"):
        list_training_files(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data/"], "data/: not an S3 address; give s3://bucket/key; catdog aws upload gives one"),
        ([PHOTOS, "--", "--epoch", "3"], "unknown argument --epoch; did you mean --epochs?"),
        ([PHOTOS, "--", "--lr", "-1"], "--lr must be positive"),
        ([PHOTOS, "--", "--data", "x"], "--data: SageMaker sets it; leave it out"),
        ([PHOTOS, "--", "--checkpoint-dir", "x"], "--checkpoint-dir: SageMaker sets it"),
        ([PHOTOS, "--", "--validation", "x"], "--validation x: give --validation s3://..., before the --"),
        ([PHOTOS, "--", "--weights", "a.safetensors"], "lies on this machine; upload it"),
        ([PHOTOS, "--validation", "v"], "--validation v: not an S3 address"),
        ([PHOTOS, "--max-wait-hours", "3"], "--max-wait-hours is for --spot"),
        ([PHOTOS, "--spot", "--max-wait-hours", "3"], "not less than --max-hours 6"),
        ([PHOTOS, "--spot", "--keep-alive", "5"], "keeps no spot instance warm"),
        ([PHOTOS, "--instance", "g4dn"], "--instance-type g4dn: not an instance type"),
        ([PHOTOS, "--framework-version", "2.6"], "--framework-version 2.6: must be one of 2.6.0"),
        ([PHOTOS, "--image", "pytorch"], "--image pytorch: not a container's full address"),
        ([PHOTOS, "--image", "a.b/c:1", "--framework-version", "2.14"], "leave out one of the two"),
        ([PHOTOS, "--name", "mine"], "--name mine: must be catdog-..."),
        ([PHOTOS, "--role", "a b"], "--role a b: is neither a role's name nor its ARN"),
    ],
)
def test_train_refuses_before_it_asks_anything(
    aws: Callable[..., Outcome], cloud: Cloud, arguments: list[str], said: str
) -> None:
    role = [] if "--role" in arguments else ["--role", ROLE]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    assert said in aws("train", *arguments[:split], *role, *COMMON, *arguments[split:]).refused()
    assert cloud.seen == []


def test_a_role_is_found_by_its_name_and_throttling_is_waited_out(
    aws: Callable[..., Outcome], cloud: Cloud, me: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = me.client("iam").create_role(RoleName="catdog-here", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    monkeypatch.setenv("CATDOG_ROLE", "catdog-here")
    cloud.refuse("CreateTrainingJob", "ThrottlingException", "Rate exceeded", times=2)
    assert aws("train", PHOTOS, "--name", "catdog-role", *COMMON).code == 0
    asked = cloud.asked("CreateTrainingJob")
    assert [request["RoleArn"] for request in asked] == [arn] * 3
    assert "the account has no such role" in aws("train", PHOTOS, "--role", "nobody", *COMMON).refused()
    monkeypatch.delenv("CATDOG_ROLE")
    assert "no role for SageMaker" in aws("train", PHOTOS, *COMMON).refused()


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            "AccessDeniedException",
            "User: x is not authorized to perform: sagemaker:ListTrainingJobs on resource: y",
            "AWS forbids sagemaker:ListTrainingJobs; the policies in docs/aws/",
        ),
        ("ExpiredTokenException", "The security token included in the request is expired", "renew them"),
        ("ResourceLimitExceeded", "The account-level limit for ml.g4dn.xlarge is 0", "a quota of the account"),
        ("ValidationException", "1 validation\nerror", "AWS refuses ListHyperParameterTuningJobs: 1 validation error"),
    ],
)
def test_a_refusal_is_one_line(aws: Callable[..., Outcome], cloud: Cloud, code: str, message: str, said: str) -> None:
    cloud.refuse("ListHyperParameterTuningJobs", code, message)
    assert said in aws("status").refused()


def test_without_credentials_or_network_it_says_so(
    aws: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "AWS can't be reached" in aws("status").refused()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for arguments in (["train", PHOTOS, "--role", ROLE, *COMMON], ["status"], ["upload", GOLDEN, *COMMON]):
        assert "no AWS credentials were found; run aws configure" in aws(*arguments).refused()


# the job's log and end


def job(state: str, step: str, **more: Any) -> tuple[int, dict[str, Any]]:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    return 200, {
        "TrainingJobName": "catdog-x",
        "TrainingJobStatus": state,
        "SecondaryStatusTransitions": [{"Status": step, "StatusMessage": f"about {step}", "StartTime": now}],
        "CreationTime": now,
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1},
        **more,
    }


def write_log(me: Account, name: str, *lines: str) -> None:
    client, group, stream = me.client("logs"), "/aws/sagemaker/TrainingJobs", f"{name}/algo-1-1700000000"
    if not client.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        client.create_log_group(logGroupName=group)
    client.create_log_stream(logGroupName=group, logStreamName=stream)
    now = round(datetime.now(timezone.utc).timestamp() * 1000)
    events = [{"timestamp": now, "message": line} for line in lines]
    client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_waiting_shows_steps_and_log_and_ends_with_the_result(cloud: Cloud, me: Account) -> None:
    write_log(me, "catdog-x", "epoch=1 train_loss=0.5", "\x1b[31mred\n")
    cloud.replies["DescribeTrainingJob"] = [
        job("InProgress", "Starting"),
        job("InProgress", "Training"),
        job("Completed", "Completed", TrainingTimeInSeconds=360, BillableTimeInSeconds=90,
            ModelArtifacts={"S3ModelArtifacts": "s3://b/model.tar.gz"},
            FinalMetricDataList=[{"MetricName": "val_accuracy", "Value": 0.5, "Timestamp": 0}]),
    ]  # fmt: skip
    said: list[str] = []
    done = watch_job(me, "catdog-x", "training", said.append, poll_s=0.01)
    assert [line.partition(": ")[2] for line in said if "catdog-x" in line] == [
        "Starting: about Starting",
        "Training: about Training",
        "Completed: about Completed",
    ]
    assert [line for line in said if line.startswith("[algo-1]")] == [
        "[algo-1] epoch=1 train_loss=0.5",
        r"[algo-1] \x1b[31mred",
    ]
    assert (done["seconds"], done["billable_seconds"], done["model"]) == (360, 90, "s3://b/model.tar.gz")
    assert done["usd"] == pytest.approx(2 * 0.115 * 90 / 3600, abs=1e-4)
    assert done["metrics"] == {"val_accuracy": 0.5}


@pytest.mark.parametrize(
    ("state", "said"), [("Failed", "failed: loss is nan"), ("Stopped", "was stopped: loss is nan")]
)
def test_a_job_that_fails_says_why(cloud: Cloud, me: Account, state: str, said: str) -> None:
    cloud.replies["DescribeTrainingJob"] = [job(state, state, FailureReason="loss is nan")]
    with pytest.raises(CloudError, match=said):
        watch_job(me, "catdog-x", "training", lambda _: None, poll_s=0.01)


REASON = (
    'AlgorithmError: ExecuteUserScriptError:\nExitCode 2\nErrorMessage "Exception: no photos\n"\nCommand "train.py"'
)


@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        ([job("Failed", "Failed", FailureReason="AlgorithmError: no photos")], 1, "failed: AlgorithmError: no photos"),
        # SageMaker's reasons have several lines, whose ends were printed as "\n".
        ([job("Failed", "Failed", FailureReason=REASON)], 1, 'ExitCode 2 ErrorMessage "Exception: no photos " Command'),
        ([(400, {"__type": "ExpiredTokenException", "message": "x"})], 2, "goes on without being watched"),
    ],
)
def test_the_exit_code_of_waiting_tells_how_it_ended(
    cloud: Cloud, me: Account, plan: Any, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.replies["DescribeTrainingJob"] = plan
    with pytest.raises(SystemExit) as ended, exit_on_error("train"):
        watch_job(me, "catdog-without-a-log", "training")
    assert ended.value.code == code
    assert said in capsys.readouterr().err


# tune


def test_tune_asks_for_this_search_and_its_dry_run_for_the_same(
    aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path, sender: str
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "settings: {arch: cnn, epochs: 2, amp: false}\n"
        "search:\n  lr: {min: 0.01, max: 0.2, scale: log}\n  batch_size: {min: 16, max: 64}\n  size: [64, 96]\n"
        "  optimizer: [sgd, adamw]\n"
    )
    arguments = ["tune", space, PHOTOS, "--name", "catdog-tune", "--role", ROLE, "--max-jobs", 6, "--spot", *COMMON]
    cloud.replies["CreateHyperParameterTuningJob"] = [(200, {"HyperParameterTuningJobArn": "arn"})]  # moto keeps names
    done = aws(*arguments)
    assert done.code == 0, done.err
    (request,) = cloud.asked("CreateHyperParameterTuningJob")
    assert_golden("tune", request)
    cloud.seen.clear()
    dry = aws(*arguments, "--dry-run")
    assert cloud.seen == []
    assert dry.answer["requests"][-1]["parameters"] == request
    assert dry.answer["cost"]["jobs"] == 6


def test_a_detector_s_search_is_judged_by_its_average_precision(
    aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("settings: {task: detect, epochs: 9}\nsearch:\n  lr: {min: 0.01, max: 0.1, scale: log}\n")
    arguments = ["tune", space, PHOTOS, "--dry-run", "--role", ROLE, *COMMON]
    request = aws(*arguments).answer["requests"][-1]["parameters"]
    objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    assert objective == {"Type": "Maximize", "MetricName": "val_ap"}
    names = {m["Name"] for m in request["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"]}
    assert {"train_overlap", "val_overlap", "val_ap", "val_ap50", "val_ap75", "test_ap"} <= names
    assert not {name for name in names if "accuracy" in name}
    said = aws(*arguments, "--objective", "val_accuracy").refused()
    assert "--objective val_accuracy: must be one of val_ap, val_ap50, val_ap75, val_loss" in said
    assert cloud.seen == []


def test_the_best_settings_are_a_config_that_train_py_runs(
    aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path
) -> None:
    definition = json.loads((GOLDEN / "tune.json").read_text())["TrainingJobDefinition"]
    definition["StaticHyperParameters"] |= {
        "_tuning_objective_metric": '"val_accuracy"',
        "weights": '"/opt/ml/input/data/weights0/w.safetensors"',
    }
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/w.safetensors"}}
    definition["InputDataConfig"].append({"ChannelName": "weights0", "DataSource": source})
    found = {
        "HyperParameterTuningJobName": "catdog-tune",
        "HyperParameterTuningJobStatus": "Completed",
        "TrainingJobDefinition": definition,
        "BestTrainingJob": {
            "TrainingJobName": "catdog-tune-003-abc",
            "TunedHyperParameters": {"lr": "0.0512", "batch_size": "32", "size": '"96"', "optimizer": '"adamw"'},
            "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "val_accuracy", "Value": 0.97},
        },
    }
    cloud.replies["DescribeHyperParameterTuningJob"] = [(200, found)] * 2
    config = tmp_path / "config.yaml"
    done = aws("tune", "--best", "catdog-tune", "--out", config)
    assert done.code == 0, done.err
    assert done.answer["params"] == {"lr": "0.0512", "batch_size": "32", "size": "96", "optimizer": "adamw"}
    assert done.answer["objective"] == {"val_accuracy": 0.97}
    settings = parse(["--config", str(config)], {})
    assert (settings.arch, settings.lr, settings.batch_size, settings.size) == ("cnn", 0.0512, 32, 96)
    assert (settings.optimizer, settings.epochs, settings.amp) == ("adamw", 2, False)
    assert settings.weights == "s3://bucket/w.safetensors"
    assert yaml.safe_load(config.read_text())["data"] is None
    hyperparameters, weights = parse_job_settings(["--config", str(config)], {"train": PHOTOS})
    assert hyperparameters["lr"] == 0.0512
    assert hyperparameters["weights"] == "/opt/ml/input/data/weights0/w.safetensors"
    assert weights == {"weights0": "s3://bucket/w.safetensors"}


def test_tune_says_what_is_wrong(aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("search: {lrr: [1, 2]}\n")
    assert "did you mean lr?" in aws("tune", tmp_path / "space.yaml", PHOTOS, "--role", ROLE, *COMMON).refused()
    assert "give SPACE and PHOTOS" in aws("tune", *COMMON).refused()
    space = ["tune", ROOT / "docs" / "space.yaml", PHOTOS, "--role", ROLE, *COMMON]
    assert "--objective accuracy: must be one of val_accuracy" in aws(*space, "--objective", "accuracy").refused()
    assert "32 characters" in aws(*space, "--name", f"catdog-{'x' * 30}").refused()
    assert cloud.seen == []
    cloud.replies["DescribeHyperParameterTuningJob"] = [
        (200, {"HyperParameterTuningJobName": "catdog-y", "HyperParameterTuningJobStatus": "InProgress"})
    ] * 2
    assert "no trial has a result yet" in aws("tune", "--best", "catdog-y").refused(code=1)


# status


def test_status_lists_our_jobs_and_tells_of_one(aws: Callable[..., Outcome], cloud: Cloud, me: Account) -> None:
    client, golden = me.client("sagemaker"), json.loads((GOLDEN / "train.json").read_text())
    for name in ("catdog-listed", "catdog-search-001-abc", "somebody-else-s-catdog-job"):
        client.create_training_job(**golden | {"TrainingJobName": name})
    golden = json.loads((GOLDEN / "tune.json").read_text())
    client.create_hyper_parameter_tuning_job(**golden | {"HyperParameterTuningJobName": "catdog-search"})
    listed = {entry["name"]: entry for entry in aws("status").answer["jobs"]}
    assert listed["catdog-listed"]["kind"] == "training"
    assert listed["catdog-search"]["kind"] == "tuning"
    assert not {"catdog-search-001-abc", "somebody-else-s-catdog-job"} & listed.keys()  # a trial; a stranger
    search = aws("status", "catdog-search")
    assert search.answer["usd"] == 0  # moto's trainings take no time
    assert "next: catdog aws tune --best catdog-search" in search.err
    write_log(me, "catdog-listed", "a line")
    one = aws("status", "catdog-listed", "--logs")
    assert one.answer["state"] == "Completed"
    assert "[algo-1] a line" in one.err
    model = {"S3ModelArtifacts": "s3://b/catdog/jobs/x/output/model.tar.gz"}
    metrics = [{"MetricName": "exported", "Value": 0.0, "Timestamp": 0}]
    cloud.replies["DescribeTrainingJob"] = [
        job("Completed", "Completed", ModelArtifacts=model, FinalMetricDataList=metrics)
    ]
    bare = aws("status", "catdog-listed")
    assert "its model has no ONNX file" in bare.err
    assert f"next: mkdir run && aws s3 cp {model['S3ModelArtifacts']} - | tar -xzC run && catdog export run" in bare.err
    cloud.replies["DescribeTrainingJob"] = [job("Failed", "Failed", FailureReason="out of memory")]
    failed = aws("status", "catdog-listed")
    assert failed.code == 0
    assert failed.answer["failure"] == "out of memory"
    assert "there is no such job or endpoint in us-east-1" in aws("status", "catdog-nothing").refused()


# the edge


def test_a_command_in_a_process_of_its_own_says_what_it_must_and_no_more(cloud: Cloud) -> None:
    command = [sys.executable, "-m", "catdog.aws", "train", PHOTOS, "--role", ROLE, "--wait", *COMMON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    name = answer["name"]
    assert answer["state"] == "Completed"
    assert answer["model"] == f"s3://{BUCKET}/catdog/jobs/{name}/output/model.tar.gz"
    assert re.fullmatch(r"catdog-train-\d{8}-\d{6}-[0-9a-f]{4}", name)
    started, step, following = done.stderr.splitlines()  # no warning, no log of the SDK
    assert started == f"{name}: started on 1 x ml.g4dn.xlarge"
    assert step.endswith("Starting: Preparing the instances for training")
    assert following == f"next: catdog aws deploy --from-job {name} --ttl 2h"


def test_inside_sagemaker_the_role_is_known(tmp_path: Path) -> None:
    metadata = tmp_path / "resource-metadata.json"
    assert find_studio_role(metadata) is None
    metadata.write_text(json.dumps({"AppType": "JupyterLab", "ExecutionRoleArn": ROLE}))
    assert find_studio_role(metadata) == ROLE
    for damaged in ("", "[]", "{}"):
        metadata.write_text(damaged)
        assert find_studio_role(metadata) is None


def test_the_next_command_has_the_region_that_was_given(aws: Callable[..., Outcome]) -> None:
    done = aws("upload", GOLDEN / "train.json", "--region", "us-east-1", *COMMON)
    last = done.err.splitlines()[-1]
    assert last == (f"next: catdog aws train s3://{BUCKET}/catdog/datasets/train.json --dry-run --region us-east-1")


def test_help_of_every_command_has_examples_and_exit_codes(aws: Callable[..., Outcome]) -> None:
    for command in ("upload", "train", "tune", "status", "image"):
        said = aws(command, "--help").out
        assert "Examples:" in said
        assert "Exit codes:" in said
        assert "catdog aws" in said


def test_help_lists_the_commands_in_the_order_of_their_use() -> None:
    done = subprocess.run([sys.executable, "-m", "catdog.aws", "--help"], capture_output=True, text=True, cwd=ROOT)
    listed = done.stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if re.match(r"  \w", line)] == [
        *("upload", "train", "tune", "status", "logs"),
        *("image", "deploy", "rollback", "invoke", "transform", "capture", "ps", "delete"),
    ]


def test_commands_answer_before_the_sdk_is_loaded() -> None:
    code = "import sys, catdog.aws.jobs.tune, catdog.aws.upload; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"sagemaker", "boto3", "torch", "onnxruntime"} & set(done.stdout.split())
