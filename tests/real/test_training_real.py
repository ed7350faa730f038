"""Transfer learning for real: a few hundred photos and the partial ImageNet weights make a usable classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog.contract import Contract
from catdog.training.cli import main
from tests.conftest import SHARED_DATA

WEIGHTS = SHARED_DATA / "weights" / "resnet18-imagenet1k-v1-partial.safetensors"


def test_a_few_photos_and_pretrained_weights_are_enough(
    tmp_path: Path, real_photos: Callable[[int], list[tuple[str, bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"pretrained weights are not on this machine ({WEIGHTS})")
    for name, data in real_photos(150):
        file = tmp_path / "photos" / Path(name).relative_to("training_set")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    arguments = ["--data", str(tmp_path / "photos"), "--output", str(tmp_path / "run"), "--weights", str(WEIGHTS)]
    arguments += ["--size", "96", "--frozen-epochs", "2", "--epochs", "2", "--trainable-from", "layer4"]
    assert main([*arguments, "--batch-size", "16", "--workers", "0", "--export", "False", "--device", "cpu"]) == 0
    log = capsys.readouterr().err
    assert "12 tensors start from scratch: layer4.1 (10), fc (2)" in log
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    contract = Contract.read(tmp_path / "run/contract.json")
    assert contract.temperature != 1, "fitted on the validation photos"
    assert 0.5 < contract.threshold < 1
    photos = metrics["val"]["photos"] + metrics["test"]["photos"]
    right = photos - metrics["val"]["errors"] - metrics["test"]["errors"]
    assert right / photos > 0.75  # guessing gives 0.5
