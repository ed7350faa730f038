"""catdog detect as a user runs it, the text of each format, and the pictures that it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from catdog.answers import as_json, as_jsonl
from catdog.boxes import Box
from catdog.classifier import Classifier
from catdog.cli import app
from catdog.detection.__main__ import as_table
from catdog.detection.answers import BOX_COLUMNS, Detection, as_csv
from catdog.detection.decoding import DetectedObject
from catdog.detection.detector import load_detector
from catdog.detection.heads import answer_heads, crop_around
from catdog.errors import ModelError
from catdog.image import decode, open_photo
from catdog.onnx_model import find_model
from catdog.photo_command import list_photos
from catdog.prediction import Prediction
from tests.detectors import build_detector, draw_photo

Run = Callable[..., Result]
CLASSES = ("cat", "dog")
CAT_AND_DOG = Detection(
    "a.jpg",
    640,
    480,
    (
        DetectedObject(0.98, Box("dog", 1.5, 2, 300, 400.5)),
        DetectedObject(0.5, Box("cat", 10, 20, 30, 40)),
    ),
)
NONE = Detection("b.jpg", 8, 6, ())
BAD = Detection.failed("c.jpg", "c.jpg: no such file")
ALL = [CAT_AND_DOG, NONE, BAD]


def test_formats_exactly() -> None:
    assert "".join(as_csv(ALL, CLASSES)) == (
        "source,width,height,label,confidence,head,xmin,ymin,xmax,ymax,error\n"
        "a.jpg,640,480,dog,0.98,1,1.5,2,300,400.5,\n"
        "a.jpg,640,480,cat,0.5,2,10,20,30,40,\n"
        "b.jpg,8,6,,,,,,,,\n"
        "c.jpg,,,,,,,,,,c.jpg: no such file\n"
    )
    assert "".join(as_table(ALL, CLASSES)).splitlines() == [
        "label   confidence  box, px              source",
        "dog          98.0%  2 2 300 400          a.jpg",
        "cat          50.0%  10 20 30 40          a.jpg",
        "no pet                                   b.jpg",
        "error                                    c.jpg: no such file",
    ]
    lines = [json.loads(line) for line in as_jsonl(ALL, CLASSES)]
    assert lines == json.loads("".join(as_json(ALL, CLASSES)))
    assert lines == [
        {
            "source": "a.jpg",
            "width": 640,
            "height": 480,
            "objects": [
                {"label": "dog", "confidence": 0.98, "box": [1.5, 2, 300, 400.5]},
                {"label": "cat", "confidence": 0.5, "box": [10, 20, 30, 40]},
            ],
            "error": None,
        },
        {"source": "b.jpg", "width": 8, "height": 6, "objects": [], "error": None},
        {"source": "c.jpg", "width": None, "height": None, "objects": None, "error": "c.jpg: no such file"},
    ]


@pytest.mark.parametrize("form", [as_table, as_csv, as_json, as_jsonl])
def test_formats_stream(form: Callable[..., Iterator[str]]) -> None:
    """The text of the first answer is there before the second answer is asked for."""

    def answers() -> Iterator[Detection]:
        yield CAT_AND_DOG
        raise AssertionError("asked too early")

    text = form(answers(), CLASSES)
    while "a.jpg" not in next(text):
        pass


def test_an_installation_without_an_embedded_detector_says_so() -> None:
    with pytest.raises(ModelError, match=r"^the embedded detector is missing .*--model"):
        find_model(None, "no-such-asset.onnx", "the embedded detector")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """heads.onnx, and photos/ with both.png (a cat and a dog), sub/both.jpg (the same), none.png and broken.jpg."""
    (tmp_path / "heads.onnx").write_bytes(build_detector())
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    both = draw_photo((640, 480), ("red", (100, 100, 220, 240)), ("blue", (400, 300, 500, 380)))
    both.save(tmp_path / "photos" / "both.png")
    both.save(tmp_path / "photos" / "sub" / "both.jpg", quality=95, subsampling=0)
    draw_photo((64, 48)).save(tmp_path / "photos" / "none.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"broken")
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run("a.jpg", "--format", "csv", command="detect") -> the finished command; no traceback ever."""
    monkeypatch.chdir(folder)

    def go(*arguments: str, command: str = "detect") -> Result:
        done = CliRunner().invoke(app, [command, *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return go


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_folder_of_photos(run: Run) -> None:
    done = run("photos", "no.jpg", "--model", "heads.onnx")
    answers = rows(done)
    assert (done.exit_code, done.stderr) == (1, "")
    both, broken, none, same, missing = answers
    assert both["objects"] == [
        {"label": "cat", "confidence": 1.0, "box": [100, 100, 220, 240]},
        {"label": "dog", "confidence": 1.0, "box": [400, 300, 500, 380]},
    ]
    assert (both["source"], both["width"], both["height"], both["error"]) == ("photos/both.png", 640, 480, None)
    assert [(a["objects"], bool(a["error"])) for a in (broken, none, missing)] == [
        (None, True),
        ([], False),
        (None, True),
    ]
    assert [found["label"] for found in same["objects"]] == ["cat", "dog"]


def test_csv_and_a_threshold(run: Run) -> None:
    done = run("photos/both.png", "photos/none.png", "--model", "heads.onnx", "--format", "csv", "--threshold", "0.9")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["source"], row["label"], row["xmax"]) for row in table] == [
        ("photos/both.png", "cat", "220.0"),
        ("photos/both.png", "dog", "500.0"),
        ("photos/none.png", "", ""),
    ]
    assert done.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["photos", "--model", "heads.onnx", "--threshold", "1.5"],
        ["photos", "--model", "no.onnx"],
        ["photos", "--model", "heads.onnx", "--draw", "heads.onnx"],
        ["photos", "--model", "heads.onnx", "--draw", "out", "--crop", "out"],
        ["photos", "--model", "heads.onnx", "--crop", "s3://bucket/heads"],
        ["photos", "--model", "heads.onnx", "--crop", "photos/heads"],  # the next run would take them for photos
    ],
    ids=" ".join,
)
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(re.findall(r"^Error: ", done.stderr, re.MULTILINE)) == 1


