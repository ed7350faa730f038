"""Answers counted and compared: the numbers, the tables and references they come from, the command and its verdict."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from catdog.answers import as_jsonl
from catdog.boxes import Box
from catdog.contact_sheet import MOST
from catdog.detection.answers import BOX_COLUMNS, Detection, as_csv
from catdog.detection.decoding import DetectedObject
from catdog.detection.heads import AnsweredHead, PredictionWithHeads
from catdog.detection.heads import as_csv as as_heads_csv
from catdog.drift.__main__ import app
from catdog.drift.report import Bounds, LeastSure
from catdog.drift.tables import read_answers, read_lines, read_reference
from catdog.drift.tally import MOST_LABELS, OTHER, Answer, Reference, Tally, estimate_chance, measure_psi
from catdog.errors import DataError, SettingsError
from catdog.prediction import Prediction
from catdog.score import rows as score_rows
from catdog.sources import objects
from tests.integration.aws_on_loopback import moto_server, use

pytest.importorskip("matplotlib", reason="draws the chart: pip install '.[drift]'")

METRICS = {"task": "detect", "photos": 300, "at_threshold": {"threshold": 0.6}}
HEADER = ["source", "status", "label", "confidence", "cat", "dog", "error"]
Run = Callable[..., "tuple[int, dict[str, Any], str]"]


def draw_confidences(count: int, power: float, seed: int = 0) -> list[float]:
    """Confidences as models have them, most of them near 1; a smaller ``power`` makes more unsure ones."""
    drawn = np.random.default_rng(seed).random(count)
    return [round(1 - 0.6 * value**power, 6) for value in drawn.tolist()]


def write_table(path: Path, confidences: Sequence[float], errors: int = 0, threshold: float = 0.7) -> Path:
    """A CSV as catdog score writes it; photos are cats and dogs in turn, "unsure" below the threshold."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for i, value in enumerate(confidences):
            label = "unsure" if value < threshold else ("cat", "dog")[i % 2]
            writer.writerow([f"{i}.jpg", "ok", label, value, value, 1 - value, ""])
        for i in range(errors):
            writer.writerow([f"damaged{i}.jpg", "corrupt", "", "", "", "", f"damaged{i}.jpg: truncated"])
    return path


def make_detections(
    confidences: Sequence[float], threshold: float = 0.7, errors: int = 0, twice: int = 5
) -> list[Detection]:
    """Photos of a cat or a dog in turn, every ``twice``-th of both; without a head below the threshold."""

    def find(i: int, value: float) -> tuple[DetectedObject, ...]:
        labels = ("cat", "dog")[i % 2 :: -1 if i % 2 else 1] if i % twice == 0 else (("cat", "dog")[i % 2],)
        heads = (DetectedObject(value - 0.1 * k, Box(label, k, 0, 9, 9)) for k, label in enumerate(labels))
        return tuple(head for head in heads if head.confidence >= threshold)

    found = [Detection(f"{i}.jpg", 20, 10, find(i, value)) for i, value in enumerate(confidences)]
    return found + [Detection.failed(f"damaged{i}.jpg", "truncated") for i in range(errors)]


def write_detections(path: Path, detections: Sequence[Detection]) -> Path:
    path.write_text("".join(json.dumps(row.to_dict()) + "\n" for row in detections))
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_table(tmp_path / "reference.csv", draw_confidences(2000, 6))


@pytest.fixture
def run() -> Run:
    """run(...) -> exit code, the JSON on stdout, stderr."""

    def go(*arguments: object) -> tuple[int, dict[str, Any], str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout or "{}"), result.stderr

    return go


# the numbers


def test_the_index_is_the_published_formula() -> None:
    """Two bins, 50/50 and 75/25: (0.25 ln 1.5) + (-0.25 ln 0.5), but for half a photo that each bin gets."""
    assert measure_psi([500_000, 500_000], [750_000, 250_000]) == pytest.approx(
        0.25 * np.log(1.5) - 0.25 * np.log(0.5), abs=1e-5
    )
    assert measure_psi([10, 20, 30], [100, 200, 300]) == pytest.approx(0, abs=1e-3)
    assert measure_psi([100, 100], [200, 0]) > 1  # an empty bin has no logarithm of its own


