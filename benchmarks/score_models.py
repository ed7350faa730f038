"""One model in every form that the ways in score_ways.py want: the same weights, the same answers."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from score_ways import Task
from torch import nn

from catdog.classifier import Classifier
from catdog.contract import WEIGHTS_NAME
from catdog.export.onnx_file import OPSET, to_onnx, write_onnx
from catdog.machine import usable_cores
from catdog.training.model import ImageModel, load_checkpoint


class FromUnit(nn.Module):
    """float (N, 3, H, W) in [0, 1] -> probabilities (N, C)."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.model.logits(images * 255), dim=1)


def prepare(run: Path, int8: Path, photos: Sequence[Path], scratch: Path) -> Task:
    """Write the forms of the run's model to ``scratch``; raises SystemExit where a comparison would not be fair."""
    model = load_checkpoint(run)
    contract = model.contract
    if contract.arch != "resnet18" or contract.resize != "stretch" or contract.crop != 1:
        raise SystemExit(f"{run}: not a ResNet-18 that is served photos stretched to its size")
    if Classifier(int8).contract.model_fingerprint != contract.model_fingerprint:
        raise SystemExit(f"{int8}: not made from the weights in {run}")
    hub = scratch / "hub"
    hub.mkdir()
    shutil.copy(run / WEIGHTS_NAME, hub / "model.safetensors")
    data = {
        "input_size": [3, contract.input_size, contract.input_size], "interpolation": contract.interpolation,
        "crop_pct": contract.crop, "crop_mode": "squash", "mean": contract.mean, "std": contract.std,
        "num_classes": len(contract.class_names), "first_conv": "conv1", "classifier": "fc", "pool_size": [7, 7],
    }  # fmt: skip
    config = {
        "architecture": contract.arch, "num_classes": len(contract.class_names),
        "label_names": contract.class_names, "pretrained_cfg": data,
    }  # fmt: skip
    (hub / "config.json").write_text(json.dumps(config))
    write_onnx(to_onnx(model), contract, scratch / "float.onnx")
    _write_for_ultralytics(model, contract.class_names, contract.input_size, scratch / "yolo.onnx")
    return Task(
        files=[str(photo) for photo in photos], class_names=list(contract.class_names), size=contract.input_size,
        mean=list(contract.mean), std=list(contract.std), cores=usable_cores(),
        float_onnx=str(scratch / "float.onnx"), int8_onnx=str(int8.resolve()), weights=str(hub / "model.safetensors"),
        hub_folder=str(hub), yolo_onnx=str(scratch / "yolo.onnx"),
    )  # fmt: skip


def _write_for_ultralytics(model: ImageModel, class_names: Sequence[str], size: int, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            FromUnit(model).eval(), (torch.zeros(1, 3, size, size),), str(path), opset_version=OPSET, dynamo=False,
            input_names=["images"], output_names=["output0"],
        )  # fmt: skip
    finished = onnx.load(path)
    about = {
        "task": "classify", "stride": 1, "batch": 1, "channels": 3, "imgsz": [size, size],
        "names": dict(enumerate(class_names)), "args": {"batch": 1, "dynamic": False},
    }  # fmt: skip
    onnx.helper.set_model_props(finished, {key: str(value) for key, value in about.items()})
    onnx.save(finished, path)
