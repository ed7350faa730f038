"""The embedded model as it is shipped: its size, its contract, and that what is said of it is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog import load, load_detector
from catdog.contract import Contract

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "catdog" / "assets"


def test_it_is_small_and_its_contract_is_the_one_beside_it() -> None:
    assert (ASSETS / "catdog.onnx").stat().st_size < 12_000_000
    assert load().contract == Contract.read(ASSETS / "contract.json")


def test_the_numbers_agree_with_each_other() -> None:
    quality = load().contract.quality
    metrics = json.loads((ASSETS / "metrics.json").read_text())
    (int8,) = (row for row in metrics["proof"]["rows"] if row["kind"] == "int8")
    assert quality["int8_test_accuracy"] * 100 == pytest.approx(int8["accuracy"]["test"])
    assert quality["test_accuracy"] == metrics["float"]["test"]["accuracy"]
    quoted = f"{quality['int8_test_accuracy']:.2%}"
    assert quoted in (ROOT / "README.md").read_text()
    assert quoted in (ROOT / "docs/model_card.md").read_text()


def test_it_tells_real_cats_from_real_dogs(real_photos: Callable[[int], list[tuple[str, bytes]]]) -> None:
    # Most of these were trained on: this finds a broken file or pixel path, it doesn't measure accuracy.
    photos = real_photos(60)
    answers = load().predict([data for _, data in photos])
    right = sure = 0
    for answer, (name, _) in zip(answers, photos, strict=True):
        assert answer.probabilities is not None
        likeliest = max(answer.probabilities, key=lambda label: answer.probabilities[label])  # type: ignore[index]
        right += f"/{likeliest}s/" in name
        sure += answer.label != "unsure"
        assert answer.label in (likeliest, "unsure")
    assert right >= 116
    assert sure >= 100


def test_the_detector_is_small_and_its_float_weights_are_those_of_models() -> None:
    assert (ASSETS / "heads.onnx").stat().st_size < 12_000_000
    contract = load_detector().contract
    assert (contract.task, contract.class_names) == ("detect", ("cat", "dog"))
    assert contract.model_fingerprint == Contract.read(ROOT / "models/heads/contract.json").model_fingerprint
    quoted = f"{contract.quality['int8_test_ap']:.3f}"
    assert quoted in (ROOT / "README.md").read_text()
    assert quoted in (ROOT / "docs/detection.md").read_text()


def test_the_detector_finds_a_head_in_real_photos(real_photos: Callable[[int], list[tuple[str, bytes]]]) -> None:
    # Photos that it never saw a box of; most of them show one pet, from the front.
    photos = real_photos(30)
    right = 0
    for answer, (name, _) in zip(load_detector().detect([data for _, data in photos]), photos, strict=True):
        assert answer.objects is not None
        right += any(f"/{found.label}s/" in name for found in answer.objects)
    assert right >= 48
