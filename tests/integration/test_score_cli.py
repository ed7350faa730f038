"""catdog score as a user runs it, on ordinary inputs and on those that were made to harm."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.contract import Contract
from catdog.image import MAX_BYTES
from catdog.sources.contents import file_version
from tests.conftest import UNPRIVILEGED, build_tiny_model

pytest.importorskip("pyarrow", reason="results are made with pyarrow")

Photo = Callable[..., bytes]
Done = subprocess.CompletedProcess[str]
Score = Callable[..., Done]
ODD = os.fsdecode(b"caf\xe9.jpg")  # a name that is not UTF-8


@pytest.fixture
def folder(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with a/1.png red, b/1.png blue and c/grey.jpg; the folder to be in."""
    for name, data in (
        ("a/1.png", photo("red", size=(32, 24))),
        ("b/1.png", photo("blue", size=(24, 32))),
        ("c/grey.jpg", photo("grey", "JPEG")),
    ):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # catdog need not be installed
    return tmp_path


@pytest.fixture
def command(tiny_model: Path) -> list[str]:
    return [sys.executable, "-m", "catdog.score", "--model", str(tiny_model), "--workers", "1"]


@pytest.fixture
def score(folder: Path, command: list[str]) -> Score:
    """score("photos", "--out", "r.jsonl", code=0) -> the finished process; no traceback ever."""

    def go(*arguments: str | Path, code: int = 0, prefix: Sequence[str] = ()) -> Done:
        done = subprocess.run(
            [*prefix, *command, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr  # it is no terminal
        return done

    return go


def rows(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def huge_png() -> bytes:
    """A PNG of 50,000 x 50,000 pixels, in 60 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def repeated(folder: Path, count: int, bad: Sequence[int] = (), size: tuple[int, int] = (32, 24)) -> Path:
    """A list of ``count`` names, red and blue in turn; those at ``bad`` are of no photo."""
    for colour in ("red", "blue"):
        Image.new("RGB", size, colour).save(folder / f"{colour}.png")
    path = folder / "list.txt"
    path.write_text("".join(f"{'no' if n in bad else ('red', 'blue')[n % 2]}.png\n" for n in range(count)))
    return path


def test_every_input_is_one_row_with_its_own_answer(score: Score, folder: Path, tiny_model: Path) -> None:
    done = score("photos", "--out", "r.jsonl", "--threshold", "0.6")
    red, blue, grey = ((folder / "photos" / name).read_bytes() for name in ("a/1.png", "b/1.png", "c/grey.jpg"))
    model = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    first, second, third = rows("r.jsonl")
    assert first == {
        "source": "photos/a/1.png", "status": "ok", "label": "cat", "confidence": pytest.approx(1),
        "cat": pytest.approx(1), "dog": pytest.approx(0, abs=1e-6), "width": 32, "height": 24,
        "sha256": hashlib.sha256(red).hexdigest(),
        "error": None, "model": model, "version": file_version("photos/a/1.png"),
    }  # fmt: skip
    assert (second["source"], second["label"], second["width"], second["height"]) == ("photos/b/1.png", "dog", 24, 32)
    assert (third["label"], third["confidence"]) == ("unsure", 0.5)
    assert [row["sha256"] for row in (second, third)] == [hashlib.sha256(data).hexdigest() for data in (blue, grey)]
    report = json.loads(done.stdout)
    assert {
        "out": "r.jsonl",
        "photos": 3,
        "ok": 3,
        "failed": {},
        "labels": {"cat": 1, "dog": 1, "unsure": 1},
    }.items() <= (report.items())
    assert "3 of 3 photos answered: 1 cat, 1 dog, 1 unsure\n" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["photos", "r.jsonl", "r.jsonl.run.json"]


def test_the_formats_hold_the_same_rows(score: Score, folder: Path) -> None:
    (folder / "photos/b/bad.jpg").write_bytes(b"")
    import pyarrow.parquet as pq

    for ending in ("parquet", "csv", "jsonl"):
        score("photos", "--out", f"r.{ending}", code=1)
    expected = rows("r.jsonl")
    assert [row["status"] for row in expected] == ["ok", "ok", "corrupt", "ok"]
    assert pq.read_table("r.parquet").to_pylist() == expected
    with (folder / "r.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {name: "" if value is None else str(value) for name, value in row.items()} for row in expected
        ]


def test_every_hostile_input_is_exactly_one_row(score: Score, folder: Path, photo: Photo) -> None:
    if UNPRIVILEGED and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and setpriv is not here")
    here = folder / "hostile"
    files = {
        "1 good.png": photo("red"),
        "a jpeg.png": photo("blue", "JPEG"),
        "big.jpg": b"",
        "cut.jpg": photo("red", "JPEG")[:-300],
        "empty.jpg": b"",
        "huge.png": huge_png(),
        "locked.jpg": photo("red"),
        "new\nline\x1b[31m.jpg": photo("red"),
        "page.jpg": b"<html>not found</html>",
        "text.jpeg": b"not a photo",
        "zeros.jpg": bytes(1000),
        ODD: photo("blue"),
        "none.txt": b"no input at all",
        "a folder.jpg/1.jpg": photo("blue"),
        "locked/1.jpg": photo("blue"),
        "round/1.jpg": photo("red"),
    }
    for name, data in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)
    os.truncate(here / "big.jpg", MAX_BYTES + 1)
    os.mkfifo(here / "pipe.jpg")
    (here / "loop.jpg").symlink_to("loop.jpg")
    (here / "dangling.jpg").symlink_to("nowhere.jpg")
    (here / "round/round").symlink_to(here)
    with tarfile.open(folder / "cut.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("1.png", "2.png"):
            archive.add(here / "1 good.png", name)
    os.truncate(folder / "cut.tar", 512 + 512 + 20)  # in the second header
    with zipfile.ZipFile(folder / "p.zip", "w") as packed:
        packed.writestr("1.jpg", photo("blue"))
        packed.writestr("../../1.jpg", photo("red"))
        packed.writestr("2.jpg", b"")
    (folder / "no.zip").write_bytes(b"PK no")
    (here / "locked.jpg").chmod(0)
    (here / "locked").chmod(0)
    try:
        done = score(
            "hostile", "gone.jpg", "cut.tar", "p.zip", "no.zip", "none*.jpg", "hostile/pipe.jpg", "",
            "--out", "r.jsonl", code=1, prefix=UNPRIVILEGED,
        )  # fmt: skip
    finally:
        (here / "locked").chmod(0o700)
    found = rows("r.jsonl")
    assert [(row["source"].removeprefix("hostile/"), row["status"], row["label"]) for row in found] == [
        ("1 good.png", "ok", "cat"),
        ("a jpeg.png", "ok", "dog"),
        ("big.jpg", "too_large", None),
        ("caf\\udce9.jpg", "ok", "dog"),
        ("cut.jpg", "corrupt", None),
        ("dangling.jpg", "missing", None),
        ("empty.jpg", "corrupt", None),
        ("huge.png", "too_large", None),
        ("locked.jpg", "missing", None),
        ("loop.jpg", "missing", None),
        ("new\nline\x1b[31m.jpg", "ok", "cat"),
        ("page.jpg", "unsupported", None),
        ("pipe.jpg", "missing", None),
        ("text.jpeg", "unsupported", None),
        ("zeros.jpg", "unsupported", None),
        ("a folder.jpg/1.jpg", "ok", "dog"),
        ("locked", "missing", None),
        ("round/1.jpg", "ok", "cat"),
        ("gone.jpg", "missing", None),
        ("cut.tar!/1.png", "ok", "cat"),
        ("cut.tar", "corrupt", None),
        ("p.zip!/1.jpg", "ok", "dog"),
        ("p.zip!/../../1.jpg", "ok", "cat"),
        ("p.zip!/2.jpg", "corrupt", None),
        ("no.zip", "corrupt", None),
        ("none*.jpg", "missing", None),
        ("pipe.jpg", "missing", None),
        ("", "missing", None),
    ]
    errors = {row["source"]: row["error"] for row in found}
    assert errors["hostile/locked.jpg"] == "hostile/locked.jpg: can't be read (Permission denied)"
    assert errors["hostile/locked"] == "hostile/locked: can't be listed (Permission denied)"
    assert errors["hostile/pipe.jpg"] == "hostile/pipe.jpg: is not a regular file"
    assert all((row["error"] is None) == (row["status"] == "ok") for row in found)
    assert json.loads(done.stdout)["failed"] == dict(Counter(row["status"] for row in found if row["status"] != "ok"))


def test_photos_that_vanish_during_the_run_are_missing(
    score: Score, folder: Path, command: list[str], photo: Photo
) -> None:
    names = [f"{n:03}.png" for n in range(60)]
    for name in names:
        (folder / name).write_bytes(photo("red"))
    (folder / "list.txt").write_text("\n".join(names))
    with subprocess.Popen([*command, "--list", "list.txt", "--out", "r.jsonl"], stdout=-1, stderr=-1) as process:
        while not (folder / "r.jsonl.run.json").exists():  # the run has begun, its worker not yet
            assert process.poll() is None
            time.sleep(0.001)
        for name in names[40:]:
            (folder / name).unlink()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"failed: 20 missing" in stderr
    assert [(row["source"], row["status"]) for row in rows("r.jsonl")] == [
        (name, "ok" if n < 40 else "missing") for n, name in enumerate(names)
    ]


def test_a_finished_run_again_does_nothing_and_ends_as_before(score: Score, folder: Path) -> None:
    (folder / "photos/bad.jpg").touch()
    score("photos", "--out", "r.csv", code=1)
    before = everything(folder)
    report = json.loads(score("photos", "--out", "r.csv", code=1).stdout)
    assert (report["photos"], report["scored_before"], report["failed"]) == (4, 4, {"corrupt": 1})
    assert everything(folder) == before


def test_a_changed_request_is_refused_unless_restarted(score: Score, folder: Path, tiny_model: Path) -> None:
    with zipfile.ZipFile("p.zip", "w") as archive:
        archive.write("photos/a/1.png", "1.png")
    score("photos", "p.zip", "--out", "r.jsonl")
    before = everything(folder)
    other = folder.parent / f"{folder.name}-other.onnx"
    other.write_bytes(build_tiny_model(Contract(class_names=("cat", "dog"), input_size=16, threshold=0.7).to_json()))
    for change, what in (
        (["photos", "p.zip", "--threshold", "0.9"], "threshold (null, now 0.9)"),
        (["photos", "p.zip", "--model", str(other)], "model ("),
        (["p.zip"], "sources ("),
        (["photos", "p.zip", "photos/a"], "sources ("),
        (["photos", "p.zip", "--sort-into", "sorted"], "sort_into (null"),
    ):
        refused = score(*change, "--out", "r.jsonl", code=2)
        assert refused.stderr.startswith("catdog score: error: r.jsonl was begun with ")
        assert what in refused.stderr
        assert refused.stdout == ""
    shutil.rmtree("sorted")
    assert everything(folder) == before
    score("photos", "p.zip", "--out", "r.jsonl", "--threshold", "0.9", "--restart")
    assert json.loads((folder / "r.jsonl.run.json").read_text())["asked"]["threshold"] == 0.9


def test_fast_gives_the_rows_of_predict_and_is_another_run(
    score: Score, folder: Path, photo: Photo, fast_model: Path, tiny_model: Path
) -> None:
    for shade in range(0, 256, 15):  # of which the smaller pictures are sure or not
        (folder / "photos" / f"{shade:03}.png").write_bytes(photo((shade, 0, 0)))
    (folder / "photos/bad.jpg").write_bytes(b"no photo")
    command, told = ["photos", "--out", "r.jsonl", "--model", fast_model], ("label", "confidence", "cat", "dog")
    score(*command, "--fast", code=1)
    fast = {row["source"]: [row[name] for name in told] for row in rows("r.jsonl")}
    predict = [sys.executable, "-m", "catdog.predict", "photos", "--model", str(fast_model), "--fast"]
    done = subprocess.run(predict, cwd=folder, capture_output=True, text=True, timeout=60)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert fast == {
        a["source"]: [a["label"], a["confidence"], *(a["probabilities"] or {"cat": None, "dog": None}).values()]
        for a in answers
    }
    refused = score(*command, code=2)
    assert "r.jsonl was begun with another fast (true, now null)" in refused.stderr
    score(*command, "--restart", code=1)
    whole = {row["source"]: [row[name] for name in told] for row in rows("r.jsonl")}
    assert [row[0] for row in whole.values()] == [row[0] for row in fast.values()]
    assert sum(whole[source] != row for source, row in fast.items()) == 8 + 2  # shades of 150 and more, red and blue
    record = json.loads((folder / "r.jsonl.run.json").read_text())
    del record["asked"]["fast"]  # as a catdog without the option wrote it
    (folder / "r.jsonl.run.json").write_text(json.dumps(record))
    assert "r.jsonl is up to date" in score(*command, code=1).stderr
    before = everything(folder)
    refused = score("photos", "--out", "none.jsonl", "--fast", code=2)
    assert refused.stderr.splitlines() == [
        f"catdog score: error: {tiny_model}: has no fast pass; leave --fast out, or make the file anew with "
        "catdog export --int8"
    ]
    assert everything(folder) == before


def test_a_foreign_file_is_not_overwritten(score: Score, folder: Path) -> None:
    (folder / "r.csv").write_text("mine")
    refused = score("photos", "--out", "r.csv", code=2)
    assert refused.stderr.startswith("catdog score: error: r.csv is there already, and not from this command; name ")
    assert (folder / "r.csv").read_text() == "mine"
    score("photos", "--out", "r.csv", "--restart")
    assert len((folder / "r.csv").read_text().splitlines()) == 4


def test_too_many_errors_stop_the_run_and_a_larger_bound_completes_it(score: Score, folder: Path) -> None:
    bad = (1, 2, 4, 390, 391)
    command = ("--list", repeated(folder, 800, bad), "--out", "r.jsonl")
    stopped = score(*command, "--max-errors", "2", code=3)
    report = json.loads(stopped.stdout)
    assert (report["out"], report["stopped"], report["failed"]) == (None, "errors", {"missing": 3})
    assert 16 <= report["photos"] < 390
    assert "more errors than --max-errors allows\nstopped; the rows are kept, and the same command" in stopped.stderr
    assert not (folder / "r.jsonl").exists()
    again = json.loads(score(*command, "--max-errors", "2", code=3).stdout)
    assert (again["photos"], again["scored_before"]) == (report["photos"], report["photos"])
    done = json.loads(score(*command, "--max-errors", "5", code=1).stdout)
    assert (done["photos"], done["scored_before"], done["failed"]) == (800, report["photos"], {"missing": 5})
    assert [row["label"] for row in rows("r.jsonl")] == [
        None if n in bad else ("cat", "dog")[n % 2] for n in range(800)
    ]
    over = score(*command, "--max-errors", "0.5%", code=3)  # 5 of 800 are 0.6 %
    assert "more errors than --max-errors allows\nr.jsonl is up to date" in over.stderr


def test_a_share_of_errors_stops_a_long_run(score: Score, folder: Path) -> None:
    command = ("--list", repeated(folder, 3000, range(0, 1000, 2)), "--out", "r.jsonl")
    report = json.loads(score(*command, "--max-errors", "10%", code=3).stdout)
    assert 1000 <= report["photos"] < 2000
    assert (report["stopped"], report["failed"]) == ("errors", {"missing": 500})


def test_a_dry_run_counts_estimates_and_writes_nothing(score: Score, folder: Path) -> None:
    (folder / "photos/bad.jpg").touch()
    before = everything(folder)
    report = json.loads(score("photos", "no.jpg", "--out", "new/r.csv", "--sort-into", "s", "--dry-run").stdout)
    assert (report["photos"], report["tried"], report["tried_failed"]) == (5, 5, {"corrupt": 1, "missing": 1})
    assert report["estimated_seconds"] >= 0
    assert everything(folder) == before
    assert [path.name for path in folder.iterdir()] == ["photos"]


def test_the_summary_sorted_photos_and_contact_sheet(score: Score, folder: Path) -> None:
    (folder / "photos/b/bad.jpg").touch()
    (folder / "sorted/cat").mkdir(parents=True)
    (folder / "sorted/cat/1.png").write_text("mine")
    command = (
        "photos",
        "--out",
        "r.csv",
        "--summary",
        "deep/s.json",
        "--sort-into",
        "sorted",
        "--contact-sheet",
        "c.png",
    )
    done = score(*command, code=1)
    assert json.loads((folder / "deep/s.json").read_text()) == json.loads(done.stdout)
    placed = sorted(path for path in (folder / "sorted").rglob("*") if not path.is_dir())
    assert [path.parent.name for path in placed] == ["cat", "cat", "dog", "unsure"]
    assert (folder / "sorted/cat/1.png").read_text() == "mine"
    assert {path.resolve() for path in placed if path.is_symlink()} == {
        folder / "photos" / name for name in ("a/1.png", "b/1.png", "c/grey.jpg")
    }
    with Image.open("c.png") as sheet:
        assert sheet.format == "PNG"
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(2**24) or []}
        assert {(255, 0, 0), (0, 0, 255)} <= colours
    score(*command, "--restart", code=1)
    assert sorted(path for path in (folder / "sorted").rglob("*") if not path.is_dir()) == placed


def test_sources_of_all_kinds_are_mixed_and_none_gets_anothers_answer(score: Score, folder: Path, photo: Photo) -> None:
    with tarfile.open("p.tar.gz", "w:gz") as archive:
        for n in range(40):
            for ending, data in ((".png", photo(("red", "blue")[n % 2])), (".json", b"{}")):
                member = tarfile.TarInfo(f"{n:06}{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with tarfile.open("shard-01.tar", "w") as archive:
        archive.add("photos/b/1.png", "./1.png")
    with zipfile.ZipFile("p.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write("photos/a/1.png", "x/1.png")
        packed.write("photos/b/1.png", "y/1.png")
    (folder / "l.csv").write_text("path,other\nphotos/b/1.png,1\np.zip!/x/1.png,2\n")
    score(
        "photos/a", "p.tar.gz", "photos/**/1.*", "shard-{00..01}.tar", "p.zip", "--list", "l.csv", "--out", "r.jsonl",
        "--workers", "2", code=1,
    )  # fmt: skip
    assert [(row["source"], row["label"]) for row in rows("r.jsonl")] == [
        ("photos/a/1.png", "cat"),
        *((f"p.tar.gz!/{n:06}.png", ("cat", "dog")[n % 2]) for n in range(40)),
        ("photos/a/1.png", "cat"),
        ("photos/b/1.png", "dog"),
        ("shard-00.tar", None),
        ("shard-01.tar!/./1.png", "dog"),
        ("p.zip!/x/1.png", "cat"),
        ("p.zip!/y/1.png", "dog"),
        ("photos/b/1.png", "dog"),
        ("p.zip!/x/1.png", "cat"),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to score; name a SOURCE or a --list"),
        (["photos", "--workers", "0"], "--workers 0: must be auto, or a number from 1 to 4096"),
        (["photos", "--workers", "many"], "--workers many: must be auto"),
        (["photos", "--threshold", "1.5"], "--threshold 1.5: must be in [0, 1]"),
        (["photos", "--threshold", "nan"], "--threshold nan: must be in [0, 1]"),
        (["photos", "--max-errors", "5x"], "--max-errors 5x: must be a number of rows like 100, or a share like 0.5%"),
        (["photos", "--model", "no.onnx"], "no.onnx: the model can't be read (No such file or directory)"),
        (["photos", "--model", "photos/a/1.png"], "photos/a/1.png: not an ONNX model"),
        (["photos", "--copy"], "--copy says how --sort-into puts photos; give that, too"),
        (["photos", "--out", "r.xlsx"], "--out r.xlsx: must end in .parquet, .csv or .jsonl"),
        (["photos", "--out", "photos"], "--out photos: must end in .parquet, .csv or .jsonl"),
        (["photos", "--out", "folder.csv"], "folder.csv: is a folder; name a file in it"),
        (["photos", "--out", "photos/a/1.png/r.csv"], "a file stands where a folder should be"),
        (["--list", "no.txt"], "--list no.txt: can't be read (No such file or directory)"),
        (["--list", "odd.csv"], "--list odd.csv: needs a column named source or path or file"),
        (["--list", "/dev/null"], "--list /dev/null: is not a regular file; save the list to one"),
        (["{a..b}.jpg"], "{a..b} is no range of numbers"),
    ],
)
def test_a_bad_argument_is_one_line_and_changes_nothing(
    score: Score, folder: Path, arguments: list[str], says: str
) -> None:
    (folder / "folder.csv").mkdir()
    (folder / "odd.csv").write_text("id,name\n1,a.jpg\n")
    done = score(*([] if "--out" in arguments else ["--out", "r.csv"]), *arguments, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("catdog score: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (folder / "r.csv").exists()


def test_a_summary_or_sheet_that_can_not_be_written_is_known_before_anything_is_scored(
    score: Score, folder: Path
) -> None:
    for option in ("--summary", "--contact-sheet"):
        done = score("photos", "--out", "r.jsonl", option, "photos/a/1.png/x.png", code=2)
        assert done.stderr == f"catdog score: error: {option} photos/a/1.png/x.png: can't be written (File exists)\n"
        assert [path.name for path in folder.iterdir()] == ["photos"]


def test_photos_are_not_sorted_into_a_folder_that_is_scored(score: Score, folder: Path) -> None:
    done = score("photos", "--out", "r.jsonl", "--sort-into", "photos/sorted", code=2)
    assert "--sort-into photos/sorted: lies in photos" in done.stderr
    assert sorted(path.name for path in (folder / "photos").iterdir()) == ["a", "b", "c"]


def test_a_typo_is_a_usage_error(score: Score) -> None:
    assert "No such option" in score("photos", "--out", "r.csv", "--treshold", "1", code=2).stderr
    assert "Missing option '--out'" in score("photos", code=2).stderr


def test_a_mended_list_is_not_refused(score: Score, folder: Path) -> None:
    (folder / "l.csv").write_text("id\n1\n")
    score("--list", "l.csv", "--out", "r.jsonl", code=2)
    (folder / "l.csv").write_text("path\nphotos/a/1.png\n")
    score("--list", "l.csv", "--out", "r.jsonl")
    assert [row["label"] for row in rows("r.jsonl")] == ["cat"]


def test_interrupted_and_started_again_it_gives_the_rows_of_an_uninterrupted_run(
    score: Score, folder: Path, command: list[str]
) -> None:
    repeated(folder, 600, bad=[3, 599], size=(700, 700))
    call = ["--list", "list.txt", "--out", "r.jsonl", "--part-rows", "16"]
    done = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([*command, *call], stdout=-1, stderr=-1, start_new_session=True) as process:
            while 16 * len(list(folder.glob("r.jsonl.parts/part-*"))) <= done:
                assert process.poll() is None
                time.sleep(0.01)
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 128 + number, stderr.decode()
        assert b"Traceback" not in stderr
        report = json.loads(stdout)
        assert (report["out"], report["stopped"], report["scored_before"]) == (None, "signal", done)
        assert done <= report["photos"] < 600
        assert b"stopped; the same command goes on\n" in stderr
        done = report["photos"]
        assert not (folder / "r.jsonl").exists()
    assert done > 0
    report = json.loads(score(*call, code=1).stdout)
    assert (report["photos"], report["scored_before"], report["failed"]) == (600, done, {"missing": 2})
    score("--list", "list.txt", "--out", "whole.jsonl", "--workers", "2", code=1)
    assert (folder / "r.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert [row["label"] for row in rows("r.jsonl")] == [
        None if n in (3, 599) else ("cat", "dog")[n % 2] for n in range(600)
    ]


def test_no_output_replaces_what_it_did_not_make(score: Score, folder: Path) -> None:
    (folder / "mine.json").write_text('{"mine": 1}')
    (folder / "mine.png").write_bytes((folder / "photos/a/1.png").read_bytes())
    before = everything(folder)
    for option, path, why in (
        ("--summary", "mine.json", "is there already, and not from this command"),
        ("--contact-sheet", "mine.png", "is there already, and not from this command"),
        ("--contact-sheet", "photos", "is drawn as a PNG"),
        ("--summary", "photos", "is what another argument names"),
        ("--summary", "r.csv", "is what another argument names"),
        ("--summary", "s3://bucket/s.json", "must be a path on this machine"),
        ("--sort-into", "https://h/x", "must be a path on this machine"),
        ("--out", "https://h/r.csv", "must be a path on this machine"),
    ):
        out = () if option == "--out" else ("--out", "r.csv")
        assert why in score("photos", *out, option, path, code=2).stderr
    assert everything(folder) == before
    for _ in range(2):  # its own may be made again
        score("photos", "--out", "r.csv", "--summary", "s.json", "--contact-sheet", "sheet.png")


def test_a_name_that_is_nothing_is_no_result(score: Score, folder: Path) -> None:
    assert "nope: no such file or folder" in score("nope", "--out", "r.csv", code=2).stderr
    assert not (folder / "r.csv.run.json").exists()
    (folder / "l.csv").write_text("wrong\n1\n")
    assert "needs a column" in score("--list", "l.csv", "--out", "r.csv", code=2).stderr
    assert "is no text" in score("--list", "photos/a/1.png", "--out", "r.csv", code=2).stderr
    assert not (folder / "r.csv.run.json").exists()


def test_a_contact_sheet_shows_where_the_model_looked(score: Score, folder: Path, looking_model: Path) -> None:
    red = Image.new("RGB", (320, 320))
    red.paste((255, 0, 0), (160, 0, 320, 160))
    red.save(folder / "photos/a/1.png")
    (folder / "photos/b/1.png").write_bytes(b"no photo")
    sheets = []
    for more in ([], ["--explain"]):
        score("photos", "--model", looking_model, "--out", "r.csv", "--contact-sheet", "s.png", *more, code=1)
        with Image.open(folder / "s.png") as sheet:
            sheets.append(np.asarray(sheet.convert("RGB")).astype(int))
    changed = abs(sheets[0] - sheets[1]).sum(2) > 30
    assert changed.any()
    for arguments, says in (
        (["--explain"], "--explain says how --contact-sheet shows photos; give that, too"),
        (["--explain", "--contact-sheet", "t.png"], "can't show where it looked"),
        (["--contact-sheet", "photos/t.png"], "--contact-sheet photos/t.png: lies in photos"),
    ):
        assert says in score("photos", "--out", "n.csv", *arguments, code=2).stderr
    assert not (folder / "n.csv").exists()
