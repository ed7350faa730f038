"""What PATH arguments stand for."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from catdog.errors import ImageError
from catdog.image import MAX_BYTES
from catdog.photo_command import find_counter, list_photos
from catdog.sources.contents import Failed, Stdin, Web
from tests.conftest import UNPRIVILEGED


def listed(*paths: object) -> list[str]:
    """The sources that the arguments give, or for an error its message."""
    photos = list_photos([str(path) for path in paths])
    return [p.content.message if isinstance(p.content, Failed) else p.source for p in photos]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with photos, other files, hidden ones and junk."""
    names = [
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "noending",
        "sub/d.webp",
        "sub/c.gif",
        "sub/deep/e.heic",
        "sub/deep/f[1].jpg",
    ]
    names += [
        "other/d.webp",
        "bare/readme.md",
        ".hidden.jpg",
        "._a.PNG",
        ".git/x.jpg",
        "__MACOSX/y.jpg",
        "@eaDir/z.jpg",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_are_taken_as_they_are(tree: Path) -> None:
    assert listed("notes.txt", "missing.jpg", ".hidden.jpg") == ["notes.txt", "missing.jpg", ".hidden.jpg"]


def test_a_folder_stands_for_its_photos_sorted(tree: Path) -> None:
    photos = ["a.PNG", "b.jpg", "other/d.webp", "sub/c.gif", "sub/d.webp", "sub/deep/e.heic", "sub/deep/f[1].jpg"]
    assert listed(".") == photos
    assert listed(tree) == [str(tree / name) for name in photos]
    assert listed("sub/") == ["sub/c.gif", "sub/d.webp", "sub/deep/e.heic", "sub/deep/f[1].jpg"]


@pytest.mark.parametrize(
    ("pattern", "photos"),
    [
        ("*.jpg", ["b.jpg"]),
        ("./?.*", ["a.PNG", "b.jpg"]),
        ("sub/*", ["sub/c.gif", "sub/d.webp"]),
        ("*/d.webp", ["other/d.webp", "sub/d.webp"]),
        ("**/d.*", ["other/d.webp", "sub/d.webp"]),
        ("**/*.jpg", ["b.jpg", "sub/deep/f[1].jpg"]),
        ("sub/**", ["sub/c.gif", "sub/d.webp", "sub/deep/e.heic", "sub/deep/f[1].jpg"]),
        ("**/deep/**/*.heic", ["sub/deep/e.heic"]),
        ("s[tu]b/[!c].*", ["sub/d.webp"]),
        ("sub/../*.jpg", ["sub/../b.jpg"]),
    ],
)
def test_patterns(tree: Path, pattern: str, photos: list[str]) -> None:
    assert listed(pattern) == photos
    assert listed(tree / pattern) == [str(tree / name) for name in photos]


def test_a_file_that_is_named_like_a_pattern_wins(tree: Path) -> None:
    (tree / "sub/deep/f1.jpg").touch()
    assert listed("sub/deep/f[1].jpg") == ["sub/deep/f[1].jpg"]


@pytest.mark.parametrize("path", ["bare", "*.tiff", "no/such/*.jpg", "[", "**/none.jpg"])
def test_what_stands_for_no_photo_is_an_error(tree: Path, path: str) -> None:
    (message,) = listed(path)
    assert message.startswith(f"{path}: no photo ")


def test_an_empty_argument_is_an_error(tree: Path) -> None:
    assert listed("") == ["'': an empty path"]


def test_links_to_folders_are_passed_over_and_links_to_files_are_not(tree: Path) -> None:
    (tree / "other/up").symlink_to(tree)
    (tree / "other/round").symlink_to(tree / "other")
    (tree / "other/link.jpg").symlink_to(tree / "b.jpg")
    assert listed("other", "other/**/*.webp") == ["other/d.webp", "other/link.jpg", "other/d.webp"]
    assert listed("other/round") == ["other/round/d.webp", "other/round/link.jpg"]


def test_a_folder_that_can_not_be_listed_is_one_error(tree: Path) -> None:
    (tree / "sub").chmod(0)
    code = "from catdog.photo_command import list_photos\nfor photo in list_photos(['.']): print(photo.content)"
    try:
        command = [*UNPRIVILEGED, sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        (tree / "sub").chmod(0o700)
    assert "sub: can't be listed (Permission denied)" in said


def test_a_folder_is_not_read_before_its_turn(tree: Path) -> None:
    photos = list_photos(["b.jpg", "sub", "later"])
    assert next(photos).source == "b.jpg"
    assert next(photos).source == "sub/c.gif"
    (tree / "later").mkdir()
    (tree / "later/late.jpg").touch()
    assert [photo.source for photo in photos][-1] == "later/late.jpg"


def test_urls_and_stdin_give_functions_and_hide_passwords() -> None:
    url, stdin = list_photos(["HTTPS://tom:pw@example.org/a*.jpg", "-"])
    assert url.source == "HTTPS://***@example.org/a*.jpg"
    assert stdin.source == "-"
    assert url.content == Web("HTTPS://tom:pw@example.org/a*.jpg")
    assert stdin.content == Stdin()


def test_stdin_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Endless()}))
    (photo,) = list_photos(["-"])
    with pytest.raises(ImageError, match=f"-: over the limit of {MAX_BYTES} bytes"):
        photo.content.read(photo.source)


def test_the_bar_counts_no_archive_that_has_to_be_read_for_it(tree: Path) -> None:
    with tarfile.open("photos.tar.gz", "w:gz") as archive:
        archive.add("b.jpg")
    count = find_counter(["sub", "b.jpg", "-"])
    assert count is not None
    assert count() == 6
    assert find_counter(["b.jpg", "photos.tar.gz"]) is None