def test_chance_alone_stays_under_its_bound_in_95_of_100_samples() -> None:
    """Samples of the reference's own distribution; 0.02 is three standard errors of 1,000 samples."""
    generator, bins = np.random.default_rng(1), 10
    for photos in (60, 1000):
        indices = [
            measure_psi(generator.multinomial(3000, [1 / bins] * bins).tolist(), found.tolist())
            for found in generator.multinomial(photos, [1 / bins] * bins, size=1000)
        ]
        bound = estimate_chance(bins, 3000, photos)
        assert np.mean(np.asarray(indices) > bound) == pytest.approx(0.05, abs=0.02)


def test_the_bins_are_tenths_and_fewer_where_many_photos_are_equally_sure() -> None:
    tally = Tally()
    for value in draw_confidences(1000, 1):
        tally.add("all", Answer("x", "cat", value))
    made = tally.make_reference("x")
    assert len(made.photos) == 10
    assert all(98 <= count <= 102 for count in made.photos)
    tied = Tally()
    for i in range(1000):
        tied.add("all", Answer("x", "cat", 1.0 if i < 600 else 0.5 + i / 10_000))
    made = tied.make_reference("x")
    assert made.photos[-1] == 600  # all that are as sure as can be, in one bin
    assert sum(made.photos) == 1000
    assert 1.0 not in made.edges


def test_what_was_counted_compares_with_itself_as_no_change() -> None:
    values = draw_confidences(500, 6)
    first = Tally()
    for value in values:
        first.add("a", Answer("x", "cat", value))
    again = Tally(first.make_reference("a"))
    for value in values:
        again.add("b", Answer("x", "cat", value))
    report = again.to_json()
    assert report["psi"] == 0
    assert report["reference"]["confidence"]["now"] == report["reference"]["confidence"]["photos"]


def test_a_reference_must_be_something_to_compare_with() -> None:
    with pytest.raises(DataError, match="99 answered photos are too few"):
        Reference("x", (0.5,), (49, 50), {})
    with pytest.raises(DataError, match="the same confidence"):
        Reference("x", (), (1000,), {})


def test_a_stranger_s_labels_take_no_more_room_than_a_few() -> None:
    tally = Tally()
    for i in range(1000):
        tally.add("all", Answer("x", f"label{i}", 0.5))
    assert len(tally.to_json()["labels"]) == MOST_LABELS + 1
    assert tally.to_json()["labels"][OTHER] == 1000 - MOST_LABELS


def test_the_least_sure_are_kept_and_their_photos_not_read_before_they_are_drawn(tmp_path: Path) -> None:
    read: list[float] = []

    def read_thumbnail(value: float) -> Image.Image:
        read.append(value)
        return Image.new("RGB", (8, 8))

    least_sure, values = LeastSure(), [i / 1000 for i in range(1000)]
    random.Random(0).shuffle(values)
    for value in values:
        answer = Answer("x", "cat", value)
        if least_sure.wants(answer):
            least_sure.add(answer, "x", lambda value=value: read_thumbnail(value))  # type: ignore[misc]
    assert read == []
    assert least_sure.draw("title", tmp_path / "sheet.png")
    assert read == [i / 1000 for i in range(MOST)]


def test_a_psi_that_chance_explains_passes_no_bound() -> None:
    numbers = {"psi": 0.5, "psi_by_chance": 0.6, "unsure": 0.0, "failed": 0.0}
    bounds = Bounds.parse(0.25, None, None, has_reference=True)
    assert bounds.list_passed(numbers) == []
    assert bounds.list_passed(numbers | {"psi_by_chance": 0.1}) == ["--max-psi 0.25: the confidences' PSI is 0.500"]


# tables and references


