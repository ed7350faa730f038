"""Fit a contract's temperature and threshold on validation photos, after training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from catdog.contract import NEITHER, Contract
from catdog.errors import TrainingError
from catdog.training.metrics import count_answered

TEMPERATURES: Final = (0.05, 20.0)
"""No temperature outside these is believed; ImageNet models need 1 to 3 (Guo et al. 2017, table 2)."""
TARGET_ACCURACY: Final = 0.998
"""Share of right answers among the answered photos."""
MIN_COVERAGE: Final = 0.97
"""Share of photos that have to be answered."""
MAX_REFUSED: Final = 0.005
"""Share of the photos of cats and dogs that may be called neither."""
NEITHER_RANGE: Final = (0.2, 0.9)
"""No threshold for "neither" outside these is believed: few photos lie near it, and others differ from them."""

_SMALLEST_LOGIT: Final = -104.0  # below its row's largest; exp(-104) is under float32's smallest number
_HALVINGS: Final = 60  # of the range of 1/T, down to the precision of float64


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T in ``TEMPERATURES`` for which softmax(logits / T) has the smallest mean -ln p(true class).

    logits float (N, C), labels int64 (N,), N >= 1; Guo et al. 2017, section 4.2. ln p serves as logits as well, since
    softmax ignores a constant: of a model that has a temperature already, the result is the factor to multiply it by.
    A p of 0 counts as e^-104. When every photo is answered rightly, the loss falls forever as T goes to 0; the photos
    then say nothing about overconfidence, and the answer is 1, as it is where all logits are equal.
    Raises TrainingError for logits that are no numbers.
    """
    if logits.isnan().any():
        raise TrainingError("the model's answers on the validation photos are no numbers (NaN)")
    scores = logits.double()
    scores = (scores - scores.amax(1, keepdim=True)).clamp_min(_SMALLEST_LOGIT)
    true = scores.gather(1, labels[:, None]).squeeze(1)
    if not (true < 0).any():
        return 1.0
    # In b = 1/T the loss is convex (log-sum-exp of linear functions), so its slope changes sign once.
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    for _ in range(_HALVINGS):
        b = (low + high) / 2
        slope = ((b * scores).softmax(1) * scores).sum(1).mean() - true.mean()
        low, high = (b, high) if slope < 0 else (low, b)
    return 2 / (low + high)


def fit_thresholds(contract: Contract, probabilities: Tensor, labels: Tensor) -> Contract:
    """Return the contract with the thresholds for "unsure" and "neither" that fit the answers to validation photos.

    probabilities float (N, C), labels int64 (N,), N >= 1. What "neither" costs and when to be unsure are questions
    about photos of the other classes, so those alone decide.
    """
    is_pet = find_pets(labels, contract.class_names)
    if NEITHER in contract.class_names:
        refusal = probabilities[is_pet, contract.class_names.index(NEITHER)]
        contract = contract.with_(neither_threshold=fit_neither_threshold(refusal))
    return contract.with_(threshold=fit_threshold(probabilities[is_pet], labels[is_pet], contract))


def find_pets(labels: Tensor, class_names: Sequence[str]) -> Tensor:
    """Return which photos show another class than "neither", bool (N,); being unsure is a question of those alone."""
    return labels != class_names.index(NEITHER) if NEITHER in class_names else torch.ones_like(labels, dtype=torch.bool)


def fit_neither_threshold(refusal: Tensor) -> float:
    """Return the smallest threshold for "neither" that refuses at most 0.5% of the pets.

    ``refusal``: float (N,), the probability of "neither" that N >= 1 photos of other classes got.
    """
    allowed = int(MAX_REFUSED * len(refusal))
    largest = refusal.double().sort(descending=True).values
    above = math.nextafter(largest[allowed].item(), 1.0)  # this photo and all after it must stay under the threshold
    low, high = NEITHER_RANGE
    return min(high, max(low, math.ceil(above * 100) / 100))


def fit_threshold(probabilities: Tensor, labels: Tensor, contract: Contract) -> float:
    """Return the smallest threshold at which 99.8% of the answered photos are right, with 97% or more answered.

    probabilities float (N, C), labels int64 (N,), N >= 1; which photos are answered with a class at a threshold,
    ``catdog.prediction`` says. In full: thresholds are tried from 1/C up, where all is answered that is not called
    "neither" or nearly so. The first one that reaches the accuracy is taken, as long as 97% or more are answered at it;
    if none does, the largest one that still answers 97% is, or 1/C if there is none. So coverage is not under 97%, and
    accuracy is under 99.8% only if it has to be.

    Of all numbers that answer the same photos, the result is 1/C where as many as can be are answered, and otherwise
    one with as few decimals as possible, at least two: rounding never changes which photos are answered.
    """
    confidence, photos, wrong = count_answered(probabilities, labels, contract)
    lowest = 1 / probabilities.shape[1]
    if not len(confidence):
        return lowest
    # In float64: 0.97 and 0.998 as float32 are other numbers, and 97 of 100 photos have to be 97%.
    # Coverage falls, so these are the first ones.
    allowed = max(1, int((photos.double() / len(labels) >= MIN_COVERAGE).sum()))
    reached = ((photos - wrong).double() / photos.double() >= TARGET_ACCURACY)[:allowed].nonzero()
    chosen = int(reached[0]) if len(reached) else allowed - 1
    if chosen == 0:
        return min(lowest, confidence[0].item())  # a float32 1/C may lie just under 1/C
    return _round_between(confidence[chosen - 1].item(), confidence[chosen].item())


def _round_between(above: float, up_to: float) -> float:
    """Return the largest number with the fewest decimals, two or more, in (above, up_to], both in [0, 1]."""
    for decimals in range(2, 17):
        number = round(math.floor(up_to * 10**decimals) / 10**decimals, decimals)
        if above < number <= up_to:
            return number
    return up_to
