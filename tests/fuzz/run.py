"""Look for photos, archives, annotations and requests that do harm, guided by the coverage of the code that reads them.

    pip install atheris
    python tests/fuzz/run.py image --minutes 15 --out /tmp/finds

A find is an input that raises anything but the error that its reader documents, that makes a C library write to
standard error, or that takes more than 10 seconds or 4 GiB. The first of each kind becomes a file in ``--out``, with
what it did beside it; a crash, a hang and a lack of memory end the run, and libFuzzer leaves the input there. The seeds
are drawn here. What was found is mended, and stays as a test in ``tests/unit``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import struct
import sys
import tempfile
import traceback
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["catdog", "PIL", "tarfile", "zipfile"]):
    import tarfile
    import zipfile

    import numpy as np
    from PIL import Image

    from catdog.contract import Contract
    from catdog.dataset.annotations import fit_boxes
    from catdog.dataset.coco import parse_coco
    from catdog.dataset.voc import parse_voc
    from catdog.dataset.yolo import parse_names, parse_yolo
    from catdog.errors import DataError, ImageError
    from catdog.image import load_pixels
    from catdog.prediction import Prediction
    from catdog.serving.requests import RequestError, parse_request
    from catdog.sources.archives import list_members

HANG_S: Final = 10
MEMORY_MIB: Final = 4096
MOST_BYTES: Final = 20_000  # of an input
CONTRACT: Final = Contract(class_names=("cat", "dog"), input_size=32)
MEDIA_TYPES: Final = ("application/json", "application/x-npy", "image/jpeg")
_TAR_BLOCK: Final = 512  # bytes; POSIX.1-2017, pax, "ustar": the checksum is at 148, its 8 bytes count as blanks


def draw_photos() -> Iterator[bytes]:
    """Small photos in every format that is read, and with what their formats allow besides."""
    levels = np.arange(24 * 20 * 3).reshape(20, 24, 3).astype(np.uint8)
    colours = Image.fromarray(levels)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    modes = {mode: colours.convert(mode) for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "LA")}
    modes["I;16"] = Image.fromarray(levels[..., 0].astype(np.uint16) * 256)
    modes["F"] = Image.fromarray(levels[..., 0].astype(np.float32))
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "lzma", "zstd", "webp", "group4")
    choices: list[tuple[str, dict[str, Any]]] = [
        *((kind, {}) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "MPO", "HEIF")),
        *(("TIFF", {"compression": name}) for name in compressions),
        ("JPEG", {"progressive": True, "exif": exif, "icc_profile": b"icc" * 9}),
        ("PNG", {"save_all": True, "append_images": [colours.rotate(90)]}),
        ("WEBP", {"lossless": True, "exif": exif}),
    ]
    for image in modes.values():
        for kind, options in choices:
            try:
                yield save(image, kind, **options)
            except (OSError, ValueError, KeyError):  # this format has no such mode
                continue


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pack_archives() -> Iterator[bytes]:
    """Small archives of each kind, with folders, links, long names and empty members."""
    photo = save(Image.new("RGB", (4, 4), "red"), "PNG")
    names = ("1.png", "cats/2.png", "é.png", "long" * 40 + ".png")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as packed:
            for name in names:
                packed.writestr(name, photo)
            packed.writestr("empty/", b"")
            packed.comment = b"a comment"
        yield buffer.getvalue()
    for mode in ("w:", "w:gz", "w:bz2", "w:xz"):
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=mode, format=form) as tar:
                for name in names[: 3 if form == tarfile.USTAR_FORMAT else 4]:
                    member = tarfile.TarInfo(name)
                    member.size = len(photo)
                    tar.addfile(member, io.BytesIO(photo))
                for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE):
                    member = tarfile.TarInfo("link.png")
                    member.type, member.linkname = kind, "1.png"
                    tar.addfile(member)
            yield buffer.getvalue()


def write_requests() -> Iterator[bytes]:
    """Bodies of each media type; the first byte says which."""
    photo = b64encode(save(Image.new("RGB", (4, 4), "red"), "PNG")).decode()
    images = [photo, "s3://bucket/photos/1.jpg", "data:,x", 1]
    yield b"\0" + json.dumps({"image": photo}).encode()
    yield b"\0" + json.dumps({"images": images}).encode()
    for shape in ((1, 4, 4, 3), (2, 3, 5, 3), (4, 4)):
        np.save(buffer := io.BytesIO(), np.zeros(shape, np.uint8))
        yield b"\1" + buffer.getvalue()
    yield b"\2any bytes"


def write_annotations() -> Iterator[bytes]:
    """Annotations of each format; the first byte says which."""
    box = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    size = "<size><width>64</width><height>48</height></size>"
    yield b"\0" + f"<annotation>{size}<object><name>cat</name>{box}</object></annotation>".encode()
    yield b'\0<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    images = [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}]
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 20], "iscrowd": 0}]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    yield b"\1" + json.dumps(coco).encode()
    yield b"\2" + b"0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.5 0.25 0.75 0.75\n"
    yield b"\3" + b"path: .\nnames:\n  0: cat\n  1: dog\n"
    yield b"\3" + b"names: [cat, &a 'dog', *a]\n"


def read_photo(data: bytes) -> None:
    """A photo is decoded and resized, or refused in one line."""
    try:
        assert load_pixels(data, CONTRACT, "photo").shape == (32, 32, 3)
    except ImageError as error:
        check_message(str(error), "photo: ")


def read_archive(data: bytes) -> None:
    """Every member of an archive is read, or refused; it may end in an error that names the archive."""
    _ARCHIVE.write_bytes(data)
    try:
        for number, member in enumerate(list_members(str(_ARCHIVE), lambda name: True)):
            assert number < MOST_BYTES, "more members than bytes"
            try:
                member.content.read("member")
            except ImageError as error:
                check_message(str(error), "")
    except ImageError as error:
        check_message(str(error), str(_ARCHIVE))


def read_request(data: bytes) -> None:
    """A request is understood, or refused in one line."""
    try:
        request = parse_request(data[1:], MEDIA_TYPES[data[0] % 3] if data else "", [("bucket", "photos/")])
        assert 1 <= len(request.photos) == len(request.names) <= 100
        for photo in request.photos:
            if isinstance(photo, ImageError):
                check_message(str(Prediction.failed("", photo).error), "")
    except RequestError as error:
        check_message(str(error), "")


def read_annotation(data: bytes) -> None:
    """An annotation gives boxes inside the photo, or is refused in one line."""
    kind, rest = (data[0] % 4 if data else 0), data[1:]
    try:
        if kind == 3:
            parse_names(rest, "notes.yaml")
            return
        if kind == 1:
            annotations = [annotation for _, annotation in parse_coco(rest, "notes")[0]]
        else:
            annotations = [parse_voc(rest, "notes") if kind == 0 else parse_yolo(rest, "notes", {0: "cat", 1: "dog"})]
    except DataError as error:
        check_message(str(error), "notes")
        return
    for annotation in annotations:
        boxes, flaws = fit_boxes(annotation, "1.jpg", "cat", (64, 48), lambda: None)
        for flaw in flaws:
            check_message(flaw.message, "notes: ")
        for box in boxes or ():
            assert 0 <= box.xmin < box.xmax <= 64, box
            assert 0 <= box.ymin < box.ymax <= 48, box


def check_message(message: str, start: str) -> None:
    """A message is one line, names the input, and holds nothing that moves a cursor."""
    assert message.startswith(start), message
    assert message.isprintable(), message


def mend_checksums(data: bytes) -> bytes:
    """Make the checksums of a PNG's chunks and a tar's headers right, so that what they guard is reached."""
    mended = bytearray(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while at + 12 <= len(data) and (end := at + 8 + struct.unpack_from(">I", data, at)[0]) + 4 <= len(data):
            struct.pack_into(">I", mended, end, zlib.crc32(data[at + 4 : end]))
            at = end + 4
    elif data[257:262] == b"ustar":
        for at in range(0, len(data) - _TAR_BLOCK + 1, _TAR_BLOCK):
            if data[at + 257 : at + 262] == b"ustar":
                total = sum(data[at : at + 148]) + 8 * ord(" ") + sum(data[at + 156 : at + _TAR_BLOCK])
                mended[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(mended)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Change a few bytes, mostly with right checksums after it."""
    changed = bytes(atheris.Mutate(data, most))
    return mend_checksums(changed) if random.Random(seed).random() < 0.8 else changed


