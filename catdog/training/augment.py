"""Augment whole batches, on the device that trains.

uint8 (N, S, S, 3) -> random crop, mirror and turn in one step; colour; blur, JPEG or coarse pixels; erasing
-> float32 (N, 3, C, C) in [0, 255]

Each photo gets its own random values. They come from the CPU, so that they follow the seed on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from catdog.ahead import batches_ahead
from catdog.image import decode, encode
from catdog.training.settings import Settings

GREY: Final = 118.0  # the mean of ImageNet in 8-bit values; fills what is erased
ASPECT: Final = (3 / 4, 4 / 3)  # of a crop; Szegedy et al. 2015, section 6
BLUR_PX: Final = (0.3, 1.5)  # standard deviation
JPEG_QUALITY: Final = (25, 75)
ERASED: Final = (0.02, 0.2)  # share of the area


def augment(images: Tensor, settings: Settings) -> Tensor:
    """Turn uint8 (N, S, S, 3) into float32 (N, 3, crop_size, crop_size) in [0, 255], by torch's CPU random numbers."""
    return change_looks(_crop(images.permute(0, 3, 1, 2).float(), settings), settings)


def change_looks(pixels: Tensor, settings: Settings) -> Tensor:
    """Change colours and sharpness and erase parts of float32 (N, 3, C, C) in [0, 255], which moves nothing."""
    if settings.color:
        pixels = _change_colours(pixels, settings.color)
    if settings.degrade:
        pixels = _degrade(pixels, settings.degrade)
    if settings.erase:
        pixels = _erase(pixels, settings.erase)
    return pixels


def draw_uniform(count: int, low: float, high: float) -> Tensor:
    """Return ``count`` random numbers in [low, high), float (count,), of torch's on the CPU."""
    return torch.empty(count).uniform_(low, high)


def _crop(pixels: Tensor, settings: Settings) -> Tensor:
    """Cut a random part out of each photo, mirrored in half of the cases and turned in a third of them."""
    n, size = len(pixels), settings.crop_size
    area = draw_uniform(n, settings.crop_scale, 1)
    aspect = draw_uniform(n, *map(math.log, ASPECT)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # grid_sample's coordinates: -1 to 1 from edge to edge.
    centre_x, centre_y = (1 - width) * draw_uniform(n, -1, 1), (1 - height) * draw_uniform(n, -1, 1)
    mirror = torch.randint(0, 2, (n,)) * 2 - 1
    angle = draw_uniform(n, -1, 1) * math.radians(settings.rotation) * (torch.rand(n) < 1 / 3)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [width * cos * mirror, -width * sin, centre_x, height * sin * mirror, height * cos, centre_y], dim=1
    ).view(n, 2, 3)
    matrix = matrix.to(pixels.device, non_blocking=True)
    grid = F.affine_grid(matrix, [n, 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _change_colours(pixels: Tensor, amount: float) -> Tensor:
    """Multiply brightness, contrast and saturation by 1 - amount to 1 + amount; now and then, take all colour away."""
    n = len(pixels)
    factors = draw_uniform(3 * n, 1 - amount, 1 + amount).view(3, n, 1, 1, 1)
    factors[2, torch.rand(n) < amount / 10] = 0
    brightness, contrast, saturation = factors.to(pixels.device, non_blocking=True)
    # Grey and mean commute with brightness and contrast, so that one pass over the photo does all three.
    grey = vision.rgb_to_grayscale(pixels) * brightness
    mean = grey.mean((2, 3), keepdim=True)
    flat = mean + contrast * (grey - mean)
    coloured = mean + contrast * (pixels * brightness - mean)
    return torch.lerp(flat.expand_as(coloured), coloured, saturation).clamp_(0, 255)


def _degrade(pixels: Tensor, probability: float) -> Tensor:
    """Blur some photos, save them as JPEG, or make them coarse, as in real collections' thumbnails and screenshots."""
    ways: tuple[Callable[[Tensor], Tensor], ...] = (_blur, _save_as_jpeg, _pixelate)
    # Photos come in random order, so the first ones of a batch are as random a choice as any, and cost no search.
    chosen = int((torch.rand(len(pixels)) < probability).sum())
    ends = [0, *sorted(int(torch.randint(0, chosen + 1, ())) for _ in ways[1:]), chosen]
    done = [way(pixels[a:b]) for way, a, b in zip(ways, ends, ends[1:], strict=False) if a < b]
    return torch.cat([*done, pixels[chosen:]])


def _blur(pixels: Tensor) -> Tensor:
    """Blur with a 5x5 Gaussian, of another width for each photo."""
    widths = draw_uniform(len(pixels), *BLUR_PX).tolist()
    return torch.stack([vision.gaussian_blur(photo, [5, 5], [w]) for photo, w in zip(pixels, widths, strict=True)])


def _save_as_jpeg(pixels: Tensor) -> Tensor:
    """Save each photo as a JPEG of another quality, its colour at full resolution, and read it back."""
    qualities = draw_uniform(len(pixels), *JPEG_QUALITY).round().int().tolist()
    photos = pixels.permute(0, 2, 3, 1).round().to("cpu", torch.uint8).numpy()

    def save(work: tuple[Any, int]) -> Any:
        photo, quality = work
        file = encode(Image.fromarray(photo), "JPEG", quality=quality, subsampling=0)
        return np.asarray(decode(file, "augmented photo"))

    (saved,) = batches_ahead(save, zip(photos, qualities, strict=True), len(photos))  # on all cores
    return torch.from_numpy(np.stack(saved)).permute(0, 3, 1, 2).to(pixels)


def _pixelate(pixels: Tensor) -> Tensor:
    """Shrink to between half and all of the size, and enlarge again, as a small photo is."""
    size = pixels.shape[-1]
    small = int(torch.randint(size // 2, size, ()))
    return vision.resize(vision.resize(pixels, [small, small], antialias=True), [size, size], antialias=True)


def _erase(pixels: Tensor, probability: float) -> Tensor:
    """Cover a part of some photos with a grey rectangle (Zhong et al. 2020)."""
    n, size = len(pixels), pixels.shape[-1]
    area, aspect = draw_uniform(n, *ERASED), draw_uniform(n, math.log(0.3), math.log(1 / 0.3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    width *= torch.rand(n) < probability  # no width, nothing erased
    left, top = (1 - width) * torch.rand(n), (1 - height) * torch.rand(n)
    edges = torch.stack([left, left + width, top, top + height]).mul_(size).to(pixels.device, non_blocking=True)
    x0, x1, y0, y1 = edges.view(4, n, 1, 1, 1)
    at = torch.arange(size, device=pixels.device) + 0.5
    inside = (at >= x0) & (at < x1) & (at[:, None] >= y0) & (at[:, None] < y1)
    return torch.where(inside, GREY, pixels)
