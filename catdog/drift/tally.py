"""Answers, one after the other, to counts by period and a comparison with a reference; memory doesn't grow with them.

    tally = Tally(reference)
    tally.add("2026-11-28", Answer("cat.jpg", "cat", 0.98))
    tally.to_json() -> {"photos": 1, "shares": {...}, "psi": 0.02, "periods": [...], ...}

Confidences are compared by the population stability index, the sum over bins of (a - b) ln(a / b), a and b being a
bin's shares of the two sides (Siddiqi 2006, "Credit Risk Scorecards"; Kullback and Leibler's divergence J of 1951).
The bins are the reference's tenths. Siddiqi reads under 0.1 as no change, from 0.25 on as a large one.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from catdog.contract import UNSURE
from catdog.errors import DataError
from catdog.prediction import DECIMALS

TENTHS: Final = 10
FEWEST_PHOTOS: Final = 100  # answered ones that make a reference: ten for each of its bins
MOST_LABELS: Final = 20  # different ones that are counted apart; a stranger's answers may hold any number
OTHER: Final = "(other)"
_LEVELS: Final = 10**DECIMALS  # confidences leave catdog with so many steps between 0 and 1, so counting them is exact
_LONGEST_LABEL: Final = 100  # characters
_NO_SHARE: Final = 0.5  # added to each count, so that an empty bin has a logarithm (Jeffreys' prior)
_NORMAL_95: Final = 1.6449  # 95% of a normal distribution lies below


class Answer(NamedTuple):
    """What a model said about one photo. A failed one has no label and no confidence."""

    source: str
    label: str | None
    confidence: float | None
    """Of the label, [0, 1]; of "unsure", the largest probability."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answer:
        """Read an answer as catdog writes it, from JSON or from a table's columns; raises ValueError for another."""
        source, label, confidence = row.get("source") or "", row.get("label"), row.get("confidence")
        if label in (None, ""):
            status = row.get("status")
            if status == "ok" or not (status or row.get("error")):
                raise ValueError("neither a label nor an error")
            return cls(str(source), None, None)
        value = float(confidence) if isinstance(confidence, (int, float, str)) else math.nan
        if not isinstance(label, str) or len(label) > _LONGEST_LABEL or not 0 <= value <= 1:
            raise ValueError("no label with a confidence")
        return cls(str(source), label, value)


@dataclass(frozen=True)
class Reference:
    """How sure a model was of photos that it was measured on."""

    name: str
    edges: tuple[float, ...]
    """The upper ends of all bins but the last, ascending, each end inside its bin."""
    photos: tuple[int, ...]
    """Answered photos in each bin, one number more than there are edges."""
    shares: Mapping[str, float]
    """Of the answered photos, by label."""

    def __post_init__(self) -> None:
        if sum(self.photos) < FEWEST_PHOTOS:
            raise DataError(
                f"{self.name}: {sum(self.photos)} answered photos are too few to compare with; give a reference with "
                f"{FEWEST_PHOTOS} or more"
            )
        if not self.edges:
            raise DataError(f"{self.name}: all its answers have the same confidence; give another reference")


@dataclass
class Counts:
    """What came in one period."""

    bins: list[int]
    """Answered photos in each of the reference's bins; empty without a reference."""
    photos: int = 0
    errors: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def to_json(self, reference: Reference | None) -> dict[str, Any]:
        """Return the counts, their shares and, with a reference, the PSI and how high chance alone takes it."""
        answered = self.photos - self.errors
        unsure = self.labels.get(UNSURE, 0)
        compared = reference is not None and answered > 0
        return {
            "photos": self.photos,
            "errors": self.errors,
            "labels": dict(sorted(self.labels.items())),
            "shares": _to_shares(self.labels, answered),
            "unsure": round(unsure / answered, 6) if answered else None,
            "failed": round(self.errors / self.photos, 6) if self.photos else None,
            "psi": round(measure_psi(reference.photos, self.bins), 4) if reference and compared else None,
            "psi_by_chance": (
                round(estimate_chance(len(self.bins), sum(reference.photos), answered), 4)
                if reference and compared
                else None
            ),
        }


