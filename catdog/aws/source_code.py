"""The part of this checkout that goes to a container: an entry point and the modules that it imports.

    read_training_code()    train.py, requirements.txt and what train.py imports, as names and bytes
    read_handler_code()     inference.py and what it imports

Imports are followed at the top of a file and inside functions. Nothing else goes along: no tests, and the embedded
model only with a training that starts from it.
"""

from __future__ import annotations

from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Final

from catdog.errors import SettingsError

ROOT: Final = Path(__file__).resolve().parents[2]
TRAIN_ENTRY: Final = "train.py"
TRAIN_COMMAND: Final = "catdog/training/cli.py"  # which catdog.cli imports by its name when train.py asks for it
EMBEDDED_MODEL: Final = "catdog/assets/catdog.onnx"
SERVE_ENTRY: Final = "inference.py"
_PACKAGE: Final = "catdog"


@cache
def list_imported_files(entry: Path, root: Path = ROOT) -> tuple[Path, ...]:
    """Return the files of this project that the file ``entry`` imports, directly or not, sorted."""
    finder = ModuleFinder([str(root)])  # which finds no other package there, and passes those over
    finder.run_script(str(entry))
    ours = [module for name, module in finder.modules.items() if name.partition(".")[0] == _PACKAGE]
    return tuple(sorted(Path(module.__file__) for module in ours))  # type: ignore[attr-defined] # typeshed leaves it out


def list_training_files(root: Path = ROOT) -> list[str]:
    """Return the files that a training job needs, as sorted paths below ``root``.

    Raises SettingsError if ``root`` is not a checkout.
    """
    own = (TRAIN_ENTRY, "requirements.txt", TRAIN_COMMAND)
    for name in own:
        _require(root / name, "train")
    imported = {path for name in (TRAIN_ENTRY, TRAIN_COMMAND) for path in list_imported_files(root / name, root)}
    return sorted({*own, *(path.relative_to(root).as_posix() for path in imported)})


def read_training_code(root: Path = ROOT, *, embedded: bool = False) -> dict[str, bytes]:
    """Return the files that a training job needs, by their path below ``root``; raises as ``list_training_files``.

    ``embedded``: with the model inside catdog, for a training that learns from it.
    """
    names = [*list_training_files(root), *([EMBEDDED_MODEL] if embedded else ())]
    return {name: (root / name).read_bytes() for name in names}


def read_handler_code(root: Path = ROOT) -> dict[str, bytes]:
    """Return the files that an endpoint runs, by their path below ``root``; raises SettingsError without a checkout."""
    entry = _require(root / SERVE_ENTRY, "deploy")
    paths = [entry, *list_imported_files(entry, root)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _require(path: Path, command: str) -> Path:
    if not path.is_file():
        raise SettingsError(f"{path}: is missing; {command} from a checkout of catdog, not from an installed one")
    return path