TARGETS: Final[dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]]] = {
    "image": (read_photo, draw_photos),
    "archive": (read_archive, pack_archives),
    "request": (read_request, write_requests),
    "annotation": (read_annotation, write_annotations),
}
_FOLDER: Final = tempfile.TemporaryDirectory()
_ARCHIVE: Final = Path(_FOLDER.name) / "photos.tar"


class Watcher:
    """Runs a target, and keeps the first input of each kind that does harm."""

    def __init__(self, target: Callable[[bytes], None], out: Path) -> None:
        self._target, self._out = target, out
        self._seen: set[str] = set()
        self._stderr, self._caught = os.dup(2), os.memfd_create("stderr")

    def __call__(self, data: bytes) -> None:
        os.dup2(self._caught, 2)
        try:
            self._target(data)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._keep(data, f"{type(error).__name__} {Path(at.filename).name} {at.lineno}", traceback.format_exc())
        finally:
            os.dup2(self._stderr, 2)
        if size := os.fstat(self._caught).st_size:
            text = os.pread(self._caught, size, 0).decode(errors="replace")
            os.ftruncate(self._caught, 0)
            os.lseek(self._caught, 0, os.SEEK_SET)
            self._keep(data, re.sub(r"[\d.]+", "N", text.splitlines()[0])[:60], text)

    def _keep(self, data: bytes, kind: str, text: str) -> None:
        if kind in self._seen:
            return
        self._seen.add(kind)
        path = self._out / re.sub(r"\W+", "-", kind)
        path.with_suffix(".bin").write_bytes(data)
        path.with_suffix(".txt").write_text(text)
        os.write(self._stderr, f"find: {kind} -> {path}.bin\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python tests/fuzz/run.py"
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), metavar="DIR", help="default: build/fuzz")
    asked = parser.parse_args()
    target, make_seeds = TARGETS[asked.target]
    out: Path = asked.out / asked.target
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(make_seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={asked.minutes * 60:.0f}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={out}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], Watcher(target, out), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
