"""Where a probability becomes a label, and where it becomes "unsure"."""

from __future__ import annotations

import json

import numpy as np
import pytest

from catdog.contract import Contract
from catdog.prediction import Prediction, decide

CONTRACT = Contract(class_names=("cat", "dog"), input_size=16, threshold=0.75)


@pytest.mark.parametrize(
    ("dog", "threshold", "label"),
    [
        (0.0, None, "cat"),
        (0.25, None, "cat"),  # exactly on the threshold is sure
        (0.26, None, "unsure"),
        (0.5, None, "unsure"),
        (0.74, None, "unsure"),
        (0.75, None, "dog"),
        (1.0, None, "dog"),
        (0.51, 0.0, "dog"),
        (0.99, 1.0, "unsure"),
        (1.0, 1.0, "dog"),
    ],
)
def test_label(dog: float, threshold: float | None, label: str) -> None:
    (answer,) = decide(["a.jpg"], np.array([[1 - dog, dog]]), CONTRACT, threshold)
    assert answer.label == label
    assert answer.confidence == max(1 - dog, dog)


@pytest.mark.parametrize(
    ("row", "label", "confidence"),
    [
        ([0.95, 0.03, 0.02], "cat", 0.95),
        ([0.6, 0.1, 0.3], "neither", 0.3),  # exactly on its threshold it is the answer, likeliest or not
        ([0.6, 0.11, 0.29], "unsure", 0.6),
        ([0.05, 0.05, 0.9], "neither", 0.9),
    ],
)
def test_neither_has_a_threshold_of_its_own(row: list[float], label: str, confidence: float) -> None:
    contract = CONTRACT.with_(class_names=("cat", "dog", "neither"), neither_threshold=0.3)
    (answer,) = decide(["a.jpg"], np.array([row]), contract)
    assert (answer.label, answer.confidence) == (label, confidence)


def test_neither_is_unsure_where_it_is_likeliest_and_under_its_threshold() -> None:
    contract = CONTRACT.with_(class_names=("cat", "dog", "neither"), neither_threshold=0.9)
    (answer,) = decide(["a.jpg"], np.array([[0.1, 0.1, 0.8]]), contract)
    assert (answer.label, answer.confidence) == ("unsure", 0.8)


def test_a_tie_goes_to_the_first_class() -> None:
    (answer,) = decide(["a.jpg"], np.array([[0.5, 0.5]]), CONTRACT, 0.5)
    assert answer.label == "cat"


def test_rounds_to_six_decimals_everywhere_alike() -> None:
    (answer,) = decide(["a.jpg"], np.array([[0.1234567, 0.8765433]], np.float32), CONTRACT)
    assert answer.probabilities == {"cat": 0.123457, "dog": 0.876543}
    assert answer.confidence == 0.876543


def test_keeps_order_and_json_shape() -> None:
    answers = decide(["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]]), CONTRACT)
    assert [(a.source, a.label) for a in answers] == [("a", "cat"), ("b", "dog")]
    assert json.dumps(answers[0].to_dict()) == (
        '{"source": "a", "label": "cat", "confidence": 1.0, "probabilities": {"cat": 1.0, "dog": 0.0}, "error": null}'
    )


def test_failed_has_a_reason_and_no_answer() -> None:
    assert Prediction.failed("a", ValueError("why")).to_dict() == {
        "source": "a",
        "label": None,
        "confidence": None,
        "probabilities": None,
        "error": "why",
    }
