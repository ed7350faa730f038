"""Find the cheaper first pass of ``--fast``: a smaller size of the photos, and how sure an answer at it has to be.

    validation photos -> the cheapest (size, bound) within the limits -> held-out photos -> into the contract, or not

A size costs what its area is of the whole one's, and all of the whole one for each photo that is answered again: the
time of a convolution goes with the area, and a choice by the clock would be another one on a busy machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catdog.classifier import Classifier, is_sure
from catdog.contract import Contract
from catdog.export.photos import Labelled
from catdog.export.proof import measure_accuracy
from catdog.prediction import rank_answers
from catdog.training.model import Probabilities, load_batches

STEP_PX: Final = 16
LEAST_PX: Final = 32  # that the small CNN can take
SHARES: Final = (0.5, 0.8)
"""Sizes that are tried, as shares of the whole one's: smaller ones are sure too rarely, larger ones save too little."""
BOUNDS: Final = (0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999)
MOST_COST: Final = 0.8  # of the whole size's; what saves less isn't worth other answers
FLIPS: Final = 0.001  # share of photos that may have another likeliest class
VERDICTS: Final = 0.003  # share of photos that may have another answer, "unsure" among them
ACCURACY_LOSS: Final = 0.1  # percentage points
HELD_OUT: Final = 2.0  # times these limits, on photos that had no part in the choice: the choice was the luckiest one


@dataclass(frozen=True)
class Agreement:
    """How the fast answers to some photos differ from those at the whole size."""

    photos: int
    again: float
    """Share of photos that were answered again, [0, 1]."""
    flips: int
    """How many have another likeliest class."""
    verdicts: int
    """How many have another answer at the contract's thresholds: a class, "neither" or "unsure"."""
    accuracy_loss: float
    """Percentage points; negative where the fast answers are right more often."""

    def is_within(self, factor: float = 1.0) -> bool:
        """Whether all is within ``factor`` times the limits."""
        limits = (FLIPS * self.photos, VERDICTS * self.photos, ACCURACY_LOSS)
        measured = (self.flips, self.verdicts, self.accuracy_loss)
        return all(lost <= factor * most + 1e-9 for lost, most in zip(measured, limits, strict=True))  # of rounding

    def __str__(self) -> str:
        return (
            f"of {self.photos} photos {self.again:.1%} are answered again, {self.flips} get another class and "
            f"{self.verdicts} another answer, {self.accuracy_loss:.2f} points of accuracy are lost"
        )


def choose_fast_pass(model: Classifier, validation: Labelled, held_out: Labelled) -> tuple[Contract, str]:
    """Return the model's contract with the fast pass that the photos allow, or as it is, and a note that says which.

    Raises ImageError for a photo that can't be read.
    """
    contract = model.contract
    for name, photos in (("validation", validation), ("test", held_out)):
        if not photos.paths:
            return contract, f"no fast pass: the {name} split has no photos"
    first, last = (round(share * contract.input_size / STEP_PX) * STEP_PX for share in SHARES)
    sizes = [size for size in range(max(LEAST_PX, first), last + 1, STEP_PX) if size < contract.input_size]
    found = _find_cheapest(contract, validation, _answer_at(model, validation.paths, sizes))
    if found is None:
        return contract, "no fast pass: none agrees well enough on the validation photos and saves a fifth of the work"
    chosen, fitted = found
    size, bound = chosen.fast_size, chosen.fast_bound
    assert size is not None
    assert bound is not None
    whole, small = _answer_at(model, held_out.paths, [size]).values()
    proven = compare_passes(contract, held_out.labels, whole, small, bound)
    about = f"{size} px, sure from {bound:g}: validation: {fitted}; test: {proven}"
    if not proven.is_within(HELD_OUT):
        return contract, f"no fast pass: the one that was fitted doesn't hold on the test photos: {about}"
    return chosen, f"fast pass: {about}"


def compare_passes(
    contract: Contract, labels: npt.NDArray[np.int64], whole: Probabilities, small: Probabilities, bound: float
) -> Agreement:
    """Compare the answers at the whole size with those of ``--fast``, where the small ones of ``bound`` or more stand.

    ``whole`` and ``small``: float32 (N, C). ``labels``: the true classes, (N,).
    """
    stands = is_sure(small, bound)
    fast = np.where(stands[:, np.newaxis], small, whole)
    verdicts = []
    for rows in (whole, fast):
        answers, reach = rank_answers(rows, contract)
        verdicts.append(np.where(reach >= contract.threshold, answers, -1))
    return Agreement(
        photos=len(labels),
        again=float((~stands).mean()),
        flips=int((fast.argmax(1) != whole.argmax(1)).sum()),
        verdicts=int((verdicts[0] != verdicts[1]).sum()),
        accuracy_loss=measure_accuracy(whole, labels) - measure_accuracy(fast, labels),
    )


def _find_cheapest(
    contract: Contract, photos: Labelled, answers: Mapping[int, Probabilities]
) -> tuple[Contract, Agreement] | None:
    """Return the contract with the cheapest size and bound that are within the limits; None where none saves enough.

    ``answers``: to the photos, by size; the whole one's is among them.
    """
    best, least = None, MOST_COST
    whole = answers[contract.input_size]
    for size, small in answers.items():
        for bound in BOUNDS if size < contract.input_size else ():
            agreement = compare_passes(contract, photos.labels, whole, small, bound)
            cost = (size / contract.input_size) ** 2 + agreement.again
            if cost < least and agreement.is_within():
                best, least = (contract.with_(fast_size=size, fast_bound=bound), agreement), cost
    return best


def _answer_at(model: Classifier, photos: Sequence[Path | bytes], sizes: Sequence[int]) -> dict[int, Probabilities]:
    """Answer photos at the whole size and at smaller ones, float32 (N, C) each; raises ImageError."""
    whole = model.contract.input_size
    found: dict[int, list[Probabilities]] = {size: [] for size in (whole, *sizes)}
    for images in load_batches(photos, model.contract):
        found[whole].append(model.probabilities(images))
        for size in sizes:
            found[size].append(model.answer_small(images, size))
    return {size: np.concatenate(answers) for size, answers in found.items()}
