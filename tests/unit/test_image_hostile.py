"""What is no photo, or a broken one: always one ImageError that names it, with the right reason, and never a hang."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.contract import Contract
from catdog.errors import ImageError, ImageReason
from catdog.image import MAX_BYTES, decode, load_pixels
from tests.conftest import UNPRIVILEGED

CONTRACT = Contract(class_names=("cat", "dog"), input_size=32)


def encoded(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header promises a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


BAD_BYTES: dict[str, tuple[bytes, ImageReason, str]] = {
    "nothing": (b"", "empty", "empty"),
    "text": (b"This is not a photo.\n" * 20, "unsupported", "not an image"),
    "zeros": (bytes(1000), "unsupported", "not an image"),
    "HTML": (b"\n<!DOCTYPE html><html></html>", "unsupported", "web page"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported", "SVG"),
    "PDF": (b"%PDF-1.7\n", "unsupported", "PDF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported", "not an image"),
    "JPEG signature alone": (b"\xff\xd8\xff", "unsupported", "not an image"),
    "truncated JPEG": (encoded("JPEG")[:-500], "corrupt", "damaged"),
    "truncated PNG": (encoded("PNG")[:-500], "corrupt", "damaged"),
    "truncated WebP": (encoded("WEBP")[:-500], "corrupt", "damaged"),
    "truncated GIF": (encoded("GIF")[:-500], "corrupt", "damaged"),
    "truncated BMP": (encoded("BMP")[:-500], "corrupt", "damaged"),
    "bomb": (png_claiming(30_000, 30_000), "too_large", "over the limit"),
    "bomb of one row": (png_claiming(2**31 - 1, 1), "too_large", "over the limit"),
    "bomb of one column": (png_claiming(1, 1_000_001), "too_large", "and 1000000 on a side"),
    "header without a picture": (png_claiming(100, 100), "corrupt", "damaged"),
}


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bytes_that_are_no_photo(kind: str) -> None:
    data, reason, words = BAD_BYTES[kind]
    with pytest.raises(ImageError, match=words) as caught:
        decode(data, "holiday.jpg")
    assert caught.value.reason == reason
    assert str(caught.value).startswith("holiday.jpg: ")
    assert "\n" not in str(caught.value)


def refused(source: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_pixels(source, CONTRACT)
    return caught.value


def test_files_that_are_no_photo(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "file").touch()
    reasons = {
        "empty.jpg": "empty",
        "pipe.jpg": "unreadable",  # opening it would wait for a writer for ever
        "loop.jpg": "unreadable",
        "no.jpg": "missing",
        ".": "unreadable",
        "nul\0.jpg": "unreadable",
        "file/below.jpg": "unreadable",
        "long" * 100: "unreadable",
    }
    assert {name: refused(tmp_path / name).reason for name in reasons} == reasons
    assert str(refused(tmp_path / "no.jpg")) == f"{tmp_path}/no.jpg: no such file"
    assert refused(Path("/dev/zero")).reason == "unreadable"


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded("JPEG"))
    path.chmod(0)
    code = f"""
from catdog.errors import ImageError
from catdog.image import read_file
try:
    read_file({str(path)!r})
except ImageError as error:
    print(error.reason, error)
"""
    command = [*UNPRIVILEGED, sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"unreadable {path}: can't be read (Permission denied)\n"


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    assert refused(path).reason == "too_large"


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 8, 3), 1.01),
        np.full((8, 8, 3), np.nan),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        np.array(0, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_another_shape_or_type(array: Any) -> None:
    assert "must be (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]" in str(refused(array))


@pytest.mark.parametrize("source", [None, 42, [1], {}, object()], ids=["None", "number", "list", "dict", "object"])
def test_things_that_are_no_photo(source: object) -> None:
    assert refused(source).reason == "unsupported"


def test_an_empty_or_closed_pil_image() -> None:
    assert refused(Image.new("RGB", (0, 10))).reason == "corrupt"
    closed = Image.open(io.BytesIO(encoded("JPEG")))
    closed.close()
    assert refused(closed).reason == "corrupt"


@pytest.mark.parametrize("values", [[-1.0, 5.0], [np.nan, 0.0], [np.inf, 0.0], [0.0, 1e6]])
def test_float_pictures_that_are_no_photo(values: list[float]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(buffer, "TIFF")
    with pytest.raises(ImageError, match="grey samples outside"):
        decode(buffer.getvalue(), "photo")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of which damaged EXIF and TIFF tags give many
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_flipped_and_cut_bytes_raise_only_image_errors(kind: str) -> None:
    fuzz(encoded(kind), rounds=60, seed=0)


def fuzz(good: bytes, rounds: int, seed: int) -> None:
    """Damage a good photo in many ways; each is decoded or refused with an ImageError."""
    rng = random.Random(seed)
    for _ in range(rounds):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            # Half of the damage goes to the header, where the parsers branch most.
            data[rng.randrange(len(data) if rng.random() < 0.5 else min(64, len(data)))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        with contextlib.suppress(ImageError):
            assert load_pixels(bytes(data), CONTRACT).shape == (32, 32, 3)
