"""A folder, an archive or a prefix as one thing: all its files under safe names. Writes nothing.

tree = open_tree("photos.zip")
for name, content in tree.contents({"cats/1.jpg"}): content.read(name)
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

from catdog.errors import DataError, ImageError
from catdog.sources.addresses import split_uri
from catdog.sources.archives import Bytes, list_members
from catdog.sources.contents import Content, Failed, File
from catdog.sources.folders import walk
from catdog.sources.names import is_archive_name, is_junk, is_object_uri, safe_member_name, strip_archive_ending

MAX_UNPACKED_BYTES: Final = 64 * 2**30  # of one archive; Kaggle's and Oxford's have 0.8 GB each
MAX_FILES: Final = 2_000_000  # in one source


class Tree:
    """Files under names that are safe: relative, with ``/``, without ``..``, hidden parts or doubles."""

    def __init__(self, place: str, name: str) -> None:
        self.place = place
        """The path or address."""
        self.name = name
        """What the user will know it by: the name of the file or folder without an archive's ending."""
        self.refused: list[tuple[str, str]] = []
        """(name, why) of members that are no plain files or whose path leaves the archive."""
        self._contents: dict[str, Content | None] = {}
        """None: the bytes come along when the archive is read once more."""
        self._raw_names: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """All names, in the source's own order."""
        return list(self._contents)

    def contents(self, wanted: Container[str]) -> Iterator[tuple[str, Content]]:
        """The wanted files in the order that is fastest to read; raises DataError where the archive is damaged."""
        for name, content in self._contents.items():
            if content is not None and name in wanted:
                yield name, content
        to_read = {raw: name for name, raw in self._raw_names.items() if name in wanted}
        if not to_read:
            return
        try:
            for member in list_members(self.place, to_read.__contains__):
                if member.is_plain and (found := to_read.pop(member.name, None)) is not None:
                    yield found, member.content
        except ImageError as error:
            raise DataError(str(error)) from error

    def add(self, name: str, content: Content | None, raw_name: str = "") -> None:
        """Enter a file; where ``content`` is None its bytes come along later. Raises DataError for too many files."""
        self._contents[name] = content
        if content is None:
            self._raw_names[name] = raw_name
        if len(self._contents) + len(self.refused) > MAX_FILES:
            raise DataError(f"{self.place}: more than {MAX_FILES} files; give a smaller part of it")


def open_tree(place: str | Path, max_bytes: int = MAX_UNPACKED_BYTES) -> Tree:
    """List a folder, an archive (told by its content) or a prefix of an object store; raises DataError for others."""
    place = str(place)
    if is_object_uri(place):
        return _open_archive(place, max_bytes) if is_archive_name(place) else _open_prefix(place)
    path = Path(place)
    try:
        if path.is_dir():
            return _open_folder(path)
        path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    return _open_archive(place, max_bytes)


def _open_folder(path: Path) -> Tree:
    tree = Tree(str(path), path.resolve().name or "root")
    # Links are followed here: unlike an archive's, they are the user's own.
    for found, problem in walk(path, lambda name: True, follow_links=True):
        name = os.path.relpath(found, path).replace(os.sep, "/")
        if problem is None:
            tree.add(name, File(found))
        elif name == ".":
            raise DataError(f"{path}: can't be read ({problem})")
        else:
            tree.refused.append((name, f"can't be read ({problem})"))
    return tree


def _open_prefix(uri: str) -> Tree:
    from catdog.sources import objects

    root, key = split_uri(uri)
    prefix = key if not key or key.endswith("/") else f"{key}/"
    tree = Tree(uri, prefix.rstrip("/").rpartition("/")[2] or root[5:])
    for item in objects.list_objects(root, prefix):
        name = safe_member_name(item.key[len(prefix) :])
        if name is None:
            tree.refused.append((item.key, "its name is no path below the prefix"))
        elif not is_junk(name):
            tree.add(name, objects.Object(f"{root}/{item.key}", item.size))
    return tree


def _open_archive(place: str, max_bytes: int) -> Tree:
    tree = Tree(place, strip_archive_ending(place.rstrip("/").rpartition("/")[2]))
    seen: set[str] = set()
    unpacked = 0
    try:
        for member in list_members(place, lambda name: False):
            unpacked += member.size  # of a stream, passed over, but decompressed all the same
            if unpacked > max_bytes:
                raise DataError(
                    f"{place}: unpacks to more than {max_bytes} bytes, which is no set of photos; unpack the part that "
                    "you need and give the folder"
                )
            _enter_member(tree, seen, member.name, member.content, member.is_plain)
    except ImageError as error:
        if error.reason == "unsupported" and not is_archive_name(place) and "which is not read" not in str(error):
            raise DataError(
                f"{place}: neither a folder nor a zip or tar archive; give the folder that holds the photos"
            ) from error
        raise DataError(str(error)) from error
    return tree


def _enter_member(tree: Tree, seen: set[str], raw: str, content: Content, is_plain: bool) -> None:
    name = safe_member_name(raw)
    if name is not None and is_junk(name):
        return
    if name is None:
        tree.refused.append((raw, "its path leads out of the archive"))
    elif not is_plain:
        tree.refused.append((name, "a link or a device, not a plain file"))
    elif name in seen:
        tree.refused.append((name, "the archive holds a second file of this name"))
    else:
        if isinstance(content, Failed) and content.reason == "unsupported":
            raise DataError(f"{content.message} and give the folder")
        seen.add(name)
        tree.add(name, None if isinstance(content, Bytes) else content, raw)
