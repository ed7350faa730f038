"""The part of this checkout that goes to a container: an entry point and the modules that it imports.

    with stage_training_code() as folder: ...   train.py, requirements.txt and what train.py imports
    read_handler_code()                         inference.py and what it imports, as names and bytes

Imports are followed at the top of a file and inside functions. Nothing else goes along: no embedded model, no tests.
"""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from catdog.errors import SettingsError

ROOT: Final = Path(__file__).resolve().parents[2]
TRAIN_ENTRY: Final = "train.py"
SERVE_ENTRY: Final = "inference.py"
_TRAIN_COMMAND: Final = "catdog/training/cli.py"  # which train.py may also start by its name, not by an import
_PACKAGES: Final = ("catdog", "export")
_TIME: Final = 315_532_800  # 1980-01-01, the first that zip knows


def list_imported_files(entry: Path, root: Path = ROOT) -> list[Path]:
    """Return the files of this project that the file ``entry`` imports, directly or not, sorted."""
    waiting, imported = [entry], set[Path]()
    while waiting:
        for path in _imports(waiting.pop(), root):
            if path not in imported:
                imported.add(path)
                waiting.append(path)
    return sorted(imported)


def list_training_files(root: Path = ROOT) -> list[str]:
    """Return the files that a training job needs, as sorted paths below ``root``.

    Raises SettingsError if ``root`` is not a checkout.
    """
    files = {root / "requirements.txt"}
    for name in (TRAIN_ENTRY, _TRAIN_COMMAND):
        entry = _require(root / name, "train")
        files |= {entry, *list_imported_files(entry, root)}
    return sorted(path.relative_to(root).as_posix() for path in files)


@contextmanager
def stage_training_code(root: Path = ROOT) -> Iterator[Path]:
    """Give a temporary folder with the files that a training job needs.

    The same tree gives the same folder, times included.
    """
    with TemporaryDirectory(prefix="catdog-code-") as folder:
        for name in list_training_files(root):
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target)
            target.chmod(0o644)
            os.utime(target, (_TIME, _TIME))
        for place, _, _ in os.walk(folder):
            Path(place).chmod(0o755)
            os.utime(place, (_TIME, _TIME))
        yield Path(folder)


def read_handler_code(root: Path = ROOT) -> dict[str, bytes]:
    """Return the files that an endpoint runs, by their path below ``root``; raises SettingsError without a checkout."""
    entry = _require(root / SERVE_ENTRY, "deploy")
    paths = [entry, *list_imported_files(entry, root)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _require(path: Path, command: str) -> Path:
    if not path.is_file():
        raise SettingsError(f"{path}: is missing; {command} from a checkout of catdog, not from an installed one")
    return path


def _imports(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files that one file's import statements run, the ``__init__.py`` of packages among them."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in _PACKAGES:
                for end in range(1, len(parts) + 1):
                    place = root.joinpath(*parts[:end])
                    candidates = (place / "__init__.py", place.with_suffix(".py"))
                    yield from (candidate for candidate in candidates if candidate.is_file())
