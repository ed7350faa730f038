"""Does a new endpoint give the answers that its model gave where it was packed?

InService says only that the container answers /ping, which it does before its model is loaded, and long after it
failed to. So the golden photos are asked about, and the answers compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from catdog.aws.account import CloudError, explain, is_aws_error
from catdog.aws.artifact import Golden
from catdog.aws.runtime import content_type, may_pass, original, read_answer
from catdog.errors import CatdogError

PAUSE_S: Final = 5.0
Ask = Callable[[bytes, str], bytes]
"""Encoded photo, media type -> the endpoint's JSON."""


def smoke_test(name: str, ask: Ask, photos: Sequence[Golden], tolerance: float, patience_s: float) -> dict[str, Any]:
    """Ask about all photos; what was seen. Raises CloudError where an answer is wrong or there is none.

    ``tolerance``: of each probability. ``patience_s``: in which server errors may come, while workers load the model.
    """
    deadline = time.monotonic() + patience_s
    worst = 0.0
    for photo in photos:
        answer = read_answer(photo.name, _patiently(name, ask, photo, deadline), name)
        given = answer.probabilities
        if given is None:
            raise CloudError(f"{name}: refuses its test photo {photo.name}: {answer.error}")
        if given.keys() != photo.probabilities.keys():
            raise CloudError(f"{name}: has the classes {_names(given)}, the model has {_names(photo.probabilities)}")
        apart = max(abs(given[key] - expected) for key, expected in photo.probabilities.items())
        if not apart <= tolerance:
            raise CloudError(
                f"{name}: answers its test photo {photo.name} with {_shown(given)} instead of "
                f"{_shown(photo.probabilities)} (tolerance {tolerance})"
            )
        worst = max(worst, apart)
    return {"photos": len(photos), "largest_difference": round(worst, 6), "tolerance": tolerance}


def _patiently(name: str, ask: Ask, photo: Golden, deadline: float) -> bytes:
    while True:
        try:
            return ask(photo.data, content_type(photo.data))
        except CatdogError:
            raise
        except Exception as error:
            if not is_aws_error(error):
                raise
            if not may_pass(error) or time.monotonic() > deadline:
                status, said = original(error)
                reason = f"{status} {said}" if status else explain(error)
                raise CloudError(
                    f"{name}: does not answer its test photo {photo.name} ({reason}); its log in CloudWatch is "
                    f"/aws/sagemaker/Endpoints/{name}"
                ) from error
        time.sleep(max(0.0, min(PAUSE_S, deadline - time.monotonic())))


def _names(probabilities: dict[str, float]) -> str:
    return ", ".join(probabilities)


def _shown(probabilities: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in probabilities.items())
