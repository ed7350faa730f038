"""catdog dataset, as a user runs it: exit codes, one line of JSON, one line for each error."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_dataset_build import class_folders, make


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "catdog.dataset", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_a_dataset_and_its_summary(tmp_path: Path) -> None:
    source = make(tmp_path / "photos.zip", class_folders() | {"Cats/bad.jpg": b""})
    done = run(source, "--out", tmp_path / "out", "--split", "0.5,0.5,0")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["photos"], summary["left_out"], summary["reasons"]) == (8, 1, {"empty": 1})
    assert summary["out"] == str(tmp_path / "out")
    assert done.stdout.count("\n") == 1
    assert "checked 9 of 9 photos" in done.stderr
    assert "left out: 1 empty" in done.stderr
    assert "warning: test holds no cat" in done.stderr


def test_a_terminal_gets_no_json(tmp_path: Path) -> None:
    source = make(tmp_path / "photos.zip", class_folders())
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "catdog.dataset", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert "left out: none" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere.zip"], 2, "nowhere.zip: no such file or folder"),
        (["nowhere.zip", "--split", "half"], 2, "--split must be three numbers"),
        (
            ["nowhere.zip", "--split", "1,1,1"],
            2,
            "--split must be three shares that sum to 1, like 0.8,0.1,0.1, not 1,1,1",
        ),
        (["nowhere.zip", "--min-side", "-3"], 2, "--min-side must be 1 px or more"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("catdog dataset: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_nothing_usable_has_a_code_of_its_own(tmp_path: Path) -> None:
    done = run(make(tmp_path / "photos", {"cats/1.jpg": b"", "dogs/\x1b[31m.jpg": b""}), "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no photo can be used: 2 empty" in done.stderr
    assert "\x1b" not in done.stderr


def test_one_class_only_is_written_and_ends_with_1(tmp_path: Path) -> None:
    """``catdog dataset ... && catdog train ...`` must not go on, and ``--add`` must be able to."""
    of_both = class_folders()
    cats, dogs = (
        make(tmp_path / kind, {name: data for name, data in of_both.items() if kind in name.lower()})
        for kind in ("cats", "dogs")
    )
    out = tmp_path / "out"
    one = run(cats, "--out", out)
    assert one.returncode == 1
    assert "warning: there is no photo of a dog, so nothing can be trained on it; --add some" in one.stderr
    assert json.loads(one.stdout)["photos"] == 4
    both = run(dogs, "--out", out, "--add")
    assert both.returncode == 0, both.stderr
    assert json.loads(both.stdout)["photos"] == 8


def test_usage_errors_and_help() -> None:
    assert run().returncode == 2
    assert run("x.zip").returncode == 2
    shown = run("--help")
    assert shown.returncode == 0
    assert "catdog dataset dogs-vs-cats.zip --out data" in shown.stdout


def test_the_api_brings_in_no_more_than_the_core() -> None:
    heavy = "{'torch', 'onnxruntime', 'rich', 'typer', 'boto3', 'matplotlib'}"
    code = f"import sys, catdog.dataset; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


def test_killed_anywhere_the_dataset_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.kill_dataset", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 20
    assert {line["killed"] for line in lines} == {"old", "new"}
    assert all(line["again"] == "new" and line["left"] == ["out", "photos"] for line in lines)


def test_join_or_replace(tmp_path: Path) -> None:
    first, second = (make(tmp_path / f"{seed}", class_folders(seed=seed)) for seed in (0, 50))
    out = tmp_path / "out"
    assert run(first, "--out", out).returncode == 0
    refused = run(second, "--out", out)
    assert refused.returncode == 2
    assert "give --add to join them and the new ones, --replace to let them go" in refused.stderr
    joined = run(second, "--out", out, "--add")
    assert json.loads(joined.stdout)["photos"] == 16
    assert run(second, "--out", out, "--add", "--replace").returncode == 2
