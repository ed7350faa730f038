"""catdog score given again: the result is brought up to date, and nothing is scored twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="needs the extra score")

from catdog.score import output
from catdog.sources.stores import open_store

ROOT = Path(__file__).parents[2]
Score = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def encoded(photo: Callable[..., bytes]) -> list[bytes]:
    """A red photo, which is a cat, and a blue one, which is a dog."""
    return [photo(colour, "PNG", size=(40, 30)) for colour in ("red", "blue")]


@pytest.fixture
def score(tmp_path: Path, tiny_model: Path) -> Score:
    """score("photos", "--out", "r.csv", code=0) -> the report of a run in the test's folder."""

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "catdog.score", "--workers", "1", "--model", str(tiny_model), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=100)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return dict(json.loads(done.stdout))

    return run


@pytest.fixture
def photos(tmp_path: Path, encoded: list[bytes]) -> Path:
    """A folder of 40 photos."""
    folder = tmp_path / "photos"
    for i in range(40):
        path = folder / ("deep" if i % 3 else "") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[i % 2])
    return folder


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Source, status, label and checksum of each row, in order."""
    store, name = open_store(str(path))
    columns = ("source", "status", "label", "sha256")
    return [
        row
        for batch in output.read_columns(store, name)
        for row in zip(*([value or None for value in batch[column]] for column in columns), strict=True)
    ]


def changes(report: dict[str, Any]) -> tuple[int, int, int, int]:
    return tuple(report["changes"][kind] for kind in ("new", "changed", "gone", "kept"))


def write_shard(path: Path, members: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_only_what_is_new_or_was_replaced_is_scored(
    score: Score, photos: Path, tmp_path: Path, encoded: list[bytes], ending: str
) -> None:
    out = f"r.{ending}"
    assert score("photos", "--out", out)["changes"] is None
    again = score("photos", "--out", out)
    assert (changes(again), again["scored_before"], again["photos"]) == ((0, 0, 0, 40), 40, 40)
    (photos / "03.png").write_bytes(encoded[0] + b"more")
    (photos / "00.png").unlink()
    (photos / "a-first.png").write_bytes(encoded[1])
    (photos / "deep/zz-last.png").write_bytes(encoded[1])
    report = score("photos", "--out", out)
    assert (changes(report), report["scored_before"], report["photos"]) == ((2, 1, 1, 38), 38, 41)
    score("photos", "--out", f"fresh.{ending}")
    assert rows(tmp_path / out) == rows(tmp_path / f"fresh.{ending}")
    assert (tmp_path / out).read_bytes() == (tmp_path / f"fresh.{ending}").read_bytes() or ending == "parquet"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("r.")) == [out, f"{out}.run.json"]


def test_a_result_that_is_up_to_date_is_not_written_again(score: Score, photos: Path, tmp_path: Path) -> None:
    score("photos", "--out", "r.parquet")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("r.*")}
    score("photos", "--out", "r.parquet")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("r.*")} == before


def test_the_rows_follow_a_list_that_was_put_in_another_order(score: Score, photos: Path, tmp_path: Path) -> None:
    names = sorted(str(path) for path in photos.rglob("*.png"))
    (tmp_path / "l.txt").write_text("\n".join([*names, names[3]]))
    score("--list", "l.txt", "--out", "r.csv")
    (tmp_path / "l.txt").write_text("\n".join([names[5], *reversed(names), "none.png"]))
    report = score("--list", "l.txt", "--out", "r.csv", code=1)
    assert report["scored_before"] == 40
    assert [row[0] for row in rows(tmp_path / "r.csv")] == [names[5], *reversed(names), "none.png"]


def test_shards_that_are_the_same_are_not_read_again(score: Score, tmp_path: Path, encoded: list[bytes]) -> None:
    """Neither to be listed: that of a compressed one means to unpack all of it."""
    for n in range(3):
        write_shard(tmp_path / f"s-{n}.tar.gz", {f"{n}-{i}.png": encoded[i % 2] for i in range(5)}, "w:gz")
    score("s-*.tar.gz", "--out", "r.csv")
    first = tmp_path / "s-0.tar.gz"
    before, state = rows(tmp_path / "r.csv"), first.stat()
    first.write_bytes(bytes(state.st_size))  # whoever read it would fail
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert changes(score("s-*.tar.gz", "--out", "r.csv")) == (0, 0, 0, 15)
    write_shard(tmp_path / "s-1.tar.gz", {"1-4.png": encoded[0], "1-9.png": encoded[1]}, "w:gz")
    write_shard(tmp_path / "s-3.tar.gz", {"3-0.png": encoded[0]}, "w:gz")
    report = score("s-*.tar.gz", "--out", "r.csv")
    assert changes(report) == (2, 1, 4, 10)
    now = rows(tmp_path / "r.csv")
    assert now[:5] == before[:5]
    assert [row[0] for row in now[5:]] == [
        "s-1.tar.gz!/1-4.png", "s-1.tar.gz!/1-9.png", *(f"s-2.tar.gz!/2-{i}.png" for i in range(5)),
        "s-3.tar.gz!/3-0.png",
    ]  # fmt: skip


def test_of_a_zip_that_grew_only_the_new_members_are_scored(score: Score, tmp_path: Path, encoded: list[bytes]) -> None:
    for count in (10, 12):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            for i in range(count):
                archive.writestr(f"{i:02}.png", encoded[i % 2])
        report = score("p.zip", "--out", "r.csv")
    assert changes(report) == (2, 0, 0, 10)


def test_a_failed_row_is_scored_again_when_its_photo_was_replaced_or_on_demand(
    score: Score, photos: Path, tmp_path: Path, encoded: list[bytes]
) -> None:
    (photos / "bad.png").write_bytes(b"no photo")
    (photos / "worse.png").write_bytes(b"")
    (tmp_path / "l.txt").write_text("later.png\n")
    command = ("photos", "--list", "l.txt", "--out", "r.csv")
    assert score(*command, code=1)["failed"] == {"corrupt": 1, "unsupported": 1, "missing": 1}
    (photos / "bad.png").write_bytes(encoded[0])
    (tmp_path / "later.png").write_bytes(encoded[0])
    report = score(*command, code=1)
    assert (changes(report), report["failed"]) == ((0, 2, 0, 41), {"corrupt": 1})
    retried = score(*command, "--retry-failed", code=1)
    assert (retried["changes"]["retried"], retried["scored_before"]) == (1, 42)


def test_a_result_of_a_catdog_that_noted_no_versions_is_kept_and_gets_them(
    score: Score, photos: Path, tmp_path: Path
) -> None:
    score("photos", "--out", "r.csv")
    whole = (tmp_path / "r.csv").read_bytes()
    lines = whole.decode().splitlines()
    (tmp_path / "r.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    record = json.loads((tmp_path / "r.csv.run.json").read_text())
    record["asked"]["files"] = {}
    (tmp_path / "r.csv.run.json").write_text(json.dumps(record))
    assert score("photos", "--out", "r.csv")["scored_before"] == 40
    assert (tmp_path / "r.csv").read_bytes() == whole


def begin_and_kill(tmp_path: Path, model: Path, *arguments: str) -> None:
    """A run that is killed when two parts of it are on the disk."""
    command = [sys.executable, "-m", "catdog.score", "--workers", "1", "--part-rows", "16", "--model", str(model)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [*command, *arguments, "--out", "r.csv"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    while len(list((tmp_path / "r.csv.parts").glob("part-*"))) < 2 and run.poll() is None:
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -signal.SIGKILL, "it ended before it could be killed; give it more photos"


def test_what_was_replaced_between_a_kill_and_the_restart_is_noticed(
    score: Score, tmp_path: Path, tiny_model: Path, encoded: list[bytes]
) -> None:
    """A photo that was answered already, and a shard in which the listing was."""
    (tmp_path / "photos").mkdir()
    for i in range(20):
        (tmp_path / f"photos/{i:02}.png").write_bytes(encoded[0])
    write_shard(tmp_path / "s.tar.gz", {f"{i:03}.png": encoded[0] for i in range(1500)}, "w:gz")
    begin_and_kill(tmp_path, tiny_model, "photos", "s.tar.gz")
    (tmp_path / "photos/03.png").write_bytes(encoded[1])
    write_shard(tmp_path / "s.tar.gz", {f"{i:03}.png": encoded[1] for i in range(30)}, "w:gz")
    report = score("photos", "s.tar.gz", "--out", "r.csv")
    assert report["photos"] == 50
    assert report["scored_before"] == 19
    score("photos", "s.tar.gz", "--out", "fresh.csv")
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("r.*")) == ["r.csv", "r.csv.run.json"]


def test_a_list_that_grew_between_a_kill_and_the_restart_is_listed_anew(
    score: Score, tmp_path: Path, tiny_model: Path, encoded: list[bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(encoded[0])
    (tmp_path / "l.txt").write_text("a.png\n" * 3000)
    begin_and_kill(tmp_path, tiny_model, "--list", "l.txt")
    (tmp_path / "l.txt").write_text("none.png\n" + "a.png\n" * 40)
    report = score("--list", "l.txt", "--out", "r.csv", code=1)
    assert (report["photos"], report["failed"]) == (41, {"missing": 1})
    assert [row[0] for row in rows(tmp_path / "r.csv")] == ["none.png", *["a.png"] * 40]


def test_an_update_that_is_killed_keeps_the_former_result_and_goes_on(
    score: Score, photos: Path, tmp_path: Path, tiny_model: Path, encoded: list[bytes]
) -> None:
    score("photos", "--out", "r.csv")
    former = (tmp_path / "r.csv").read_bytes()
    (photos / "03.png").unlink()
    for i in range(1500):
        (photos / f"new-{i:04}.png").write_bytes(encoded[i % 2])
    begin_and_kill(tmp_path, tiny_model, "photos")
    assert (tmp_path / "r.csv").read_bytes() == former
    report = score("photos", "--out", "r.csv")
    assert report["photos"] == 1539
    assert report["scored_before"] >= 39 + 16
    score("photos", "--out", "fresh.csv")
    assert (tmp_path / "r.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_restart_scores_all_anew_and_keeps_the_former_result_until_then(
    score: Score, photos: Path, tmp_path: Path
) -> None:
    score("photos", "--out", "r.csv")
    assert score("photos", "--out", "r.csv", "--restart")["scored_before"] == 0


def test_archives_that_are_listed_twice_are_up_to_date(score: Score, tmp_path: Path, encoded: list[bytes]) -> None:
    for n in range(2):
        write_shard(tmp_path / f"{n}.tar", {f"{i}.png": encoded[i % 2] for i in range(5)}, "w")
    command = ("*.tar", "1.tar", "1.tar", "--out", "r.csv")
    score(*command)
    assert changes(score(*command)) == (0, 0, 0, 20)
    write_shard(tmp_path / "2.tar", {"new.png": encoded[0]}, "w")
    assert changes(score(*command)) == (1, 0, 0, 20)


def test_a_source_that_is_away_for_a_moment_costs_no_row(
    score: Score, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """An empty mount point, a folder that was renamed, a shard that is only half there."""
    score("photos", "--out", "r.csv")
    former = {path.name: path.read_bytes() for path in tmp_path.glob("r.*")}
    photos.rename(tmp_path / "away")
    left = "the result has 40 rows of photos that aren't listed now, and stays as it is"
    for said in ("photos: no such file or folder", left):
        assert said in refused(tmp_path, tiny_model, "photos", "--out", "r.csv")
        assert {path.name: path.read_bytes() for path in tmp_path.glob("r.*")} == former
        photos.mkdir(exist_ok=True)
    photos.rmdir()
    (tmp_path / "away").rename(photos)
    assert changes(score("photos", "--out", "r.csv")) == (0, 0, 0, 40)


def refused(tmp_path: Path, model: Path, *arguments: str) -> str:
    """The one line of a run that can't go on."""
    command = [sys.executable, "-m", "catdog.score", "--workers", "1", "--model", str(model), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_run_whose_folder_went_is_not_finished_without_it(
    score: Score, tmp_path: Path, tiny_model: Path, encoded: list[bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(1500):
        (tmp_path / f"photos/{i:04}.png").write_bytes(encoded[0])
    begin_and_kill(tmp_path, tiny_model, "photos")
    (tmp_path / "photos").rename(tmp_path / "away")
    assert "photos: no such file or folder" in refused(tmp_path, tiny_model, "photos", "--out", "r.csv")
    (tmp_path / "away").rename(tmp_path / "photos")
    report = score("photos", "--out", "r.csv")
    assert report["photos"] == 1500
    assert report["scored_before"] >= 32


def test_a_list_that_was_put_in_another_order_and_a_kill_score_nothing_twice(
    score: Score, tmp_path: Path, tiny_model: Path, encoded: list[bytes]
) -> None:
    names = [f"{i:04}.png" for i in range(1500)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded[i % 2])
    (tmp_path / "l.txt").write_text("\n".join(names[:700]))
    score("--list", "l.txt", "--out", "r.csv")
    (tmp_path / "l.txt").write_text("\n".join(reversed(names)))
    begin_and_kill(tmp_path, tiny_model, "--list", "l.txt")
    report = score("--list", "l.txt", "--out", "r.csv")
    assert (report["changes"]["new"], report["changes"]["gone"]) == (800, 0)
    assert report["scored_before"] >= 700 + 32
    assert [row[0] for row in rows(tmp_path / "r.csv")] == names[::-1]


def test_photos_whose_names_hold_odd_characters_stay_one_row_each(
    score: Score, tmp_path: Path, encoded: list[bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    names = ["a\rb.png", "a\nb.png", 'a"b,c.png', "\u2028.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        (tmp_path / "photos" / name).write_bytes(encoded[0])
    for ending in ("csv", "jsonl", "parquet"):
        score("photos", "--out", f"r.{ending}")
        assert len(rows(tmp_path / f"r.{ending}")) == 5
        assert changes(score("photos", "--out", f"r.{ending}")) == (0, 0, 0, 5)


@pytest.mark.parametrize("damage", ["column", "garbage", "record", "empty record"])
def test_a_result_that_was_damaged_is_one_line(
    score: Score, photos: Path, tmp_path: Path, tiny_model: Path, damage: str
) -> None:
    score("photos", "--out", "r.csv")
    out, record = tmp_path / "r.csv", tmp_path / "r.csv.run.json"
    if damage == "column":
        out.write_text(out.read_text().replace("status", "state"))
    elif damage == "garbage":
        out.write_text(out.read_text().replace("32,", "x,").replace("40,30", "forty,30"))
    elif damage == "record":
        record.write_text(
            json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != "totals"})
        )
    else:
        record.write_text("")
    said = refused(tmp_path, tiny_model, "photos", "--out", "r.csv")
    assert "give --restart" in said
    assert score("photos", "--out", "r.csv", "--restart")["photos"] == 40
