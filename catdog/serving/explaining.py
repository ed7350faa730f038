"""Answers that say where the model looked, for requests with explain=1. ``catdog.explain`` finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.errors import ImageError
from catdog.explain import look
from catdog.image import Pixels
from catdog.prediction import Prediction

DECIMALS = 3  # of the heat


@dataclass(frozen=True)
class ExplainedPrediction(Prediction):
    """An answer with two more fields, both None where there is no answer."""

    heat: list[list[float]] | None = None
    """Rows of [0, 1]: how much each place of what the model saw speaks for the answer."""
    seen: dict[str, str | float] | None = None
    """Which part of the photo the model saw, as ``resize`` and ``crop`` of its contract."""


def explain_pixels(classifier: Classifier, pixels: Pixels, name: str) -> ExplainedPrediction:
    """Answer one photo's pixels."""
    prediction, heat = look(classifier, pixels, name)
    contract = classifier.contract
    return ExplainedPrediction(
        **asdict(prediction),
        heat=np.round(heat.astype(np.float64), DECIMALS).tolist(),
        seen={"resize": contract.resize, "crop": contract.crop},
    )


def explain_stream(
    classifier: Classifier,
    named: Iterable[tuple[Any, str]],
    load_pixels: Callable[[Any, Contract, str], Pixels],
) -> Iterator[ExplainedPrediction]:
    """Answer photos with their names, in order, as ``Classifier.stream`` does."""
    for batch in classifier.load_batches(named, load_pixels):
        for name, pixels in batch:
            if isinstance(pixels, ImageError):
                yield ExplainedPrediction.failed(name, pixels)
            else:
                yield explain_pixels(classifier, pixels, name)
