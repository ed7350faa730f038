"""What becomes of commands that write for a while when the reader goes away or the disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import Forked
from tests.integration.test_train import SMALL, paint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"), {"cats": 30, "dogs": 30})


def arguments(photos: Path, output: Path) -> list[str]:
    chosen = ["--data", str(photos), "--output", str(output), *SMALL, "--arch", "cnn", "--cache", "none"]
    return [*chosen, "--export", "False"]


def test_training_for_a_reader_that_goes_away_ends_quietly(photos: Path, tmp_path: Path) -> None:
    command = ["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", sys.executable, "train.py"]
    done = subprocess.run(
        [*command, *arguments(photos, tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 141, done.stderr
    assert done.stdout.startswith("epoch=1 ")
    assert "Traceback" not in done.stderr


def test_training_on_a_full_disk_is_one_line(photos: Path, small_disk: Path) -> None:
    done = Forked("train", *arguments(photos, small_disk / "run")).end()
    assert done.returncode == 2, done.stderr
    assert "(No space left on device); make room and go on" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_dataset_whose_summary_can_not_be_written_is_there_all_the_same(photos: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m catdog.dataset {photos} --out {tmp_path / 'data'} >/dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no space is left" in done.stderr.splitlines()[-1]
    assert (tmp_path / "data" / "manifest.json").is_file()
