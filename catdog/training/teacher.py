"""Learn from other models: their answers to the training photos become soft targets (Hinton et al. 2015).

The photos are answered once, whole, before training; a photo's random crops all get the same target. A second run finds
the answers again in the folder of decoded photos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catdog.classifier import Classifier, load
from catdog.dataset import Manifest, Photo
from catdog.errors import SettingsError
from catdog.files import replace_file
from catdog.progress import show_progress
from catdog.training.model import answer_photos
from catdog.training.settings import split_names

Targets = npt.NDArray[np.float32]
"""float32 (N, C), rows summing to 1."""


def ask_teachers(
    teachers: str, weight: float, manifest: Manifest, photos: Sequence[Photo], folder: Path | None
) -> Targets:
    """Return what the network should answer to each photo: its label, moved by ``weight`` towards the teachers' mean.

    ``teachers``: ONNX files, run folders or "embedded", separated by commas. One that lacks a photo's class (it tells
    cats from dogs, the photo shows neither) has no say in it. ``folder``: where answers are kept. Raises SettingsError
    for a teacher of other classes, and ModelError or ContractError for what is no model.
    """
    names = manifest.class_names
    labels = np.array([names.index(photo.label) for photo in photos])
    truth = np.eye(len(names), dtype=np.float32)[labels]
    total, count = np.zeros_like(truth), np.zeros((len(photos), 1), np.float32)
    for name in split_names("teacher", teachers):
        teacher = load(name)
        known = teacher.contract.class_names
        if strange := [class_name for class_name in known if class_name not in names]:
            raise SettingsError(f"--teacher {name}: answers {strange[0]!r}, which is no class of the data")
        has_say = np.array([photo.label in known for photo in photos])
        asked = [photo for photo, is_asked in zip(photos, has_say, strict=True) if is_asked]
        columns = np.array([names.index(class_name) for class_name in known])
        total[np.ix_(has_say, columns)] += _answer(name, teacher, manifest, asked, folder)
        count += has_say[:, None]
    mean = np.where(count > 0, total / np.maximum(count, 1), truth)
    return (truth + weight * (mean - truth)).astype(np.float32)


def _answer(
    name: str, teacher: Classifier, manifest: Manifest, photos: Sequence[Photo], folder: Path | None
) -> Targets:
    digest = hashlib.sha256(teacher.sha256.encode())
    for photo in photos:
        digest.update(bytes.fromhex(photo.sha256))
    kept = folder / f"{digest.hexdigest()[:32]}.answers" if folder else None
    shape = (len(photos), len(teacher.contract.class_names))
    if kept and kept.is_file() and kept.stat().st_size == 4 * shape[0] * shape[1]:
        return np.fromfile(kept, np.float32).reshape(shape)
    with show_progress(f"teacher {name}: answered") as progress:
        answers = answer_photos(teacher, [manifest.root / photo.path for photo in photos], progress)
    if kept:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(kept) as temporary:
                answers.tofile(temporary)
        except OSError:  # a read-only or full disk; a cache is no reason to fail
            pass
    return answers
