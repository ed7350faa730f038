"""A dataset with boxes in the two forms that SageMaker's built-in object detection trains on (MXNet's SSD).

    train/NAME.jpg, train_annotation/NAME.json             the image format, with the same for validation
    train.manifest, validation.manifest                    the augmented manifest format, a photo a line

After "Object Detection - MXNet" in Amazon SageMaker's developer guide, and the output of Ground Truth's bounding boxes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Final

from catdog.boxes import Box
from catdog.dataset.inputs import safe_part, unique
from catdog.dataset.manifest import MANIFEST_NAME, PETS, Manifest, Photo, Split
from catdog.dataset.staging import open_staging, replace_folder
from catdog.errors import DataError, ImageError, SettingsError
from catdog.files import check_local
from catdog.image import decode, encode, find_turn, read_file
from catdog.sources.addresses import S3_SCHEME, split_s3_uri

CHANNELS: Final[dict[str, Split]] = {"train": "train", "validation": "val"}
_FOLDERS: Final = tuple(f"{channel}{ending}" for channel in CHANNELS for ending in ("", "_annotation"))
_MANIFESTS: Final = tuple(f"{channel}.manifest" for channel in CHANNELS)
_AS_THEY_ARE: Final = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png"}  # all that the algorithm reads
_QUALITY: Final = 95  # of JPEGs that are made of other photos

Progress = Callable[[int, int], None]
"""Called with (photos done, photos in all) after each photo."""


def write_sagemaker(
    manifest: Manifest, out: Path, prefix: str = "", progress: Progress | None = None
) -> dict[str, dict[str, int]]:
    """Write the photos that have a box, and return the number of photos and of boxes in each channel.

    ``out``: a new or empty folder, or one that this wrote before, which is replaced once the new one is complete.
    ``prefix``: where the folder will be in S3, for the manifests; without it their paths are relative, and have to be
    mended before a job reads them. Test photos stay out, as the algorithm has no channel for them.
    Raises SettingsError for a bad prefix or target, and DataError where a channel would be empty or the dataset was
    changed since it was made.
    """
    if prefix:
        try:
            prefix = S3_SCHEME + "/".join(split_s3_uri(prefix)).rstrip("/")
        except SettingsError as error:
            raise SettingsError(f"--prefix {error}") from error
    check_local("--out", out)
    target = out.resolve()
    _check_target(target, out, manifest.root)
    chosen = {channel: [p for p in manifest.of(split) if p.boxes] for channel, split in CHANNELS.items()}
    for channel, photos in chosen.items():
        if not photos:
            raise DataError(f"{manifest.root}: no {CHANNELS[channel]} photo has a box; the algorithm needs some there")
    made = datetime.fromtimestamp((manifest.root / MANIFEST_NAME).stat().st_mtime, timezone.utc)
    total = sum(map(len, chosen.values()))
    done = 0
    try:
        with open_staging(target, _is_ours) as staging:
            for folder in _FOLDERS:
                (staging / folder).mkdir()
            names: set[str] = set()
            for channel, photos in chosen.items():
                with (staging / f"{channel}.manifest").open("w", encoding="utf-8") as lines:
                    for photo in photos:
                        data, ending = _read_photo(manifest.root, photo)
                        stem = unique(safe_part("-".join(PurePosixPath(photo.path).with_suffix("").parts[1:])), names)
                        (staging / channel / f"{stem}{ending}").write_bytes(data)
                        entry = _describe(photo, f"{stem}{ending}")
                        (staging / f"{channel}_annotation" / f"{stem}.json").write_text(json.dumps(entry), "utf-8")
                        lines.write(json.dumps(_make_line(entry, channel, prefix, made)) + "\n")
                        done += 1
                        if progress:
                            progress(done, total)
            replace_folder(staging, target)
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error
    return {
        channel: {"photos": len(photos), "boxes": sum(len(photo.boxes or ()) for photo in photos)}
        for channel, photos in chosen.items()
    }


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {*_FOLDERS, *_MANIFESTS}


def _check_target(target: Path, out: Path, dataset: Path) -> None:
    try:
        is_free = not target.exists() or (target.is_dir() and not any(target.iterdir())) or _is_ours(target)
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be read ({error.strerror})") from error
    if not is_free:
        raise SettingsError(f"--out {out}: holds files of something else; give a new or an empty folder")
    if target.is_relative_to(dataset.resolve()):
        raise SettingsError(f"--out {out}: lies inside the dataset; give another folder")


def _read_photo(root: Path, photo: Photo) -> tuple[bytes, str]:
    """Return a photo's file and its ending: as it is where the algorithm sees it upright, else as a new JPEG."""
    path = root / photo.path
    try:
        data = read_file(path)
        if hashlib.sha256(data).hexdigest() != photo.sha256:
            raise DataError(f"{path}: was changed since the dataset was made; build it again")
        ending = next((ending for magic, ending in _AS_THEY_ARE.items() if data.startswith(magic)), None)
        if ending is not None and find_turn(data, str(path)) is None:
            return data, ending
        return encode(decode(data, str(path)), "JPEG", quality=_QUALITY), ".jpg"
    except ImageError as error:
        raise DataError(str(error)) from error


def _describe(photo: Photo, file: str) -> dict[str, Any]:
    """Return the JSON of the image format: edges become whole px, and every box holds one at least."""
    return {
        "file": file,
        "image_size": [{"width": photo.width, "height": photo.height, "depth": 3}],
        "annotations": [_describe_box(box, photo) for box in photo.boxes or ()],
        "categories": [{"class_id": number, "name": name} for number, name in enumerate(PETS)],
    }


def _describe_box(box: Box, photo: Photo) -> dict[str, int]:
    left, top = min(round(box.xmin), photo.width - 1), min(round(box.ymin), photo.height - 1)
    width, height = max(1, round(box.xmax) - left), max(1, round(box.ymax) - top)
    return {"class_id": PETS.index(box.label), "left": left, "top": top, "width": width, "height": height}


def _make_line(entry: dict[str, Any], channel: str, prefix: str, made: datetime) -> dict[str, Any]:
    """Return a line of the augmented manifest, as Ground Truth would have written it."""
    boxes: Sequence[dict[str, int]] = entry["annotations"]
    return {
        "source-ref": "/".join(filter(None, [prefix, channel, entry["file"]])),
        "bounding-box": {"image_size": entry["image_size"], "annotations": boxes},
        "bounding-box-metadata": {
            "objects": [{"confidence": 1} for _ in boxes],
            "class-map": {str(number): name for number, name in enumerate(PETS)},
            "type": "groundtruth/object-detection",
            "human-annotated": "yes",
            "creation-date": made.strftime("%Y-%m-%dT%H:%M:%S"),
            "job-name": "catdog",
        },
    }
