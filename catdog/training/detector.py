"""The network that finds heads: a ResNet whose stages feed a feature pyramid and two small heads without anchors.

    images uint8 (N, H, W, 3) -> [normalise -> network -> boxes and scores] -> boxes (N, K, 4), scores (N, K, C)

It follows FCOS (Tian et al. 2019): each place of each level says how likely a head of each class is there, and how far
it is to the box's four sides. As in GFL (Li et al. 2020) a score is also how well the box fits, so nothing else ranks
the boxes. The backbone keeps torchvision's tensor names, so the starting weights are the classifier's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.ops import FeaturePyramidNetwork

from catdog.boxes import Floats
from catdog.contract import Contract
from catdog.training.model import ImageModel, Images

STRIDES: Final = (8, 16, 32)
"""px of the input between two places of a level: those of layer2, layer3 and layer4."""
CHANNELS: Final = 64  # of the pyramid; torchvision's 256 cost four times the training time
TOWER: Final = 2  # convolutions before each head's last one
GROUPS: Final = 16  # of group norm: the levels share the heads, and batch norm would mix their statistics
PRIOR: Final = 0.01  # score of every place before training (Lin et al. 2017, "Focal loss", section 4.1)
LARGEST: Final = 6.0  # logarithm of the largest distance to a side, in strides


class Detector(nn.Module):
    """Turns normalised float (N, 3, S, S) into float (N, K, C + 4): a logit a class, and the distances to four sides.

    The distances, left, top, right and bottom, are in px. The K places are those of ``make_places``.
    """

    def __init__(self, backbone: ResNet, class_count: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool
        self.layer1, self.layer2 = backbone.layer1, backbone.layer2
        self.layer3, self.layer4 = backbone.layer3, backbone.layer4
        widths = [_count_channels(stage) for stage in (self.layer2, self.layer3, self.layer4)]
        self.neck = FeaturePyramidNetwork(widths, CHANNELS)
        self.classes = _make_head(class_count)
        self.sides = _make_head(4)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))  # the levels share a head, but not a typical size
        last = self.classes[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, -math.log((1 - PRIOR) / PRIOR))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        stages = {}
        for name, stage in (("0", self.layer2), ("1", self.layer3), ("2", self.layer4)):
            features = stages[name] = stage(features)
        levels = self.neck(stages).values()
        rows = []
        for k, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
            distances = (self.sides(level) * self.scales[k]).clamp(max=LARGEST).exp() * stride
            rows.append(torch.cat([self.classes(level), distances], 1).flatten(2).transpose(1, 2))
        return torch.cat(rows, 1)


class DetectionModel(ImageModel):
    """A detector with what a consumer must not repeat: normalisation, scores, and boxes out of distances."""

    places: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__(network, contract)
        places, _ = make_places(contract.input_size)
        self.register_buffer("places", places, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Turn uint8 (N, S, S, 3) into boxes float32 (N, K, 4), px of the input, and scores float32 (N, K, C)."""
        outputs = self.logits(images.permute(0, 3, 1, 2)).float()
        classes = len(self.contract.class_names)
        return place_boxes(outputs[..., classes:], self.places), outputs[..., :classes].sigmoid()

    def propose(self, images: Images) -> tuple[Floats, Floats]:
        """Do the same from arrays to arrays, as ``catdog.detection.detector.Detector.propose`` does."""
        with torch.inference_mode():
            boxes, scores = self(torch.tensor(images, device=self.mean.device))
            return np.asarray(boxes.cpu().numpy()), np.asarray(scores.cpu().numpy())


def make_places(size: int) -> tuple[Tensor, Tensor]:
    """Return where the places of an input of ``size`` px are, float (K, 2) x and y, px, and their strides, (K,), px."""
    places, strides = [], []
    for stride in STRIDES:
        side = math.ceil(size / stride)  # as a convolution with padding has it
        line = (torch.arange(side) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        places.append(torch.stack([x, y], -1).view(-1, 2))
        strides.append(torch.full((side * side,), float(stride)))
    return torch.cat(places), torch.cat(strides)


def place_boxes(distances: Tensor, places: Tensor) -> Tensor:
    """Turn distances to the sides (..., K, 4) into xmin, ymin, xmax, ymax around places (K, 2), all in px."""
    return torch.cat([places - distances[..., :2], places + distances[..., 2:]], -1)


def _make_head(outputs: int) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        for _ in range(TOWER):
            yield nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
            yield nn.GroupNorm(GROUPS, CHANNELS)
            yield nn.ReLU()
        yield nn.Conv2d(CHANNELS, outputs, 3, padding=1)

    head = nn.Sequential(*layers())
    for module in head:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def _count_channels(stage: nn.Module) -> int:
    """Return how many channels a stage of a ResNet gives."""
    return int([m for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features)
