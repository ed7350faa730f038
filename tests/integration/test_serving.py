"""inference.py inside SageMaker's real serving toolkit and TorchServe, from the archive that build_package wrote."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from catdog.aws.package import build_package
from catdog.classifier import load
from catdog.serving import golden
from tests.conftest import TINY_CONTRACT, build_tiny_model
from tests.integration.toolkits import Answer, Serve, serving_python

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "catdog" / "assets"
BUCKET = "photos-of-tests"
TORCHSERVE_LIMIT = 6_553_500  # bytes of a request, TorchServe's default

Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, packed."""
    run = tmp_path_factory.mktemp("embedded")
    shutil.copy(ASSETS / "contract.json", run)
    shutil.copy(ASSETS / "catdog.onnx", run / "model-int8.onnx")
    return build_package(run, run / "model.tar.gz").path


@pytest.fixture(scope="module")
def tiny_package(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, packed."""
    run = tmp_path_factory.mktemp("tiny")
    (run / "contract.json").write_text(TINY_CONTRACT.to_json())
    (run / "model.onnx").write_bytes(tiny_model.read_bytes())
    return build_package(run, run / "model.tar.gz").path


@pytest.fixture(scope="module")
def s3(moto: int, photo: Encode) -> dict[str, str]:
    """An S3 server with photos/red.png and secret/red.png; the variables that lead boto3 there."""
    boto3 = pytest.importorskip("boto3")
    url, key = f"http://127.0.0.1:{moto}", "test"
    client = boto3.session.Session(key, key, region_name="us-east-1").client("s3", endpoint_url=url)
    client.create_bucket(Bucket=BUCKET)
    for name in ("photos/red.png", "secret/red.png"):
        client.put_object(Bucket=BUCKET, Key=name, Body=photo("red"))
    client.close()
    variables = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    return variables | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": key}


@pytest.fixture(scope="module")
def server(embedded: Path, s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The embedded model, served by two workers."""
    env = s3 | {"CATDOG_ALLOWED_S3": f"s3://{BUCKET}/photos/"}
    with Serve(serving_python(), embedded, tmp_path_factory.mktemp("server"), env, workers=2) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def photos(photo: Encode) -> dict[str, bytes]:
    """Photos by media type; one is turned, one has alpha."""
    (_, large), (_, turned), (_, veiled) = golden.draw_golden()
    return {
        "image/jpeg": large,
        "application/x-image": turned,
        "image/png": veiled,
        "image/webp": photo((200, 120, 40), "WEBP", size=(90, 60)),
        "application/octet-stream": photo("grey", "BMP"),
    }


def predict(folder: Path, form: str, *names: str) -> bytes:
    """What catdog predict writes of files in a folder, on the embedded model."""
    command = [sys.executable, "-m", "catdog.predict", "--format", form, *names]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode in (0, 1), done.stderr.decode()
    return done.stdout


def listed(*images: bytes | str) -> bytes:
    texts = [base64.b64encode(image).decode() if isinstance(image, bytes) else image for image in images]
    return json.dumps({"images": texts}).encode()


def refused(answer: Answer) -> tuple[int, str]:
    """The status and message of a refusal: one line of JSON, and no traceback."""
    assert answer.content_type == "application/json", answer
    assert b"\n" not in answer.body, answer
    assert b"Traceback" not in answer.body
    assert list(json.loads(answer.body)) == ["error"]
    return answer.status, json.loads(answer.body)["error"]


def test_every_media_type_gets_what_predict_says(server: Serve, photos: dict[str, bytes], tmp_path: Path) -> None:
    names = [str(i) for i in range(len(photos))]
    for name, data in zip(names, photos.values(), strict=True):
        (tmp_path / name).write_bytes(data)
    rows = predict(tmp_path, "jsonl", *names).splitlines(keepends=True)
    for name, (kind, data), expected in zip(names, photos.items(), rows, strict=True):
        answer = server.post(data, kind)
        assert (answer.status, answer.content_type) == (200, "application/json"), (kind, answer)
        assert answer.body == expected.replace(f'"{name}"'.encode(), b'"image"', 1), kind


@pytest.mark.parametrize(("accept", "form"), [(None, "json"), ("application/jsonlines", "jsonl"), ("text/csv", "csv")])
def test_a_list_gets_what_predict_writes_byte_for_byte(
    server: Serve, photos: dict[str, bytes], tmp_path: Path, accept: str | None, form: str
) -> None:
    images = [*photos.values(), photos["image/jpeg"][:-9000], b"junk", *photos.values()]
    names = [f"images[{i}]" for i in range(len(images))]
    for name, data in zip(names, images, strict=True):
        (tmp_path / name).write_bytes(data)
    answer = server.post(listed(*images), "application/json", accept)
    assert (answer.status, answer.content_type) == (200, accept or "application/json")
    assert answer.body == predict(tmp_path, form, *names)
    assert answer.body.count(b"damaged image") == 1


def test_arrays_get_what_the_classifier_says(server: Serve) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, array)
    answer = server.post(buffer.getvalue(), "application/x-npy")
    assert answer.status == 200
    expected = [row.to_dict() for row in load(threads=1).predict(array)]
    assert json.loads(answer.body) == [row | {"source": f"images[{i}]"} for i, row in enumerate(expected)]


