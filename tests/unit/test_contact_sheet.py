"""The contact sheet: what it shows of photos and names, also of awkward ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from catdog import contact_sheet as module
from catdog.colours import BLUE, ORANGE
from catdog.contact_sheet import MOST, THUMBNAIL_PX, Cell, contact_sheet, thumbnail
from catdog.errors import ImageError

NAMES = (
    "$x_1$ and \\frac.jpg",
    "猫.jpg",
    "מגניב.jpg",
    "new\nline\x1b[31m.jpg",
    "bytes\udcff\udc80.jpg",
    "deep/" * 40 + "cat.jpg",
    "x" * 10_000,
    "猫" * 300,
    "",
)


def drawn(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        sheet.load()
        return sheet.copy()


def red(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "#ff0000")


@pytest.fixture(params=["FreeType", "bitmap"])
def fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pillow as it is, and as it is in a build without FreeType."""
    if request.param == "bitmap":
        simple = ImageFont.load_default_imagefont()

        def load_default(size: float | None = None) -> ImageFont.ImageFont:
            if size is not None:
                raise ImportError("The _imagingft C module is not installed")
            return simple

        monkeypatch.setattr(ImageFont, "load_default", load_default)
    module._font.cache_clear()
    yield
    module._font.cache_clear()


@pytest.mark.usefixtures("fonts")
def test_names_of_any_kind(tmp_path: Path) -> None:
    cells = [Cell(red(30, 90), f"{name[:40]}, answered dog 90.0%", name, ORANGE) for name in NAMES * 2]
    contact_sheet(cells, "mistakes " * 60 + "猫\n", tmp_path / "new folder" / "sheet.png")
    sheet = np.asarray(drawn(tmp_path / "new folder" / "sheet.png")).astype(int)
    assert sheet.shape[1] >= 1500
    assert (sheet[:, :10] == 255).all(), "nothing in the left margin"
    assert (sheet[:, -10:] == 255).all()
    assert (sheet[-10:] == 255).all()


@pytest.mark.usefixtures("fonts")
def test_no_photo_is_a_title(tmp_path: Path) -> None:
    contact_sheet([], "no mistakes", tmp_path / "empty.png")
    sheet = drawn(tmp_path / "empty.png")
    assert sheet.width > 600
    assert sheet.height < 120
    assert sheet.convert("L").getextrema()[0] < 100, "the title is drawn"  # type: ignore[operator]


@pytest.mark.usefixtures("fonts")
def test_photos_that_can_not_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "web.jpg").write_bytes(b"<html>")
    cells = [Cell(photo, "unreadable", "name") for photo in (tmp_path / "absent.jpg", b"", tmp_path / "web.jpg")]
    contact_sheet(cells, "photos", tmp_path / "sheet.png")
    words = {thumbnail(ImageError("", reason)).tobytes() for reason in ("missing", "empty", "too_large")}
    assert len(words) == 3
    assert thumbnail(b"") == thumbnail(ImageError("any", "empty"))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (32, 32), (256, 256), (500, 375)])
def test_the_longer_side_has_one_length(size: tuple[int, int], tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    red(*size).save(data)
    small = thumbnail(data)
    assert (max(small.size), small.mode) == (THUMBNAIL_PX, "RGB")
    assert thumbnail(data.read_bytes()) == small
    assert small.getextrema() == ((255, 255), (0, 0), (0, 0))


def test_photos_stand_in_rows_of_six_in_the_middle_of_their_tiles(tmp_path: Path) -> None:
    contact_sheet([Cell(red(200, 100), "dog 98.1%", f"{i}.jpg") for i in range(9)], "t", tmp_path / "sheet.png")
    sheet = np.asarray(drawn(tmp_path / "sheet.png")).astype(int)
    is_red = (sheet == (255, 0, 0)).all(axis=2)
    per_row = is_red.sum(axis=1)
    assert sorted(set(per_row.tolist())) == [0, 3 * THUMBNAIL_PX, 6 * THUMBNAIL_PX]
    assert is_red.sum() == 9 * THUMBNAIL_PX * THUMBNAIL_PX // 2
    first = np.flatnonzero(per_row)[0]
    left = np.flatnonzero(is_red[first])[0]
    above = (sheet[: first + 1, left] == 0xF0).all(axis=1).sum()
    assert above == THUMBNAIL_PX // 4, "the tile shows above as much as below"
    assert (sheet == [int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any(), "the verdict has its colour"


def test_a_sheet_has_an_end_and_opens_no_photo_behind_it(tmp_path: Path) -> None:
    cells = [Cell(red(9, 9), "cat 60%", "a.jpg")] * MOST
    contact_sheet(cells, "t", tmp_path / "full.png")
    contact_sheet([*cells, *cells], "t", tmp_path / "more.png")
    assert (tmp_path / "full.png").read_bytes() == (tmp_path / "more.png").read_bytes()


def test_long_paths_keep_their_end_and_break_after_slashes() -> None:
    font = module._font(13)
    lines = module._lines("some/very/long/" * 20 + "folder/cat.1.jpg", font, THUMBNAIL_PX, 3)
    assert len(lines) == 3
    assert lines[0].startswith("…")
    assert lines[-1].endswith("folder/cat.1.jpg")
    assert all(font.getlength(line) <= THUMBNAIL_PX for line in lines)
    assert lines[1].endswith("/")
    assert module._lines("train/cat.1.jpg", font, THUMBNAIL_PX, 3) == ["train/cat.1.jpg"]


def test_letters_that_the_font_lacks_stay_telling() -> None:
    font = module._font(13)
    assert module._drawable("Zażółć/猫 1.jpg", font).isascii()
    assert module._drawable("ź/猫", font) == "z/\\u732b"
    assert module._drawable("a\nb", font) == "a\\nb"
