"""Where results go: a folder on disk or a prefix in an object store, in which files appear whole or not at all.

    open_store("out/results.parquet")       -> (FolderStore(out), "results.parquet")
    open_store("s3://bucket/out/r.parquet") -> (BucketStore("s3://bucket", "out"), "r.parquet")

What is put survives a power cut: a run that was stopped anywhere finds parts that are there and complete, and goes on
from them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from filelock import FileLock, Timeout

from catdog.errors import DataError, SettingsError
from catdog.files import check_local, replace_file
from catdog.sources import objects
from catdog.sources.addresses import MissingObjectError, split_uri
from catdog.sources.names import is_object_uri

_OWN: Final = re.compile(r"\..+\.(tmp|lock)")  # replace_file's temporary files and the locks
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LOCK_PATIENCE_S: Final = 1.0  # a holder that ends just now takes its lock file along
_GO_ON: Final = "start the same command again: it goes on"


class Store(Protocol):
    """Named files; a name is relative, with ``/`` between folders. Every method raises DataError, one sentence."""

    def names(self, folder: str) -> list[str]:
        """The plain names directly in ``folder`` ("" for the store's own), sorted; none where there is no folder."""

    def get(self, name: str) -> bytes | None:
        """The content, None where there is no such name."""

    def exists(self, name: str) -> bool:
        """Whether there is such a name."""

    def put(self, name: str, data: bytes, *, new: bool = False) -> None:
        """Write all of ``data`` or nothing; replaces what was there, which with ``new`` is an error instead."""

    def put_file(self, name: str, path: Path) -> None:
        """Put a finished file, as large as may be. It is handed over: afterwards it may be gone from ``path``."""

    def open(self, name: str) -> BinaryIO:
        """A seekable stream of the content; an error where there is no such name."""

    def delete(self, name: str) -> None:
        """Remove it, if it is there; a sub-folder goes with the last name in it."""

    def clear(self, folder: str) -> None:
        """Remove a sub-folder and the files in it, half-written ones too, if it is there."""

    def scratch(self, folder: str) -> AbstractContextManager[Path]:
        """A path on this machine's disk to write a file to that is then put; it is gone when the block ends."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keep other runs from writing ``name`` until the block ends or the process dies."""


def open_store(place: str) -> tuple[Store, str]:
    """The store that holds ``place``, a path or an object's address, and the name in it; raises SettingsError."""
    if is_object_uri(place):
        root, key = split_uri(place)
        prefix, _, name = key.rpartition("/")
        if not name:
            raise SettingsError(f"{place}: names no file; give {root}/folder/results.parquet")
        return BucketStore(root, prefix), name
    check_local("--out", place)
    path = Path(place)
    is_folder = os.path.isdir(path)  # noqa: PTH112 - a Path raises an error for a name that is too long
    if not path.name or place.endswith(("/", os.sep)) or is_folder:
        raise SettingsError(f"{place or repr(place)}: is a folder; name a file in it, like results.parquet")
    return FolderStore(path.parent), path.name


@dataclass(frozen=True)
class FolderStore:
    """A folder on disk. It and its sub-folders are made when they are needed."""

    folder: Path

    def names(self, folder: str) -> list[str]:
        path = self.folder / folder
        with explain_os_errors(path, "listed"):
            try:
                with os.scandir(path) as found:
                    return sorted(e.name for e in found if e.is_file() and not _OWN.fullmatch(e.name))
            except FileNotFoundError:
                return []

    def get(self, name: str) -> bytes | None:
        path = self.folder / name
        with explain_os_errors(path, "read"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)

    def put(self, name: str, data: bytes, *, new: bool = False) -> None:
        path = self.folder / name
        with explain_os_errors(path, "written"):
            if new and path.exists():  # nobody else writes here meanwhile: that is what lock() is for
                raise _make_conflict_error(str(path))
            _make_folder(path.parent)
            with replace_file(path) as temporary, temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _sync_to_disk(path.parent)

    def put_file(self, name: str, path: Path) -> None:
        target = self.folder / name
        with explain_os_errors(target, "written"):
            _make_folder(target.parent)
            with replace_file(target) as temporary:
                _move(path, temporary)
                _sync_to_disk(temporary)
            _sync_to_disk(target.parent)

    def open(self, name: str) -> BinaryIO:
        path = self.folder / name
        with explain_os_errors(path, "read"):
            return path.open("rb")

    def delete(self, name: str) -> None:
        path = self.folder / name
        with explain_os_errors(path, "removed"):
            path.unlink(missing_ok=True)
        if path.parent != self.folder:
            with suppress(OSError):  # not empty yet, or gone already
                path.parent.rmdir()

    def clear(self, folder: str) -> None:
        path = self.folder / folder
        with explain_os_errors(path, "removed"), suppress(FileNotFoundError):
            for entry in list(path.iterdir()):
                entry.unlink()
            path.rmdir()

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        path = self.folder / folder / ".result.tmp"  # a fixed name: what a kill leaves, the next run overwrites
        with explain_os_errors(path, "written"):
            _make_folder(path.parent)
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See Store.lock. The lock is the operating system's: it ends with the process, however that ends."""
        path = self.folder / name
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_PATIENCE_S)
        with explain_os_errors(path, "locked"):
            _make_folder(path.parent)
            try:
                lock.acquire()
            except Timeout as error:
                raise DataError(f"{path}: another run is writing it; wait for that one, or stop it") from error
            for entry in list(path.parent.iterdir()):  # what a kill left a moment before it got its name
                if re.fullmatch(rf"\.{re.escape(path.name)}(\.run\.json)?\.[^.]+\.tmp", entry.name):
                    entry.unlink(missing_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):  # a folder that can't be written any more; an unlocked file harms nobody
                Path(lock.lock_file).unlink()
            lock.release()