def test_s3_is_read_where_it_is_allowed_only(server: Serve, photo: Encode) -> None:
    uris = [f"s3://{BUCKET}/{key}" for key in ("photos/red.png", "photos/none.png", "secret/red.png")]
    answer = server.post(listed(*uris, "s3://elsewhere/photos/red.png"), "application/json")
    rows = json.loads(answer.body)
    assert (answer.status, [row["source"] for row in rows[:3]]) == (200, uris)
    assert rows[0] == load(threads=1).predict(photo("red")).to_dict() | {"source": uris[0]}
    assert [row["error"].partition(": ")[2].split(" (")[0] for row in rows[1:]] == [
        "no such object",
        *["this endpoint may not read it"] * 2,
    ]
    status, message = refused(server.post(json.dumps({"image": uris[2]}).encode(), "application/json"))
    assert (status, message.startswith(uris[2])) == (400, True)


def test_the_caller_s_mistakes_are_4xx_and_one_line(server: Serve, photos: dict[str, bytes]) -> None:
    jpeg = photos["image/jpeg"]
    for expected, answer in (
        (422, server.post(b"junk", "image/jpeg")),
        (422, server.post(jpeg[:-9000], "image/jpeg")),
        (400, server.post(b"", "image/jpeg")),
        (400, server.post(b"", "application/json")),
        (400, server.post(b"{", "application/json")),
        (400, server.post(b"\xff\xfe{}", "application/json")),
        (400, server.post(b'{"image": "/etc/passwd"}', "application/json")),
        (400, server.post(b'{"image": "file:///etc/passwd"}', "application/json")),
        (400, server.post(b'{"image": "http://127.0.0.1/"}', "application/json")),
        (400, server.post(b"x", "application/x-npy")),
        (406, server.post(jpeg, "image/jpeg", "image/png")),
        (413, server.post(listed(*[b"x"] * 101), "application/json")),
        (415, server.post(jpeg, "text/plain")),
        (415, server.post(b"\xff", "text/csv")),
        (415, server.post(jpeg, None)),
    ):
        status, message = refused(answer)
        assert status == expected, answer
        assert message


def test_a_request_over_the_limit_is_413(server: Serve) -> None:
    answer = server.post(bytes(TORCHSERVE_LIMIT + 1000), "image/jpeg")
    assert answer.status == 413
    assert b"Traceback" not in answer.body


def test_forms_and_queries_do_no_harm(server: Serve, photos: dict[str, bytes]) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="body"\r\n\r\nhello\r\n--x--\r\n'
    for answer in (
        server.post(form, "multipart/form-data; boundary=x"),
        server.post(b"body=hello", "application/x-www-form-urlencoded"),
        server.post(photos["image/png"], "image/png", path="?Accept=x&body=y"),
        server.post(photos["image/png"], None, path="?Content-Type=image/png"),
    ):
        assert answer.status in (200, 400, 415), answer
        assert b"Traceback" not in answer.body


def test_after_all_that_no_worker_had_to_be_replaced(server: Serve) -> None:
    assert len(_ready(server)) == 2
    log = server.log()
    assert "Traceback" not in log
    assert log.count("on ONNX Runtime on the CPU, 1 thread(s), 3 golden photos answered") == 2


def test_a_worker_that_is_killed_under_load_comes_back_and_nobody_gets_a_wrong_answer(
    server: Serve, photos: dict[str, bytes]
) -> None:
    asked = [(data, kind, server.post(data, kind)) for kind, data in photos.items()]
    found: list[tuple[int, bool]] = []
    stop = threading.Event()

    def call() -> None:
        for data, kind, expected in itertools.cycle(asked):
            if stop.is_set():
                return
            try:
                answer = server.post(data, kind)
            except OSError:
                found.append((0, True))
                continue
            found.append((answer.status, answer.status != 200 or answer == expected))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(1)
        killed = min(_ready(server))
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 40
        while len(ready := _ready(server)) < 2 or killed in ready:
            assert time.monotonic() < deadline, server.log()[-3000:]
            time.sleep(0.2)
        time.sleep(0.5)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    statuses = [status for status, _ in found]
    assert all(right for _, right in found)
    assert statuses.count(200) > 50
    assert len(statuses) - statuses.count(200) <= 4, sorted(set(statuses))  # those that were with that worker
    assert [server.post(data, kind) for data, kind, _ in asked * 2] == [expected for *_, expected in asked * 2]


def test_a_model_that_must_not_serve_does_not_until_it_is_repaired(tiny_package: Path, tmp_path: Path) -> None:
    """One server: TorchServe starts a worker that failed again and again, and each time it finds another fault."""
    with Serve(serving_python(), tiny_package, tmp_path, start=False) as broken:
        folder = tmp_path / "base/model"
        onnx, contract, photos = (folder / name for name in ("model.onnx", "contract.json", "golden.json"))
        swapped = photos.read_bytes().replace(b'"cat"', b'"?"').replace(b'"dog"', b'"cat"').replace(b'"?"', b'"dog"')
        faults: list[tuple[Path, bytes | None, str]] = [
            (onnx, onnx.read_bytes()[:300], "not an ONNX model"),
            (onnx, build_tiny_model(None), "the model carries no catdog contract"),
            (contract, None, "contract.json: no contract could be read"),
            (photos, swapped, "doesn't give the answers it was packed with"),
        ]
        for i, (file, content, says) in enumerate(faults):
            whole = file.read_bytes()
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            if i == 0:
                broken.start()
            assert "catdog: the model is refused: " in broken.wait_logged(says)
            assert not _ready(broken)
            file.write_bytes(whole)
        broken.wait_ready()


def _ready(server: Serve) -> set[int]:
    """Process ids of the workers that have loaded the model."""
    return {worker["pid"] for worker in server.workers() if worker["status"] == "READY"}
