"""What boxes are to training: targets, moved along by augmentation, and the loss of what a detector says of them.

Targets are float32 (N, M, 5): the class's index, -1 where a photo has fewer than M boxes, then xmin, ymin, xmax, ymax
as shares of the input's side, which don't depend on how large the input is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from catdog.contract import IMAGENET_MEAN, Contract
from catdog.dataset import Photo
from catdog.image import find_kept_box
from catdog.training.augment import ASPECT, change_looks, draw_uniform
from catdog.training.detector import make_places, place_boxes
from catdog.training.settings import Settings

RADIUS: Final = 1.5
"""A place learns a box whose centre is within this many strides (Tian et al. 2020, "FCOS", section 3.2)."""
LARGEST_WINDOW: Final = 1.3  # area of a training crop, of the photo's: beyond 1 the mean colour is around it
BOX_WEIGHT: Final = 2.0  # of the boxes' loss beside the scores' (Li et al. 2020, "GFL", section 3)


def make_targets(photos: Sequence[Photo], contract: Contract) -> npt.NDArray[np.float32]:
    """Return the boxes of all photos as targets; a photo without boxes has none, whether or not anybody looked."""
    most = max([1, *(len(photo.boxes or ()) for photo in photos)])
    targets = np.full((len(photos), most, 5), -1, np.float32)
    for row, photo in zip(targets, photos, strict=True):
        left, top, right, bottom = find_kept_box((photo.width, photo.height), contract)
        for cell, box in zip(row, photo.boxes or (), strict=False):
            corners = np.array(box.corners).reshape(2, 2)
            cell[0] = contract.class_names.index(box.label)
            cell[1:] = ((corners - (left, top)) / (right - left, bottom - top)).ravel()
    return targets


def scale_targets(targets: Tensor, size: int) -> Tensor:
    """Return targets whose boxes are in px of an input of ``size``."""
    return torch.cat([targets[..., :1], targets[..., 1:] * size], -1)


def augment_boxes(images: Tensor, targets: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Cut a window that keeps all boxes whole out of each photo, and mirror half of them, boxes and all; change looks.

    images uint8 (N, S, S, 3) -> float32 (N, 3, crop_size, crop_size) in [0, 255]. The random numbers are torch's on the
    CPU.
    """
    n, size = len(images), settings.crop_size
    boxes = targets[..., 1:].cpu()
    real = targets[..., 0].cpu() >= 0
    area = draw_uniform(n, settings.crop_scale, LARGEST_WINDOW)
    aspect = draw_uniform(n, *map(math.log, ASPECT)).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1)
    # The corners of what has to stay; of a photo without boxes, of its middle, which every window may leave out.
    first = torch.where(real[..., None], boxes[..., :2], math.inf).amin(1)
    last = torch.where(real[..., None], boxes[..., 2:], -math.inf).amax(1)
    free = ~real.any(1, keepdim=True)
    sides = torch.where(free, sides, torch.maximum(sides, (last - first) * 1.02))
    low, high = (1 - sides).clamp(max=0), (1 - sides).clamp(min=0)  # inside the photo, or all of it inside
    low = torch.where(free, low, torch.maximum(low, last - sides))
    high = torch.where(free, high, torch.minimum(high, first))
    corner = low + (high - low).clamp(min=0) * torch.rand(n, 2)
    mirror = torch.randint(0, 2, (n, 1)) * 2 - 1
    # grid_sample's coordinates: -1 to 1 from edge to edge.
    centre = 2 * corner + sides - 1
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = sides[:, 0] * mirror[:, 0], sides[:, 1], centre
    mean = torch.tensor([round(255 * level) for level in IMAGENET_MEAN]).view(1, 3, 1, 1).to(images.device)
    pixels = images.permute(0, 3, 1, 2).float() - mean
    grid = F.affine_grid(matrix.to(images.device, non_blocking=True), [n, 3, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False) + mean
    moved = (boxes - corner.repeat(1, 2)[:, None]) / sides.repeat(1, 2)[:, None]
    mirrored = torch.stack([1 - moved[..., 2], moved[..., 1], 1 - moved[..., 0], moved[..., 3]], -1)
    moved = torch.where(mirror[:, None] < 0, mirrored, moved)
    shown = torch.cat([targets[..., :1].cpu(), moved], -1).to(targets.device, non_blocking=True)
    return change_looks(pixels, settings), shown


def assign_boxes(targets: Tensor, places: Tensor, strides: Tensor) -> Tensor:
    """Return which box each place has to find, int64 (N, K): its index, or -1 for none.

    ``targets`` as above, but in px. A place learns the smallest of the boxes that it lies in, near to their middle.
    """
    boxes = targets[:, None, :, 1:]
    inside = torch.cat([places[:, None] - boxes[..., :2], boxes[..., 2:] - places[:, None]], -1).amin(-1) > 0
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = (places[:, None] - middle).abs().amax(-1) < RADIUS * strides[:, None]
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1).expand_as(inside)
    area = area.masked_fill(~(inside & near & (targets[:, None, :, 0] >= 0)), math.inf)
    smallest, index = area.min(-1)
    return index.masked_fill(smallest == math.inf, -1)


def compare_boxes(outputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of ``Detector``'s outputs (N, K, C + 4), and the overlaps that places have with their boxes.

    ``targets`` as above; ``size``: the input's side, px. The loss, (), is the quality focal loss of the scores (Li et
    al. 2020, "GFL") and the GIoU loss of the boxes (Rezatofighi et al. 2019), both over the number of places that have
    a box. The overlaps, (P,), come with the photos that they are in, int64 (P,).
    """
    places, strides = (each.to(outputs.device) for each in make_places(size))
    scaled = scale_targets(targets, size)
    index = assign_boxes(scaled, places, strides)
    photo, place = (index >= 0).nonzero(as_tuple=True)
    wanted = scaled[photo, index[photo, place]]
    logits, distances = outputs[..., :-4], outputs[..., -4:]
    found = place_boxes(distances, places)[photo, place]
    overlap = _measure_pairs(found.detach(), wanted[:, 1:])
    quality = torch.zeros_like(logits)
    quality[photo, place, wanted[:, 0].long()] = overlap
    scores = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * (quality - scores).abs() ** 2
    loss = focal.sum() + BOX_WEIGHT * generalized_box_iou_loss(found, wanted[:, 1:], reduction="sum")
    return loss / max(1, len(photo)), overlap, photo


def _measure_pairs(some: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes (P, 4) and (P, 4), pair by pair."""
    corner, opposite = torch.maximum(some[:, :2], others[:, :2]), torch.minimum(some[:, 2:], others[:, 2:])
    common = (opposite - corner).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (some, others)]
    return common / (areas[0] + areas[1] - common)
