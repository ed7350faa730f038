"""The classic network from scratch: convolutions, max-pooling, dropout, fully connected layers.

0.43 million parameters against ResNet-18's 11.2. Its stages carry the names of a ResNet's, so that everything that
freezes, schedules or names a stage works on both.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (32, 64, 128, 256)
HIDDEN = 128


class SmallCNN(nn.Module):
    """float (N, 3, H, W), sides of 32 px or more -> features of four stages -> logits (N, class_count)."""

    def __init__(self, class_count: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.layer1 = _stage(CHANNELS[0], CHANNELS[0])
        self.layer2 = _stage(CHANNELS[0], CHANNELS[1])
        self.layer3 = _stage(CHANNELS[1], CHANNELS[2])
        self.layer4 = _stage(CHANNELS[2], CHANNELS[3])
        self.fc = _Classifier(CHANNELS[-1], class_count, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """float (N, 3, H, W) -> logits (N, class_count)."""
        features = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)
    )


class _Classifier(nn.Sequential):
    def __init__(self, in_features: int, class_count: int, dropout: float) -> None:
        super().__init__(nn.Linear(in_features, HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, class_count))
