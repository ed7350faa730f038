"""Archives and folders that were made to harm, or damaged: one clear error or a line in the report, never more."""

from __future__ import annotations

import contextlib
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from catdog.dataset import build
from catdog.dataset.inputs import safe_part, unique
from catdog.errors import CatdogError, DataError, SettingsError
from catdog.sources.names import safe_member_name
from catdog.sources.trees import open_tree
from tests.unit.test_dataset_build import class_folders, make, picture, reasons


def read_all(path: Path, max_bytes: int = 10**9) -> None:
    tree = open_tree(path, max_bytes)
    for name, content in tree.contents(set(tree.names)):
        content.read(name)


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("cats/1.jpg", "cats/1.jpg"),
        ("./cats//1.jpg", "cats/1.jpg"),
        ("train\\cats\\1.jpg", "train/cats/1.jpg"),
        ("../1.jpg", None),
        ("cats/../../1.jpg", None),
        ("..\\1.jpg", None),
        ("/etc/passwd", None),
        ("\\\\host\\share\\1.jpg", None),
        ("C:\\1.jpg", None),
        ("c:1.jpg", None),
        ("", None),
        (".", None),
    ],
)
def test_names_that_lead_out_are_refused(raw: str, safe: str | None) -> None:
    assert safe_member_name(raw) == safe


