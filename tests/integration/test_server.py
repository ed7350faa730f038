"""catdog serve asked by clients: its routes, forms, mistakes and limits."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier, load
from catdog.serving import golden
from tests.integration.server_process import ServerProcess

Encode = Callable[..., bytes]
MIB = 2**20


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The tiny model, served."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, "--model", str(tiny_model), "--max-body", "4", "--max-pixels", "20") as running:
        yield running.wait_ready()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refused(response: httpx.Response) -> tuple[int, str]:
    """The status and message of a refusal, which is one line of JSON and nothing else."""
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert "Traceback" not in response.text
    return response.status_code, response.json()["error"]


def test_predict_and_invocations_answer_as_catdog_predict_does(tmp_path: Path) -> None:
    """To the digit, with the embedded model: a large JPEG, one with an EXIF orientation, a PNG with alpha."""
    for name, data in golden.draw_golden():
        (tmp_path / name).write_bytes(data)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-m", "catdog", "predict", *paths], capture_output=True, text=True, check=True
    )
    expected = [json.loads(line) | {"source": None} for line in done.stdout.splitlines()]
    with ServerProcess(tmp_path / "log") as server:
        server.wait_ready()
        files = [("images", (Path(path).name, Path(path).read_bytes())) for path in paths]
        for route in ("/predict", "/invocations"):
            single = [
                server.http.post(route, content=Path(path).read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
                for path in paths
            ]
            listed = {"images": [text(Path(path).read_bytes()) for path in paths]}
            for answers in (
                single,
                server.http.post(route, json=listed).json(),
                server.http.post(route, files=files).json(),
            ):
                assert [answer | {"source": None} for answer in answers] == expected
    assert server.process.returncode == 0


def test_fast_answers_as_load_does(fast_model: Path, photo: Encode, tmp_path: Path) -> None:
    photos = [photo((shade, 0, 0)) for shade in (10, 200, 141)]
    expected = [answer.to_dict() | {"source": None} for answer in load(fast_model, fast=True).predict(photos)]
    with ServerProcess(tmp_path / "log", "--model", str(fast_model), "--fast") as server:
        server.wait_ready()
        answers = server.http.post("/predict", json={"images": [text(data) for data in photos]}).json()
        assert [answer | {"source": None} for answer in answers] == expected
        assert [server.predict(data).json() | {"source": None} for data in photos] == expected
    assert expected != [answer.to_dict() | {"source": None} for answer in load(fast_model).predict(photos)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_one_photo_as_it_is(server: ServerProcess, photo: Encode, tiny: Classifier, kind: str) -> None:
    response = server.predict(photo("red", kind), f"image/{kind.lower()}")
    assert response.json() == tiny.predict(photo("red", kind)).to_dict() | {"source": "image"}


def test_forms_and_the_forms_of_answers(server: ServerProcess, photo: Encode) -> None:
    red, blue = photo("red"), photo("blue")
    one = server.http.post("/predict", files={"image": ("ä.png", red)})
    assert (one.json()["source"], one.json()["label"]) == ("ä.png", "cat")
    many = server.http.post(
        "/predict",
        files=[("images", ("a.png", red)), ("images", ("no photo", b"x")), ("images", ("b.png", blue))],
        headers={"Accept": "text/csv"},
    )
    assert many.headers["content-type"].startswith("text/csv")
    assert [line.split(",")[:2] for line in many.text.splitlines()] == [
        ["source", "label"], ["a.png", "cat"], ["no photo", ""], ["b.png", "dog"],
    ]  # fmt: skip
    lines = server.http.post("/predict", json={"images": [text(red)] * 2}, headers={"Accept": "application/jsonlines"})
    assert [json.loads(line)["label"] for line in lines.text.splitlines()] == ["cat", "cat"]
    pixels = io.BytesIO()
    np.save(pixels, np.zeros((2, 4, 4, 3), np.uint8))
    assert len(server.predict(pixels.getvalue(), "application/x-npy").json()) == 2


def test_mistakes_are_refused_in_a_line(server: ServerProcess, photo: Encode) -> None:
    red = photo("red")
    for status, response in (
        (400, server.predict(b"")),
        (400, server.predict(b"{", "application/json")),
        (400, server.predict(b"\xff\xfe", "application/json")),
        (400, server.predict(b"[" * 100_000, "application/json")),
        (400, server.predict(b'{"image": "/etc/passwd"}', "application/json")),
        (400, server.predict(b'{"image": "file:///etc/passwd"}', "application/json")),
        (400, server.predict(b'{"image": "http://169.254.169.254/"}', "application/json")),
        (400, server.predict(b'{"image": "s3://bucket/cat.jpg"}', "application/json")),
        (400, server.predict(b"x", "multipart/form-data")),
        (400, server.predict(b"x", "multipart/form-data; boundary=x")),
        (400, server.http.post("/predict", files={"file": red})),
        (400, server.predict(b"x", "application/x-npy")),
        (404, server.http.get("/nothing")),
        (404, server.http.get("/../catdog/cli.py")),
        (405, server.http.get("/predict")),
        (406, server.predict(red, accept="image/png")),
        (413, server.predict(json.dumps({"images": ["x"] * 101}).encode(), "application/json")),
        (413, server.http.post("/predict", files=[("images", ("a", b"x"))] * 101)),
        (413, server.predict(b'{"images": [' + b"{}," * 200_000 + b"{}]}", "application/json")),
        (413, server.http.post("/v2/models/catdog/infer", content=b'{"inputs": [' + b"{}," * 900_000 + b"{}]}")),
        (415, server.predict(red, "text/plain")),
        (415, server.http.post("/predict", content=red)),
        (415, server.predict(red, **{"Content-Encoding": "gzip"})),
        (422, server.predict(b"junk")),
        (422, server.predict(photo("red", "JPEG", size=(400, 300))[:-300])),
        (422, server.http.post("/predict", files={"image": b""})),
    ):
        assert refused(response)[0] == status, (response.request.content, response.text)
        assert refused(response)[1]


def test_explain_says_where_the_model_looked(
    server: ServerProcess, looking_model: Path, photo: Encode, tmp_path: Path
) -> None:
    status, why = refused(server.http.post("/predict?explain=1", files={"image": photo("red")}))
    assert (status, "can't say where it looked" in why) == (400, True)
    with ServerProcess(tmp_path / "log", "--model", str(looking_model)) as looking:
        looking.wait_ready()
        for route in ("/predict?explain=1", "/invocations?explain=1"):
            files = [("images", ("a.png", photo("red"))), ("images", ("no photo", b"x"))]
            red, junk = looking.http.post(route, files=files).json()
            assert (red["label"], red["heat"], red["seen"]["crop"]) == ("cat", [[1.0] * 4] * 4, 1)
            assert (junk["label"], junk["heat"], junk["seen"]) == (None, None, None)
        assert "heat" not in looking.predict(photo("red")).json()
        csv = looking.http.post("/predict?explain=1", files=files, headers={"Accept": "text/csv"})
        assert refused(csv)[0] == 400
        for nonsense in ("explain=yes", "explain=1&explain=0", "explain=0&explain=1", "explain="):
            response = looking.http.post(f"/predict?{nonsense}", files=files)
            assert refused(response) == (400, "explain: give 1 or 0, once")


def test_a_body_over_the_limit_is_413(server: ServerProcess) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [bytes(MIB)] * 6

    message = "a body may have 4,194,304 bytes, this one has more"
    assert refused(server.predict(bytes(4 * MIB + 1))) == (413, message)
    assert refused(server.http.post("/predict", content=chunks(), headers={"Content-Type": "image/png"})) == (
        413,
        message,
    )
    assert refused(server.predict(bytes(4 * MIB)))[0] == 422


def test_a_photo_of_too_many_pixels_is_413(server: ServerProcess, photo: Encode) -> None:
    bomb = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(bomb, "PNG")  # 169 megapixels in 21 kB
    status, message = refused(server.predict(bomb.getvalue()))
    assert (status, message) == (413, "image: 169 megapixels, 20 are decoded here; send it smaller")
    rows = server.http.post("/predict", json={"images": [text(bomb.getvalue()), text(photo("red"))]}).json()
    assert [row["label"] for row in rows] == [None, "cat"]
    large = io.BytesIO()
    Image.new("RGB", (6000, 4000), "red").save(large, "JPEG")  # 24 megapixels, decoded at an eighth of its scale
    assert server.predict(large.getvalue(), "image/jpeg").json()["label"] == "cat"
    alone = io.BytesIO()
    Image.new("RGB", (4500, 4000), "red").save(alone, "PNG", compress_level=1)  # 18 megapixels: one at a time
    assert server.predict(alone.getvalue()).json()["label"] == "cat"


def test_curl_is_told_before_it_sends_too_much(server: ServerProcess, tmp_path: Path, photo: Encode) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "large").write_bytes(bytes(5 * MIB))
    (tmp_path / "red.png").write_bytes(photo("red"))

    def curl(*arguments: str) -> str:
        command = ["curl", "-s", "-w", "%{http_code} %{size_upload}", *arguments, f"{server.url}/predict"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert curl("-H", "Content-Type: image/png", "--data-binary", f"@{tmp_path}/large").endswith("413 0")
    assert '"cat"' in curl("-F", f"image=@{tmp_path}/red.png")


def test_health_metadata_and_documents(server: ServerProcess) -> None:
    for path, status in (("/ping", "ready"), ("/healthz", "alive"), ("/readyz", "ready"), ("/v2/health/live", "alive")):
        assert server.http.get(path).json() == {"status": status}
    assert server.http.get("/v2").json()["name"] == "catdog"
    assert server.http.get("/openapi.json").json()["openapi"] == "3.1.0"
    page = server.http.get("/docs")
    assert "/v2/models/catdog/infer" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", ""), "nothing comes from elsewhere"


def test_metrics_and_request_ids(server: ServerProcess, photo: Encode) -> None:
    def value(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

    cats = value('catdog_photos_total{label="cat"}')
    response = server.predict(photo("red"), **{"X-Request-Id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert value('catdog_photos_total{label="cat"}') == cats + 1
    for bad in ("a" * 65, "a b", 'a"'):
        given = server.predict(photo("red"), **{"X-Request-Id": bad}).headers["x-request-id"]
        assert len(given) == 16
    server.http.request("ODD", "/predict")
    server.http.get("/a/name.jpg")
    text = server.http.get("/metrics").text
    assert 'route="other"' in text
    assert "ODD" not in text
    assert "name.jpg" not in text


def test_the_log_is_json_and_names_no_photo(server: ServerProcess, photo: Encode) -> None:
    server.http.post("/predict", files={"image": ("secret-cat.png", photo("red"))}, headers={"X-Request-Id": "this"})
    server.http.post("/predict", files={"image": ("secret-junk.png", b"x")})
    server.http.get("/secret-page")
    lines = server.log()
    (line,) = [line for line in lines if line.get("id") == "this"]
    assert line["photos"] == {"cat": 1}
    assert (line["method"], line["route"], line["status"]) == ("POST", "/predict", 200)
    assert "secret" not in json.dumps(lines)


def test_connections_that_break_off_cost_nothing(server: ServerProcess, photo: Encode) -> None:
    address = ("127.0.0.1", httpx.URL(server.url).port or 0)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    for sent in (
        b"",
        b"\x16\x03\x01",
        b"GET",
        head,
        head + b"x" * 500,
        b"POST /predict HTTP/1.1\r\nHost: x\r\n" + b"a" * 70_000,
    ):
        with socket.create_connection(address) as connection:
            connection.sendall(sent)
    assert server.predict(photo("red")).json()["label"] == "cat"
    assert not [line for line in server.log() if line["level"] == "error"]
