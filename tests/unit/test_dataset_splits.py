"""Who goes into which split, and who is left out. Clusters are given here; finding them is another room's work."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from catdog.dataset.manifest import Split
from catdog.dataset.splits import Candidate, Clustering, Dropped, Placed, assign

SHARES = (0.8, 0.1, 0.1)


def candidate(name: str, label: str = "cat", given: Split | None = None, pinned: Split | None = None) -> Candidate:
    return Candidate(name, hashlib.sha256(name.encode()).hexdigest(), label, given, pinned)


def alone(indices: Sequence[int]) -> Sequence[int]:
    return indices


def together(indices: Sequence[int]) -> Sequence[int]:
    return [0] * len(indices)


def splits(candidates: Sequence[Candidate], clustering: Clustering = alone) -> list[str]:
    """The split or the reason of each."""
    answers, _ = assign(candidates, clustering, SHARES)
    return [answer.split if isinstance(answer, Placed) else answer.reason for answer in answers]


def test_shares_are_met_in_each_class() -> None:
    photos = [candidate(f"{label}{i}", label) for label in ("cat", "dog") for i in range(5000)]
    found = Counter((photo.label, split) for photo, split in zip(photos, splits(photos), strict=True))
    for label in ("cat", "dog"):
        # Binomial: the standard deviation is 21 photos of the 500 expected, and 28 of 4,000; four of them are allowed.
        assert found[label, "train"] == pytest.approx(4000, abs=113)
        assert found[label, "val"] == pytest.approx(500, abs=85)
        assert found[label, "test"] == pytest.approx(500, abs=85)


def test_the_split_is_the_same_for_ever() -> None:
    """Exact, since a dataset that is built again elsewhere must be split the same way."""
    found = " ".join(splits([candidate(f"photo {i}") for i in range(12)]))
    assert found == "train train train train train train train train train val val train"


def test_more_photos_and_another_order_move_nobody() -> None:
    few = [candidate(f"{i}") for i in range(300)]
    many = [candidate(f"{i}") for i in range(900)][::-1]
    assert splits(few) == splits(many)[::-1][:300]


def test_a_cluster_has_one_split_and_one_id() -> None:
    photos = [candidate(f"{i}") for i in range(40)]
    answers, _ = assign(photos, together, SHARES)
    assert len({(a.split, a.cluster) for a in answers if isinstance(a, Placed)}) == 1
    assert isinstance(answers[0], Placed)
    assert answers[0].cluster == min(photo.sha256 for photo in photos)[:16]


def test_a_new_copy_follows_the_pinned_one_even_if_its_hash_is_smaller() -> None:
    for i in range(30):
        assert splits([candidate("old", pinned="val"), candidate(f"new{i}")], together) == ["val", "val"]


def test_conflicting_labels_are_left_out_and_named() -> None:
    answers, _ = assign([candidate("a/1.jpg", "cat"), candidate("b/2.jpg", "dog")], together, SHARES)
    for answer in answers:
        assert isinstance(answer, Dropped)
        assert answer.reason == "label_conflict"
        assert "a/1.jpg is labelled cat" in answer.message
        assert "b/2.jpg is labelled dog" in answer.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["train", "test"], ["leak", "test"]),
        (["train", "val", "test"], ["leak", "leak", "test"]),
        (["val", "train", "val"], ["val", "leak", "val"]),
        (["train", None, "test"], ["leak", "test", "test"]),
    ],
)
def test_a_given_split_that_leaks_loses_the_lower_copies(given: list[Split | None], expected: list[str]) -> None:
    photos = [candidate(f"{i}", given=split) for i, split in enumerate(given)]
    assert splits(photos, together) == expected


def test_a_leak_stays_out_when_the_dataset_is_built_again() -> None:
    """The copy left out has the same bytes, and so the same pin, as the one that stayed."""
    photos = [candidate("same", given="train", pinned="test"), candidate("same", given="test", pinned="test")]
    assert splits(photos, together) == ["leak", "test"]


def test_a_photo_that_would_join_two_splits_is_left_out() -> None:
    old = [candidate("1", pinned="train"), candidate("2", pinned="test")]

    def chained(indices: Sequence[int]) -> Sequence[int]:
        return [0] * len(indices) if 2 in indices else indices

    assert splits([*old, candidate("3")], chained) == ["train", "test", "bridges_splits"]


def test_missing_splits_are_carved_from_given_training_photos_by_the_same_hash() -> None:
    photos = [candidate(f"{i}", given="train") for i in range(400)]
    answers, warnings = assign(photos, alone, SHARES)
    assert [a.split for a in answers if isinstance(a, Placed)] == splits([replace(p, given=None) for p in photos])
    assert [warning.split(":")[0] for warning in warnings] == ["val", "test"]


def test_a_given_val_is_not_added_to_when_test_is_carved() -> None:
    photos = [candidate(f"{i}", given="train") for i in range(400)] + [candidate("v", given="val")]
    found = splits(photos)
    assert found.count("val") == 1
    assert found.count("test") > 10


def test_carved_photos_keep_their_split_when_a_source_brings_a_test_later() -> None:
    photos = [candidate(f"{i}", given="train") for i in range(400)]
    first = splits(photos)
    pinned = [replace(p, pinned=split) for p, split in zip(photos, first, strict=True)]  # type: ignore[arg-type]
    answers, warnings = assign([*pinned, candidate("new", given="test")], alone, SHARES)
    assert [a.split for a in answers if isinstance(a, Placed)] == [*first, "test"]
    assert "keep the split" in warnings[0]


def test_carving_never_tears_a_cluster_with_a_pinned_photo() -> None:
    for i in range(30):
        photos = [candidate("old", given="train", pinned="train"), candidate(f"new{i}", given="train")]
        assert splits(photos, together) == ["train", "train"]
