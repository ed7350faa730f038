"""How fast an endpoint answers: latency as its callers see it, and the rate.

measure(endpoint, photos, 200, parallel=8) -> {"p50_ms": ..., "p95_ms": ..., "p99_ms": ..., "requests_per_s": ...}
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any, Final

import numpy as np

from catdog.aws.runtime import content, in_order
from catdog.errors import DataError, ImageError
from catdog.sources import Input

WARM_UP: Final = 2  # requests for each that runs at once, not measured: connections, the container's first answers
MOST_PHOTOS: Final = 200  # in memory


def measure(endpoint: Any, photos: Iterable[Input], requests: int, parallel: int) -> dict[str, Any]:
    """Send ``requests`` photos, ``parallel`` at once, in turn; raises DataError when none can be read.

    Latency is that of ``endpoint.answer``: network, queue and pauses between attempts included.
    """
    samples = list(islice(_readable(photos), MOST_PHOTOS))
    if not samples:
        raise DataError("no photo to measure with could be read")

    def timed(sample: tuple[str, bytes]) -> tuple[float, str | None]:
        begin = time.perf_counter()
        answer = endpoint.answer(*sample)
        return time.perf_counter() - begin, answer.error

    turns = cycle(samples)
    for _ in in_order(timed, islice(turns, WARM_UP * parallel), parallel):
        pass
    begin = time.perf_counter()
    measured = list(in_order(timed, islice(turns, requests), parallel))
    wall = time.perf_counter() - begin
    milliseconds = np.array([seconds for seconds, _ in measured]) * 1000
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(milliseconds, (50, 95, 99)))
    errors = [error for _, error in measured if error is not None]
    return {
        "endpoint": endpoint.name,
        "requests": requests,
        "parallel": parallel,
        "photos": len(samples),
        "failed": len(errors),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": round(float(milliseconds.max()), 2),
        "requests_per_s": round(requests / wall, 2),
        "seconds": round(wall, 2),
        "first_error": errors[0] if errors else None,
    }


def _readable(photos: Iterable[Input]) -> Iterable[tuple[str, bytes]]:
    for photo in photos:
        try:
            yield photo.source, content(photo)
        except ImageError:
            continue
