"""What teachers make of the labels: softer targets for the photos that they know something of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
from catdog import load
from catdog.dataset import Manifest, Photo
from catdog.errors import ModelError, SettingsError
from catdog.training.teacher import ask_teachers


@pytest.fixture
def manifest(tmp_path: Path, photo: Callable[..., bytes]) -> Manifest:
    """A red cat, a blue dog, a purple dog and a green thing."""
    photos: list[Photo] = []
    for label, colour in (("cat", "red"), ("dog", "blue"), ("dog", (130, 0, 126)), ("neither", (0, 200, 0))):
        data = photo(colour)
        digest, name = hashlib.sha256(data).hexdigest(), f"{len(photos)}.png"
        (tmp_path / name).write_bytes(data)
        photos.append(Photo(name, label, "train", 32, 24, digest, digest[:16], "made-up"))
    return Manifest(tmp_path, ("cat", "dog", "neither"), tuple(photos))


def test_targets_lie_between_the_label_and_the_teacher(manifest: Manifest, tiny_model: Path) -> None:
    teacher = load(tiny_model)
    answers = np.array([list(teacher.predict(manifest.root / p.path).probabilities.values()) for p in manifest.photos])  # type: ignore[union-attr]
    targets = ask_teachers(str(tiny_model), 0.25, manifest, manifest.photos, None)
    truth = np.eye(3)[[0, 1, 1, 2]]
    expected = 0.75 * truth + 0.25 * np.pad(answers, ((0, 0), (0, 1)))
    np.testing.assert_allclose(targets[:3], expected[:3], atol=1e-6)
    assert 0.01 < targets[2, 0] < 0.2  # the purple dog is a bit of a cat
    np.testing.assert_array_equal(targets[3], [0, 0, 1])  # a teacher of cats and dogs has no say in it
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_several_teachers_are_averaged_and_their_answers_kept(
    manifest: Manifest, tiny_model: Path, tmp_path: Path
) -> None:
    one = ask_teachers(str(tiny_model), 1, manifest, manifest.photos, tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    both = ask_teachers(f"{tiny_model},{tiny_model}", 1, manifest, manifest.photos, None)
    np.testing.assert_allclose(both, one, atol=1e-6)
    np.full((3, 2), 0.5, np.float32).tofile(kept)  # what is there is not asked again
    again = ask_teachers(str(tiny_model), 1, manifest, manifest.photos, tmp_path / "kept")
    np.testing.assert_array_equal(again[:3], [[0.5, 0.5, 0]] * 3)


def test_a_teacher_of_other_classes_is_refused(manifest: Manifest, tiny_model: Path) -> None:
    birds = Manifest(manifest.root, ("cat", "neither"), manifest.photos[:1])
    with pytest.raises(SettingsError, match="answers 'dog', which is no class of the data"):
        ask_teachers(str(tiny_model), 1, birds, birds.photos, None)
    with pytest.raises(ModelError, match=r"nothing\.onnx"):
        ask_teachers("nothing.onnx", 1, manifest, manifest.photos, None)
