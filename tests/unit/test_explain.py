"""Where the model looked: the map lies where the evidence is, and is written under safe names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier
from catdog.errors import ModelError
from catdog.explain import explain, find_heat
from catdog.image import encode, find_kept_box
from tests.conftest import TINY_CONTRACT, build_looking_model


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(build_looking_model(TINY_CONTRACT), threads=1)


@pytest.fixture
def corner() -> Image.Image:
    """Black, with red in the upper right quarter."""
    photo = Image.new("RGB", (320, 160))
    photo.paste((255, 0, 0), (160, 0, 320, 80))
    return photo


def test_the_answer_is_that_of_predict_and_the_heat_is_where_the_evidence_is(
    classifier: Classifier, corner: Image.Image
) -> None:
    explanation = explain(classifier, corner)
    assert explanation.prediction == classifier.predict(corner)
    assert explanation.prediction.label == "cat"
    expected = np.zeros((4, 4), np.float32)
    expected[:2, 2:] = 1
    assert explanation.heat is not None
    np.testing.assert_allclose(explanation.heat, expected, atol=0.07)  # the resize is soft
    assert explanation.picture is not None
    assert explanation.picture.size == (320, 160)
    bright = np.asarray(explanation.picture).sum(2)
    assert bright[20, 300] > 2 * 255 / 3
    assert bright[140, 20] == 0


def test_a_large_jpeg_gets_the_answer_of_predict_to_the_digit(classifier: Classifier) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    data = encode(Image.fromarray(noise), "JPEG", quality=60)
    assert explain(classifier, data).prediction == classifier.predict(data)


def test_a_place_that_speaks_against_the_class_counts_as_nothing() -> None:
    evidence = np.array([[[2.0, -3.0]], [[1.0, 1.0]], [[-1.0, 0.0]]], np.float32)
    np.testing.assert_allclose(find_heat(evidence, 0), [[1.0, 0.0]])
    np.testing.assert_allclose(find_heat(evidence, 2), [[0.0, 1.0]])
    assert not find_heat(-np.ones((2, 3, 3), np.float32), 0).any()


def test_what_the_crop_cuts_off_stays_dim() -> None:
    contract = TINY_CONTRACT.with_(resize="short_side", crop=0.5)
    assert find_kept_box((200, 100), contract) == (75, 25, 125, 75)
    explanation = explain(Classifier(build_looking_model(contract), threads=1), Image.new("RGB", (200, 100), "red"))
    assert explanation.picture is not None
    picture = np.asarray(explanation.picture)
    assert picture[50, 100, 0] > 200
    assert picture[5, 5, 0] == 102  # 40% of 255


def test_a_photo_that_cannot_be_read_is_an_answer_with_an_error(classifier: Classifier) -> None:
    explanation = explain(classifier, b"no photo", "x.jpg")
    assert explanation.picture is None
    assert explanation.prediction.error == classifier.predict(b"no photo").error.replace("<bytes>", "x.jpg")  # type: ignore[union-attr]


def test_a_model_without_evidence_says_so(tiny: Classifier, corner: Image.Image) -> None:
    with pytest.raises(ModelError, match="can't show where it looked"):
        explain(tiny, corner)


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "catdog", "predict", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_predict_writes_a_picture_a_photo(tmp_path: Path, corner: Image.Image) -> None:
    (tmp_path / "model.onnx").write_bytes(build_looking_model(TINY_CONTRACT))
    for name in ("a/one photo.png", "b/one photo.bmp", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        # A colour profile that takes more room than the part of a picture in which its mark is looked for.
        corner.save(tmp_path / name, icc_profile=np.random.default_rng(0).bytes(9000))
    (tmp_path / "d.jpg").write_bytes(b"nothing")
    photos = ("a", "b", "c.png", "d.jpg", "--model", "model.onnx", "--explain", "pictures")
    for _ in range(2):  # it may replace its own
        done = run(*photos, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["cat", "cat", "cat", None]
        written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert written == ["c.png", "one_photo.png", "one_photo~2.png"]
    corner.save(tmp_path / "pictures" / "c.png")
    done = run(*photos, "--format", "json", cwd=tmp_path)
    assert (done.returncode, "is there already, and not from this command" in done.stderr) == (2, True)
    assert done.stdout == "", "known before the first answer: half of an array is no JSON"
    done = run("c.png", "--model", "model.onnx", "--explain", "c.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_model_whose_evidence_has_no_places_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(build_looking_model(TINY_CONTRACT))
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info("evidence", onnx.TensorProto.FLOAT, ["N"]))
    model.graph.node[3].output[0] = "places_of_classes"
    model.graph.node[4].input[0] = "places_of_classes"
    model.graph.node.append(
        onnx.helper.make_node("ReduceMean", ["places_of_classes"], ["evidence"], axes=[1, 2, 3], keepdims=0)
    )
    with pytest.raises(ModelError, match="inputs and outputs don't fit its contract"):
        Classifier(model.SerializeToString(), threads=1)


def test_pictures_go_to_no_place_where_the_next_run_looks_for_photos(tmp_path: Path, corner: Image.Image) -> None:
    (tmp_path / "model.onnx").write_bytes(build_looking_model(TINY_CONTRACT))
    (tmp_path / "photos").mkdir()
    corner.save(tmp_path / "photos" / "a.png")
    for arguments, says in (
        (("photos", "--explain", "photos/pictures"), "--explain photos/pictures: lies in photos, so the next run"),
        (("**/*.png", "--explain", "pictures"), "--explain pictures: lies in **/*.png, so the next run"),
        (("photos", "--explain", ""), "--explain '': is empty; give it a value, or leave it out"),
        (("photos", "--explain="), "--explain '': is empty"),
        (("photos", "--explain", "model.onnx/x"), "--explain model.onnx/x: can't be written (Not a directory)"),
        (("photos", "--explain", "s3://b/x"), "--explain s3:/b/x: must be a path on this machine"),
    ):
        done = run("--model", "model.onnx", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert says in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "model.onnx", "photos"]
    assert run("photos/*.png", "--model", "model.onnx", "--explain", "photos/pictures", cwd=tmp_path).returncode == 0
