"""Every format, colour mode and orientation becomes the same upright RGB picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from catdog.contract import Contract
from catdog.image import FORMATS, decode, find_kept_box, from_pil, load_pixels, load_sized_pixels, resize, shrink

CONTRACT = Contract(class_names=("cat", "dog"), input_size=32)
LOSSLESS = ("PNG", "WEBP", "GIF", "TIFF", "BMP")
ORIENTATION = 0x0112


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """Four quarters, none alike: red, green / blue, white. Flat, so that lossy formats keep them."""
    image = Image.new("RGB", (width, height), "white")
    image.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    image.paste((0, 128, 0), (width // 2, 0, width, height // 2))
    image.paste((0, 0, 255), (0, height // 2, width // 2, height))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lossless(kind: str) -> dict[str, Any]:
    return {"lossless": True} if kind == "WEBP" else {}


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, row by row."""
    pixels = np.asarray(image)
    assert pixels.ndim == 3
    height, width, _ = pixels.shape
    return [tuple(map(int, pixels[y * height // 4, x * width // 4])) for y in (1, 3) for x in (1, 3)]


QUARTERS = quarters(scene())


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_are_exact(kind: str) -> None:
    image = decode(encoded(scene(), kind, **lossless(kind)), "photo")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(scene()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "HEIF"])
def test_lossy_formats_are_close(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = decode(encoded(scene(), kind, quality=95), "photo")
    assert image.size == (64, 48)
    assert np.abs(np.array(quarters(image)) - np.array(QUARTERS)).max() <= 8  # of 255, from chroma quantisation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_several(kind: str) -> None:
    more = [Image.new("RGB", (64, 48), colour) for colour in ("black", "yellow")]
    data = encoded(scene(), kind, save_all=True, append_images=more, **lossless(kind))
    image = decode(data, "photo")
    assert np.abs(np.array(quarters(image)) - np.array(QUARTERS)).max() <= (8 if kind == "MPO" else 0)


ALL_ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = _as_stored(scene(), orientation)
    options = {"quality": 95} if kind == "JPEG" else lossless(kind)
    image = decode(encoded(turned, kind, exif=exif, **options), "photo")
    assert image.size == (64, 48)
    assert np.abs(np.array(quarters(image)) - np.array(QUARTERS)).max() <= 8


def _as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores so that the orientation makes it upright: EXIF 2.32, figure of tag 0x0112, by hand."""
    pixels = np.asarray(upright)
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[::-1],  # the 0th row is the right-hand side
        7: pixels.swapaxes(0, 1)[::-1, ::-1],
        8: pixels.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(stored))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00" + b"\xff" * 60]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # catdog.image silences it, pytest's "error" comes after
def test_a_broken_exif_block_does_not_cost_the_photo(exif: bytes) -> None:
    assert decode(encoded(scene(), "JPEG", exif=exif), "photo").size == (64, 48)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert quarters(decode(encoded(scene(), "PNG", exif=exif), "photo")) == QUARTERS


# Colour modes: name -> (encoded photo, its one RGB colour).
GREY16 = np.full((8, 8), 0x8080, np.uint16)
MODES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "1": (encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
    "L": (encoded(Image.new("L", (8, 8), 100), "PNG"), (100, 100, 100)),
    "LA, half clear over white": (encoded(Image.new("LA", (8, 8), (0, 128)), "PNG"), (127, 127, 127)),
    "LA, clear": (encoded(Image.new("LA", (8, 8), (0, 0)), "PNG"), (255, 255, 255)),
    "RGBA, opaque": (encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 255)), "PNG"), (10, 20, 30)),
    "RGBA, clear": (encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
    "RGB with one colour clear": (
        encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        (255, 255, 255),
    ),
    "P": (encoded(Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), "PNG"), (10, 200, 30)),
    "P, colour 0 clear": (
        encoded(Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), "PNG", transparency=0),
        (255, 255, 255),
    ),
    "P, clear GIF": (encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 0)), "GIF"), (255, 255, 255)),
    "16-bit PNG": (encoded(Image.fromarray(GREY16), "PNG"), (128, 128, 128)),
    "16-bit TIFF": (encoded(Image.fromarray(GREY16), "TIFF"), (128, 128, 128)),
    "dark 16-bit TIFF": (encoded(Image.fromarray(GREY16 // 200), "TIFF"), (1, 1, 1)),
    "float TIFF in [0, 1]": (encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"), (128, 128, 128)),
    "float TIFF in [0, 255]": (encoded(Image.fromarray(np.full((8, 8), 99.0, np.float32)), "TIFF"), (99, 99, 99)),
    "CMYK TIFF": (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
}


@pytest.mark.parametrize("mode", MODES)
def test_colour_modes(mode: str) -> None:
    data, colour = MODES[mode]
    image = decode(data, "photo")
    assert image.mode == "RGB"
    assert image.getpixel((4, 4)) == colour


def test_cmyk_jpeg_as_adobe_writes_it_is_not_inverted() -> None:
    """Pillow writes CMYK JPEGs the way Photoshop does: inverted, with an Adobe marker."""
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    red, green, blue = np.asarray(decode(data, "photo"))[8, 8].tolist()
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize(("rule", "size"), [("stretch", (1600, 1200)), ("short_side", (1600, 1200))])
def test_scaled_jpeg_decoding_agrees_with_full_decoding(rule: Any, size: tuple[int, int]) -> None:
    """Both are means over the same area; they differ by the two filters' shapes, here by under 1 level on average."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    data = encoded(coarse.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95)
    contract = CONTRACT.with_(resize=rule, input_size=128)
    scaled = decode(data, "photo", at_least=contract.resized)
    assert scaled.size == (200, 150)
    difference = resize(scaled, contract).astype(int) - resize(decode(data, "photo"), contract).astype(int)
    assert np.abs(difference).mean() < 1


def test_scaled_decoding_never_goes_below_the_size_needed() -> None:
    data = encoded(scene(2000, 260), "JPEG")
    assert decode(data, "photo", at_least=224).size == (2000, 260)


def test_stretch_uses_the_whole_photo() -> None:
    pixels = resize(scene(64, 48), CONTRACT.with_(interpolation="bilinear"))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert quarters(Image.fromarray(pixels)) == QUARTERS


@pytest.mark.parametrize("rule", ["stretch", "short_side"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_an_image_of_the_right_size_is_not_touched(rule: Any, interpolation: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    contract = CONTRACT.with_(resize=rule, interpolation=interpolation)
    assert np.array_equal(resize(Image.fromarray(pixels), contract), pixels)


def test_short_side_keeps_the_middle_square() -> None:
    """96x32 in three squares, red, green and blue: the middle one is left, to the pixel."""
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 128, 0), (32, 0, 64, 32))
    wide.paste("blue", (64, 0, 96, 32))
    contract = CONTRACT.with_(resize="short_side")
    assert np.array_equal(resize(wide, contract), np.full((32, 32, 3), (0, 128, 0)))
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(resize(tall, contract), np.full((32, 32, 3), (0, 128, 0)))


def test_crop_keeps_the_centre() -> None:
    """32 of 64 px are kept, at no change of scale."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    half = CONTRACT.with_(crop=0.5)
    assert np.array_equal(resize(Image.fromarray(pixels), half), pixels[16:48, 16:48])


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000), (3, 5)])
@pytest.mark.parametrize("rule", ["stretch", "short_side"])
def test_extreme_shapes(size: tuple[int, int], rule: Any) -> None:
    pixels = load_pixels(encoded(Image.new("RGB", size, "red"), "PNG"), CONTRACT.with_(resize=rule))
    assert np.array_equal(pixels, np.full((32, 32, 3), (255, 0, 0)))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_arrays(shape: tuple[int, ...]) -> None:
    assert np.array_equal(load_pixels(np.full(shape, 7, np.uint8), CONTRACT), np.full((32, 32, 3), 7))


def test_a_strided_array_is_read_rightly() -> None:
    bgr = np.asarray(scene())[:, :, ::-1]
    assert np.array_equal(load_pixels(bgr[:, :, ::-1], CONTRACT), load_pixels(np.asarray(scene()), CONTRACT))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "I;16", "F", "LAB", "YCbCr", "HSV"])
def test_a_pil_image_is_left_as_it_was(mode: str) -> None:
    image = Image.new(mode, (20, 30))
    image.getexif()[ORIENTATION] = 6
    before = (image.mode, image.size, image.tobytes(), dict(image.info), dict(image.getexif()))
    assert from_pil(image, "photo").size == (30, 20)
    assert (image.mode, image.size, image.tobytes(), dict(image.info), dict(image.getexif())) == before


def test_every_format_is_one_that_pillow_knows() -> None:
    pytest.importorskip("pillow_heif")
    Image.init()
    assert set(FORMATS) - {"MPO"} <= set(Image.OPEN)  # Pillow's JPEG opener hands MPO over by itself


LETTERBOX = CONTRACT.with_(resize="letterbox")
BORDER = tuple(round(255 * level) for level in LETTERBOX.mean)


@pytest.mark.parametrize(
    ("size", "inside"),
    [
        ((64, 64), (0, 0, 32, 32)),
        ((64, 48), (0, 4, 32, 28)),
        ((48, 64), (4, 0, 28, 32)),
        ((8, 4), (0, 8, 32, 24)),  # enlarged
        ((64, 46), (0, 4, 32, 27)),  # an odd rest: the lower border has one row more
        ((4000, 1), (0, 15, 32, 16)),
        ((1, 4000), (15, 0, 16, 32)),
        ((1, 1), (0, 0, 32, 32)),
    ],
)
def test_a_letterbox_keeps_the_shape_and_fills_up_with_the_mean_colour(
    size: tuple[int, int], inside: tuple[int, int, int, int]
) -> None:
    pixels = resize(Image.new("RGB", size, "red"), LETTERBOX)
    left, top, right, bottom = inside
    expected = np.full((32, 32, 3), BORDER, np.uint8)
    expected[top:bottom, left:right] = (255, 0, 0)
    assert np.array_equal(pixels, expected)
    # The photo's corners are where the mapping says that the filled part begins and ends.
    kept = find_kept_box(size, LETTERBOX)
    for edges, side, begin, end in ((kept[::2], size[0], left, right), (kept[1::2], size[1], top, bottom)):
        near, far = (edges[0] + share / 32 * (edges[1] - edges[0]) for share in (begin, end))
        assert [near, far] == pytest.approx([0, side])


def test_a_letterbox_resizes_as_pillow_does() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    expected = np.asarray(photo.resize((32, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(resize(photo, LETTERBOX)[4:28], expected)


def test_a_jpeg_of_a_smaller_scale_lies_where_the_whole_one_would() -> None:
    """At a quarter 262x257 is 66x65, of which a letterbox would be 32 px high instead of 31; and the size is told."""
    data = encoded(Image.new("RGB", (262, 257), "red"), "JPEG", quality=95)
    assert decode(data, "photo", at_least=64).size == (66, 65)
    pixels, size = load_sized_pixels(data, LETTERBOX)
    assert size == (262, 257)
    assert (pixels[:, 16, 0] > 200).tolist() == [True] * 31 + [False]


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_size_is_that_of_the_upright_photo(turn: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    data = encoded(scene(), "JPEG", exif=exif)
    expected = (64, 48) if turn < 5 else (48, 64)
    for source in (data, Image.open(io.BytesIO(data))):
        assert load_sized_pixels(source, LETTERBOX)[1] == expected
    assert load_sized_pixels(np.zeros((48, 64)), LETTERBOX)[1] == (64, 48)


def test_a_smaller_picture_has_the_means_of_what_its_pixels_cover() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    (half,) = shrink(photo[np.newaxis], 16)
    means = photo.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(half - means).max() <= 1  # it rounds once by column and once by row
    assert shrink(np.full((3, 32, 32, 3), 200, np.uint8), 18).tolist() == np.full((3, 18, 18, 3), 200).tolist()
    assert shrink(np.empty((0, 32, 32, 3), np.uint8), 16).shape == (0, 16, 16, 3)
