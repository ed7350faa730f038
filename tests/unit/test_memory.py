"""The memory that a worker takes at most, and that a photo which there is no room for is never called corrupt.

docs/scoring.md states the bound, catdog.image.PEAK_BYTES_PER_PIXEL holds it.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from catdog.image import MAX_BYTES, MAX_PIXELS, PEAK_BYTES_PER_PIXEL

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)
pytest.importorskip("pyarrow", reason="needs catdog[score]")

ROOT = Path(__file__).parents[2]
SIDES = (5000, 4000)
PIXELS = SIDES[0] * SIDES[1]
SLACK = 64 * 2**20  # bytes: the stacks of decoders' threads, and what the allocator can't give back in between
TURNED = Image.Exif()
TURNED[0x0112] = 6
SCORE = """
import json, os, resource, sys
from pathlib import Path
from catdog.classifier import load
from catdog.score.scorer import Job, Scorer
from catdog.sources import list_inputs

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a decoder's threads take memory, too
model, room, small, *photos = sys.argv[1:]
scorer = Scorer(Job(model, load(model).sha256))
scorer(list(list_inputs([small])))  # imports and opens what it needs, whatever it then finds
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(room),) * 2)
print(json.dumps([row.status for row in scorer(list(list_inputs(photos))).rows]))
"""


def save(kind: str, mode: str, **options: Any) -> Callable[[tuple[int, int]], bytes]:
    def make(size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind, **options)
        return buffer.getvalue()

    return make


def save_deep(kind: str, dtype: Any, **options: Any) -> Callable[[tuple[int, int]], bytes]:
    def make(size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.ones(size[::-1], dtype)).save(buffer, kind, **options)
        return buffer.getvalue()

    return make


HOSTILE: dict[str, Callable[[tuple[int, int]], bytes]] = {
    "rgba.png": save("PNG", "RGBA", compress_level=1),
    "turned.png": save("PNG", "LA", compress_level=1, exif=TURNED),
    "key.png": save("PNG", "RGB", compress_level=1, transparency=(1, 2, 3)),
    "deep.png": save_deep("PNG", np.uint16, compress_level=1),
    "float.tif": save_deep("TIFF", np.float32, compression="tiff_lzw"),
    "strip.tif": save("TIFF", "RGBA", compression="tiff_lzw", tiffinfo={278: SIDES[1]}),
    "progressive.jpg": save("JPEG", "CMYK", progressive=True),
    "lossless.webp": save("WEBP", "RGBA", lossless=True, quality=0, method=0),
    "lossy.webp": save("WEBP", "RGB", quality=50, method=0),
    "palette.gif": save("GIF", "P", transparency=0),
} | ({"alpha.avif": save("AVIF", "RGBA", speed=10, subsampling="4:4:4")} if features.check("avif") else {})
"""Few bytes, many pixels, and in the modes that take most copies."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make(SIDES))
    return [folder / name for name in HOSTILE]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make((40, 30)))
    return folder


def score_within(room: int, photos: list[Path], small: Path, model: Path) -> list[str]:
    """The statuses that a worker gives, which may take ``room`` bytes more than it took for small photos."""
    command = [sys.executable, "-c", SCORE, str(model), str(room), str(small), *map(str, photos)]
    # A thread's own arena would reserve 64 MiB of addresses and more, of which it uses next to nothing.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads(done.stdout)
    return answer


def test_no_photo_takes_more_than_is_stated(hostile: list[Path], small: Path, tiny_model: Path) -> None:
    room = PIXELS * PEAK_BYTES_PER_PIXEL + SLACK
    assert score_within(room, hostile, small, tiny_model) == ["ok"] * len(hostile)
    # Twice the photo, at 4 bytes a pixel: itself, and what it becomes over white. It took 20 bytes a pixel.
    assert score_within(PIXELS * 8 + SLACK, hostile[:1], small, tiny_model) == ["ok"]


@pytest.mark.parametrize("bytes_per_pixel", [2, 3, 4, 6, 8])
def test_a_photo_that_there_is_no_room_for_is_not_called_corrupt(
    hostile: list[Path], small: Path, tiny_model: Path, bytes_per_pixel: int
) -> None:
    statuses = score_within(PIXELS * bytes_per_pixel, hostile, small, tiny_model)
    assert set(statuses) <= {"ok", "out_of_memory"}
    assert "out_of_memory" in statuses


def test_the_largest_photo_that_is_allowed(small: Path, tiny_model: Path, tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    (tmp_path / "largest.png").write_bytes(rgba_png(side))
    (tmp_path / "larger.png").write_bytes(rgba_png(side + 1))
    photos = [tmp_path / "largest.png", tmp_path / "larger.png", small / "rgba.png"]
    assert score_within(MAX_PIXELS * PEAK_BYTES_PER_PIXEL + 2 * MAX_BYTES, photos, small, tiny_model) == [
        "ok",
        "too_large",
        "ok",
    ]
    assert score_within(MAX_PIXELS * 4, photos, small, tiny_model) == ["out_of_memory", "too_large", "ok"]


def rgba_png(side: int) -> bytes:
    """A PNG of zeros, made a row at a time, since Pillow would take a gigabyte for it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 4 * side)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
