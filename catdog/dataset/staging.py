"""Folders that appear whole: all is built in a hidden folder beside the target and takes its place at the end.

    with open_staging(target, is_whole) as staging:
        ...                               # write to the folder staging, .NAME.catdog/new
        replace_folder(staging, target)

What a killed run left in ``.NAME.catdog`` is put back or deleted by the next one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catdog.errors import SettingsError
from catdog.files import lock_folder


@contextmanager
def open_staging(target: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder to build in, beside the target; put back or delete what a killed run left there.

    ``is_whole`` says whether a folder is what is built here. Raises SettingsError where another process builds the
    same one at this moment, and where this process was started inside of the target.
    """
    if Path.cwd().is_relative_to(target):  # whoever is in it would stay in the old folder, which is deleted
        raise SettingsError(f"--out {target}: is replaced as a whole; start this from a folder outside of it")
    workshop = target.with_name(f".{target.name}.catdog")
    staging, old = workshop / "new", workshop / "old"
    try:
        with lock_folder("--out", workshop, "build of this folder"):
            if old.exists() and not is_whole(target):  # it is missing, or an empty folder
                old.rename(target)
            for left in (staging, old):
                shutil.rmtree(left, ignore_errors=True)
            staging.mkdir()
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        with suppress(OSError):
            workshop.rmdir()  # where another build isn't in it


def replace_folder(staging: Path, target: Path) -> None:
    """Put the new folder into the old one's place; at no moment is there half of one.

    Where the system can exchange two folders there is no moment without one either, and the old one is then in
    ``staging``. Elsewhere a run that is killed between two renamings leaves the old one for the next run to put back.
    """
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return
    old = staging.with_name("old")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:  # an interrupt, too
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step by Linux's renameat2; False where that can't be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    at_fdcwd, rename_exchange = -100, 2  # <fcntl.h>, <linux/fs.h>
    failed: int = renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange)
    return not failed