def test_results_are_read_in_every_form_that_catdog_writes(tmp_path: Path, reference: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="reads Parquet: pip install '.[score]'")
    import pyarrow.parquet as pq

    with reference.open() as file:
        rows = [row | {"confidence": float(row["confidence"])} for row in csv.DictReader(file)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    with (tmp_path / "predictions.csv").open("w", newline="") as file:  # as catdog evaluate writes it
        writer = csv.writer(file)
        writer.writerow(["path", "source", "truth", "label", "confidence", "cat", "dog"])
        writer.writerows([row["source"], "kaggle", "cat", row["label"], row["confidence"], 0, 0] for row in rows)
    wanted = list(read_answers(str(reference)))
    assert len(wanted) == 2000
    for name in ("r.jsonl", "r.parquet"):
        assert list(read_answers(str(tmp_path / name))) == wanted
    made = read_reference(str(reference))
    assert read_reference(str(tmp_path)).photos == made.photos  # the folder of an evaluation


def test_a_report_is_a_reference_for_the_next_one(run: Run, tmp_path: Path, reference: Path) -> None:
    code, first, _ = run(reference, "--out", tmp_path / "first")
    assert (code, first["psi"], first["reference"]) == (0, None, None)
    code, again, _ = run(reference, "--reference", tmp_path / "first", "--max-psi", 0.25)
    assert (code, again["psi"]) == (0, 0)
    assert read_reference(str(tmp_path / "first")).shares == read_reference(str(reference)).shares


def test_a_detector_s_answers_are_the_same_in_every_form(tmp_path: Path) -> None:
    """JSON lines and CSV of catdog detect, and tables of catdog score, which have a row a head."""
    pq = pytest.importorskip("pyarrow.parquet", reason="reads Parquet: pip install '.[score]'")
    csv_writer = pytest.importorskip("pyarrow.csv")
    detections = make_detections(draw_confidences(300, 3), errors=3)
    wanted = list(read_answers(str(write_detections(tmp_path / "a.jsonl", detections))))
    assert [answer.label for answer in wanted[:2]] == ["cat", "dog"]
    assert wanted[0].heads == ("cat", "dog")
    assert {answer.label for answer in wanted} == {"cat", "dog", "no pet", None}
    (tmp_path / "b.csv").write_text("".join(as_csv(detections, ("cat", "dog"))))
    table = score_rows.table(
        [row.source for row in detections],
        [
            score_rows.Row("ok" if row.error is None else "corrupt", heads=row.objects or (), error=row.error)
            for row in detections
        ],
        BOX_COLUMNS,
        "0" * 64,
    )
    pq.write_table(table, tmp_path / "c.parquet")
    csv_writer.write_csv(table, tmp_path / "d.csv")
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for name in ("b.csv", "c.parquet", "d.csv", "e.jsonl"):
        assert list(read_answers(str(tmp_path / name))) == wanted, name


def test_pets_within_a_photo_are_no_photos(tmp_path: Path) -> None:
    """catdog predict --detect: its CSV has a row a pet after the photo's own, its JSON lines a list."""
    box = Box("cat", 0, 0, 9, 9)
    whole = ("a.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.1})
    pets = (AnsweredHead(box, Prediction(*whole)), AnsweredHead(box, Prediction("a.jpg", "dog", 0.8, whole[3])))
    rows = [PredictionWithHeads(*whole, objects=pets), PredictionWithHeads(*whole, objects=())]
    (tmp_path / "a.csv").write_text("".join(as_heads_csv(rows, ("cat", "dog"))))
    (tmp_path / "a.jsonl").write_text("".join(as_jsonl(rows, ("cat", "dog"))))
    for name in ("a.csv", "a.jsonl"):
        answers = list(read_answers(str(tmp_path / name)))
        assert [(answer.label, answer.confidence) for answer in answers] == [("cat", 0.9)] * 2


def test_a_photo_that_comes_twice_is_two_photos(tmp_path: Path) -> None:
    """A table numbers its heads, and the rows of one photo follow each other."""
    head = "a.jpg,ok,cat,0.9,{},0,0,9,9,20,10,,,,"
    rows = [head.format(number) for number in (1, 2, 1, 2)] + ["a.jpg,ok,,,,,,,,20,10,,,,"] * 2
    columns = ",".join(score_rows.columns(BOX_COLUMNS))
    (tmp_path / "a.csv").write_text("\n".join([columns, *rows]) + "\n")
    found = [answer.heads for answer in read_answers(str(tmp_path / "a.csv"))]
    assert found == [("cat", "cat"), ("cat", "cat"), (), ()]


def test_a_detector_s_evaluation_counts_from_its_threshold_on(tmp_path: Path) -> None:
    """Its predictions.csv has boxes of every confidence, and none of photos in which nothing was found at all."""
    detections = make_detections(draw_confidences(200, 6), threshold=0.0)
    with (tmp_path / "predictions.csv").open("w", newline="") as file:  # as catdog evaluate writes it
        writer = csv.writer(file)
        writer.writerow(["path", "truth", "label", "confidence", "xmin", "ymin", "xmax", "ymax"])
        for row in detections:
            writer.writerows([row.source, "cat", h.label, h.confidence, *h.box.corners] for h in row.objects or ())
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    made = read_reference(str(tmp_path))
    sure = [[h.label for h in row.objects or () if h.confidence >= 0.6] for row in detections]
    assert (sum(made.photos), made.with_head) == (300, round(sum(map(bool, sure)) / 300, 6))
    assert made.shares["cat"] == round(sum(labels.count("cat") for labels in sure) / 300, 6)
    with pytest.raises(DataError, match="under the detector's threshold; give its folder"):
        read_reference(str(tmp_path / "predictions.csv"))
    for damaged in ("[]", '{"task": "detect"}', json.dumps(METRICS | {"photos": "x"}), "[" * 100_000):
        (tmp_path / "metrics.json").write_text(damaged)
        with pytest.raises(DataError, match="is no evaluation"):
            read_reference(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "is no table"),
        ("a.jsonl", b'{"source": "a", "objects": {}, "error": null}\n', "is no table"),
        ("a.jsonl", b'{"source": "a", "objects": null, "error": null}\n', "is no table"),
        ("a.jsonl", b'{"source": "a", "objects": [7]}\n', "is no table"),
        ("a.jsonl", b'{"objects": [{"label": "cat", "confidence": 1' + b"0" * 400 + b"}]}\n", "is no table"),
        ("a.jsonl", json.dumps({"objects": [{"label": "cat", "confidence": 0.9}] * 101}).encode(), "is no table"),
        ("a.csv", b"source,label,confidence,head,width\n" + b"a,cat,0.9,2,9\n" * 101, "is no table"),
        ("a.csv", b"source,status,label,confidence,head,width\na,ok,cat,2,1,9\n", "is no table"),
        ("a.csv", b"source,label,confidence,xmin,width\na,cat,0.9,0,9\n", "is no table"),
        ("a.csv", b"source,label\nx,cat\n", "is no table"),
        ("a.csv", b"source,label,confidence\nx,cat,2\n", "is no table"),
        ("a.csv", b"source,label,confidence\nx,cat,nan\n", "is no table"),
        ("a.csv", b"source,status,label,confidence\nx,ok,,\n", "is no table"),
        ("a.csv", b"source,label,confidence\n\xff,cat,0.5\n", "is no table"),
        ("a.csv", b'source,label,confidence\n"' + b"x" * 2**21, "is no table"),
        ("a.csv", b"source,label,confidence\nx,cat,0.5\n", "too few"),
        ("a.jsonl", b'{"label": "cat", "confidence": 0.5}\n[]\n', "is no table"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "is no table"),
        ("a.jsonl", b'{"label": ' + b"9" * 5000 + b', "confidence": 0.5}\n', "is no table"),
        ("a.parquet", b"PAR1 not really PAR1", "is no table"),
        ("a.txt", b"", "must end in"),
        ("a.json", b"{}", "is no drift.json"),
        ("a.json", b'{"confidence": {"edges": [0.5], "photos": [1e3, -5]}, "shares": {}}', "is no drift.json"),
        ("a.json", b'{"confidence": {"edges": [0.9, 0.5], "photos": [9, 9, 9]}, "shares": {}}', "is no drift.json"),
        ("a.json", b"[" * 100_000, "is no drift.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_reference_is_one_line(run: Run, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    table = write_table(tmp_path / "now.csv", [0.5])
    code, report, err = run(table, "--reference", tmp_path / name)
    assert (code, report) == (2, {})
    (line,) = err.splitlines()
    assert line.startswith("catdog drift: error: ")
    assert said in line


def test_lines_are_bounded() -> None:
    stream = io.BytesIO(b"short\n" + b"x" * 5_000_000 + b"\nlast")
    assert list(read_lines(stream, 100)) == [b"short\n", None, b"last"]


# the command


def test_what_changed_is_told_and_drawn(
    run: Run, tmp_path: Path, reference: Path, photo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(photo("red", "JPEG"))
    same = write_table(tmp_path / "same.csv", draw_confidences(1000, 6, seed=2))
    other = write_table(tmp_path / "a $other$ one.csv", draw_confidences(1000, 1.5, seed=3), errors=20)
    code, report, err = run(
        same, other, "--reference", reference, "--out", "out", "--max-psi", 0.1, "--max-errors", "2%"
    )
    assert code == 1
    first, second = report["periods"]
    assert first["psi"] < first["psi_by_chance"]
    assert second["psi"] > 0.25
    assert second["errors"] == 20
    assert report["photos"] == 2020
    assert second["unsure"] > first["unsure"]
    (passed,) = report["passed"]
    assert passed.startswith("--max-psi 0.1: ")
    assert passed in err
    assert "within chance" in err
    assert json.loads((tmp_path / "out" / "drift.json").read_text()) | {"out": "out"} == report
    for name in ("drift.png", "least_sure.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
    assert run(same, "--reference", reference, "--out", "out", "--max-psi", 0.1, "--max-unsure", "50%")[0] == 0


def test_what_changed_of_a_detector_s_heads_is_told_and_drawn(run: Run, tmp_path: Path) -> None:
    """More photos without a head are a change, though the confidences of the others are the same."""
    values = draw_confidences(2000, 3)
    reference = write_detections(tmp_path / "reference.jsonl", make_detections(values))
    same = write_detections(tmp_path / "same.jsonl", make_detections(draw_confidences(1000, 3, seed=3), errors=5))
    blind = [row if i % 3 else Detection(row.source, 20, 10, ()) for i, row in enumerate(make_detections(values))]
    other = write_detections(tmp_path / "other.jsonl", blind)
    out = tmp_path / "out"
    code, report, err = run(same, other, "--reference", reference, "--out", out, "--max-psi", 0.1)
    first, second = report["periods"]
    assert code == 1
    assert first["psi"] < first["psi_by_chance"] < 0.1 < second["psi"]
    assert report["passed"] == [f"--max-psi 0.1: the confidences' PSI is {report['psi']:.3f}"]
    heads = [len(row.objects or ()) for row in blind]
    assert second["with_head"] == round(sum(map(bool, heads)) / 2000, 6)
    assert sum(second["heads"].values()) == sum(heads)
    assert second["heads_per_photo"]["cat"] == round(second["heads"]["cat"] / 2000, 6)
    assert (first["errors"], first["failed"], "unsure" in first) == (5, round(5 / 1005, 6), False)
    assert f"{second['with_head']:.1%} with a head; heads a photo: cat {second['heads_per_photo']['cat']:.2f}" in err
    for name in ("drift.png", "least_sure.png"):
        with Image.open(out / name) as picture:
            picture.load()
    code, again, _ = run(reference, "--reference", out, "--max-errors", "1%")
    assert (code, again["reference"]["with_head"]) == (0, report["with_head"])
    code, _, err = run(same, "--max-unsure", "1%")
    assert (code, "a detector is never unsure" in err) == (2, True)


def test_heads_and_whole_photos_are_not_mixed(run: Run, tmp_path: Path, reference: Path) -> None:
    heads = write_detections(tmp_path / "heads.jsonl", make_detections(draw_confidences(200, 6)))
    photos = write_table(tmp_path / "photos.csv", [0.9] * 9)
    for arguments, first, second in (
        ((heads, photos), heads, photos),
        ((photos, heads), photos, heads),
        ((heads, "--reference", reference), reference, heads),
        ((photos, "--reference", heads), heads, photos),
    ):
        code, _, err = run(*arguments)
        (line,) = err.splitlines()
        assert code == 2
        assert line.startswith(f"catdog drift: error: {second}: has ")
        assert f", and {first} has " in line


def test_bounds_are_shares_and_a_psi_needs_a_reference(run: Run, tmp_path: Path) -> None:
    table = write_table(tmp_path / "now.csv", [0.5] * 9, errors=1)
    assert run(table, "--max-errors", "10%", "--max-unsure", "1")[0] == 0
    assert run(table, "--max-errors", "0.09")[0] == 1
    assert run(table, "--max-unsure", "99%")[0] == 1
    for arguments, said in (
        (("--max-psi", 0.1), "compares with a --reference"),
        (("--max-errors", "5"), "give a share"),
        (("--max-unsure", "nan"), "give a share"),
        (("--max-unsure", "many"), "give a share"),
        (("--out", tmp_path), "holds files of something else"),
    ):
        code, _, err = run(table, *arguments)
        assert code == 2
        assert said in err
    with pytest.raises(SettingsError):
        Bounds.parse(None, "101%", None, has_reference=False)


def test_silence_is_no_good_news(run: Run, tmp_path: Path) -> None:
    empty = write_table(tmp_path / "now.csv", [])
    assert run(empty)[0] == 1


@pytest.mark.parametrize("text", ["", "word", "source,label\n"])
def test_what_has_no_row_is_no_table_either(run: Run, tmp_path: Path, text: str) -> None:
    other = tmp_path / "now.csv"
    other.write_text(text)
    code, _, err = run(other)
    assert (code, err) == (2, f"catdog drift: error: {other}: is no table of catdog's answers, or damaged\n")


def test_captured_heads_are_counted_by_photo_and_other_forms_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto.server", reason="no S3 server to test against: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3", reason="s3:// needs boto3")
    from catdog.aws.watch.captured import read_captured

    heads = (DetectedObject(0.9, Box("cat", 0, 0, 9, 9)), DetectedObject(0.8, Box("dog", 0, 0, 9, 9)))
    same_name = [Detection("image.jpg", 20, 10, heads[:count]) for count in (1, 2, 0)]  # as phones call all photos
    told = [
        {"data": json.dumps({"prediction": [[0, 0.9, 0.1, 0.1, 0.5, 0.5]]}), "encoding": "JSON"},
        {"data": "".join(as_csv(same_name, ("cat", "dog"))), "encoding": "CSV", "observedContentType": "text/csv"},
    ]
    lines = "".join(json.dumps({"captureData": {"endpointOutput": output}}) + "\n" for output in told)
    hour = datetime(2026, 11, 28, 17, tzinfo=timezone.utc)
    skipped: list[str] = []
    with moto_server() as port:
        use(monkeypatch, f"http://127.0.0.1:{port}")
        objects.close()
        s3 = boto3.session.Session().client("s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key=f"heads/AllTraffic/{hour:%Y/%m/%d/%H}/a.jsonl", Body=lines)
        found = list(read_captured("s3://bucket/heads", ["AllTraffic"], hour, hour, skipped.append))
        objects.close()
    assert [(each.index, each.answer.heads) for each in found] == [(0, ("cat",)), (1, ("cat", "dog")), (2, ())]
    assert skipped == ["not an answer of catdog's"]
