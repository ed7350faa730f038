"""Probabilities to answers: the only place that decides between a class name and "unsure".

probabilities (N, C) -> Prediction(source, label, confidence, probabilities, error)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catdog.contract import UNSURE, Contract

DECIMALS = 6  # of every probability that leaves catdog, so that JSON, CSV and tables agree to the digit


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one photo. Either ``error`` is None, or the three fields before it are."""

    source: str
    """The path or URL as it was given."""
    label: str | None
    """A class name, or "unsure" when the confidence is under the threshold."""
    confidence: float | None
    """The largest probability, [0, 1]."""
    probabilities: dict[str, float] | None
    """By class name, in the contract's order; they sum to 1."""
    error: str | None = None
    """Why there is no answer; one line."""

    @classmethod
    def failed(cls, source: str, error: object) -> Prediction:
        """The row of an input that could not be read."""
        return cls(source, None, None, None, str(error))

    def to_dict(self) -> dict[str, Any]:
        """The fields in order, ready for JSON."""
        return asdict(self)


def decide(
    sources: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    contract: Contract,
    threshold: float | None = None,
) -> list[Prediction]:
    """One Prediction a row of ``probabilities``, float (N, C) in [0, 1]; ``threshold`` replaces the contract's."""
    names = contract.class_names
    assert probabilities.shape == (len(sources), len(names)), probabilities.shape
    limit = contract.threshold if threshold is None else threshold
    answers = []
    for source, row in zip(sources, probabilities.astype(np.float64), strict=True):
        best = int(row.argmax())
        label = names[best] if row[best] >= limit else UNSURE
        rounded = {name: round(float(p), DECIMALS) for name, p in zip(names, row, strict=True)}
        answers.append(Prediction(source, label, rounded[names[best]], rounded))
    return answers
