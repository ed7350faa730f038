"""Turn probabilities into answers. Only this file decides between a class name, "neither" and "unsure"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from catdog.contract import NEITHER, UNSURE, Contract
from catdog.errors import ModelError, SettingsError
from catdog.text import escape_name, printable

T = TypeVar("T", bound="Prediction")

DECIMALS = 6  # of every probability that leaves catdog, so that JSON, CSV and tables agree to the digit


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one photo. Either ``error`` is None, or the three fields before it are."""

    source: str
    """The path or URL as it was given."""
    label: str | None
    """A class name, or "unsure" when the confidence is under the threshold. "neither" is the class of all else."""
    confidence: float | None
    """The label's probability, [0, 1]; of "unsure", the largest one."""
    probabilities: dict[str, float] | None
    """By class name, in the contract's order; they sum to 1."""
    error: str | None = None
    """Why there is no answer; one line."""

    @classmethod
    def failed(cls: type[T], source: str, error: object) -> T:
        """Return the row of an input that could not be read."""
        return cls(source, None, None, None, printable(str(error)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in order, ready for JSON: a source that isn't Unicode is escaped."""
        return asdict(self) | {"source": escape_name(self.source)}


def rank_answers(
    probabilities: npt.NDArray[np.floating], contract: Contract
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the class that would be answered for each row, and up to which threshold it is; over that it is "unsure".

    ``probabilities``: float (N, C). The classes are indices, (N,). The thresholds, (N,), are the class's probabilities,
    but for "neither": where the model knows that class and gives it ``neither_threshold`` or more, it is the answer at
    any threshold (inf); where it is likeliest below that, there is no answer at any (-inf).
    """
    rows = probabilities.astype(np.float64)
    answers = rows.argmax(1)
    reach = rows.max(1)
    if NEITHER in contract.class_names:
        neither = contract.class_names.index(NEITHER)
        reach[answers == neither] = -np.inf
        is_refused = rows[:, neither] >= contract.neither_threshold
        answers[is_refused], reach[is_refused] = neither, np.inf
    return answers, reach


def decide(
    sources: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    contract: Contract,
    threshold: float | None = None,
) -> list[Prediction]:
    """Return one Prediction for each row of ``probabilities``, float (N, C) in [0, 1].

    "neither" is the answer where the model knows that class and gives it ``neither_threshold`` or more. Otherwise the
    likeliest class is, from ``threshold`` on, which replaces the contract's. Raises ModelError for probabilities that
    are NaN or infinite, and SettingsError for a threshold outside [0, 1].
    """
    names = contract.class_names
    assert probabilities.shape == (len(sources), len(names)), probabilities.shape
    if not np.isfinite(probabilities).all():
        raise ModelError(
            "the model answers with numbers that are no probabilities (NaN or infinite): its file is damaged or its "
            "training diverged; use another model"
        )
    limit = contract.threshold if threshold is None else check_threshold(threshold)
    predictions = []
    for source, row, best, reach in zip(sources, probabilities, *rank_answers(probabilities, contract), strict=True):
        rounded = {name: round(float(p), DECIMALS) for name, p in zip(names, row, strict=True)}
        label = names[best] if reach >= limit else UNSURE
        predictions.append(Prediction(source, label, rounded[names[best]], rounded))
    return predictions


def check_threshold(threshold: float) -> float:
    """Return the threshold; raises SettingsError unless it is in [0, 1]."""
    if not 0 <= threshold <= 1:  # also refuses NaN
        raise SettingsError(f"threshold must be in [0, 1], not {threshold}")
    return threshold
