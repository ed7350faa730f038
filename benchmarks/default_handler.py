"""What ``benchmarks/serving.py`` compares with: the inference.py of an ordinary SageMaker sample.

torch eager and torchvision's usual preprocessing; predict_fn and output_fn are the toolkit's own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import models, transforms

PREPROCESS = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def model_fn(model_dir: str) -> Any:
    """The network with the weights beside."""
    network = models.resnet18(num_classes=2)
    network.load_state_dict(load_file(Path(model_dir) / "model.safetensors"))
    return network.eval()


def input_fn(body: bytes, content_type: str) -> torch.Tensor:
    """A photo's bytes -> float (1, 3, 224, 224)."""
    pixels: torch.Tensor = PREPROCESS(Image.open(io.BytesIO(body)).convert("RGB"))
    return pixels.unsqueeze(0)
