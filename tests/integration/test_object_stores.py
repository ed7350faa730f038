"""``s3://`` wherever a path goes: predict, dataset, evaluate, score, a model and a list; the server is real (moto)."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="needs the extra cloud")

from catdog.dataset import build
from catdog.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def filled(bucket: str, admin: Any, photo: Callable[..., bytes], tiny_model: Path) -> str:
    """The address of a bucket with cats and dogs, also in archives, and a model."""
    files = {f"photos/{name}s/{i}.png": photo(colour, "PNG", size=(60, 40 + i)) for name, colour in
             (("cat", "red"), ("dog", "blue")) for i in range(6)}  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.removeprefix("photos/"), data)
    files |= {"photos/.hidden/cats/x.png": b"", "photos/@eaDir/dogs/y.png": b""}
    for key, data in {**files, "p.zip": packed.getvalue(), "m/tiny.onnx": tiny_model.read_bytes()}.items():
        admin.put_object(Bucket=bucket, Key=key, Body=data)
    admin.put_object(Bucket=bucket, Key="l.csv", Body=f"path\ns3://{bucket}/photos/cats/0.png\n".encode())
    return f"s3://{bucket}"


def catdog(*arguments: str, code: int = 0) -> str:
    """The standard output of a command, which has to end with this exit code and without a traceback."""
    done = subprocess.run([sys.executable, "-m", "catdog", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout


def test_predict_answers_for_prefixes_patterns_archives_and_members_with_a_model_from_a_bucket(filled: str) -> None:
    places = [f"{filled}/photos/", f"{filled}/photos/*/1.png", f"{filled}/p.zip", f"{filled}/p.zip!/dogs/5.png"]
    answers = [json.loads(line) for line in catdog("predict", *places, "--model", f"{filled}/m/tiny.onnx").splitlines()]
    assert len(answers) == 12 + 2 + 12 + 1
    assert answers[0]["source"] == f"{filled}/photos/cats/0.png"
    assert {(a["label"], a["error"]) for a in answers if "/cats/" in a["source"]} == {("cat", None)}
    assert {(a["label"], a["error"]) for a in answers if "/dogs/" in a["source"]} == {("dog", None)}


def test_what_is_not_there_is_one_line(filled: str) -> None:
    places = (f"{filled}/none.png", f"{filled}/none.zip", "s3://b/x.jpg", f"{filled}/photos/cats/0.png")
    answers = [json.loads(line) for line in catdog("predict", *places, code=1).splitlines()]
    assert [answer["error"] for answer in answers] == [
        f"{filled}/none.png: no such object",
        f"{filled}/none.zip: there is no such object",
        "s3://b/x.jpg: not an S3 address; give s3://bucket/key",
        None,
    ]
    assert catdog("predict", "s3://no-such-bucket-here/a/", code=2) == ""
    assert catdog("predict", f"{filled}/p.zip", "--model", f"{filled}/m/none.onnx", code=2) == ""


def test_score_takes_a_list_and_a_model_from_a_bucket(filled: str, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    command = ("score", f"{filled}/p.zip", "--list", f"{filled}/l.csv", "--out", str(out), "--workers", "1")
    report = json.loads(catdog(*command, "--model", f"{filled}/m/tiny.onnx"))
    assert (report["photos"], report["labels"]) == (13, {"cat": 7, "dog": 6})


def test_a_dataset_is_built_from_a_prefix_and_from_a_zip_in_a_bucket(filled: str, tmp_path: Path) -> None:
    for place in (f"{filled}/photos", f"{filled}/p.zip"):
        manifest = build([place], tmp_path / Path(place).name)
        assert sorted({photo.label for photo in manifest.photos}) == ["cat", "dog"]
        assert len(manifest.photos) + len(json.loads((manifest.root / "report.json").read_text())["left_out"]) == 12
    with pytest.raises(DataError, match="there is no such bucket"):
        build(["s3://no-such-bucket-here/photos"], tmp_path / "none")


def test_evaluate_measures_a_model_in_a_bucket_on_photos_in_a_bucket(filled: str) -> None:
    pytest.importorskip("torch", reason="evaluate needs torch")
    headline = json.loads(catdog("evaluate", f"{filled}/m/tiny.onnx", f"{filled}/photos/"))
    assert (headline["photos"], headline["accuracy"]) == (12, 1.0)
