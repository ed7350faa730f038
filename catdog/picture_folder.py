"""A folder that a command writes pictures to, named after photos; nothing in it is replaced that isn't its own."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from catdog.errors import SettingsError
from catdog.files import check_local, check_output_file, check_writable, replace_file

_MAX_NAME: Final = 200  # bytes of a name; file systems allow 255, of which a number and a temporary ending take some
_HEAD: Final = 4096  # bytes of a picture's file, in which its mark lies: Pillow writes texts before the pixels
_JPEG_QUALITY: Final = 90
_JPEG_SIDE: Final = 65500  # px, libjpeg's JPEG_MAX_DIMENSION


class PictureFolder:
    """A folder of PNG or JPEG files that one command writes."""

    def __init__(self, flag: str, folder: Path, mark: str, suffix: str) -> None:
        """``flag`` names the folder in messages. ``mark``, ASCII, is in each picture's file, by which a later run knows
        that it may replace it. ``suffix``: ".png" or ".jpg".

        Raises SettingsError where a picture of that suffix is there already that isn't from this command, and where
        nothing can be written.
        """
        self.folder = folder
        self._flag, self._mark, self._suffix = flag, mark, suffix
        self._taken: Counter[str] = Counter()
        check_local(flag, folder)
        try:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            raise SettingsError(f"{flag} {folder}: can't be read ({error.strerror})") from error
        for path in paths:
            if path.suffix.lower() == suffix and not path.name.startswith("."):  # which those of a killed run do
                check_output_file(flag, path, mark.encode(), within=_HEAD)
        check_writable(flag, folder)

    def choose_name(self, source: str) -> str:
        """Return a name made of a photo's, without an ending, and with a number where another photo has it already."""
        stem = re.sub(r"[^\w.-]+", "_", Path(source).stem).strip(".")[:80] or "photo"
        while len(os.fsencode(stem)) > _MAX_NAME:
            stem = stem[:-1]
        self._taken[stem.casefold()] += 1
        number = self._taken[stem.casefold()]
        return stem if number == 1 else f"{stem}~{number}"  # no stem has a "~"

    def save(self, picture: Image.Image, name: str) -> None:
        """Write a picture under a name without its ending; raises SettingsError where that can't be done."""
        options: dict[str, Any]
        if self._suffix == ".png":
            about = PngInfo()
            about.add_text("Software", self._mark)
            # A photo's colour profile would come before the mark; and after CMYK it is not that of these pixels.
            options = {"format": "PNG", "pnginfo": about, "icc_profile": None}
        else:
            options = {"format": "JPEG", "comment": self._mark.encode(), "quality": _JPEG_QUALITY}
            if max(picture.size) > _JPEG_SIDE:
                picture = picture.copy()
                picture.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
        try:
            with replace_file(self.folder / f"{name}{self._suffix}") as temporary:
                picture.save(temporary, **options)
        except OSError as error:
            raise SettingsError(f"{self._flag} {self.folder}: can't be written ({error.strerror or error})") from error
