"""Who goes into which split: clusters of photos -> a split, or a reason to leave out, for each. Pure.

Stateless: a cluster's split follows from a hash of its own content alone, so photos that come later move nobody. The
one thing that could, a new copy that changes or joins clusters, can't: photos of an earlier dataset are pinned.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from catdog.dataset.manifest import SPLITS, Split

Shares = tuple[float, float, float]
"""Of train, val and test, [0, 1], summing to 1."""
Clustering = Callable[[Sequence[int]], Sequence[int]]
"""Some candidates -> for each of them its cluster, any number that is the same for all of one cluster."""
Conflict = Literal["label_conflict", "leak", "bridges_splits"]

ID_DIGITS: Final = 16  # of SHA-256, hexadecimal: 64 bits


@dataclass(frozen=True)
class Candidate:
    """What the split needs to know of a photo."""

    name: str
    """What the report calls it."""
    sha256: str
    label: str
    given: Split | None = None
    """By its source, or by the caller for the whole source."""
    pinned: Split | None = None
    """By the dataset that is replaced; stronger than ``given``, which it differs from where a split was carved."""

    @property
    def fixed(self) -> Split | None:
        """The split that it must have if it is kept."""
        return self.pinned or self.given


@dataclass(frozen=True)
class Placed:
    """A photo that is kept."""

    split: Split
    cluster: str


@dataclass(frozen=True)
class Dropped:
    """A photo that is left out, and why."""

    reason: Conflict
    message: str
    copies: tuple[int, ...] = ()
    """The places of the candidates that are the same picture and stay."""


def assign(
    candidates: Sequence[Candidate], clustering: Clustering, shares: Shares
) -> tuple[list[Placed | Dropped], list[str]]:
    """One answer a candidate, in their order, and warnings. No cluster has two labels or two splits afterwards."""
    answers: dict[int, Placed | Dropped] = {}
    for members in _group_by_cluster(range(len(candidates)), clustering):
        _place_cluster(members, candidates, clustering, shares, answers)
    warnings = [
        f"{split}: no source gives any, so it was carved from the photos given as train"
        for split in _carve_missing_splits(candidates, shares, answers)
    ]
    if moved := sum(c.pinned is not None and c.given not in (None, c.pinned) for c in candidates):
        warnings.append(
            f"{moved} photos keep the split that they have in the dataset that is replaced, though their source gives "
            "another; to split anew, give --split"
        )
    return [answers[i] for i in range(len(candidates))], warnings


def hashed_split(label: str, cluster: str, shares: Shares) -> Split:
    """The split of a cluster by its label and id: the same on every machine, whatever else is in the dataset."""
    position = int.from_bytes(hashlib.sha256(f"{label} {cluster}".encode()).digest()[:8], "big") / 2**64
    train, val, _ = shares
    return "train" if position < train else "val" if position < train + val else "test"


def _group_by_cluster(indices: Sequence[int], clustering: Clustering) -> list[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for i, key in zip(indices, clustering(indices), strict=True):
        groups[key].append(i)
    return list(groups.values())


def _place_cluster(
    members: Sequence[int],
    candidates: Sequence[Candidate],
    clustering: Clustering,
    shares: Shares,
    answers: dict[int, Placed | Dropped],
) -> None:
    """Enter an answer for each member of one cluster."""
    first = {candidates[i].label: candidates[i].name for i in reversed(members)}
    if len(first) > 1:
        message = "copies of one picture: " + ", ".join(f"{name} is labelled {label}" for label, name in first.items())
        answers.update(dict.fromkeys(members, Dropped("label_conflict", message)))
        return
    pinned = [i for i in members if candidates[i].pinned]
    if len({candidates[i].pinned for i in pinned}) > 1 and len(pinned) < len(members):
        message = f"it joins pictures that the dataset already holds in different splits, {candidates[pinned[0]].name}"
        answers.update(dict.fromkeys(set(members) - set(pinned), Dropped("bridges_splits", message)))
        for group in _group_by_cluster(pinned, clustering):
            _place_cluster(group, candidates, clustering, shares, answers)
        return
    cluster = min(candidates[i].sha256 for i in members)[:ID_DIGITS]
    fixed = {own: candidates[i].name for i in reversed(members) if (own := candidates[i].fixed)}
    if not fixed:
        split = hashed_split(candidates[members[0]].label, cluster, shares)
        answers.update(dict.fromkeys(members, Placed(split, cluster)))
        return
    split = max(fixed, key=SPLITS.index)  # test keeps its photo before val does, and val before train
    really_given = any(candidates[i].given == split for i in members)  # and not just carved by an earlier build
    leaking = {
        i
        for i in members
        if candidates[i].fixed not in (None, split) or (really_given and candidates[i].given not in (None, split))
    }
    staying = tuple(i for i in members if i not in leaking)
    for i in members:
        answers[i] = Placed(split, cluster)
        if i in leaking:
            own = candidates[i].given or candidates[i].fixed
            message = f"it belongs to {own}, but {fixed[split]} in {split} is a copy of it"
            answers[i] = Dropped("leak", message, staying)


def _carve_missing_splits(
    candidates: Sequence[Candidate], shares: Shares, answers: dict[int, Placed | Dropped]
) -> list[Split]:
    """Take val or test from the training photos where sources gave splits but none of it; return what was taken.

    The hash decides here too, so a photo that would be val by the hash is val whether it was carved or not.
    """
    present = {answer.split for answer in answers.values() if isinstance(answer, Placed)}
    pinned = {answer.cluster for i, answer in answers.items() if isinstance(answer, Placed) and candidates[i].pinned}
    carved: set[Split] = set()
    for i, answer in answers.items():
        if isinstance(answer, Placed) and answer.split == "train" and answer.cluster not in pinned:
            split = hashed_split(candidates[i].label, answer.cluster, shares)
            if split not in present:
                answers[i] = Placed(split, answer.cluster)
                carved.add(split)
    return sorted(carved, key=SPLITS.index)
