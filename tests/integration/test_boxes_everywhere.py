"""A detector's boxes are the same to the digit wherever it answers, and tables of them are kept like a classifier's."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="needs the extra score")

import inference
from catdog.aws.calls.results import S3Folder, join_outputs, write_table
from catdog.aws.package import build_package
from catdog.boxes import Box
from catdog.classifier import Classifier
from catdog.detection.decoding import DetectedObject
from catdog.detection.detector import Detector
from catdog.errors import ModelError
from catdog.serving import golden
from catdog.serving.endpoint import ANSWER_ALL, answer_request, read_request, write_reply
from catdog.serving.lambda_events import answer_event
from catdog.serving.loading import load_model
from tests.detectors import CONTRACT, build_detector, draw_photo
from tests.integration.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
HEADER = "source,status,label,confidence,head,xmin,ymin,xmax,ymax,width,height,sha256,error,model,version"
JSON = "application/json"
Score = Callable[..., dict[str, Any]]


def encode(photo: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, kind)
    return buffer.getvalue()


def draw_many() -> Image.Image:
    """Thirty heads, cats and dogs in turn."""
    corners = [(20 * x + 3, 20 * y + 4, 20 * x + 15, 20 * y + 17) for y in range(8) for x in range(8)][:30]
    return draw_photo((160, 160), *zip(["red", "blue"] * 15, corners, strict=True))


PHOTOS = {
    "many.png": encode(draw_many()),
    "none.png": encode(draw_photo((64, 48))),
    "one.jpg": encode(draw_photo((640, 480), ("red", (100, 100, 130, 131))), "JPEG"),
}


def in_base64(name: str) -> str:
    return base64.b64encode(PHOTOS[name]).decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a detector."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "model.onnx").write_bytes(build_detector(grid=8))
    (folder / "contract.json").write_text(CONTRACT.to_json())
    return folder


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an endpoint unpacks of the packed run folder, whose golden photos have one with thirty heads."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "many.png").write_bytes(PHOTOS["many.png"])
    package = build_package(run, folder / "model.tar.gz", [folder / "many.png"])
    assert package.task == "detect"
    with tarfile.open(package.path) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def detector(packed: Path) -> Detector:
    loaded = load_model(packed)
    assert isinstance(loaded, Detector)
    return loaded


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Fifteen photos with thirty heads, one or none, and one that is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(15):
        name, data = list(PHOTOS.items())[i % 3]
        (folder / f"{i:02}-{name}").write_bytes(data)
    (folder / "zz.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def score(tmp_path: Path, run: Path) -> Score:
    """score("photos", "--out", "r.csv") -> the report of a run in the test's folder, or what it said."""

    def go(*arguments: str, code: int = 1) -> dict[str, Any]:
        command = [sys.executable, "-m", "catdog.score", "--workers", "1", "--model", str(run), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return dict(json.loads(done.stdout)) if done.stdout else {"said": done.stderr}

    return go


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pick(rows: list[dict[str, str]]) -> list[list[str]]:
    columns = ("width", "height", "label", "confidence", "xmin", "ymin", "xmax", "ymax")
    return [[row[column] for column in columns] for row in rows]


def test_boxes_are_the_same_through_the_command_the_server_the_endpoint_and_a_table(
    run: Path, detector: Detector, photos: Path, score: Score, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "catdog.detection", "photos", "--model", str(run), "--format", "csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env=ENVIRONMENT)
    said = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["source"][7:] for row in said[29:32]] == ["00-many.png", "01-none.png", "02-one.jpg"]

    report = score("photos", "--out", "r.csv")
    assert (report["photos"], report["ok"], report["failed"]) == (16, 15, {"unsupported": 1})
    assert report["labels"] == {"cat": 5 * 15 + 5, "dog": 5 * 15}
    rows = read_rows(tmp_path / "r.csv")
    assert pick(rows) == pick(said)
    assert [row["head"] for row in rows[:31]] == [*map(str, range(1, 31)), ""]
    assert rows[-1]["error"] == said[-1]["error"]

    images = [base64.b64encode(path.read_bytes()).decode() for path in sorted(photos.iterdir())]
    body = json.dumps({"images": images}).encode()
    with ServerProcess(tmp_path / "log", "--model", str(run)) as server:
        post = server.wait_ready().http.post
        served = post("/invocations", content=body, headers={"Content-Type": JSON, "Accept": "text/csv"})
        assert pick(list(csv.DictReader(io.StringIO(served.text)))) == pick(said)
        one = server.predict(PHOTOS["one.jpg"], "image/jpeg").json()
        many = post("/predict?format=sagemaker", content=PHOTOS["many.png"], headers={"Content-Type": "image/png"})
        asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": images[:3]}]}
        (tensor,) = post("/v2/models/catdog/infer", json=asked).json()["outputs"]
        assert [output["name"] for output in server.http.get("/v2/models/catdog").json()["outputs"]] == ["objects"]
        refused = post("/v2/models/catdog/infer", json=asked | {"outputs": [{"name": "label"}]})
        assert (refused.status_code, refused.json()) == (422, {"error": "outputs: the model has objects"})
        metrics = server.http.get("/metrics").text
    for name in ("cat", "dog", "no pet", "error"):
        assert f'label="{name}"' in metrics
    assert one == detector.detect(PHOTOS["one.jpg"]).to_dict() | {"source": "image"}
    expected = [detector.detect(data).to_dict()["objects"] for data in PHOTOS.values()]
    assert [json.loads(text) for text in tensor["data"]] == expected
    assert many.json()["prediction"] == [
        [("cat", "dog").index(head["label"]), head["confidence"], *(round(at / 160, 6) for at in head["box"])]
        for head in expected[0]
    ]

    class Context:
        def set_response_status(self, code: int, phrase: str) -> None:
            assert code == 200

    for accept in (JSON, "application/jsonlines", "text/csv"):
        answers = inference.predict_fn(inference.input_fn(body, JSON), detector)
        text, kind = inference.output_fn(answers, accept, Context())
        assert kind == accept
        if accept == "text/csv":
            assert text == served.content
            continue
        found = json.loads(text) if accept == JSON else [json.loads(line) for line in text.splitlines()]
        assert [len(row["objects"] or ()) for row in found] == [30, 0, 1] * 5 + [0]
        assert found[-1]["objects"] is None


def test_lambda_answers_with_boxes(detector: Detector) -> None:
    event = json.loads((ROOT / "tests/golden/lambda/function_url.json").read_text())
    event |= {"headers": {"content-type": "image/png"}, "isBase64Encoded": True}

    def ask(name: str, **changed: Any) -> Any:
        return json.loads(answer_event(event | {"body": in_base64(name)} | changed, detector)["body"])

    assert ask("many.png") == detector.detect(PHOTOS["many.png"]).to_dict() | {"source": "image"}
    assert ask("none.png")["objects"] == []
    assert len(ask("many.png", queryStringParameters={"format": "sagemaker"})["prediction"]) == 30
    assert "format" in ask("many.png", queryStringParameters={"format": "sagemaker,x"})["error"]
    direct = answer_event({"images": [*map(in_base64, PHOTOS), "?"]}, detector)
    assert [row["objects"] and len(row["objects"]) for row in direct] == [30, [], 1, None]


def test_what_a_detector_cannot_answer_is_one_sentence(
    detector: Detector, tiny: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(
        model: Any, *explain: str, accept: str | None = None, data: bytes = PHOTOS["none.png"], formats: Any = ()
    ) -> Any:
        request = read_request(data, "image/png", *explain, formats=formats)
        reply = write_reply(answer_request(request, model), accept)
        return reply.status, json.loads(reply.body)

    assert ask(detector, "1")[1]["error"].startswith("explain: ")
    mistakes = (tiny, None, "sagemaker"), (detector, "text/csv", "sagemaker"), (detector, None, "x")
    for model, accept, name in mistakes:
        status, said = ask(model, accept=accept, formats=[name])
        assert (status, said["error"].startswith("format")) == (400, True)
    many = read_request(json.dumps({"images": ["a"]}), JSON, formats=["sagemaker"])
    assert "one photo" in json.loads(write_reply(answer_request(many, detector), None).body)["error"]
    assert ask(detector, formats=["sagemaker"]) == (200, {"prediction": []})
    assert ask(detector, data=b"junk")[0] == 422
    monkeypatch.setenv(ANSWER_ALL, "1")
    status, said = ask(detector, data=b"junk")
    assert (status, said["objects"], said["width"]) == (200, None, None)
    assert ask(detector, data=b"junk", formats=["sagemaker"]) == (200, {"error": said["error"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda photo: photo["objects"].pop(), "many.png is cat"),
        (lambda photo: photo["objects"][3].update(box=[0, 0, 9, 9]), "many.png is cat"),
        (lambda photo: photo["scores"].update(cat=0.01), "2.0 times the odds"),
        (lambda photo: photo.pop("scores"), "can't be understood"),
        (lambda photo: photo["objects"][0].update(label=3), "can't be understood"),
    ],
)
def test_a_detector_that_answers_otherwise_than_where_it_was_packed_does_not_serve(
    packed: Path, tmp_path: Path, change: Callable[[Any], object], said: str
) -> None:
    for name in ("model.onnx", "contract.json"):
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    text = json.loads((packed / "golden.json").read_text())
    assert len(text["photos"][-1]["objects"]) == 30
    change(text["photos"][-1])
    (tmp_path / "golden.json").write_text(json.dumps(text))
    with pytest.raises(ModelError, match=re.escape(said)):
        load_model(tmp_path)


def test_heads_are_compared_as_the_threshold_allows() -> None:
    def head(confidence: float, label: str = "cat", left: float = 0) -> DetectedObject:
        return DetectedObject(confidence, Box(label, left, 0, left + 10, 10))

    assert golden.compare_heads([], [], 0.4) == 0
    found, expected = [head(0.9), head(0.5, left=50)], [head(0.52, left=51), head(0.9)]
    assert golden.compare_heads(found, expected, 0.4) == pytest.approx(0.02)
    assert golden.compare_heads([], [head(0.42)], 0.4) == pytest.approx(0.02)
    assert golden.compare_heads([head(0.9)], [head(0.9, "dog")], 0.4) == pytest.approx(0.5)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_an_update_scores_what_is_new_or_was_replaced(score: Score, photos: Path, tmp_path: Path, ending: str) -> None:
    out = f"r.{ending}"
    score("photos", "--out", out)
    (photos / "00-many.png").write_bytes(PHOTOS["one.jpg"])
    (photos / "02-one.jpg").write_bytes(PHOTOS["many.png"])
    (photos / "03-many.png").unlink()
    (photos / "99-none.png").write_bytes(PHOTOS["none.png"])
    report = score("photos", "--out", out)
    assert [report["changes"][kind] for kind in ("new", "changed", "gone", "kept")] == [1, 2, 1, 13]
    fresh = score("photos", "--out", f"fresh.{ending}", "--contact-sheet", "sheet.png")
    assert report["labels"] == fresh["labels"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 256
    if ending != "parquet":
        assert (tmp_path / out).read_bytes() == (tmp_path / f"fresh.{ending}").read_bytes()
        return
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / out)
    assert table.column_names == HEADER.split(",")
    assert table.equals(pq.read_table(tmp_path / "fresh.parquet"))


def test_a_photo_that_a_list_names_twice_has_its_rows_twice(score: Score, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("photos/02-one.jpg\nphotos/02-one.jpg\nphotos/01-none.png\nphotos/01-none.png\n")
    score("--list", "l.txt", "--out", "r.csv", code=0)
    before = (tmp_path / "r.csv").read_bytes()
    (photos / "01-none.png").write_bytes(PHOTOS["one.jpg"])
    report = score("--list", "l.txt", "--out", "r.csv", code=0)
    assert (report["photos"], report["scored_before"]) == (4, 2)
    assert (tmp_path / "r.csv").read_bytes()[:400] == before[:400]
    assert [row["head"] for row in read_rows(tmp_path / "r.csv")] == ["1"] * 4


def test_a_run_that_is_killed_ends_as_one_that_is_not(score: Score, photos: Path, run: Path, tmp_path: Path) -> None:
    for i in range(100):
        (photos / f"k{i:03}.png").write_bytes(PHOTOS["many.png"])
    command = [sys.executable, "-m", "catdog.score", "photos", "--workers", "1", "--model", str(run)]
    for kept in (1, 3):
        going = subprocess.Popen(
            [*command, "--out", "r.csv", "--part-rows", "8"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while going.poll() is None and len(list((tmp_path / "r.csv.parts").glob("part-*"))) < kept:
            time.sleep(0.01)
        going.kill()
        going.wait(60)
    report = score("photos", "--out", "r.csv", "--part-rows", "8")
    assert report["photos"] == 116
    assert report["scored_before"] >= 16
    score("photos", "--out", "fresh.csv")
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_score_says_what_does_not_go_with_a_detector(score: Score, photos: Path) -> None:
    said = score("photos", "--out", "r.csv", "--sort-into", "sorted", code=2)["said"]
    assert "--sort-into: goes with a classifier" in said
    said = score("photos", "--out", "r.csv", "--fast", code=2)["said"]
    assert "--fast: goes with a classifier" in said
    assert "use catdog detect" in score("photos", "--out", "r.csv", "--task", "classify", code=2)["said"]


def test_answers_of_a_transform_job_become_the_table_of_score(
    detector: Detector, moto: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3", reason="needs catdog[aws]")
    address = f"http://127.0.0.1:{moto}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = boto3.client("s3", endpoint_url=address)
    s3.create_bucket(Bucket="boxes")
    for name, data in (PHOTOS | {"bad.jpg": b"junk"}).items():
        answer = json.dumps(detector.detect(data).to_dict()).encode()
        s3.put_object(Bucket="boxes", Key=f"in/{name}", Body=data)
        s3.put_object(Bucket="boxes", Key=f"out/{name}.out", Body=answer)
    s3.close()
    joined = join_outputs(S3Folder("boxes", "in/"), S3Folder("boxes", "out/"), 2**20)
    totals = write_table(str(tmp_path / "t.csv"), joined, "0" * 64)
    assert (totals.rows, totals.labels.total()) == (4, 31)
    rows = read_rows(tmp_path / "t.csv")
    assert ",".join(rows[0]) == HEADER
    assert [row["head"] for row in rows] == ["", *map(str, range(1, 31)), "", "1"]
    assert (rows[0]["status"], rows[-1]["width"]) == ("corrupt", "640")