def test_draw_and_crop_write_the_answers_as_pictures(run: Run, folder: Path) -> None:
    asked = ("photos", "--model", "heads.onnx")
    options = ("--draw", "drawn", "--crop", "heads")
    plain = run(*asked).stdout
    for _ in range(2):  # it may replace its own
        done = run(*asked, *options)
        assert (done.exit_code, done.stdout) == (1, plain), done.stderr
    assert sorted(path.name for path in (folder / "drawn").iterdir()) == ["both.jpg", "both~2.jpg", "none.jpg"]
    heads = {path.name: decode(path.read_bytes(), path.name) for path in (folder / "heads").iterdir()}
    assert {name: head.size for name, head in heads.items()} == {
        "both-1.jpg": (120, 140),
        "both-2.jpg": (100, 80),
        "both~2-1.jpg": heads["both~2-1.jpg"].size,
        "both~2-2.jpg": heads["both~2-2.jpg"].size,
    }
    np.testing.assert_allclose(np.asarray(heads["both-1.jpg"])[70, 60], [255, 0, 0], atol=6)
    np.testing.assert_allclose(np.asarray(heads["both-2.jpg"])[40, 50], [0, 0, 255], atol=6)
    drawn, photo = (open_photo(folder / name) for name in ("drawn/both.jpg", "photos/both.png"))
    assert drawn.size == photo.size
    changed = np.abs(np.asarray(drawn, float) - np.asarray(photo, float)).max(2) > 60
    assert changed[170, 96:108].any()  # the cat's left edge
    assert not changed[200:230, 120:200].any()  # inside of it


