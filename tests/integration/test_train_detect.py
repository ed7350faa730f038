"""catdog train --task detect from drawn photos with boxes to a run folder, also killed, and in two processes."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catdog.boxes import Box
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split
from catdog.detection.detector import load_detector
from catdog.training.cli import main
from catdog.training.detection import find_in_photos, measure_boxes
from catdog.training.model import load_checkpoint
from tests.forked import Forked, end_together
from tests.integration.test_interrupted import learnt, wait_for_checkpoints
from tests.integration.test_train import paint

SMALL = ["--task", "detect", "--weights", "none", "--size", "64", "--batch-size", "4", "--workers", "0"]
SMALL += ["--device", "cpu", "--cache", "none", "--frozen-epochs", "0", "--epochs", "2", "--export", "False"]
CHARTS = {
    f"reports/{name}_{split}.png" for name in ("precision_recall", "missed", "false_boxes") for split in ("val", "test")
}


def draw(folder: Path, counts: dict[Split, int], seed: int = 0) -> Manifest:
    """A dataset whose cats are red rectangles and whose dogs are blue ones, one or two a photo, and some of neither."""
    dice, photos = np.random.default_rng(seed), []
    for split, count in counts.items():
        for number in range(count):
            pixels = dice.integers(60, 120, (60, 80, 3)).astype(np.uint8)
            boxes = []
            for k in range(0 if number % 4 == 3 else 1 + number % 2):
                left, top, width, height = (
                    40 * k + dice.integers(2, 12),
                    dice.integers(2, 20),
                    *dice.integers(16, 26, 2),
                )
                label = ("cat", "dog")[(number + k) % 2]
                pixels[top : top + height, left : left + width] = (200, 30, 30) if label == "cat" else (30, 30, 200)
                boxes.append(Box(label, *map(float, (left, top, left + width, top + height))))
            path = folder / "photos" / "drawn" / f"{split}-{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            label = boxes[0].label if boxes else "neither"
            name = path.relative_to(folder).as_posix()
            photos.append(
                Photo(name, label, split, 80, 60, digest, digest[:16], "drawn", tuple(boxes) if boxes else None)
            )
    manifest = Manifest(folder, ("cat", "dog", "neither"), tuple(photos))
    manifest.write()
    return manifest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return draw(tmp_path_factory.mktemp("drawn"), {"train": 24, "val": 9, "test": 8})


@pytest.fixture(scope="module")
def finished(dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "first"
    assert main(["--data", str(dataset.root), "--output", str(output), *SMALL]) == 0
    return output


def test_a_run_folder_holds_a_detector_its_numbers_and_its_charts(finished: Path, dataset: Manifest) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    kept = {"model.safetensors", "contract.json", "metrics.json", "history.csv", "config.yaml", "reports/curves.png"}
    assert names == kept | CHARTS
    contract = Contract.read(finished / "contract.json")
    assert (contract.task, contract.class_names, contract.resize) == ("detect", ("cat", "dog"), "letterbox")
    assert 0 < contract.threshold < 1
    history = (finished / "history.csv").read_text().splitlines()
    assert history[0] == (
        "epoch,train_loss,train_overlap,val_loss,val_overlap,val_ap,val_ap50,val_ap75,lr,photos_per_second"
    )
    assert len(history) == 3
    metrics = json.loads((finished / "metrics.json").read_text())
    assert contract.quality["test_ap"] == metrics["test"]["ap"]
    photos = dataset.of("val")
    assert metrics["val"]["photos"] == len(photos)
    assert metrics["val"]["at_threshold"]["empty_photos"] == sum(photo.label == "neither" for photo in photos) == 2
    # What the run measured is what the saved model answers.
    found = find_in_photos(load_checkpoint(finished), [dataset.root / photo.path for photo in photos])  # type: ignore[arg-type]
    assert measure_boxes(found, photos, contract.class_names, contract.threshold) == metrics["val"]


def test_metric_lines_are_all_that_stdout_has(
    dataset: Manifest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(dataset.root), "--output", str(tmp_path / "run"), *SMALL, "--epochs", "1"]
    assert main([*arguments, "--export", "True"]) == 0
    said = capfd.readouterr()
    epoch, end = (dict(item.split("=") for item in line.split()) for line in said.out.splitlines())
    assert {"train_loss", "train_overlap", "val_loss", "val_overlap", "val_ap", "val_ap50", "val_ap75"} <= epoch.keys()
    assert end.keys() == {f"{split}_{n}" for split in ("val", "test") for n in ("ap", "ap50", "ap75")} | {"exported"}
    assert end["exported"] == "1"
    answers = load_detector(tmp_path / "run").detect([dataset.root / photo.path for photo in dataset.of("test")])
    assert [answer.error for answer in answers] == [None] * 8


def _start(dataset: Manifest, output: Path) -> Forked:
    each_step = ["--checkpoint-minutes", "0.00001"]  # a checkpoint at each of the 12
    return Forked("train", "--data", dataset.root, "--output", output, *SMALL, *each_step)


def test_a_run_killed_twice_ends_as_if_it_never_was(dataset: Manifest, finished: Path, tmp_path: Path) -> None:
    dice, output = random.Random(0), tmp_path / "run"
    checkpoint = output / "checkpoints" / "run.ckpt"
    for kills in range(2):
        run = _start(dataset, output)
        wait_for_checkpoints(run, checkpoint, dice.randint(2, 5))
        time.sleep(dice.uniform(0, 0.05))
        error = run.kill()
        assert not (output / "model.safetensors").exists()
        torch.load(checkpoint, weights_only=True)
        assert kills == 0 or "going on from epoch" in error
    ended = _start(dataset, output).end()
    assert ended.returncode == 0, ended.stderr
    assert "going on from epoch" in ended.stderr
    assert learnt(output) == learnt(finished)
    assert not checkpoint.parent.exists()


def test_two_processes_train_one_detector(dataset: Manifest, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["--data", dataset.root, "--output", output, *SMALL, "--epochs", "1", "--ema", "0", "--amp", "False"]
    first, second = end_together(2, "train", *arguments)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert [line.split("=")[0] for line in first.stdout.splitlines()] == ["epoch", "val_ap"]
    assert second.stdout == "", "one process writes"
    (row,) = csv.DictReader((output / "history.csv").read_text().splitlines())
    assert all(0 <= float(row[name]) <= 1 for name in ("train_overlap", "val_overlap", "val_ap", "val_ap50"))
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["val"]["photos"] == len(dataset.of("val")) == 9, "an odd number can't be shared out evenly"

    # What both measured together is what one measures alone.
    again = tmp_path / "again"
    weights = ["--weights", str(output / "model.safetensors")]
    one = ["--data", str(dataset.root), "--output", str(again), *SMALL, *weights, "--epochs", "1", "--lr", "1e-30"]
    assert main([*one, "--ema", "0", "--weight-decay", "0", "--amp", "False"]) == 0
    (alone,) = csv.DictReader((again / "history.csv").read_text().splitlines())
    for name in ("val_loss", "val_overlap", "val_ap", "val_ap50", "val_ap75"):
        assert float(row[name]) == pytest.approx(float(alone[name]), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "cnn"], "--arch cnn can't find boxes; choose a resnet"),
        (["--resize", "stretch"], "--resize letterbox belongs to --task detect, which needs it"),
        (["--mixup", "0.2"], "--mixup can't be used where --task is detect"),
        (["--cutmix", "1"], "--cutmix can't be used where --task is detect"),
        (["--rotation", "10"], "--rotation can't be used where --task is detect"),
        (["--teacher", "embedded"], "--teacher can't be used where --task is detect"),
        (["--crop", "0.9"], "--crop must be 1 where --task is detect"),
        (["--task", "classify", "--resize", "letterbox"], "--resize letterbox belongs to --task detect"),
        (["--task", "segment"], "segment"),
    ],
)
def test_settings_that_contradict_are_one_line(
    dataset: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    output = tmp_path / "run"
    assert main(["--data", str(dataset.root), "--output", str(output), *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("catdog train: error: ")
    assert said in line
    assert not output.exists()


def test_photos_without_boxes_are_refused_in_one_line(
    dataset: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = paint(tmp_path / "plain", {"cats": 30, "dogs": 30})
    train_only = tuple(photo if photo.split == "train" else replace(photo, boxes=None) for photo in dataset.photos)
    lacking = replace(dataset, photos=train_only)
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "photos").symlink_to(dataset.root / "photos")
    replace(lacking, root=tmp_path / "lacking").write()
    for data, split in ((plain, "train"), (tmp_path / "lacking", "val")):
        assert main(["--data", str(data), "--output", str(tmp_path / "run"), *SMALL]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"catdog train: error: {data}: no box around a cat in the {split} split; build the data")
    assert not (tmp_path / "run" / "model.safetensors").exists()