@pytest.mark.parametrize("container", ["evil.zip", "evil.tar"])
def test_nothing_is_written_outside_the_dataset(tmp_path: Path, container: str) -> None:
    escapes = ["../cats/1.png", "/cats/2.png", "cats/../../../3.png", "..\\cats\\4.png", "C:\\cats\\5.png"]
    inner = tmp_path / "inner"
    inner.mkdir()
    source = make(inner / container, class_folders() | {name: picture(50 + i) for i, name in enumerate(escapes)})
    manifest = build([source], inner / "out")
    assert len(manifest.photos) == 8
    assert reasons(inner / "out") == dict.fromkeys(escapes, "unreadable")
    assert sorted(path.name for path in inner.iterdir()) == [container, "out"]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_links_and_devices_in_archives_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(99))
    source = make(tmp_path / "a.tar", class_folders())
    with tarfile.open(source, "a") as archive:
        for name, kind in (("cats/link.png", tarfile.SYMTYPE), ("cats/hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
        for name, kind in (("cats/pipe.png", tarfile.FIFOTYPE), ("cats/device.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
    zipped = make(tmp_path / "b.zip", class_folders(seed=50))
    with zipfile.ZipFile(zipped, "a") as packed:
        info = zipfile.ZipInfo("cats/zip-link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, str(secret))
    manifest = build([source, zipped], tmp_path / "out")
    assert len(manifest.photos) == 16
    refused = ["cats/link.png", "cats/hard.png", "cats/pipe.png", "cats/device.png", "cats/zip-link.png"]
    assert reasons(tmp_path / "out") == dict.fromkeys(refused, "unreadable")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def test_a_second_member_of_one_name_does_not_replace_the_first(tmp_path: Path) -> None:
    source = make(tmp_path / "a.tar", class_folders())
    with tarfile.open(source, "a") as archive:
        member, data = tarfile.TarInfo("Cats/0.png"), picture(99)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    out = tmp_path / "out"
    build([source], out)
    assert (out / "photos/a/Cats/0.png").read_bytes() == picture(0)
    assert reasons(out) == {"Cats/0.png": "unreadable"}


@pytest.mark.parametrize("container", ["bomb.zip", "bomb.tar", "bomb.tgz"])
def test_the_unpacked_size_is_bounded(tmp_path: Path, container: str) -> None:
    path = make(tmp_path / container, {f"cats/{i}.jpg": bytes(100_000) for i in range(10)})
    with pytest.raises(DataError, match="unpacks to more than 500000 bytes"):
        read_all(path, max_bytes=500_000)


def test_a_tar_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    """tarfile reads an extended header of any size into memory; from a few MB of gzip, that is many GB."""
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 8 * 2**30 - 1
    path = tmp_path / "a.tar"
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240))
    with pytest.raises(DataError, match=r"a\.tar: the archive can't be read to its end \(a header of"):
        open_tree(path)


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", class_folders())
    data = path.read_bytes()
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # APPNOTE 4.3.7 and 4.3.12: where the flags are
        pieces = data.split(signature)
        flagged = [p[: at - 4] + struct.pack("<H", 1) + p[at - 2 :] for p in pieces[1:]]
        data = signature.join([pieces[0], *flagged])
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: 'Cats/0\.png' is encrypted; unpack it with its password and give"):
        build([path], tmp_path / "out")


@pytest.mark.parametrize("container", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_archive_is_one_clear_error(tmp_path: Path, container: str, kept: float) -> None:
    path = make(tmp_path / container, class_folders(8))
    data = path.read_bytes()
    # The end of a tar is padding of up to 10,240 zero bytes, of which the first 512 are needed.
    size = len(data.rstrip(b"\0")) if container == "a.tar" else len(data)
    path.write_bytes(data[: int(size * kept)])
    with pytest.raises(DataError, match=r"the archive can't be read to its end .*; download or make it again"):
        build([path], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == [container]


def test_a_tar_cut_between_two_members_is_damaged(tmp_path: Path) -> None:
    """tarfile alone would take it for a whole one."""
    path = make(tmp_path / "a.tar", class_folders())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:third])
    with pytest.raises(DataError, match="its end is missing"):
        build([path], tmp_path / "out")


@pytest.mark.parametrize("container", ["a.zip", "a.tar", "a.tgz"])
def test_random_damage_never_escapes_as_anything_but_our_error(tmp_path: Path, container: str) -> None:
    path = make(tmp_path / container, {name: data[:200] for name, data in class_folders(3).items()})
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(CatdogError):
            read_all(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"Rar!\x1a\x07\x00", "a RAR archive, which is not read; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"plain text", "neither a folder nor a zip or tar archive"),
        (b"", "neither a folder nor a zip or tar archive"),
        (b"\xff\xd8\xff\xe0 a photo", "give the folder that holds the photos"),
    ],
)
def test_other_files_are_no_sources(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "source").write_bytes(data)
    with pytest.raises(DataError, match="source: ") as caught:
        build([tmp_path / "source"], tmp_path / "out")
    assert says in str(caught.value)


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        build([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(DataError):
        build(["a\0b"], tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a regular file"):
        build([tmp_path / "pipe"], tmp_path / "out")


def test_a_bad_checksum_costs_one_photo_and_not_the_archive(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", class_folders())
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        begin = first.header_offset + 30 + len(first.filename) + first.compress_size // 2
    data = bytearray(path.read_bytes())
    data[begin] ^= 1
    path.write_bytes(data)
    manifest = build([path], tmp_path / "out")
    assert len(manifest.photos) == 7
    assert reasons(tmp_path / "out") == {first.filename: "corrupt"}


def test_an_archive_of_which_nothing_can_be_used_says_why(tmp_path: Path) -> None:
    path = make(tmp_path / "abs.zip", {f"/cats/{i}.png": picture(i) for i in range(4)})
    with pytest.raises(DataError, match=r"none of its 4 files can be used; the first one, /cats/0\.png: its path"):
        build([path], tmp_path / "out")


def test_a_source_that_is_given_twice_is_a_mistake(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", class_folders())
    with pytest.raises(SettingsError, match="was given twice"):
        build([source, source / "../photos"], tmp_path / "out")


def test_junk_of_any_system_is_no_photo(tmp_path: Path) -> None:
    junk = {name: picture(70 + i) for i, name in enumerate(("Cats/@eaDir/1.png", "__MACOSX/Cats/2.png", "Cats/.3.png"))}
    for name in ("photos", "a.zip", "a.tar"):
        source = make(tmp_path / name, class_folders() | junk)
        assert len(build([source], tmp_path / f"{name}.out").photos) == 8


def test_a_source_with_a_hidden_name_makes_no_hidden_folder(tmp_path: Path) -> None:
    """An upload passes over hidden folders."""
    manifest = build([make(tmp_path / ".photos", class_folders())], tmp_path / "out")
    assert {photo.source for photo in manifest.photos} == {"photos"}


def test_archives_inside_an_archive_are_pointed_out(tmp_path: Path) -> None:
    inner = make(tmp_path / "train.zip", {"train/cat.0.jpg": picture(0)}).read_bytes()
    path = make(tmp_path / "dogs-vs-cats.zip", {"train.zip": inner, "sampleSubmission.csv": b"id,label"})
    with pytest.raises(DataError, match="it holds archives: unpack it and give the folder"):
        build([path], tmp_path / "out")


def test_odd_files_in_a_folder_are_left_out(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", class_folders())
    os.mkfifo(source / "Cats/pipe.jpg")
    (source / "Cats/broken.jpg").symlink_to(tmp_path / "nowhere")
    (source / "Cats/again").symlink_to(source, target_is_directory=True)  # a circle
    (source / "Dogs/linked.png").symlink_to(source / "Dogs/0.png")
    manifest = build([source], tmp_path / "out")
    assert len(manifest.photos) == 9
    assert reasons(tmp_path / "out") == {"Cats/pipe.jpg": "unreadable", "Cats/broken.jpg": "unreadable"}
    assert not (tmp_path / "out/photos/photos/Dogs/linked.png").is_symlink()


def test_odd_names_are_made_safe_and_never_collide(tmp_path: Path) -> None:
    odd = ["cats/a:b?.png", "cats/a_b_.png", "cats/A_B_.png", "cats/con.png", f"cats/{'x' * 240}.png", "cats/ü .png"]
    files = class_folders() | {name: picture(50 + i) for i, name in enumerate(odd)}
    manifest = build([make(tmp_path / "a.zip", files)], tmp_path / "out")
    names = sorted(Path(photo.path).name for photo in manifest.photos if "/cats/" in photo.path)
    assert names == sorted(["a_b_.png", "a_b_~2.png", "A_B_~3.png", "_con.png", f"{'x' * 96}.png", "ü .png"])


def test_a_name_that_is_no_unicode_reaches_the_report(tmp_path: Path) -> None:
    source = make(tmp_path / "photos", class_folders())
    (Path(os.fsdecode(os.fsencode(source) + b"/Cats/\xff.png"))).write_bytes(b"")
    build([source], tmp_path / "out")
    assert reasons(tmp_path / "out") == {"Cats/\udcff.png": "empty"}


def test_safe_parts() -> None:
    assert [safe_part(part) for part in ("..", "a.", "\udcff", "NUL", "nul.txt", "null")] == [
        "_",
        "a",
        "_",
        "_NUL",
        "_nul.txt",
        "null",
    ]
    assert safe_part("猫" * 96 + ".jpeg") == "猫" * 78 + ".jpeg", "at most 240 of the 255 bytes that file systems allow"
    taken: set[str] = set()
    assert [unique(name, taken) for name in ("a/b.jpg", "A/B.jpg", "a/b.jpg")] == ["a/b.jpg", "A/B~2.jpg", "a/b~3.jpg"]
