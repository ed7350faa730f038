"""Archives read in place: the very bytes of every photo, and of a damaged archive all that is whole and one failure."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import stat
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from catdog.errors import ImageError
from catdog.image import MAX_BYTES
from catdog.sources import Input, content_for, list_inputs
from catdog.sources.archives import list_members
from catdog.sources.contents import Failed
from catdog.sources.trees import open_tree

RNG = random.Random(0)
PHOTOS = {f"cats/{n}.jpg": RNG.randbytes(n * 400) + bytes(n * 300) for n in range(8)}
"""Their content is never decoded here; half of it can be compressed."""
LONG = f"{'long/' * 60}{'ü' * 100}.jpg"


def read(item: Input) -> bytes | str:
    """Its bytes, or the reason why there are none."""
    try:
        return item.content.read(item.source)
    except ImageError as error:
        return error.reason if str(error).startswith(item.source.partition("!/")[0]) else str(error)


def contents(path: Path) -> list[tuple[str, bytes | str]]:
    """Of all inputs of an archive: the name inside, and the bytes or the reason why there are none."""
    return [(item.source.removeprefix(f"{path}").removeprefix("!/"), read(item)) for item in list_inputs([str(path)])]


def read_again(path: Path) -> None:
    """Each listed source, by its name alone, is what it was when it was listed."""
    for item in list_inputs([str(path)]):
        if not isinstance(item.content, Failed):
            assert content_for(item.source).read(item.source) == item.content.read(item.source)


def tar(path: Path, files: dict[str, bytes], mode: str = "w", kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_each_photos_bytes(tmp_path: Path, method: int) -> None:
    files = PHOTOS | {LONG: b"long", "a!/b.jpg": b"odd", "notes.txt": b"no", "empty.jpg": b""}
    path = zipped(tmp_path / "p.zip", files, method)
    assert contents(path) == [(name, data) for name, data in files.items() if name != "notes.txt"]
    read_again(path)


def test_a_zip_behind_other_bytes_gives_each_photos_bytes(tmp_path: Path) -> None:
    """As a self-extracting one is; and one that was written to a pipe, with sizes behind the data."""
    path = zipped(tmp_path / "p.zip", PHOTOS, zipfile.ZIP_DEFLATED)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    assert contents(path) == list(PHOTOS.items())

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in PHOTOS.items():
            archive.writestr(name, data)
    path.write_bytes(pipe.data)
    assert contents(path) == list(PHOTOS.items())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compressions_of_a_zip_are_said_to_be_unsupported(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "p.zip", {"1.jpg": b"x" * 1000}, method)
    assert contents(path) == [("1.jpg", "unsupported")]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_gives_each_photos_bytes(tmp_path: Path, mode: str, kind: int) -> None:
    files = PHOTOS | ({LONG: b"long"} if kind != tarfile.USTAR_FORMAT else {}) | {"a!/b.jpg": b"odd", "empty.jpg": b""}
    path = tar(tmp_path / "p.tar", files | {"z.txt": b"no"}, mode, kind)  # what it is, its bytes say
    assert contents(path) == list(files.items())
    read_again(path)


def test_extended_headers_of_a_tar_are_no_photos(tmp_path: Path) -> None:
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "as git archive writes it"}) as archive:
        for name, data in PHOTOS.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(data), 1234567.891, "ü" * 200
            archive.addfile(member, io.BytesIO(data))
    assert contents(path) == list(PHOTOS.items())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_of_a_webdataset_shard_only_the_photos_are_inputs(tmp_path: Path, mode: str) -> None:
    shard: dict[str, bytes] = {}
    for n in range(5):
        shard |= {
            f"{n:06}.jpg": b"photo %d" % n,
            f"{n:06}.json": b"{}",
            f"{n:06}.cls": b"1",
            f"{n:06}.seg.png": b"%d" % n,
        }
    path = tar(tmp_path / "shard-000000.tar", shard, mode)
    assert contents(path) == [(name, data) for name, data in shard.items() if name.endswith((".jpg", ".png"))]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_devices_and_sparse_files_of_a_tar_are_skipped(tmp_path: Path, mode: str) -> None:
    path, secret = tmp_path / "p.tar", tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for name, data in PHOTOS.items():
            for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE):
                odd = tarfile.TarInfo(f"odd{int(kind)}.jpg")
                odd.type, odd.linkname = kind, str(secret)
                archive.addfile(odd)
            sparse = tarfile.TarInfo("sparse.jpg")
            sparse.type = tarfile.GNUTYPE_SPARSE
            archive.addfile(sparse)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert contents(path) == list(PHOTOS.items())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_hard_link_of_a_tar_is_refused_by_name(tmp_path: Path, mode: str) -> None:
    """As GNU tar writes the second name of a file; it was passed over without a word."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"photo")
    (folder / "b.jpg").hardlink_to(folder / "a.jpg")
    path = tmp_path / "p.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in ("a.jpg", "b.jpg"):
            archive.add(folder / name, name)
    assert contents(path) == [("a.jpg", b"photo"), ("b.jpg", "unreadable")]
    for source, content in (
        *((item.source, item.content) for item in list_inputs([str(path)])),
        (f"{path}!/b.jpg", content_for(f"{path}!/b.jpg")),
        *open_tree(path).contents({"b.jpg"}),
    ):
        if source.endswith("b.jpg"):
            with pytest.raises(ImageError, match=r"'b\.jpg' is a hard link to 'a\.jpg'; unpack the archive"):
                content.read(source)


