"""The contact sheet: what it shows of photos and names, also of awkward ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

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
def fonts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it is, and as it is in a build without FreeType."""
    if request.param == "bitmap":
        simple = ImageFont.load_default_imagefont()

        def load_default(size: float | None = None) -> ImageFont.ImageFont:
            if size is not None:
                raise ImportError("The _imagingft C module is not installed")
            return simple

        monkeypatch.setattr(ImageFont, "load_default", load_default)


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


def lines_under_a_photo(name: str, folder: Path) -> list[bytes]:
    """What a sheet shows of a name: the pixels of each line of text, in the width of a tile."""

    def draw(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        contact_sheet([Cell(red(THUMBNAIL_PX, THUMBNAIL_PX), "", text)], "", folder / "sheet.png")
        return np.asarray(drawn(folder / "sheet.png"))

    sheet, bare, one_line = draw(name), draw(""), draw("a")
    step, below = len(one_line) - len(bare), len(sheet) - len(bare)
    columns = np.flatnonzero((bare == (255, 0, 0)).all(2).any(0))
    outside = np.delete(sheet, columns, axis=1)
    end = len(sheet) - 20  # the gap under the last row
    assert (outside[end - below : end] == 255).all(), "no line is wider than the tile"
    text = sheet[end - below : end, columns]
    return [text[top : top + step].tobytes() for top in range(0, below, step)]


def test_long_paths_keep_their_end_and_break_after_slashes(tmp_path: Path) -> None:
    end = "folder/cat.1.jpg"
    long = lines_under_a_photo("some/very/long/" * 20 + end, tmp_path)
    assert len(long) == 3
    assert lines_under_a_photo("none/very/long/" + "some/very/long/" * 19 + end, tmp_path) == long, (
        "the start is not shown"
    )
    assert lines_under_a_photo("some/very/long/" * 20 + "folder/cat.2.jpg", tmp_path)[:2] == long[:2]
    assert lines_under_a_photo("some/very/long/" * 20 + "folder/cat.2.jpg", tmp_path)[2] != long[2]
    broken = lines_under_a_photo("a-folder/" + "x" * 37 + "/cat.jpg", tmp_path)
    assert broken == [
        line for part in ("a-folder/", "x" * 37 + "/", "cat.jpg") for line in lines_under_a_photo(part, tmp_path)
    ]
    assert len(lines_under_a_photo("train/cat.1.jpg", tmp_path)) == 1


def test_a_text_that_was_cut_begins_with_dots(tmp_path: Path) -> None:
    words = [f"{letter * 30} " for letter in "abcd"]  # a line each
    assert len(lines_under_a_photo(words[0], tmp_path)) == 1
    cut = lines_under_a_photo("".join(words), tmp_path)
    assert cut == lines_under_a_photo("…" + "".join(words[1:])[1:], tmp_path)


def test_letters_that_the_font_lacks_stay_telling(tmp_path: Path) -> None:
    for name, shown in (("ź/猫 1.jpg", "z/\\u732b 1.jpg"), ("ł", "\\u0142"), ("a\nb", "a\\nb")):
        assert lines_under_a_photo(name, tmp_path) == lines_under_a_photo(shown, tmp_path)
