"""Answers, one after the other, to counts by period and a comparison with a reference; memory doesn't grow with them.

    tally = Tally(reference)
    tally.add("2026-11-28", Answer("cat.jpg", "cat", 0.98))
    tally.to_json() -> {"photos": 1, "shares": {...}, "psi": 0.02, "periods": [...], ...}

Confidences are compared by the population stability index, the sum over bins of (a - b) ln(a / b), a and b being a
bin's shares of the two sides (Siddiqi 2006, "Credit Risk Scorecards"; Kullback and Leibler's divergence J of 1951).
The bins are the reference's tenths. Siddiqi reads under 0.1 as no change, from 0.25 on as a large one.

A photo that a detector answered counts by its surest head, and with a confidence of 0 where it has none: heads of one
photo are not independent, and a detector that misses more of them has changed, too.
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
from catdog.detection.answers import NO_PET
from catdog.detection.decoding import MAX_OBJECTS
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
    """Of a detector, that of the surest head, or NO_PET."""
    confidence: float | None
    """Of the label, [0, 1]; of "unsure", the largest probability; None of NO_PET."""
    heads: tuple[str, ...] | None = None
    """The labels of all heads that a detector found; None of a classifier's answer and of a failed one."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answer:
        """Read an answer as catdog writes it, from JSON or from a table's columns; raises ValueError for another.

        Rows of a detector's table have to be one a photo, as ``catdog.drift.tables.join_photos`` makes them.
        """
        source, objects = str(row.get("source") or ""), row.get("objects")
        if objects is not None and "label" not in row:  # an answer of catdog predict --detect has both
            if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
                raise ValueError("no list of heads")
            found = [_read_label(head) for head in objects]
            label, confidence = max(found, key=lambda head: head[1], default=(NO_PET, None))
            return cls(source, label, confidence, tuple(label for label, _ in found))
        if row.get("label") in (None, ""):
            status = row.get("status")
            if status == "ok" or not (status or row.get("error")):
                raise ValueError("neither a label nor an error")
            return cls(source, None, None)
        return cls(source, *_read_label(row))


@dataclass(frozen=True)
class Reference:
    """How sure a model was of photos that it was measured on."""

    name: str
    edges: tuple[float, ...]
    """The upper ends of all bins but the last, ascending, each end inside its bin."""
    photos: tuple[int, ...]
    """Answered photos in each bin, one number more than there are edges."""
    shares: Mapping[str, float]
    """Of the answered photos, by label; of a detector, heads a photo by label."""
    with_head: float | None = None
    """Of a detector: the share of answered photos with a head."""

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
    """Answered photos by label; of a detector, heads by label."""
    with_head: int = 0
    """Photos in which a detector found a head."""

    def to_json(self, reference: Reference | None, of_detector: bool) -> dict[str, Any]:
        """Return the counts, their shares and, with a reference, the PSI and how high chance alone takes it."""
        answered = self.photos - self.errors
        compared = reference is not None and answered > 0
        labels, shares = dict(sorted(self.labels.items())), self.to_shares()
        told: dict[str, Any] = {"labels": labels, "shares": shares, "unsure": self.to_share(self.labels[UNSURE])}
        if of_detector:
            told = {"heads": labels, "heads_per_photo": shares, "with_head": self.to_share(self.with_head)}
        return {
            "photos": self.photos,
            "errors": self.errors,
            **told,
            "failed": round(self.errors / self.photos, 6) if self.photos else None,
            "psi": round(measure_psi(reference.photos, self.bins), 4) if reference and compared else None,
            "psi_by_chance": (
                round(estimate_chance(len(self.bins), sum(reference.photos), answered), 4)
                if reference and compared
                else None
            ),
        }

    def to_share(self, count: int) -> float | None:
        """Return a count's share of the answered photos, None where there are none."""
        answered = self.photos - self.errors
        return round(count / answered, 6) if answered else None

    def to_shares(self) -> dict[str, float]:
        """Return the share of each label."""
        found = {label: self.to_share(count) for label, count in sorted(self.labels.items())}
        return {label: share for label, share in found.items() if share is not None}


