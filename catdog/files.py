"""Files that appear whole or not at all, and folders that one command at a time writes to."""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from catdog.errors import SettingsError

LOCK_NAME: Final = ".catdog.lock"
_OWN: Final = ".catdog"  # begins the names of locks, and of what another process tries at this moment
_UNFINISHED: Final = ".tmp"  # how the names of files end that ``replace_file`` has not renamed yet


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; the file gets the name ``path`` when the block ends well.

    Missing parent folders are made. When the block raises, the temporary file is deleted and ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide the result from the people it is for
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output_file(flag: str, path: Path, mark: bytes, within: int = -1) -> None:
    """Raise SettingsError unless a command may write this file: a new one, or one that holds its own ``mark``.

    ``within``: bytes, from the start, in which it lies; -1: all of them.
    """
    check_local(flag, path)
    try:
        if path.is_dir():
            raise SettingsError(f"{flag} {path}: is a folder; name a file in it")
        is_other = False
        if path.exists():
            with path.open("rb") as file:
                is_other = mark not in file.read(within)
    except OSError as error:
        raise SettingsError(f"{flag} {path}: can't be read ({error.strerror})") from error
    if is_other:
        raise SettingsError(
            f"{flag} {path}: is there already, and not from this command; move it, or name another place"
        )


def check_local(flag: str, path: str | Path) -> None:
    """Raise SettingsError for an address: it would become a folder called ``https:`` or ``s3:``."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise SettingsError(f"{flag} {path}: must be a path on this machine")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that appears whole."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file that appears whole; what isn't Unicode in it, as in a file name, is escaped."""
    with (
        replace_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def check_output_folder(flag: str, folder: Path, marks: Sequence[str], content: bytes | None = None) -> None:
    """Raise SettingsError unless ``folder`` can be written to, and is new, is empty, or holds one of ``marks``.

    ``marks``: files, as paths below it, by which a command knows a folder that it has written to before; ``content``:
    bytes in them, where a stranger might have files of these names. A mark that is half-written counts as none, so that
    a killed command finds the folder empty.
    """
    check_local(flag, folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{flag} {folder}: is a file; give a folder")
        unfinished = tuple(f".{mark}." for mark in marks)
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        is_used = not all(
            name.startswith(_OWN) or (name.startswith(unfinished) and name.endswith(_UNFINISHED)) for name in names
        )
        is_known = any(_holds(folder / mark, content) for mark in marks)
    except OSError as error:
        raise SettingsError(f"{flag} {folder}: can't be read ({error.strerror})") from error
    if is_used and not is_known:
        raise SettingsError(f"{flag} {folder}: holds files of something else; give a new or an empty folder")
    check_writable(flag, folder)


def check_writable(flag: str, folder: Path) -> None:
    """Raise SettingsError where nothing can be written, before the work that is to be written; no folder is made."""
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryDirectory(prefix=f"{_OWN}-", dir=existing):
            pass
    except OSError as error:
        raise SettingsError(f"{flag} {folder}: can't be written ({error.strerror})") from error


def _holds(mark: Path, content: bytes | None) -> bool:
    return mark.exists() if content is None else mark.is_file() and content in mark.read_bytes()


@contextmanager
def lock_folder(flag: str, folder: Path, holder: str) -> Iterator[None]:
    """Make the folder where it is missing, and hold its lock; a killed process loses its lock by itself.

    Raises SettingsError, naming ``flag``, where another process (``holder``: what it is) has the lock.
    """
    from filelock import FileLock, Timeout  # here, since who only reads files needs no lock

    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SettingsError(f"{flag} {folder}: another {holder} works there") from error
    except OSError as error:
        raise SettingsError(f"{flag} {folder}: can't be made or written to ({error.strerror})") from error
    try:
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)  # while it is held: whoever waits finds the file gone, and retries
        lock.release()
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # only where nothing was written
