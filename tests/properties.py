"""What the property tests share: how many examples, and strategies for text, JSON and damage."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from catdog.errors import CatdogError

bounded: Final = settings(
    max_examples=150,
    derandomize=True,  # the same ones every time, so that nobody's change turns red by chance
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # tmp_path is written anew
)
ANY_TEXT: Final = st.one_of(
    st.text(st.characters(), max_size=12),  # control characters and lone surrogates, too
    st.text(st.sampled_from('a/\\.*?[]{},!"\n\r\t\0\x1b \udce9\ud800é猫-1'), max_size=12),
    st.sampled_from(["..", "\\udce9", "\\x5c", "\\\\ud800", "{0..9}", "**/**", "[z-a]", "s3://", "1" * 5000]),
)
NO_HIGH_HALF: Final = ANY_TEXT.filter(lambda text: not any("\ud800" <= letter < "\udc00" for letter in text))
"""Without first halves of surrogate pairs, which JSON and YAML join with a second half that follows."""
ODD_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 3, 2**63, 10**400, 0.5, 1e308, 5e-324, math.nan, math.inf, -math.inf),
    *("", "word", "a\nb", "\0", "\ud800", "\udce9", "..", "x" * 5000),
    *([], [1, 2], ["a", "a"], [[]], {}, {"a": 1}, {"": None}, json.loads("[" * 200 + "]" * 200)),
)
_EDITS: Final = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 30), st.binary(max_size=6) | st.sampled_from([b"[" * 5000, b"\0"])),
    min_size=1,
    max_size=4,
)
"""Where, how many bytes go, and what comes in their place."""


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes that were good, with some replaced, taken away or put in, or cut off."""
    data = good
    for place, gone, put in draw(_EDITS):
        at = place % (len(data) + 1)
        data = data[:at] + put + data[at + gone :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def spoil(good: Any, values: Sequence[Any] = ODD_VALUES) -> Iterator[Any]:
    """Every variant of a JSON value in which one place, at any depth, holds one of the values, lacks, or is new."""
    yield from values
    if isinstance(good, dict):
        yield good | {"another": 1}
        for key in good:
            yield {name: value for name, value in good.items() if name != key}
            yield from (good | {key: variant} for variant in spoil(good[key], values))
    elif isinstance(good, list):
        for at in range(len(good)):
            yield good[:at] + good[at + 1 :]
            yield from ([*good[:at], variant, *good[at + 1 :]] for variant in spoil(good[at], values))


@contextmanager
def refused_with(kind: type[CatdogError], start: str = "") -> Iterator[None]:
    """The block ends well, or in this error, one line that begins so; anything else fails the test."""
    try:
        yield
    except kind as error:
        refusal = str(error)
    else:
        return
    assert refusal.startswith(start), refusal
    assert len(refusal.splitlines()) == 1, refusal
