"""The fast pass of an exported file: how it is chosen, proven and written, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog.classifier import Classifier, load
from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.explain import explain
from catdog.export.fast import Agreement, choose_fast_pass, compare_passes
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.photos import Labelled
from catdog.training.model import ImageModel
from tests.conftest import TINY_CONTRACT, build_fast_model
from tests.parity.conftest import write_dataset

CONTRACT = Contract(class_names=("cat", "dog"), input_size=64, threshold=0.6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """40 photos of each class for each of three splits; red cats, blue dogs, all of them easy."""
    return write_dataset(tmp_path_factory.mktemp("photos"), {"train": 1, "val": 40, "test": 40})


def split(photos: Manifest, name: str) -> Labelled:
    return Labelled.of(photos, photos.of(name))  # type: ignore[arg-type]


def test_the_cheapest_size_and_bound_within_the_limits_are_chosen(photos: Manifest) -> None:
    # exp(mean red - mean blue): at every size the answers are right, and surer than any bound
    model = Classifier(build_fast_model(CONTRACT), threads=1)
    contract, note = choose_fast_pass(model, split(photos, "val"), split(photos, "test"))
    assert (contract.fast_size, contract.fast_bound) == (32, 0.9)
    assert contract == model.contract.with_(fast_size=32, fast_bound=0.9)
    assert note.startswith("fast pass: 32 px, sure from 0.9: validation: of 80 photos 0.0% are answered again, 0 get ")


def test_without_test_photos_or_a_smaller_size_there_is_no_fast_pass(photos: Manifest) -> None:
    model = Classifier(build_fast_model(CONTRACT), threads=1)
    validation, test = split(photos, "val"), split(photos, "test")
    contract, note = choose_fast_pass(model, validation, replace(test, paths=[], labels=test.labels[:0], splits=[]))
    assert (contract, note) == (model.contract, "no fast pass: the test split has no photos")
    smallest = Classifier(build_fast_model(CONTRACT.with_(input_size=16)), threads=1)
    contract, note = choose_fast_pass(smallest, validation, test)
    assert contract.fast_size is None
    assert note.startswith("no fast pass: none agrees well enough")


class ScriptedModel:
    """Answers with the rows that it was given for each size, one photo after the other."""

    def __init__(self, rows: Mapping[int, np.ndarray]) -> None:
        self.contract = CONTRACT
        self._rows = {size: iter(answers) for size, answers in rows.items()}

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return self.answer_small(images, CONTRACT.input_size)

    def answer_small(self, images: np.ndarray, size: int) -> np.ndarray:
        return np.stack([next(self._rows[size]) for _ in images])


def answer(labels: np.ndarray, sure: float = 0.999, *, unsure: int = 0, wrong: int = 0) -> np.ndarray:
    """Right answers of one confidence, (N, 2), but for the first ones: ``unsure`` of 0.7, then ``wrong`` of 0.955."""
    confidence = np.full(len(labels), sure, np.float32)
    confidence[:unsure], confidence[unsure : unsure + wrong] = 0.7, 1 - 0.955
    return np.where(labels[:, np.newaxis] == np.arange(2), confidence[:, np.newaxis], 1 - confidence[:, np.newaxis])


@pytest.mark.parametrize(
    ("at_32", "at_48", "chosen"),
    [
        ({"wrong": 1}, {}, (32, 0.96)),  # the first bound over its confidence; it is answered again
        ({"unsure": 40}, {}, (48, 0.9)),  # 0.25 + 0.5 of the whole work, and 0.56
        ({"unsure": 20}, {}, (32, 0.9)),  # 0.25 + 0.25
        ({"unsure": 80}, {"unsure": 20}, (None, None)),  # 0.56 + 0.25 is more than MOST_COST
        ({"wrong": 1, "sure": 0.91}, {"unsure": 80}, (None, None)),  # over 0.955 all are answered again
    ],
)
def test_what_disagrees_or_saves_too_little_is_not_chosen(
    photos: Manifest, at_32: dict[str, Any], at_48: dict[str, Any], chosen: tuple[int | None, float | None]
) -> None:
    validation, test = split(photos, "val"), split(photos, "test")
    tested = {32: answer(test.labels), 48: answer(test.labels), 64: answer(test.labels)}
    fitted = {size: answer(validation.labels, **how) for size, how in ((32, at_32), (48, at_48), (64, {}))}
    model: Any = ScriptedModel({size: np.concatenate([fitted[size], tested[size]]) for size in fitted})
    contract, note = choose_fast_pass(model, validation, test)
    assert (contract.fast_size, contract.fast_bound) == chosen, note


def test_a_fast_pass_that_does_not_hold_on_test_photos_is_none(photos: Manifest) -> None:
    validation, test = split(photos, "val"), split(photos, "test")
    right, held_out = answer(validation.labels), answer(test.labels)
    off = np.concatenate([right, answer(test.labels, wrong=1)])
    model: Any = ScriptedModel({32: off, 48: off, 64: np.concatenate([right, held_out])})
    contract, note = choose_fast_pass(model, validation, test)
    assert contract == CONTRACT
    assert note.startswith(
        "no fast pass: the one that was fitted doesn't hold on the test photos: 32 px, sure from 0.9"
    )


def test_an_agreement_counts_classes_answers_and_accuracy() -> None:
    whole = np.array([[0.9, 0.1], [0.55, 0.45], [0.3, 0.7], [0.5, 0.5], [0.2, 0.8]], np.float32)
    small = np.array([[0.96, 0.04], [0.99, 0.01], [0.98, 0.02], [0.6, 0.4], [0.01, 0.99]], np.float32)
    found = compare_passes(TINY_CONTRACT, np.array([0, 0, 1, 0, 1]), whole, small, 0.95)
    # the second was "unsure" at the whole size, the third a dog; the fourth is answered again
    assert found == Agreement(5, 0.2, 1, 2, 20.0)
    assert not found.is_within(2)
    assert compare_passes(TINY_CONTRACT, np.array([0, 0, 1, 0, 1]), whole, small, 1.0).is_within()


def test_limits_hold_to_the_photo() -> None:
    good = Agreement(photos=2000, again=0.1, flips=2, verdicts=6, accuracy_loss=0.1)
    assert good.is_within()
    for worse in ({"flips": 3}, {"verdicts": 7}, {"accuracy_loss": 0.11}):
        assert not replace(good, **worse).is_within()
        assert replace(good, **worse).is_within(2)


def test_what_explains_an_answer_is_seen_at_the_whole_size(
    model: ImageModel, dataset: Manifest, tmp_path: Path
) -> None:
    contract = model.contract.with_(fast_size=32, fast_bound=0.0)  # always sure
    write_onnx(to_onnx(model), contract, tmp_path / "model.onnx")
    whole, fast = load(tmp_path / "model.onnx"), load(tmp_path / "model.onnx", fast=True)
    photo = dataset.root / dataset.photos[0].path
    assert fast.predict(photo) != whole.predict(photo)
    ours, theirs = explain(fast, photo), explain(whole, photo)
    assert ours.prediction == theirs.prediction == whole.predict(photo)
    assert ours.heat is not None
    assert theirs.heat is not None
    assert (ours.heat == theirs.heat).all()
    assert whole.evidence(np.empty((0, 48, 48, 3), np.uint8))[0].shape == (0, 2)