class Tally:
    """Counts answers by period, and all of them together."""

    def __init__(self, reference: Reference | None = None) -> None:
        self.reference = reference
        self._of_detector: tuple[str, bool] | None = None  # and where that was seen
        if reference:
            self._of_detector = reference.name, reference.with_head is not None
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

    @property
    def of_detector(self) -> bool:
        """Whether the answers are a detector's."""
        return self._of_detector is not None and self._of_detector[1]

    def open(self, period: str) -> None:
        """Begin a period, which is listed even if no answer comes in it."""
        self._periods.setdefault(period, self._new_counts())

    def add(self, period: str, answer: Answer, times: int = 1) -> None:
        """Count an answer, that of so many photos; raises DataError where those before are of another kind of model."""
        self.open(period)
        both = self._all, self._periods[period]
        for counts in both:
            counts.photos += times
            counts.errors += times * (answer.label is None)
        if answer.label is None:
            return
        self._check_kind(period, answer)
        level = round((answer.confidence or 0.0) * _LEVELS)
        self._levels[level] += times
        for label in (answer.label,) if answer.heads is None else answer.heads:
            known = label in self._all.labels or len(self._all.labels) < MOST_LABELS
            for counts in both:
                counts.labels[label if known else OTHER] += times
        for counts in both:
            counts.with_head += times * bool(answer.heads)
            if self._edges:
                counts.bins[bisect_left(self._edges, level)] += times

    def _check_kind(self, period: str, answer: Answer) -> None:
        kinds, found = ("answers about whole photos", "a detector's heads"), answer.heads is not None
        seen_in, expected = self._of_detector = self._of_detector or (period, found)
        if found != expected:
            raise DataError(
                f"{period}: has {kinds[found]}, and {seen_in} has {kinds[expected]}, which can't be compared; give "
                "only those of one kind of model"
            )

    def make_reference(self, name: str) -> Reference:
        """Return what was counted as a reference for other answers; raises DataError if it is too little for one."""
        edges, photos = _split_into_tenths(self._levels)
        with_head = self._all.to_share(self._all.with_head) if self.of_detector else None
        return Reference(name, edges, photos, self._all.to_shares(), with_head)

    def to_json(self) -> dict[str, Any]:
        """Return all counts, ready for JSON; ``confidence`` is what makes this a reference for later answers."""
        edges, photos = _split_into_tenths(self._levels)
        reference = None
        if self.reference is not None:
            shares = dict(self.reference.shares)
            reference = {
                "name": self.reference.name,
                "photos": sum(self.reference.photos),
                **(
                    {"heads_per_photo": shares, "with_head": self.reference.with_head}
                    if self.of_detector
                    else {"shares": shares}
                ),
                "confidence": {
                    "edges": list(self.reference.edges),
                    "photos": list(self.reference.photos),
                    "now": self._all.bins,
                },
            }
        return {
            **self._all.to_json(self.reference, self.of_detector),
            "confidence": {"edges": list(edges), "photos": list(photos)},
            "reference": reference,
            "skipped": dict(sorted(self.skipped.items())),
            "periods": [
                {"period": name, **counts.to_json(self.reference, self.of_detector)}
                for name, counts in self._periods.items()
            ],
        }

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


def _read_label(row: Mapping[str, Any]) -> tuple[str, float]:
    """Return label and confidence of a photo or a head; raises ValueError or AttributeError."""
    label, confidence = row.get("label"), row.get("confidence")
    try:
        value = float(confidence) if isinstance(confidence, (int, float, str)) else math.nan
    except OverflowError:  # an integer of 400 digits
        value = math.inf
    if not isinstance(label, str) or len(label) > _LONGEST_LABEL or not 0 <= value <= 1:
        raise ValueError("no label with a confidence")
    return label, value
