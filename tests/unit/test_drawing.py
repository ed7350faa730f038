"""Boxes on photos: where the lines and captions are, at every size and in odd places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from catdog.boxes import Box
from catdog.drawing import COLOURS, draw_boxes


def where(image: Image.Image, label: str) -> npt.NDArray[np.bool_]:
    """The pixels that have the colour of a class, bool (H, W)."""
    colour = tuple(int(COLOURS[label][at : at + 2], 16) for at in (1, 3, 5))
    is_coloured: npt.NDArray[np.bool_] = (np.asarray(image) == colour).all(2)
    return is_coloured


def white(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


@pytest.mark.parametrize("side", [64, 640, 1600])
def test_lines_lie_on_the_edges_and_grow_with_the_photo(side: int) -> None:
    photo = white(side, side)
    box = Box("cat", side / 4, side / 4, side * 3 / 4, side * 3 / 4)
    drawn = where(draw_boxes(photo, [box], [""]), "cat")
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    for edges in (rows, columns):
        assert (edges[0], edges[-1] + 1) == (side // 4, side * 3 // 4)
    thickness = int(drawn[side // 2, : side // 2].sum())
    assert thickness == max(2, round(side / 160))
    assert not where(photo, "cat").any()  # the photo itself is left as it was


def test_each_class_has_its_colour_and_its_name_on_a_filled_label() -> None:
    boxes = [Box("cat", 40, 100, 140, 180), Box("dog", 200, 100, 300, 180)]
    drawn = draw_boxes(white(400, 300), boxes)
    for box in boxes:
        mine = where(drawn, box.label)
        assert mine[:100].any()  # above the box
        assert np.flatnonzero(mine.any(0))[0] == box.xmin
    named = draw_boxes(white(400, 300), boxes, ["cat 98.1%", "dog 75.0%"])
    assert where(named, "cat").sum() > where(drawn, "cat").sum()


def test_the_first_of_two_boxes_lies_on_top() -> None:
    corners = (10, 10, 90, 90)
    drawn = draw_boxes(white(100, 100), [Box("cat", *corners), Box("dog", *corners)], ["", ""])
    assert where(drawn, "cat").any()
    assert not where(drawn, "dog").any()


@pytest.mark.parametrize(
    "corners", [(0, 0, 50, 40), (0, 0, 0.2, 0.2), (49.9, 39.9, 50, 40), (-5, -5, 60, 50), (20, 1, 30, 39)]
)
def test_a_box_at_an_edge_keeps_its_caption_inside(corners: tuple[float, float, float, float]) -> None:
    drawn = draw_boxes(white(50, 40), [Box("dog", *corners)], ["dog 98%"])
    assert drawn.size == (50, 40)
    assert where(drawn, "dog").any()


def test_what_a_stranger_wrote_is_drawn_on_one_line() -> None:
    drawn = draw_boxes(white(300, 200), [Box("toaster", 20, 90, 200, 180)], ["a\nb\x1b[31m\ud800"])
    assert np.asarray(drawn).min() < 255
    assert draw_boxes(white(1, 1), [Box("cat", 0, 0, 1, 1)]).size == (1, 1)


def test_captions_are_one_a_box() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw_boxes(white(9, 9), [Box("cat", 0, 0, 9, 9)], [])