def test_links_of_a_zip_are_skipped(tmp_path: Path) -> None:
    path = zipped(tmp_path / "p.zip", PHOTOS)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.jpg")
    assert contents(path) == list(PHOTOS.items())


def test_an_encrypted_member_is_unsupported_and_the_others_are_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "p.zip", PHOTOS)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02" + data[data.index(b"PK\x01\x02") + 4 :][:1])
    data[central + 8] |= 1  # APPNOTE 4.3.12: the flags of the first member
    path.write_bytes(data)
    first, *others = PHOTOS.items()
    assert contents(path) == [(first[0], "unsupported"), *others]
    item = next(list_inputs([str(path)]))
    with pytest.raises(ImageError, match=r"'cats/0\.jpg' is encrypted; unpack it with its password"):
        item.content.read(item.source)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_corrupt_and_the_others_are_read(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "p.zip", PHOTOS, method)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("cats/5.jpg").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 30 + len("cats/5.jpg") + 700] ^= 0xFF
    path.write_bytes(data)
    assert contents(path) == [(name, "corrupt" if name == "cats/5.jpg" else data) for name, data in PHOTOS.items()]


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9, 0.99])
def test_a_truncated_zip_is_one_failure(tmp_path: Path, kept: float) -> None:
    path = zipped(tmp_path / "p.zip", PHOTOS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    (failure,) = list_inputs([str(path)])
    assert failure.source == str(path)
    with pytest.raises(
        ImageError, match=r"p\.zip: the archive can't be read to its end \(File is not a zip file\)"
    ) as error:
        failure.content.read(failure.source)
    assert error.value.reason == "corrupt"


def test_a_truncated_tar_gives_all_that_is_whole_and_one_failure(tmp_path: Path) -> None:
    path = tar(tmp_path / "p.tar", PHOTOS, kind=tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [member.offset_data + member.size for member in archive]
    used = (ends[-1] + 511) // 512 * 512
    for cut in [1, 511, 512, 513, *ends, *RNG.sample(range(1, used), 200), used, used + 511]:
        path.write_bytes(whole[:cut])
        found = contents(path)
        good = sum(end <= cut for end in ends)
        assert found[:good] == list(PHOTOS.items())[:good], cut
        assert found[-1] == ("", "corrupt"), cut
        begun = found[good:-1]  # a photo whose header is there and whose bytes are not
        assert begun in ([], [(list(PHOTOS)[min(good, 7)], "corrupt")]), cut
    path.write_bytes(whole[: used + 512])
    assert contents(path) == list(PHOTOS.items())


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_truncated_compressed_tar_gives_what_came_out_whole_and_one_failure(tmp_path: Path, mode: str) -> None:
    files = {name: RNG.randbytes(3000) for name in PHOTOS}
    path = tar(tmp_path / "p.tar.x", files, mode).rename(tmp_path / "p.tgz")
    whole = path.read_bytes()
    counts = []
    for cut in [1, 5, 20, *RNG.sample(range(len(whole)), 25), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        found = contents(path)
        if cut > len(whole) - 100 and found == list(files.items()):
            continue  # nothing but the padding behind the tar's end, or the checksum, is missing
        *good, failure = found
        assert good == list(files.items())[: len(good)], cut
        assert failure == ("", "corrupt"), cut
        counts.append(len(good))
    assert max(counts) >= (7 if mode == "w:gz" else 0)  # the others unpack in large blocks


def test_random_damage_gives_rows_and_never_another_error(tmp_path: Path) -> None:
    files = {name: data[:200] for name, data in PHOTOS.items()}
    whole = {
        "a.zip": zipped(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED).read_bytes(),
        "a.tar": tar(tmp_path / "a.tar", files | {LONG: b"x"}).read_bytes(),
        "a.tgz": tar(tmp_path / "a.tgz", files, "w:gz").read_bytes(),
        "a.txz": tar(tmp_path / "a.txz", files, "w:xz").read_bytes(),
    }
    for name, good in whole.items():
        for _ in range(120):
            data = bytearray(good)
            for _ in range(RNG.choice([1, 3, 30])):
                data[RNG.randrange(len(data))] = RNG.randrange(256)
            (tmp_path / name).write_bytes(data)
            inputs = list(list_inputs([str(tmp_path / name)]))
            assert inputs
            for item in inputs:
                read(item)


def test_a_photo_of_a_zip_is_never_anothers(tmp_path: Path) -> None:
    """Whatever the list of contents says: what does not have the checksum is refused."""
    path = zipped(tmp_path / "p.zip", {"1.jpg": b"first", "2.jpg": b"other"})
    data = path.read_bytes()
    first, second = (data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02"))
    swapped = bytearray(data)
    swapped[second + 42 : second + 46] = data[first + 42 : first + 46]  # APPNOTE 4.3.12: where the member is
    path.write_bytes(swapped)
    assert contents(path) == [("1.jpg", b"first"), ("2.jpg", "corrupt")]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def zip_bomb(path: Path, claimed: int, held: int) -> Path:
    """A member of ``held`` zero bytes that says it has ``claimed``."""
    body = b"".join([deflated(bytes(held))])
    crc = zlib.crc32(bytes(held))
    fields = struct.pack("<HHHHHIIIHH", 20, 0, zipfile.ZIP_DEFLATED, 0, 33, crc, len(body), claimed, 5, 0)
    local = b"PK\x03\x04" + fields + b"1.jpg" + body
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"1.jpg"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


@pytest.mark.parametrize(
    ("claimed", "held", "reason"),
    [
        (2**32 - 2, 2**20, "too_large"),
        (MAX_BYTES + 1, 2**20, "too_large"),
        (1000, 2**26, "corrupt"),
        (2**26, 1000, "corrupt"),
    ],
)
def test_a_zip_bomb_is_one_row_and_takes_no_memory(tmp_path: Path, claimed: int, held: int, reason: str) -> None:
    path = zip_bomb(tmp_path / "bomb.zip", claimed, held)
    tracemalloc.start()
    try:
        assert contents(path) == [("1.jpg", reason)]
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
def test_a_photo_of_a_tar_that_is_too_large_is_one_row_and_takes_no_memory(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "bomb.tar"
    member = tarfile.TarInfo("1.jpg")
    member.size = MAX_BYTES + 1
    last = tarfile.TarInfo("2.jpg")
    last.size = 2
    padded = (member.size + 511) // 512 * 512
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as file:
        file.write(member.tobuf())
        if packed:
            block = bytes(2**24)
            for start in range(0, padded, len(block)):
                file.write(block[: min(len(block), padded - start)])
        else:
            file.seek(padded, os.SEEK_CUR)
        file.write(last.tobuf() + b"ok" + bytes(510 + 1024))
    tracemalloc.start()
    try:
        assert contents(path) == [("1.jpg", "too_large"), ("2.jpg", b"ok")]
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_header_that_claims_gigabytes_is_not_read(tmp_path: Path, kind: bytes, packed: bool) -> None:
    path = tar(tmp_path / "bomb.tar", {"1.jpg": b"ok"}, kind=tarfile.USTAR_FORMAT)
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 8 * 2**30 - 1
    data = path.read_bytes()[:1024] + header.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240)
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    try:
        assert contents(path) == [("1.jpg", b"ok"), ("", "corrupt")]
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_headers_are_not_kept(tmp_path: Path) -> None:
    """tarfile alone keeps every one that it saw."""
    path = tar(tmp_path / "p.tar", {f"{n:05}.jpg": b"" for n in range(5000)}, kind=tarfile.USTAR_FORMAT)
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_members(str(path), lambda name: True)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_an_archive_that_goes_or_changes_after_it_was_listed_gives_failures(tmp_path: Path) -> None:
    paths = [tar(tmp_path / "p.tar", PHOTOS), zipped(tmp_path / "p.zip", PHOTOS)]
    inputs = list(list_inputs([str(path) for path in paths]))
    for path in paths:
        path.rename(f"{path}.away")
    assert [read(item) for item in inputs] == ["missing"] * len(inputs)
    for path in paths:
        path.write_bytes(b"")
    assert {read(item) for item in inputs if not item.source.endswith("/0.jpg")} == {
        "unreadable",  # of the tar, which is another one now
        "corrupt",
    }  # 0.jpg has no bytes


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tgz"])
def test_what_is_no_archive_is_one_failure(tmp_path: Path, name: str) -> None:
    def reasons() -> Sequence[tuple[str, bytes | str]]:
        return contents(tmp_path / name)

    for data in (b"", b"not an archive", bytes(10_240), b"\xff\xd8\xff\xe0 a photo" * 100):
        (tmp_path / name).write_bytes(data)
        ((source, reason),) = reasons()
        assert (source, reason) in (("", "corrupt"), ("", "missing"))  # all zeros is a tar without members
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert reasons() == [("", "unreadable")]
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    ((_, reason),) = reasons()
    assert reason == "unreadable"


def test_a_name_that_no_archive_holds_is_missing(tmp_path: Path) -> None:
    source = f"{tar(tmp_path / 'p.tar', PHOTOS)}!/cats/9.jpg"
    with pytest.raises(ImageError, match="the archive holds no member of this name") as error:
        content_for(source).read(source)
    assert error.value.reason == "missing"
    gone = f"{tmp_path}/none.zip!/1.jpg"
    with pytest.raises(ImageError, match=f"there is no archive {tmp_path}/none.zip") as error:
        content_for(gone).read(gone)
    assert error.value.reason == "missing"
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    bad = f"{tmp_path}/bad.zip!/1.jpg"
    with pytest.raises(ImageError, match=r"bad\.zip: the archive can't be read to its end") as error:
        content_for(bad).read(bad)
    assert error.value.reason == "corrupt"


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz"])
def test_members_that_are_named_one_by_one_cost_one_reading_of_the_archive(tmp_path: Path, name: str) -> None:
    files = {f"{n}.jpg": b"%d" % n for n in range(300)}
    make = zipped if name.endswith("zip") else tar
    path = (
        make(tmp_path / name, files)
        if make is zipped
        else tar(path=tmp_path / name, files=files, mode="w:gz" if "gz" in name else "w")
    )
    opened: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and arguments[0] == str(path):
            opened.append(event)

    sys.addaudithook(note)
    read = [content_for(f"{path}!/{member}").read(member) for member in files]
    assert read == list(files.values())
    if name == "p.tar.gz":
        assert len(opened) <= 2 * len(files)  # its first bytes are looked at each time, and it is unpacked once
        before = len(opened)
        assert content_for(f"{path}!/0.jpg").read("0.jpg") == b"0"  # behind the stream's place: from the start
        assert len(opened) <= before + 4


def test_a_tar_whose_member_has_a_negative_size_ends(tmp_path: Path) -> None:
    """Pythons before the fix of CVE-2025-8194 go back, and round in circles."""
    for size in (-512, -1024, -1):
        header = tarfile.TarInfo("1.jpg")
        header.size = 0
        block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
        block[124:136] = b"\xff" + (size + 2**88).to_bytes(11, "big")  # base-256 (GNU tar's manual)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        path = tmp_path / "p.tar"
        path.write_bytes(bytes(block) + bytes(10_240))
        assert [kind for _, kind in contents(path)] == ["corrupt"]


def test_a_tar_that_was_replaced_gives_no_other_photos_bytes(tmp_path: Path) -> None:
    path = tar(tmp_path / "p.tar", PHOTOS)
    listed = list(list_inputs([str(path)]))
    tar(path, dict(reversed(PHOTOS.items())))
    os.utime(path, ns=(0, 0))
    assert {read(item) for item in listed} == {"unreadable"}


def test_a_link_before_the_photo_of_its_name_hides_nothing(tmp_path: Path) -> None:
    for mode in ("w", "w:gz"):
        path = tmp_path / "p.tar"
        with tarfile.open(path, mode) as archive:
            link = tarfile.TarInfo("cats/x.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
            archive.addfile(link)
            member = tarfile.TarInfo("cats/x.jpg")
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
        assert contents(path) == [("cats/x.jpg", b"hello")]
        source = f"{path}!/cats/x.jpg"
        assert content_for(source).read(source) == b"hello"
        tree = open_tree(path)
        assert [(name, content.read(name)) for name, content in tree.contents({"cats/x.jpg"})] == [
            ("cats/x.jpg", b"hello")
        ]


def test_a_zip_with_a_member_without_a_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "p.zip", {"q": b"x", "1.jpg": b"one"})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):  # the name's length, then the extra field's
        begin = data.index(signature) + at
        data[begin : begin + 4] = struct.pack("<HH", 0, 1)
    path.write_bytes(data)
    assert contents(path) == [("1.jpg", b"one")]


def test_several_xz_streams_are_one_and_one_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    whole = tar(tmp_path / "w.tar", PHOTOS).read_bytes()
    path = tmp_path / "p.tar.xz"
    path.write_bytes(lzma.compress(whole[:5000]) + bytes(8) + lzma.compress(whole[5000:]))
    assert contents(path) == list(PHOTOS.items())
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]
    path.write_bytes(lzma.compress(whole, filters=filters))
    assert contents(path) == [("", "corrupt")]
    (failed,) = list_inputs([str(path)])
    assert "Memory usage limit" in getattr(failed.content, "message", "")
