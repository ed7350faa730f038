"""Runs that are cut off: kill -9 at any moment, SIGTERM, and a checkpoint that is another run's."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from catdog.contract import Contract
from catdog.training.cli import main
from catdog.training.model import new_network
from tests.forked import Forked
from tests.integration.test_train import paint

# A small network, every way of drawing random numbers, and a checkpoint at each of the 69 steps.
SETTINGS = ["--arch", "cnn", "--size", "48", "--train-size", "32", "--batch-size", "4", "--device", "cpu"]
SETTINGS += ["--epochs", "3", "--mixup", "0.2", "--cutmix", "1", "--ema", "0.9", "--clip-norm", "1", "--dropout", "0.3"]
SETTINGS += ["--checkpoint-minutes", "0.00001", "--export", "False"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"), {"cats": 60, "dogs": 60})


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert main(["--data", str(photos), "--output", str(output), *SETTINGS]) == 0
    return output


def _start(photos: Path, output: Path, *more: str) -> Forked:
    return Forked("train", "--data", photos, "--output", output, *SETTINGS, *more)


def wait_for_checkpoints(run: Forked, file: Path, count: int) -> None:
    """Until ``file`` was replaced ``count`` times, or the process has ended."""
    before = None
    while count and run.runs():
        now = file.stat().st_ino if file.exists() else before
        count, before = count - (now != before), now
        time.sleep(0.002)


def learnt(run: Path) -> tuple[str, list[dict[str, str]]]:
    """What must not depend on interruptions: the weights, and every number but the speed."""
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    for row in rows:
        del row["photos_per_second"]
    return Contract.read(run / "contract.json").model_fingerprint, rows


def test_a_run_killed_again_and_again_ends_as_if_it_never_was(
    photos: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    dice, output, kills = random.Random(0), tmp_path / "run", 0
    checkpoint = output / "checkpoints" / "run.ckpt"
    while kills < 4:
        run = _start(photos, output)
        wait_for_checkpoints(run, checkpoint, dice.randint(2, 7))
        time.sleep(dice.uniform(0, 0.05))
        error = run.kill()
        assert not (output / "model.safetensors").exists()
        torch.load(checkpoint, weights_only=True)  # whole, whatever moment it was
        assert kills == 0 or "going on from epoch" in error
        kills += 1
    ended = _start(photos, output).end()
    assert ended.returncode == 0, ended.stderr
    assert "going on from epoch" in ended.stderr
    assert learnt(output) == learnt(uninterrupted)
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_is_answered_with_a_checkpoint_and_a_clean_exit(
    photos: Path, uninterrupted: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "run"
    run = _start(photos, output, "--workers", "2", "--cache", "none")  # only decoding takes processes
    wait_for_checkpoints(run, output / "checkpoints" / "run.ckpt", 2)
    os.killpg(run.pid, number)  # as a terminal's Ctrl-C does, and torchrun
    ended = run.end()
    assert ended.returncode == code, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"catdog train: stopped by {number.name} in epoch ")
    assert "the same command goes on from" in last
    assert "Traceback" not in ended.stderr
    assert main(["--data", str(photos), "--output", str(output), *SETTINGS]) == 0
    assert learnt(output) == learnt(uninterrupted)


def test_a_pretrained_network_goes_on_across_its_phases(photos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    state = new_network("resnet18", 1000).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    arguments = [
        "--arch",
        "resnet18",
        "--weights",
        str(weights),
        "--size",
        "48",
        "--frozen-epochs",
        "2",
        "--epochs",
        "1",
    ]
    arguments += ["--trainable-from", "layer4", "--batch-size", "16"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["--data", str(photos), "--output", str(whole), *SETTINGS, *arguments]) == 0
    for checkpoints in (3, 10):  # in the frozen phase, and after it: five steps an epoch
        run = _start(photos, cut, *arguments)
        wait_for_checkpoints(run, cut / "checkpoints" / "run.ckpt", checkpoints)
        run.kill()
    assert main(["--data", str(photos), "--output", str(cut), *SETTINGS, *arguments]) == 0
    assert learnt(cut) == learnt(whole)


def test_a_run_cut_off_while_it_finishes_is_finished(photos: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = _start(photos, output, "--export", "True")  # which takes a while after the weights are written
    wait_for_checkpoints(run, output / "model.safetensors", 1)
    run.kill()
    checkpoint = output / "checkpoints" / "run.ckpt"
    (checkpoint.parent / f".{checkpoint.name}.killed.tmp").write_bytes(b"half a checkpoint")
    assert checkpoint.exists()
    assert main(["--data", str(photos), "--output", str(output), *SETTINGS]) == 0
    assert learnt(output) == learnt(uninterrupted)
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize("clip", ["0", "1"])
def test_weights_that_a_step_destroyed_are_noticed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], clip: str
) -> None:
    arguments = ["--data", str(photos), "--output", str(tmp_path / "run"), *SETTINGS, "--batch-size", "500"]
    assert main([*arguments, "--epochs", "1", "--weight-decay", "1e30", "--clip-norm", clip]) == 1
    assert "the loss became nan in epoch 1, step 1" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_said_before_hours_of_work(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for flag in ("--output", "--checkpoint-dir"):
        arguments = ["--data", str(photos), "--output", str(tmp_path / "run"), *SETTINGS]
        assert main([*arguments, flag, str(tmp_path / "file" / "run")]) == 2
        assert f"{flag} {tmp_path}/file/run: can't be written" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_of_another_run_is_refused_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--data", str(photos), "--output", str(output), *SETTINGS]
    run = _start(photos, output)
    wait_for_checkpoints(run, output / "checkpoints" / "run.ckpt", 1)
    run.kill()
    assert main([*arguments, "--lr", "0.011"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "run.ckpt: the checkpoint is of a run with --lr 0.05, this one has 0.011" in message
    others = paint(tmp_path / "others", {"cats": 40, "dogs": 40}, seed=5)
    assert main(["--data", str(others), "--output", str(output), *SETTINGS]) == 2
    assert "the checkpoint is of a run on other photos" in capsys.readouterr().err.splitlines()[-1]
    checkpoint = output / "checkpoints" / "run.ckpt"
    foreign: tuple[object, ...] = (torch.zeros(3), {"identity": 3}, {"identity": {}, "state": {"epoch": 1}})
    for index in range(len(foreign) + 1):
        if index:
            torch.save(foreign[index - 1], checkpoint)
        else:
            checkpoint.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        assert main(arguments) == 2
        assert "not a checkpoint of this version of catdog train; remove it" in capsys.readouterr().err.splitlines()[-1]
