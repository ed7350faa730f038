"""The folder that a training job runs from: train.py and what it imports, nothing else.

    FOLDER/train.py, requirements.txt, catdog/ (the core), catdog/dataset/, catdog/export/, catdog/training/

The same tree gives the same folder, times of files included. The embedded model, the serving and the cloud parts stay
at home: no job needs them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from catdog.errors import SettingsError

ROOT: Final = Path(__file__).parents[2]
ENTRY_POINT: Final = "train.py"
_FILES: Final = (ENTRY_POINT, "requirements.txt")
_FOLDERS: Final = ("catdog", "catdog/dataset", "catdog/export", "catdog/training")
"""Python files that lie in these, not below them."""
_TIME: Final = 315_532_800  # 1980-01-01, the first that zip knows


def source_files(root: Path = ROOT) -> list[str]:
    """What a job needs, as paths below ``root``, sorted. Raises SettingsError where there is no checkout."""
    for name in (*_FILES, *_FOLDERS):
        if not (root / name).exists():
            raise SettingsError(
                f"{root / name}: is missing; train from a checkout of catdog, not from an installed one"
            )
    modules = [path for folder in _FOLDERS for path in (root / folder).glob("*.py")]
    return sorted([*_FILES, *(path.relative_to(root).as_posix() for path in modules)])


def stage(folder: Path, root: Path = ROOT) -> None:
    """Copy what a job needs into ``folder``."""
    for name in source_files(root):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
        target.chmod(0o644)
        os.utime(target, (_TIME, _TIME))
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)
        os.utime(place, (_TIME, _TIME))


@contextmanager
def staged(root: Path = ROOT) -> Iterator[Path]:
    """A folder staged for as long as the block takes."""
    with TemporaryDirectory(prefix="catdog-code-") as folder:
        stage(Path(folder), root)
        yield Path(folder)
