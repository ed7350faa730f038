"""Sources of photos -> a dataset folder. The edge: everything here that touches a disk, in the order that it happens.

    open the sources -> understand their layouts -> check and copy each photo -> cluster -> split -> write -> rename

All is built in a hidden folder beside the target and renamed at the end, so the target is whole at every moment.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from catdog.dataset.checks import MIN_SIDE_PX, Checked, TooSmall, check
from catdog.dataset.duplicates import clusters
from catdog.dataset.layouts import SPECIES_FILE, Item, Layout, is_photo_name, parse_species, understand
from catdog.dataset.manifest import CLASS_NAMES, MANIFEST_NAME, SPLITS, Manifest, Photo, Split, is_dataset
from catdog.dataset.report import REPORT_NAME, LeftOut, SourceSummary, make_report, write_report
from catdog.dataset.sources import Load, Source, is_archive_name, open_source
from catdog.dataset.splits import Candidate, Dropped, Shares, assign
from catdog.errors import DataError, ImageError, SettingsError

DEFAULT_SPLIT: Final[Shares] = (0.8, 0.1, 0.1)
PHOTOS_FOLDER: Final = "photos"

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) after each file."""


@dataclass(frozen=True)
class _Input:
    source: Source
    name: str
    """Unique, and safe as the name of a folder."""
    layout: Layout | None
    """None for Oxford's annotations given on their own: they hold no photos."""
    forced: Split | None


@dataclass(frozen=True)
class _Kept:
    """A photo that was checked and copied."""

    path: str
    item: Item
    source: str
    given: Split | None
    checked: Checked


def build(
    sources: Sequence[str | Path | tuple[str | Path, Split]],
    out: str | Path,
    *,
    split: Shares = DEFAULT_SPLIT,
    min_side: int = MIN_SIDE_PX,
    progress: Progress | None = None,
) -> Manifest:
    """Turn folders and archives of photos into the dataset folder ``out``, and return its manifest.

    ``sources``: paths, or pairs (path, split) that put all photos of a source into that split. ``split``: shares of
    train, val and test for the photos whose source gives them none. ``min_side``: px, of the shorter side.
    A dataset that is already at ``out`` is replaced when the new one is complete; its photos keep their splits.
    Raises SettingsError for a bad setting, and DataError for a source or target that can't be used, and where no
    photo at all is left.
    """
    shares = _checked_shares(split)
    if min_side < 1:
        raise SettingsError(f"min_side must be 1 px or more, not {min_side}")
    target = Path(out).resolve()
    before = _existing(target)
    inputs = _open_all(sources, target)
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        staging.mkdir(parents=True)
        kept, left_out = _check_all(inputs, staging, min_side, progress)
        photos, dropped = _split_all(kept, shares, before)
        for photo in dropped:
            (staging / photo.path).unlink()
        left_out += [LeftOut(p.source, p.name, p.reason, p.message) for p in dropped]
        if not photos:
            raise DataError(_nothing_left(left_out))
        manifest = Manifest(staging, CLASS_NAMES, tuple(photos))
        manifest.write()
        summaries = [SourceSummary(i.name, str(i.source.path), i.layout.kind if i.layout else "none") for i in inputs]
        settings = {"split": list(shares), "min_side": min_side}
        write_report(staging, make_report(manifest, summaries, left_out, settings, before))
        _replace(staging, target)
    except OSError as error:
        raise DataError(f"{out}: can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Manifest(Path(out), manifest.class_names, manifest.photos)
