"""Augmentation of batches: each part does what its name says, to each photo on its own, and follows the seed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from catdog.training import augment as parts
from catdog.training.augment import augment
from catdog.training.settings import Settings

PLAIN: dict[str, Any] = {"crop_scale": 1.0, "rotation": 0.0, "color": 0.0, "degrade": 0.0, "erase": 0.0}


def _photos(count: int, side: int = 90) -> torch.Tensor:
    """Smooth photos, left half dark: uint8 (count, side, side, 3)."""
    dice = np.random.default_rng(0)
    coarse = dice.integers(80, 255, (count, 6, 6, 3)).astype(np.uint8)
    coarse[:, :, :3] //= 4
    return torch.from_numpy(
        np.stack([np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC)) for c in coarse])
    )


def test_shape_type_range_and_seed() -> None:
    settings = Settings(size=64, train_size=44, erase=1.0, degrade=1.0, rotation=20.0)
    photos = _photos(12)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(photos, settings)

    assert draw(0).dtype == torch.float32
    assert draw(0).shape == (12, 3, 44, 44)
    assert draw(0).min() >= 0
    assert draw(0).max() <= 255.001  # rounding
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert photos.equal(_photos(12)), "the photos as they were read stay as they are"


def test_a_whole_crop_is_the_photo_or_its_mirror_image() -> None:
    photos = _photos(16, side=48)
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


def test_smaller_crops_show_less() -> None:
    ramp = torch.arange(96, dtype=torch.uint8).expand(64, 96, 96)[..., None].repeat(1, 1, 1, 3)
    torch.manual_seed(0)
    spans = [
        (crop.amax((1, 2, 3)) - crop.amin((1, 2, 3))).mean()
        for crop in (augment(ramp, Settings(size=48, **PLAIN | {"crop_scale": scale})) for scale in (0.1, 0.9))
    ]
    assert spans[0] < 0.75 * spans[1]


def test_colour_changes_colours_and_not_places() -> None:
    pixels = _photos(8).permute(0, 3, 1, 2).float()
    torch.manual_seed(0)
    coloured = parts._colour(pixels, 0.4)
    assert not torch.allclose(coloured, pixels, atol=5)
    for before, after in zip(pixels, coloured, strict=True):
        correlation = torch.corrcoef(torch.stack([before.mean(0).flatten(), after.mean(0).flatten()]))[0, 1]
        assert correlation > 0.97


def test_jpeg_artefacts_are_those_of_a_real_jpeg() -> None:
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 12, (1, 3, 43, 43))).float()  # not a multiple of 8
    pixels = (_photos(1, 43).permute(0, 3, 1, 2) + noise).clamp(0, 255).round()
    torch.manual_seed(0)
    quality = float(torch.empty(1).uniform_(*parts.JPEG_QUALITY))
    torch.manual_seed(0)
    ours = parts._jpeg(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)).save(
        file, "JPEG", quality=round(quality), subsampling=0
    )
    real = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float()
    loss = (real - pixels).square().mean()
    assert loss > 20, "the real file lost something"
    assert (ours - real).square().mean() < 0.1 * loss


def test_blur_and_coarse_pixels_take_away_detail() -> None:
    noise = torch.from_numpy(np.random.default_rng(1).uniform(0, 255, (4, 3, 48, 48))).float()
    torch.manual_seed(0)
    for way in (parts._blur, parts._pixelate):
        worse = way(noise)
        assert worse.shape == noise.shape
        assert worse.var() < 0.7 * noise.var()
        torch.testing.assert_close(worse.mean(), noise.mean(), rtol=0.02, atol=0)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_erasing_and_degrading_hit_the_share_that_was_asked_for(probability: float) -> None:
    pixels = torch.zeros(400, 3, 32, 32)
    torch.manual_seed(0)
    erased = (parts._erase(pixels, probability) != pixels).any(3).any(2).any(1)
    assert erased.float().mean() == pytest.approx(probability, abs=0.08)
    noise = torch.rand(400, 3, 32, 32) * 255
    degraded = (parts._degrade(noise, probability) != noise).any(3).any(2).any(1)
    assert degraded.float().mean() == pytest.approx(probability, abs=0.08)
