"""Augmentation: torchvision transforms v2 on one uint8 photo, before it joins a batch.

uint8 (3, H, W) -> random resized crop, flip, rotation, colour, blur or JPEG, erasing -> uint8 (3, S, S)
"""

from __future__ import annotations

import io

import torch
from PIL import Image
from torchvision.transforms import v2

from catdog.training.settings import Settings

GREY = 118  # the mean of ImageNet in 8-bit values; fills the corners that a rotation opens


def augmentation(settings: Settings) -> v2.Transform:
    """The training-time transform for ``settings``; values stay uint8 in [0, 255]."""
    size = settings.crop_size
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(size, scale=(settings.crop_scale, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if settings.rotation:
        turn = v2.RandomRotation(settings.rotation, interpolation=v2.InterpolationMode.BILINEAR, fill=GREY)
        steps.append(v2.RandomApply([turn], p=1 / 3))
    if settings.color:
        c = settings.color
        steps.append(v2.ColorJitter(brightness=c, contrast=c, saturation=c))
        steps.append(v2.RandomGrayscale(p=c / 10))
    if settings.degrade:
        # Real collections hold thumbnails, screenshots and photos saved many times over.
        worse = v2.RandomChoice([v2.GaussianBlur(5, sigma=(0.3, 1.5)), _Jpeg((25, 75)), _Pixelate(size)])
        steps.append(v2.RandomApply([worse], p=settings.degrade))
    if settings.erase:
        steps.append(v2.RandomErasing(p=settings.erase, scale=(0.02, 0.2), value=GREY))
    return v2.Compose(steps)


class _Jpeg(v2.Transform):
    """Saved as JPEG of a random quality and read again. (v2.JPEG needs torchvision's codecs, deprecated in 0.29.)"""

    def __init__(self, quality: tuple[int, int]) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low, high = self.quality
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=int(torch.randint(low, high + 1, ()))
        )
        return v2.functional.pil_to_tensor(Image.open(file))


class _Pixelate(v2.Transform):
    """Down to between half and all of the size, and up again: what a small photo looks like at the input size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small = int(torch.randint(self.size // 2, self.size, ()))
        return v2.functional.resize(v2.functional.resize(image, [small, small], antialias=True), [self.size, self.size])
