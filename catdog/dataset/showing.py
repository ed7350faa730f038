"""Photos of a dataset with their boxes and labels on one sheet, for a person to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from catdog.colours import GREY
from catdog.contact_sheet import MOST, Cell, contact_sheet, thumbnail
from catdog.dataset.manifest import SHEET_NAME, Manifest, Photo
from catdog.drawing import COLOURS, draw_boxes
from catdog.errors import SettingsError
from catdog.files import check_output_file

_MARK: Final = b"Software\0catdog"  # in a PNG that contact_sheet wrote


def show(manifest: Manifest, count: int) -> Path:
    """Write a sheet of ``count`` photos into the dataset's folder, and return its path.

    Photos that somebody annotated come first; which of them, the hashes of their bytes decide, so that it is a fair
    sample and always the same. Raises SettingsError for a count over what a sheet holds, and where it can't be written.
    """
    check_count(count)
    path = manifest.root / SHEET_NAME
    check_output_file("--show", path, _MARK)
    chosen = sorted(manifest.photos, key=lambda photo: (photo.boxes is None, photo.sha256))[:count]
    cells = [_make_cell(manifest.root, photo) for photo in sorted(chosen, key=lambda photo: (photo.label, photo.path))]
    marked = sum(photo.boxes is not None for photo in manifest.photos)
    title = f"{len(cells)} of {len(manifest.photos)} photos, {marked} of which have been annotated"
    try:
        contact_sheet(cells, title, path)
    except OSError as error:
        raise SettingsError(f"--show: {path} can't be written ({error.strerror or error})") from error
    return path


def check_count(count: int) -> None:
    """Raise SettingsError for a count of photos that no sheet holds."""
    if not 1 <= count <= MOST:
        raise SettingsError(f"--show {count}: a sheet holds 1 to {MOST} photos")


def _make_cell(root: Path, photo: Photo) -> Cell:
    small = thumbnail(root / photo.path)
    boxes = [box.scaled(small.width / photo.width, small.height / photo.height) for box in photo.boxes or ()]
    count = "not annotated" if photo.boxes is None else f"{len(boxes)} box" + ("" if len(boxes) == 1 else "es")
    colour = COLOURS.get(photo.label, GREY)
    return Cell(draw_boxes(small, boxes), f"{photo.label}, {count}", photo.path, colour)