@dataclass(frozen=True)
class BucketStore:
    """The objects under a prefix of a bucket (``prefix`` is without its last ``/``, or "" for the whole bucket)."""

    root: str
    """Like ``s3://bucket``."""
    prefix: str

    def names(self, folder: str) -> list[str]:
        return objects.list_folder(self.root, "/".join(part for part in (self.prefix, folder) if part))

    def get(self, name: str) -> bytes | None:
        try:
            with objects.open_object(self._make_uri(name)) as stream:
                return stream.read()
        except MissingObjectError:
            return None

    def exists(self, name: str) -> bool:
        return objects.object_version(self._make_uri(name)) is not None

    def put(self, name: str, data: bytes, *, new: bool = False) -> None:
        # An object that is there already may be ours: the answer to a first attempt can get lost.
        if not objects.put_object(self._make_uri(name), data, new=new) and self.get(name) != data:
            raise _make_conflict_error(self._make_uri(name))

    def put_file(self, name: str, path: Path) -> None:
        objects.put_object(self._make_uri(name), path)

    def open(self, name: str) -> BinaryIO:
        file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
        try:
            with (
                explain_os_errors(Path(tempfile.gettempdir()), "written"),
                objects.open_object(self._make_uri(name)) as got,
            ):
                shutil.copyfileobj(got, file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def delete(self, name: str) -> None:
        objects.delete_object(self._make_uri(name))

    def clear(self, folder: str) -> None:
        for name in self.names(folder):
            self.delete(f"{folder}/{name}")

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        temporary = Path(tempfile.gettempdir())
        with explain_os_errors(temporary, "written"), tempfile.TemporaryDirectory(prefix="catdog-") as own:
            yield Path(own) / "result"

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Nothing: object stores have no locks. ``put`` with ``new`` is what keeps two runs from writing one part."""
        return nullcontext()

    def _make_uri(self, name: str) -> str:
        return "/".join(part for part in (self.root, self.prefix, name) if part)


@contextmanager
def explain_os_errors(path: Path, what: str) -> Iterator[None]:
    """Turn an OSError of the block into a DataError: ``path`` can't be ``what`` (read, written), why, what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: can't be {what}: {_say_what_to_do(error)}") from error


def _say_what_to_do(error: OSError) -> str:
    if error.errno in _FULL:
        return f"the disk is full; free some space and {_GO_ON}"
    if error.errno == errno.EFBIG:
        return f"over the largest file allowed here (ulimit -f, or the file system's own limit); raise it and {_GO_ON}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission; choose another place, or change the permissions of this one"
    if error.errno == errno.EROFS:
        return "the file system is read-only; choose another place"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file stands where a folder should be"
    return error.strerror or str(error)


def _make_conflict_error(place: str) -> DataError:
    return DataError(f"{place}: another run has written it meanwhile; let only one run write there")


def _make_folder(folder: Path) -> None:
    """Like mkdir -p, but each new folder's entry in its parent survives a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_to_disk(folder.parent)


def _sync_to_disk(path: Path) -> None:
    """Wait until the file, or the folder's list of names, is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing for a folder
            raise
    finally:
        os.close(handle)


def _move(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(path, target)  # from another file system
