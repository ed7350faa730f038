"""Augmentation of batches: each part does what its setting says, to each photo on its own, and follows the seed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from catdog.contract import Contract
from catdog.image import encode, load_pixels
from catdog.training.augment import JPEG_QUALITY, augment
from catdog.training.boxes import augment_boxes
from catdog.training.settings import Settings

PLAIN: dict[str, Any] = {"crop_scale": 1.0, "rotation": 0.0, "color": 0.0, "degrade": 0.0, "erase": 0.0}


def make_photos(count: int, side: int = 90) -> torch.Tensor:
    """Smooth photos, left half dark: uint8 (count, side, side, 3)."""
    dice = np.random.default_rng(0)
    coarse = dice.integers(80, 255, (count, 6, 6, 3)).astype(np.uint8)
    coarse[:, :, :3] //= 4
    return torch.from_numpy(
        np.stack([np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse])
    )


def augment_twice(photos: torch.Tensor, size: int, seed: int = 0, **changed: Any) -> tuple[torch.Tensor, ...]:
    """The same crops and mirror images, without and with what ``changed`` adds: the crop draws its numbers first."""
    results = []
    for settings in (PLAIN, PLAIN | changed):
        torch.manual_seed(seed)
        results.append(augment(photos, Settings(size=size, **settings)))
    return tuple(results)


def test_shape_type_range_and_seed() -> None:
    settings = Settings(size=64, train_size=44, erase=1.0, degrade=1.0, rotation=20.0)
    photos = make_photos(12)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(photos, settings)

    assert draw(0).dtype == torch.float32
    assert draw(0).shape == (12, 3, 44, 44)
    assert draw(0).min() >= 0
    assert draw(0).max() <= 255.001  # rounding
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert photos.equal(make_photos(12)), "the photos as they were read stay as they are"


def test_only_what_pillow_does_comes_back_from_the_device() -> None:
    """Tensors of the device "meta" have no values, so whatever asked a GPU for one, and waited for it, would fail."""
    photos = make_photos(12).to("meta")
    changed = augment(photos, Settings(size=64, train_size=44, erase=1.0, rotation=20.0, degrade=0.0))
    assert (changed.device.type, changed.shape) == ("meta", (12, 3, 44, 44))
    boxes = torch.tensor([[[0.0, 0.2, 0.2, 0.6, 0.7]]]).expand(12, 1, 5)
    changed, moved = augment_boxes(photos, boxes, Settings(size=64, erase=1.0, degrade=0.0))
    assert (changed.device.type, moved.device.type) == ("meta", "cpu")


def test_a_whole_crop_is_the_photo_or_its_mirror_image() -> None:
    photos = make_photos(16, side=48)
    # A crop of the whole area is the photo only where its shape is square too.
    pixels = photos.permute(0, 3, 1, 2).float()
    torch.manual_seed(3)
    cropped = augment(photos, Settings(size=48, **PLAIN))
    mirrored = (pixels.mean(1)[:, :, :24].mean((1, 2)) < pixels.mean(1)[:, :, 24:].mean((1, 2))) != (
        cropped.mean(1)[:, :, :24].mean((1, 2)) < cropped.mean(1)[:, :, 24:].mean((1, 2))
    )
    assert 0 < mirrored.sum() < 16, "some photos, not all, are mirrored"
    expected = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    # One side may be cut by up to 13% (the square root of 3/4) when the drawn shape is no square.
    assert (cropped - expected).abs().mean() < 12


@pytest.mark.parametrize(("size", "train_size"), [(224, 0), (224, 128), (144, 96)])
def test_stripes_too_fine_for_a_crop_are_as_faint_in_it_as_in_a_photo_of_its_size(size: int, train_size: int) -> None:
    """Squares of --size, where crops are much smaller, kept such stripes, and the crops had false ones instead."""
    settings = Settings(size=size, train_size=train_size, **PLAIN)
    wave = 127 + 120 * np.sin(
        np.arange(1200) / 1200 * 2 * np.pi * 0.58 * settings.crop_size
    )  # 0.5: the finest it shows
    photo = encode(Image.fromarray(np.tile(wave.astype(np.uint8), (1200, 1))), "PNG")
    canvas, small = (
        load_pixels(photo, Contract(class_names=("cat", "dog"), input_size=side), "stripes")
        for side in (settings.canvas_size, settings.crop_size)
    )
    torch.manual_seed(0)
    crops = augment(torch.from_numpy(np.stack([canvas] * 16)), settings)
    assert crops.std(dim=(1, 2, 3)).mean() < 1.25 * small.std()


def test_smaller_crops_show_less() -> None:
    ramp = torch.arange(96, dtype=torch.uint8).expand(64, 96, 96)[..., None].repeat(1, 1, 1, 3)
    torch.manual_seed(0)
    spans = [
        (crop.amax((1, 2, 3)) - crop.amin((1, 2, 3))).mean()
        for crop in (augment(ramp, Settings(size=48, **PLAIN | {"crop_scale": scale})) for scale in (0.1, 0.9))
    ]
    assert spans[0] < 0.75 * spans[1]


def test_colour_changes_colours_and_not_places() -> None:
    plain, coloured = augment_twice(make_photos(8), 90, color=0.4)
    assert not torch.allclose(coloured, plain, atol=5)
    for before, after in zip(plain, coloured, strict=True):
        correlation = torch.corrcoef(torch.stack([before.mean(0).flatten(), after.mean(0).flatten()]))[0, 1]
        assert correlation > 0.97


def save_as_jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    """float (3, H, W) -> what a real JPEG of it holds, its colour at full resolution."""
    file = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy().round().astype(np.uint8))
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()


def test_degraded_photos_are_blurred_coarse_or_what_a_real_jpeg_holds() -> None:
    """One photo at a time, so that what was done to it shows: JPEG makes it a JPEG, the others take away detail."""
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 25, (1, 43, 43, 3)))  # no multiple of 8
    photo = (make_photos(1, 43) + noise).clamp(0, 255).round().to(torch.uint8)
    kinds = set()
    for seed in range(24):
        plain, degraded = (batch[0] for batch in augment_twice(photo, 43, seed, degrade=1.0))
        assert degraded.shape == plain.shape
        lost = (degraded - plain).square().mean()
        assert lost > 20, "something was lost"
        near = min(
            float((degraded - save_as_jpeg(plain, quality)).square().mean())
            for quality in range(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1, 2)
        )
        if near < 0.1 * lost:
            kinds.add("jpeg")
            continue
        kinds.add("blurred or coarse")
        assert degraded.diff(dim=-1).square().mean() < 0.7 * plain.diff(dim=-1).square().mean(), "less detail"
        assert degraded.mean() == pytest.approx(float(plain.mean()), rel=0.02)
    assert kinds == {"jpeg", "blurred or coarse"}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("setting", ["erase", "degrade"])
def test_the_share_of_photos_that_was_asked_for_is_hit(setting: str, probability: float) -> None:
    photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8))
    asked: dict[str, Any] = {setting: probability}
    plain, changed = augment_twice(photos, 32, **asked)
    hit = (changed != plain).flatten(1).any(1)
    assert hit.float().mean() == pytest.approx(probability, abs=0.08)