def test_a_picture_that_it_did_not_make_is_never_replaced(run: Run, folder: Path) -> None:
    (folder / "drawn").mkdir()
    mine = folder / "drawn" / "holiday.jpg"
    mine.write_bytes((folder / "photos" / "sub" / "both.jpg").read_bytes())
    done = run("photos", "--model", "heads.onnx", "--draw", "drawn")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "holiday.jpg: is there already, and not from this command" in done.stderr
    assert [path.name for path in (folder / "drawn").iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "photos", "--model", "heads.onnx"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_answer_whole_photos_refuse_a_detector(run: Run, folder: Path, arguments: list[str]) -> None:
    before = set(folder.iterdir())
    done = run(*arguments[1:], command=arguments[0])
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("heads.onnx: finds heads and doesn't answer whole photos; use catdog detect")
    assert set(folder.iterdir()) == before


def test_the_command_is_there_in_a_process_of_its_own(folder: Path) -> None:
    command = [sys.executable, "-m", "catdog.detection", "photos/both.png", "--model", "heads.onnx"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert [found["label"] for found in json.loads(done.stdout)["objects"]] == ["cat", "dog"]


@pytest.fixture
def predict(run: Run, folder: Path, tiny_model: Path) -> Run:
    """predict("a.jpg", "--format", "csv") -> catdog predict --detect, of models that know red from blue."""
    return lambda *arguments: run(
        *arguments, "--model", str(tiny_model), "--detect", "--detector", "heads.onnx", command="predict"
    )


def test_predict_answers_each_pet_of_a_photo(predict: Run, folder: Path, tiny: Classifier) -> None:
    done = predict("photos")
    both, broken, none, _ = rows(done)
    assert done.exit_code == 1
    cat, dog = both.pop("objects")
    assert list(cat) == ["label", "confidence", "probabilities", "box"]
    assert (cat["label"], cat["box"], cat["confidence"]) == ("cat", [100, 100, 220, 240], cat["probabilities"]["cat"])
    assert (dog["label"], dog["box"], dog["confidence"]) == ("dog", [400, 300, 500, 380], dog["probabilities"]["dog"])
    assert both == tiny.predict("photos/both.png").to_dict()  # the photo's own answer is what it is without --detect
    assert (none["objects"], none["error"]) == ([], None)
    assert (broken["label"], broken["objects"]) == (None, None)
    assert broken["error"].startswith("photos/broken.jpg: ")


def test_a_photo_without_an_answer_has_no_answers_for_its_pets(folder: Path, tiny: Classifier) -> None:
    class Full(Classifier):
        def stream(self, photos: Any, *, names: Any = (), **_: Any) -> Iterator[Prediction]:
            return iter([Prediction.failed(names[0], "not enough memory")])

    heads = load_detector(folder / "heads.onnx")
    photos = list_photos([str(folder / "photos/both.png")])
    (found,) = answer_heads(Full(tiny.data), heads, photos)
    assert (found.error, found.objects) == ("not enough memory", None)


def test_predict_s_heads_as_csv_and_as_a_table(predict: Run) -> None:
    done = predict("photos/both.png", "photos/none.png", "--format", "csv")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(table[0]) == ["source", "label", "confidence", "cat", "dog", *BOX_COLUMNS, "error"]
    assert [(row["source"], row["label"], row["head"], row["xmin"]) for row in table] == [
        ("photos/both.png", "cat", "", ""),
        ("photos/both.png", "cat", "1", "100.0"),
        ("photos/both.png", "dog", "2", "400.0"),
        ("photos/none.png", "unsure", "", ""),
    ]
    lines = predict("photos/both.png", "--format", "table").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["label", "cat", "cat", "dog"]
    assert lines[2].endswith("  100 100 220 240 in photos/both.png")


def test_predict_refuses_what_does_not_go_together(run: Run) -> None:
    for options in (["--detector", "heads.onnx"], ["--detect", "--explain", "pictures"]):
        done = run("photos", *options, command="predict")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--detector goes with --detect" in done.stderr


def test_a_crop_is_a_square_around_the_head_inside_of_the_photo() -> None:
    photo = draw_photo((300, 200))
    assert crop_around(photo, Box("cat", 100, 80, 140, 100), 2).size == (80, 80)
    assert crop_around(photo, Box("cat", 0, 0, 40, 20), 2).size == (60, 50)
    assert crop_around(photo, Box("cat", 0, 0, 300, 200), 2).size == (300, 200)
    assert crop_around(photo, Box("cat", 299.8, 199.8, 300, 200), 1).size == (1, 1)


def test_help_has_examples(run: Run) -> None:
    assert "catdog detect photos/ --crop heads" in run("--help").stdout