class Tally:
    """Counts answers by period, and all of them together."""

    def __init__(self, reference: Reference | None = None) -> None:
        self.reference = reference
        self.skipped: Counter[str] = Counter()
        """What could not be read as an answer, by reason."""
        self._edges = [round(edge * _LEVELS) for edge in reference.edges] if reference else []
        self._periods: dict[str, Counts] = {}
        self._all = self._new_counts()
        self._levels = array("q", bytes(8 * (_LEVELS + 1)))

    @property
    def photos(self) -> int:
        """How many photos were counted."""
        return self._all.photos

    def open(self, period: str) -> None:
        """Begin a period, which is listed even if no answer comes in it."""
        self._periods.setdefault(period, self._new_counts())

    def add(self, period: str, answer: Answer) -> None:
        """Count an answer."""
        self.open(period)
        level = None if answer.confidence is None else round(answer.confidence * _LEVELS)
        label = answer.label
        if label is not None and label not in self._all.labels and len(self._all.labels) >= MOST_LABELS:
            label = OTHER
        for counts in (self._all, self._periods[period]):
            counts.photos += 1
            if label is None or level is None:
                counts.errors += 1
                continue
            counts.labels[label] += 1
            if self._edges:
                counts.bins[bisect_left(self._edges, level)] += 1
        if level is not None:
            self._levels[level] += 1

    def make_reference(self, name: str) -> Reference:
        """Return what was counted as a reference for other answers; raises DataError if it is too little for one."""
        edges, photos = _split_into_tenths(self._levels)
        answered = self._all.photos - self._all.errors
        return Reference(name, edges, photos, _to_shares(self._all.labels, answered))

    def to_json(self) -> dict[str, Any]:
        """Return all counts, ready for JSON; ``confidence`` is what makes this a reference for later answers."""
        edges, photos = _split_into_tenths(self._levels)
        return {
            **self._all.to_json(self.reference),
            "confidence": {"edges": list(edges), "photos": list(photos)},
            "reference": None if self.reference is None else {
                "name": self.reference.name,
                "photos": sum(self.reference.photos),
                "shares": dict(self.reference.shares),
                "confidence": {
                    "edges": list(self.reference.edges),
                    "photos": list(self.reference.photos),
                    "now": self._all.bins,
                },
            },
            "skipped": dict(sorted(self.skipped.items())),
            "periods": [
                {"period": name, **counts.to_json(self.reference)} for name, counts in self._periods.items()
            ],
        }  # fmt: skip

    def _new_counts(self) -> Counts:
        return Counts([0] * (len(self._edges) + 1) if self._edges else [])


def measure_psi(reference: Sequence[int], found: Sequence[int]) -> float:
    """Return the population stability index of two histograms over the same bins, >= 0."""
    a, b = (
        (np.asarray(counts, np.float64) + _NO_SHARE) / (sum(counts) + _NO_SHARE * len(counts))
        for counts in (found, reference)
    )
    return float(((a - b) * np.log(a / b)).sum())


def estimate_chance(bins: int, reference_photos: int, photos: int) -> float:
    """Return the PSI under which 95% of samples stay that come from the reference's own distribution.

    It is distributed as (1/n + 1/m) times chi-squared with one degree of freedom less than there are bins (Yurdakul and
    Naranjo 2020, "Statistical properties of the population stability index"), whose quantile is taken from Wilson and
    Hilferty's approximation of 1931. It is 2.5% too low at worst, for two bins.
    """
    freedom = bins - 1
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + _NORMAL_95 * math.sqrt(spread)) ** 3
    return quantile * (1 / reference_photos + 1 / photos)


def _split_into_tenths(levels: Sequence[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the edges of bins with about a tenth of the photos each, fewer where many share one confidence."""
    below = np.cumsum(np.asarray(levels))
    total = int(below[-1])
    if not total:
        return (), (0,)
    last = int(np.searchsorted(below, total))  # the highest confidence there is; above it a bin would be empty
    ends = [int(np.searchsorted(below, total * k / TENTHS)) for k in range(1, TENTHS)]
    chosen = sorted({end for end in ends if end < last})
    counts = [*(int(below[end]) for end in chosen), total]
    return tuple(end / _LEVELS for end in chosen), tuple(
        high - low for low, high in zip([0, *counts[:-1]], counts, strict=True)
    )


def _to_shares(labels: Mapping[str, int], answered: int) -> dict[str, float]:
    return {label: round(count / answered, 6) for label, count in sorted(labels.items())} if answered else {}
