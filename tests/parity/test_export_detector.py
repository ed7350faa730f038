"""A detector's file answers what torch answers, place by place and box by box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from catdog.boxes import Box
from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.detection.detector import Detector
from catdog.errors import DataError
from catdog.export import export
from catdog.export.detection import BoxProof, measure_differences
from catdog.training.detection import find_in_photos
from catdog.training.detector import DetectionModel, make_places
from catdog.training.model import load_checkpoint, new_model, save_checkpoint

CONTRACT = Contract(
    class_names=("cat", "dog"), input_size=64, task="detect", resize="letterbox", threshold=0.05, arch="resnet18"
)


@pytest.fixture(scope="module")
def detector_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 detector with random weights, whose scores are spread over [0, 1]."""
    torch.manual_seed(0)
    network: Any = new_model(CONTRACT).network
    last = network.classes[-1]
    torch.nn.init.normal_(last.weight, std=0.5)
    torch.nn.init.zeros_(last.bias)
    folder = tmp_path_factory.mktemp("detector")
    save_checkpoint(folder, network, CONTRACT)
    return folder


@pytest.fixture(scope="module")
def marked(dataset: Manifest) -> Manifest:
    """The made-up photos, each with a box."""
    return replace(
        dataset, photos=tuple(replace(photo, boxes=(Box(photo.label, 5, 5, 40, 30),)) for photo in dataset.photos)
    )


def test_the_file_answers_what_torch_does(detector_run: Path, marked: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "heads.onnx"
    proof = export(detector_run, out, marked)
    assert isinstance(proof, BoxProof)
    assert (proof.failures, proof.photos, proof.boxes) == ((), {"val": 12, "test": 12, "all": 24}, proof.photos)
    onnx.checker.check_model(out, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*onnx.load(out).graph.input, *onnx.load(out).graph.output)
    }
    places = len(make_places(64)[0])
    assert shapes == {"image": ["N", 64, 64, 3], "boxes": ["N", places, 4], "scores": ["N", places, 2]}

    model, file = load_checkpoint(detector_run), Detector(out)
    assert isinstance(model, DetectionModel)
    assert file.contract == model.contract
    dice = np.random.default_rng(0)
    batches = [dice.integers(0, 256, (count, 64, 64, 3)).astype(np.uint8) for count in (1, 2, 5)]
    of_scores, of_boxes = measure_differences(file, model, batches)
    assert of_scores < 1e-4
    assert of_boxes < 0.01
    assert model.propose(batches[0])[1].max() > 0.2, "there is something to compare"
    photos = [marked.root / photo.path for photo in marked.of("test")]
    ours, theirs = find_in_photos(model, photos), find_in_photos(file, photos)
    assert sum(map(len, ours)) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert [each.label for each in mine] == [each.label for each in other]
        for one, same in zip(mine, other, strict=True):
            assert one.confidence == pytest.approx(same.confidence, abs=1e-4)
            assert one.box.corners == pytest.approx(same.box.corners, abs=0.2)


def test_without_boxes_nothing_is_proven_and_nothing_written(
    detector_run: Path, dataset: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="0 boxes in the validation and test splits"):
        export(detector_run, tmp_path / "heads.onnx", dataset)
    assert list(tmp_path.iterdir()) == []
