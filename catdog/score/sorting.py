"""Photos into DIR/<label>/, as links or copies: a model's answers as folders that a person can look through.

    Sorter(DIR, ("cat", "dog", "unsure")).place("cat", "a/0.jpg", Path("a/0.jpg"))     DIR/cat/0.jpg -> /home/me/a/0.jpg

What stands in DIR already is never written to, replaced or followed. Where a name is taken by something else, the
photo gets a longer one. Several processes may sort into one DIR, and after a kill at any point the same photos can be
sorted again: what is there stays, what was missing comes.

A DIR inside the folder that is scored would be scored itself by the next run; whoever takes both from a user warns.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from catdog.errors import ContractError, DataError

MAX_NAME: Final = 255  # bytes of a file name: ext4, XFS, Btrfs, tmpfs, APFS and NFS alike
MAX_SUFFIX: Final = 16  # bytes; a longer "suffix" is part of a name with a dot in it
_HEX_DIGITS: Final = (8, 16, 32, 64)  # of the source's SHA-256, in names that would clash
_FALLBACK_NAME: Final = "photo"
_TEMPORARY: Final = re.compile(r"\.catdog-[0-9a-f]{32}\.tmp")
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_CHUNK: Final = 2**20  # bytes


class Sorter:
    """Puts a photo under DIR/<label>/ by link or copy, never overwriting, with the same result when done again.

    It can be pickled: make one, then hand it to the processes that sort.
    """

    def __init__(self, folder: str | Path, labels: Iterable[str], *, copy: bool = False) -> None:
        """Make the labels' folders, and remove what killed copies left half done in them.

        ``copy``: photos that are files are copied as well, not linked. Another Sorter at work in the same DIR is not
        disturbed. Raises ContractError for a label that can't name a folder, and DataError where no folder can be
        made or a label's one is a link.
        """
        self.folder, self.copy = Path(folder).absolute(), copy
        self._folders = {label: self.folder / _check_label(label) for label in labels}
        for label_folder in self._folders.values():
            try:
                label_folder.mkdir(parents=True, exist_ok=True)
                if label_folder.is_symlink():
                    raise DataError(f"{label_folder}: is a link, which sorting does not follow; remove it")
                with os.scandir(label_folder) as entries:
                    leftovers = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
                for path in leftovers:
                    Path(path).unlink(missing_ok=True)
            except OSError as error:
                raise DataError(
                    f"{label_folder}: photos can't be sorted into it ({error.strerror or error})"
                ) from error

    def place(self, label: str, source: str, photo: Path | bytes) -> Path:
        """Put a photo in its label's folder, if it isn't there; gives its path there, absolute.

        ``source``: how the scoring names it, like "photos.zip!/train/cat.0.jpg"; the last part becomes the file name.
        ``photo``: a file, which becomes a symbolic link with an absolute target (a copy with ``copy``), or the encoded
        bytes of a photo that is no file of its own, always a copy. A file with the same name and bytes, and if a link
        is wanted a link with the same target, is the photo placed already; so copies of one picture under one name
        come once. Raises DataError: no permission, no space and the like; KeyError for a label that the Sorter wasn't
        made for.
        """
        folder = self._folders[label]
        try:
            for name in _propose_names(source):
                path = folder / name
                if isinstance(photo, Path) and not self.copy:
                    placed = _link(photo.absolute(), path)
                else:
                    placed = _write(photo, path)
                if placed or self._holds(path, photo):
                    return path
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{source}: can't be sorted into {folder} ({reason})") from error
        raise DataError(f"{source}: all names that it could have in {folder} are taken")

    def _holds(self, path: Path, photo: Path | bytes) -> bool:
        """Whether what stands at ``path`` is the photo."""
        if isinstance(photo, Path) and not self.copy:
            with contextlib.suppress(OSError):  # EINVAL: no link
                return str(path.readlink()) == str(photo.absolute())
        return _has_bytes(path, photo)


def safe_name(source: str) -> str:
    r"""A file name from the last part of a source: printable, not hidden, not empty, at most MAX_NAME bytes.

    Control characters, backslashes and other unprintable characters become ``_``. Bytes that are not UTF-8, which
    Python holds as surrogates U+DC80 to U+DCFF, stay.
    """
    last = source.rstrip("/").rpartition("/")[2]
    name = "".join(c if (c.isprintable() and c != "\\") or "\udc80" <= c <= "\udcff" else "_" for c in last)
    return _fit_name(name.strip().lstrip(". ") or _FALLBACK_NAME)


def _propose_names(source: str) -> Iterator[str]:
    """Yield the names that a photo may get, of which the first free one is taken."""
    name = safe_name(source)
    yield name
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    for digits in _HEX_DIGITS:
        yield _fit_name(name, f"-{digest[:digits]}")


def _fit_name(name: str, ending: str = "") -> str:
    """Return the name with ``ending`` after its stem, which is shortened until all has MAX_NAME bytes at most."""
    suffix = PurePosixPath(name).suffix
    if len(os.fsencode(suffix)) > MAX_SUFFIX:
        suffix = ""
    stem = name.removesuffix(suffix)[:MAX_NAME]
    while len(os.fsencode(stem + ending + suffix)) > MAX_NAME:
        stem = stem[:-1]
    return stem + ending + suffix


def _check_label(label: str) -> str:
    """Return the label if it can name a folder; it comes with a model, perhaps a stranger's. Raises ContractError."""
    safe = label.isprintable() and label.strip() == label and not label.startswith(".") and not set(label) & set("/\\")
    if not label or not safe or len(label.encode()) > MAX_NAME:
        raise ContractError(f"the model's class name {label!r} can't name a folder to sort photos into")
    return label


