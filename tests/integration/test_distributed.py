"""Two real processes under torchrun, on the CPU with gloo: one result, written once, measured on each photo once."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catdog.dataset import build
from catdog.image import load_pixels
from catdog.training.model import load_checkpoint
from tests.integration.test_train import paint

ROOT = Path(__file__).parents[2]
SETTINGS = ["--weights", "none", "--size", "48", "--batch-size", "16", "--device", "cpu", "--frozen-epochs", "0"]
SETTINGS += ["--amp", "False"]  # what they measure is compared with float32


def _torchrun(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(ROOT / "train.py"), *arguments], capture_output=True, text=True, check=False, timeout=600
    )


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "run"
    paint(tmp_path / "photos/train", {"cats": 40, "dogs": 40}, seed=1)
    paint(tmp_path / "photos/val", {"cats": 9, "dogs": 8}, seed=2)  # an odd number can't be shared out evenly
    manifest = build([tmp_path / "photos"], data)
    assert len(manifest.of("val")) == 17
    arguments = ["--data", str(data), "--output", str(output), *SETTINGS]
    done = _torchrun([*arguments, "--epochs", "2", "--ema", "0.9", "--export", "False"])
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "=" in line]
    assert [line.split("=")[0] for line in lines] == ["epoch", "epoch", "val_accuracy"], "one process writes"
    rows = list(csv.DictReader((output / "history.csv").read_text().splitlines()))
    assert len(rows) == 2
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["val"]["photos"] == len(manifest.of("val"))

    # What both measured together is what one measures alone.
    model = load_checkpoint(output)
    contract = model.contract
    val = manifest.of("val")
    images = np.stack([load_pixels(data / photo.path, contract) for photo in val])
    labels = torch.tensor([manifest.class_names.index(photo.label) for photo in val])
    with torch.inference_mode():
        logits = model.logits(torch.from_numpy(images).permute(0, 3, 1, 2))
    best = max(rows, key=lambda row: float(row["val_accuracy"]) - 1e-4 * float(row["val_loss"]))
    assert float(best["val_accuracy"]) == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert float(best["val_loss"]) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)


def test_raw_photos_a_frozen_phase_and_a_bad_batch_size(tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos", {"cats": 50, "dogs": 50})
    arguments = ["--data", str(photos), "--output", str(tmp_path / "run"), *SETTINGS, "--export", "False"]
    odd = _torchrun([*arguments, "--batch-size", "15"])
    assert odd.returncode != 0
    assert "--batch-size 15: must be a multiple of the 2 processes" in odd.stderr

    network_without_head = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    from catdog.training.model import new_network

    state = new_network("resnet18", 1000).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, network_without_head)
    frozen = [
        "--weights",
        str(network_without_head),
        "--frozen-epochs",
        "1",
        "--epochs",
        "1",
        "--trainable-from",
        "layer4",
    ]
    done = _torchrun([*arguments, *frozen])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("frozen phase: features of") == 2
    assert [line.split("=")[0] for line in done.stdout.splitlines()] == ["epoch", "epoch", "val_accuracy"]
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 3
