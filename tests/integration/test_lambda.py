"""What catdog lambda package wrote, answering: the zip under a Runtime API of ours, the image under AWS's emulator.

Both run in AWS's own runtime client, on the embedded model, without anything else that is installed here. The image is
what the Dockerfile's own steps make of the package, in a folder that stands for /var/task.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier, load
from catdog.errors import SettingsError
from catdog.image import encode
from catdog.serving.lambda_events import answer_event
from catdog.serving.lambda_package import write_zip
from tests.conftest import build_tiny_model
from tests.integration.dockerfile_steps import carry_out
from tests.integration.lambda_on_loopback import HANDLER, ROOT, Emulated, Function, Served
from tests.unit.test_lambda_events import GOLDEN, HTTP, posted, read_event, refused

pytest.importorskip("awslambdaric", reason="needs AWS's runtime client, which the extra dev installs on Linux")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BUCKET = "photos-of-tests"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile.lambda"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the command wrote for this Python, and its summary."""
    out = tmp_path_factory.mktemp("package") / "lambda"
    command = [sys.executable, "-m", "catdog", "lambda", "package", "--out", str(out), "--python", PYTHON]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def unzipped(package: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = tmp_path_factory.mktemp("zip")
    zipfile.ZipFile(package[0] / "function.zip").extractall(task)
    return task


@pytest.fixture(scope="module")
def image(package: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile's COPY and RUN steps make, with this Python instead of the base image's."""
    made = carry_out(DOCKERFILE, package[0], tmp_path_factory.mktemp("image"))
    assert made.command() == [HANDLER]
    return made.find("/var/task")


@pytest.fixture(scope="module")
def s3(moto: int, photo: Callable[..., bytes]) -> Iterator[tuple[dict[str, str], Any]]:
    """Variables that lead a function to an S3 server, and a client of it; its photos are those of the golden events."""
    boto3 = pytest.importorskip("boto3")
    url, key = f"http://127.0.0.1:{moto}", "test"
    client = boto3.session.Session(key, key, region_name="us-east-1").client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    photos = {"a red cat & é.png": photo("red"), "blue.png": photo("blue"), "broken.jpg": photo("red", "JPEG")[:-300]}
    for name, data in photos.items():
        client.put_object(Bucket=BUCKET, Key=f"in/{name}", Body=data)
    client.put_object(Bucket=BUCKET, Key="forbidden/red.png", Body=photo("red"))
    yield (
        {
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": key,
            "CATDOG_ALLOWED_S3": f"s3://{BUCKET}/in/",
            "CATDOG_ANSWERS": f"s3://{BUCKET}/answers/",
        },
        client,
    )
    client.close()


@pytest.fixture(scope="module", params=["zip", "image"])
def function(
    request: pytest.FixtureRequest, s3: tuple[dict[str, str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    """The function, started."""
    kind, task = (Served, "unzipped") if request.param == "zip" else (Emulated, "image")
    with kind(request.getfixturevalue(task), s3[0], tmp_path_factory.mktemp("function")) as running:
        yield running


@pytest.fixture(scope="module")
def embedded() -> Classifier:
    return load(threads=1)


@pytest.mark.parametrize("name", [*HTTP, "direct"])
def test_golden_events_get_the_answers_that_predict_gives(function: Function, embedded: Classifier, name: str) -> None:
    response = function.invoke(read_event(name))
    assert response == answer_event(read_event(name), embedded)
    if name == "alb":
        row = embedded.predict(base64.b64decode(read_event("alb")["body"])).to_dict() | {"source": "image"}
        assert json.loads(response["body"]) == row


def test_a_photo_on_s3_is_answered_by_an_object_and_the_answer_is_not(
    function: Function, s3: tuple[dict[str, str], Any], embedded: Classifier, photo: Callable[..., bytes]
) -> None:
    assert function.invoke(read_event("s3")) == {"answered": 1}
    key = f"answers/{BUCKET}/in/a red cat & é.png.catdog.json"
    answer = json.loads(s3[1].get_object(Bucket=BUCKET, Key=key)["Body"].read())
    assert answer == embedded.predict(photo("red")).to_dict() | {"source": f"s3://{BUCKET}/in/a red cat & é.png"}
    event = read_event("s3")
    event["Records"][0]["s3"]["object"]["key"] = key.replace(" ", "+").replace("&", "%26")
    assert function.invoke(event) == {"answered": 0}


def test_sqs_is_told_which_messages_failed(
    function: Function, s3: tuple[dict[str, str], Any], embedded: Classifier, photo: Callable[..., bytes]
) -> None:
    failed = [item["itemIdentifier"][-1] for item in function.invoke(read_event("sqs"))["batchItemFailures"]]
    assert sorted(failed) == [
        "2",
        "5",
    ]  # one may not be read, one is no event; S3's test event and a bad photo are fine

    def answer(name: str) -> dict[str, Any]:
        body = s3[1].get_object(Bucket=BUCKET, Key=f"answers/{BUCKET}/in/{name}.catdog.json")["Body"].read()
        return dict(json.loads(body))

    assert answer("blue.png") == embedded.predict(photo("blue")).to_dict() | {"source": f"s3://{BUCKET}/in/blue.png"}
    assert (answer("broken.jpg")["label"], "damaged image" in answer("broken.jpg")["error"]) == (None, True)


def test_large_photos_and_mistakes(function: Function) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1210, 1210, 3), np.uint8)
    large = encode(Image.fromarray(noise), "PNG")
    assert 4.3e6 < len(large) < 4.5e6  # about as much as an event holds
    assert function.invoke(posted(large))["statusCode"] == 200
    assert refused(function.invoke(posted(bytes(2**20 + 1), name="alb")))[0] == 413
    assert "not an image" in refused(function.invoke(posted(b"junk")))[1]
    assert function.invoke({})["status"] == 400
    failure = function.invoke({"Records": [{"eventSource": "aws:sns"}]})
    assert (failure["errorType"], "aws:sns are not answered" in failure["errorMessage"]) == ("EventError", True)


def test_a_model_or_setting_that_is_wrong_ends_the_start(unzipped: Path, tmp_path: Path) -> None:
    for number, (variables, says) in enumerate(
        (
            ({"CATDOG_MODEL": "/nowhere"}, "/nowhere/contract.json: no contract could be read"),
            ({"CATDOG_ANSWERS": "s3://bucket"}, "name a folder in the bucket"),
            ({"CATDOG_ALLOWED_S3": "photos/"}, "CATDOG_ALLOWED_S3: photos/: not an S3 address"),
        )
    ):
        (folder := tmp_path / str(number)).mkdir()
        with Served(unzipped, variables, folder) as broken:
            failure = broken.api.failure.get(timeout=60)
        assert broken.api.asked == ["init/error"]
        assert says in failure["errorMessage"]
        assert "catdog: the model is refused: " in broken.log.read_text()


def test_a_snapshot_is_taken_with_the_model_in_it(unzipped: Path, tmp_path: Path) -> None:
    with Served(unzipped, {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}, tmp_path) as function:
        function.wait_ready()
        assert function.api.asked == ["restore/next"]
        assert function.invoke(read_event("alb"))["statusCode"] == 200


def test_the_zip_and_the_image_hold_the_same_and_no_more_than_they_need(
    package: tuple[Path, dict[str, Any]], unzipped: Path, image: Path
) -> None:
    out, summary = package
    files = {path.relative_to(unzipped) for path in unzipped.rglob("*") if path.is_file()}
    assert files == {path.relative_to(image) for path in image.rglob("*") if path.is_file()}
    assert {path.name for path in (unzipped / "model").iterdir()} == {"contract.json", "model.onnx", "golden.json"}
    assert not {path.parts[0] for path in files} & {"typer", "rich", "boto3", "torch", "bin"}
    assert Path("catdog/serving/__pycache__") in {path.parent for path in files}
    assert summary["compiled"] is True
    assert summary["unzipped_bytes"] == sum((unzipped / path).stat().st_size for path in files) < 250 * 2**20
    assert summary["zip_bytes"] == (out / "function.zip").stat().st_size
    members = zipfile.ZipFile(out / "function.zip").infolist()
    assert {member.external_attr >> 16 for member in members} == {0o100644}  # Lambda's user is another one


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the constraints are for Python 3.11 and newer")
def test_versions_are_those_of_the_constraints(unzipped: Path) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    found = {
        re.sub("[-_.]+", "-", name).lower(): version
        for name, version in (path.stem.rsplit("-", 1) for path in unzipped.glob("*.dist-info"))
    }
    assert {"numpy", "onnxruntime", "pillow", "obstore"} <= found.keys()
    assert {name: pinned[name] for name in found} == found


def test_a_package_over_lambda_s_limit_is_refused(unzipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "function.zip"
    with pytest.raises(SettingsError, match=r"would have 11 MB unzipped, over the 10 MB .* deploy it as an image"):
        write_zip(unzipped / "model", path, most_bytes=10 * 2**20)
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "{}/new", "--model", "none.onnx"], "none.onnx: the model can't be read"),
        (["--out", "{}/new", "--model", "{}/bare.onnx"], "carries no catdog contract"),
        (["--out", "{}/new", "--python", "2.7"], "--python 2.7: give the version of a runtime of Lambda's: 3.10, 3.11"),
        (["--out", "{}/new", "--python", "3.99"], "--python 3.99: give the version of a runtime of Lambda's"),
        (["--out", "{}"], "holds files of something else"),
        (["--out", "s3://bucket/x"], "must be a path on this machine"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "bare.onnx").write_bytes(build_tiny_model(None))
    command = [sys.executable, "-m", "catdog", "lambda", "package", *(word.format(tmp_path) for word in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1  # nothing is said to be installed
    assert not (tmp_path / "new").exists()


def package_without_index(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The command and its environment, where pip finds nothing; a folder that was written before."""
    (tmp_path / "out" / "task").mkdir(parents=True)
    (tmp_path / "out" / "task" / "former").touch()
    command = [sys.executable, "-m", "catdog", "lambda", "package", "--out", str(tmp_path / "out")]
    return command, os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


def test_where_pip_fails_the_folder_is_as_it_was(tmp_path: Path) -> None:
    command, environment = package_without_index(tmp_path)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "pip could not install what the handler imports: ERROR: " in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "task", "former"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_it_is_interrupted_the_folder_is_as_it_was(tmp_path: Path, number: int, code: int) -> None:
    command, environment = package_without_index(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment |= {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": address, "PIP_EXTRA_INDEX_URL": ""}
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment) as process:
            silent.accept()[0].close()
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert said.splitlines()[1:] == ["catdog lambda package: interrupted; the folder is as it was, or lacks the zip"]
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "task", "former"]


def test_there_is_a_golden_event_of_each_kind() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {*HTTP, "s3", "sqs", "direct"}