def _link(target: Path, path: Path) -> bool:
    """Make a symbolic link; False where something stands at ``path``."""
    try:
        path.symlink_to(target)
    except FileExistsError:
        return False
    return True


def _write(photo: Path | bytes, path: Path) -> bool:
    """Make a file that appears whole or not at all; False where something stands at ``path``."""
    while not os.path.lexists(path):
        temporary = path.with_name(f".catdog-{secrets.token_hex(16)}.tmp")
        try:
            with temporary.open("xb") as file:
                if isinstance(photo, bytes):
                    file.write(photo)
                else:
                    with photo.open("rb") as content:
                        shutil.copyfileobj(content, file, _CHUNK)
            return _name_file(temporary, path)
        except FileNotFoundError:
            # Another Sorter, made just now, took it for a leftover: once more. Unless it is the folder or the photo.
            if not path.parent.is_dir() or (isinstance(photo, Path) and not photo.exists()):
                raise
        finally:
            temporary.unlink(missing_ok=True)
    return False


def _name_file(temporary: Path, path: Path) -> bool:
    """Give a whole file its name; False where something has it. Raises FileNotFoundError without the file."""
    try:
        os.link(temporary, path, follow_symlinks=False)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    # FAT and some network file systems: take the name with an empty file, then replace that, which is ours. A kill
    # just between leaves the empty file, and the photo comes under a longer name.
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _has_bytes(path: Path, photo: Path | bytes) -> bool:
    """Whether a regular file, not a link to one, stands at ``path`` and has the photo's bytes."""
    try:
        info = path.lstat()
        size = len(photo) if isinstance(photo, bytes) else photo.stat().st_size
        if not stat.S_ISREG(info.st_mode) or info.st_size != size:
            return False
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # not readable, or gone by now
        return False
    with os.fdopen(handle, "rb") as file:
        if isinstance(photo, bytes):
            return file.read(size + 1) == photo
        with photo.open("rb") as content:
            return _are_equal(file, content)


def _are_equal(one: BinaryIO, other: BinaryIO) -> bool:
    while (chunk := one.read(_CHUNK)) == other.read(_CHUNK):
        if not chunk:
            return True
    return False
