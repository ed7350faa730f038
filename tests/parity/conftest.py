"""A network with random weights and a dataset of made-up photos: enough for all that isn't about accuracy."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnx")
import torch

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split
from catdog.training.model import ImageModel, load_checkpoint, new_network, save_checkpoint

SIZE_PX = 48


def write_dataset(folder: Path, per_class: dict[Split, int]) -> Manifest:
    """A dataset of noisy reddish cats and bluish dogs, so many of each class in each split."""
    dice, photos = np.random.default_rng(0), []
    for split, count in per_class.items():
        for label, colour in (("cat", (200, 60, 60)), ("dog", (60, 60, 200))):
            for i in range(count):
                pixels = np.clip(dice.normal(colour, 60, (40, 56, 3)), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG")
                path = f"photos/made-up/{split}-{label}-{i}.jpg"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(buffer.getvalue())
                digest = hashlib.sha256(buffer.getvalue()).hexdigest()
                photos.append(Photo(path, label, split, 56, 40, digest, digest[:16], "made-up"))
    manifest = Manifest(folder, ("cat", "dog"), tuple(photos))
    manifest.write()
    return manifest


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """16 training, 6 validation and 6 test photos a class."""
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": 16, "val": 6, "test": 6})


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a ResNet-18 with random weights whose batch norms are no identity, 48 px, temperature 1.7."""
    torch.manual_seed(0)
    network = new_network("resnet18", 2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2)):
                assert tensor is not None
                torch.nn.init.uniform_(tensor, low, 1 if low > 0 else 0.2)
    contract = Contract(class_names=("cat", "dog"), input_size=SIZE_PX, arch="resnet18", temperature=1.7, threshold=0.6)
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, network, contract)
    return folder


@pytest.fixture(scope="session")
def model(run_folder: Path) -> ImageModel:
    """That checkpoint as a torch module."""
    return load_checkpoint(run_folder)
